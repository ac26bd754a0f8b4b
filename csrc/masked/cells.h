// What gated recurrent cells do between their matrix products, for one step. Knows no torch.
//
// Everything is feature-major: (hidden, batch) states, and gates as blocks of `hidden` rows one after the other, in
// PyTorch's order. Rows are contiguous, except those of the gradients' blocks, which are `stride` numbers apart.
#ifndef DEEPSTRUCT_MASKED_CELLS_H
#define DEEPSTRUCT_MASKED_CELLS_H

#include <cstdint>

#include "linear.h"
#include "step.h"

namespace deepstruct {

// gates (4 * hidden, batch) hold input, forget, cell and output before their nonlinearities, and after them when
// this is done; new_c = f c + i g and new_h = o tanh(new_c).
template <typename T>
void lstm_forward(int64_t hidden, int64_t batch, T* gates, const T* c, T* new_h, T* new_c, const Parallel& parallel);

// From the gradient of new_h and new_c to that of the gates. grad_c becomes that of c; grad_h is zero afterwards,
// since all of h's comes by way of the gates.
template <typename T>
void lstm_backward(int64_t hidden, int64_t batch, const T* gates, const T* c, const T* new_c, T* grad_h, T* grad_c,
                   T* grad_gates, int64_t stride, const Parallel& parallel);

// gates (3 * hidden, batch) hold the input's share of reset, update and new, `extra` the hidden state's; gates are
// after their nonlinearities when this is done. new = tanh(n + r e), new_h = new + z (h - new).
template <typename T>
void gru_forward(int64_t hidden, int64_t batch, T* gates, const T* extra, const T* h, T* new_h,
                 const Parallel& parallel);

// From the gradient of new_h to those of both shares; grad_h becomes what reaches h past the gates.
template <typename T>
void gru_backward(int64_t hidden, int64_t batch, const T* gates, const T* extra, const T* h, T* grad_h, T* grad_gates,
                  T* grad_extra, int64_t stride, const Parallel& parallel);

}  // namespace deepstruct

#endif
