// The table of kernels that every instruction set fills in, for float and double.
//
// Activations come as batch tiles, transposed: [features][units * kUnit bytes], 64-byte aligned, one after the
// other. A task range lets any thread pool share the work: tasks never write to the same memory, and each sums in
// a fixed order, so results do not depend on the number of threads.
#ifndef DEEPSTRUCT_MASKED_KERNELS_H
#define DEEPSTRUCT_MASKED_KERNELS_H

#include "dag.h"
#include "layout.h"
#include "step.h"

namespace deepstruct {

enum { kUnit = 64, kMaxUnits = 4 };  // a tile holds 1 to 4 units of 64 bytes: 16 to 64 floats of the batch

template <typename T>
struct Kernels {
  // tile[f][b] = matrix[b][first + f] for features [begin, end); b >= batch is zero.
  void (*pack)(const T* matrix, int64_t stride, int batch, int units, int64_t begin, int64_t end, T* tile);
  // matrix[b][f] = tile[f][b], features [begin, end); the tile starts at feature `begin`.
  void (*unpack)(const T* tile, int units, int64_t begin, int64_t end, T* matrix, int64_t stride, int batch);
  // Each of these is for one tile (panel, block) of the matrix, and one tile of the batch. `next`, where it is not
  // null, is the block of as many units that the following call reads: it is fetched meanwhile.
  // out[512][..] += values * x; `values` are those of the tile, `x` holds the block, `out` the panel.
  void (*product)(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* x,
                  const T* next, T* out);
  // out[block][..] += values' * grad; `grad` is the whole batch tile, `out` holds the block only.
  void (*scatter)(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* grad, T* out);
  // grad_values (+)= grad x' on the support; `grad` holds the panel, `x` the block; `first` overwrites.
  void (*support)(const Layout* layout, int64_t panel, int64_t block, int units, const T* grad, const T* x,
                  const T* next, bool first, T* grad_values);
  // The same three for a single sample, on plain vectors.
  void (*product_vector)(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* x, T* out);
  void (*scatter_vector)(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out);
  void (*support_vector)(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, T* grad_values);
  // out[i] = values[order[i]]
  void (*gather)(const T* values, const int32_t* order, int64_t count, T* out);
  // All layers of a directed acyclic graph for one batch tile h[vertices][..], whose layer 0 is filled in. `scratch`
  // holds dag.widest rows forward and twice as many backward, with a norm only.
  void (*dag_forward)(const Dag& dag, const DagParameters<T>& parameters, int units, T* h, T* scratch);
  // grad_h holds the gradients of what was read, and gets those of every vertex; `grads` is overwritten.
  void (*dag_backward)(const Dag& dag, const DagParameters<T>& parameters, int units, const T* h, T* grad_h,
                       const DagGradients<T>& grads, T* scratch);
  // Some rows of one step of a recurrent cell; pointers are at the first one (see cells.h for what is what).
  void (*lstm_forward)(const Step& step, T* gates, const T* c, T* new_h, T* new_c);
  void (*lstm_backward)(const Step& step, const T* gates, const T* c, const T* new_c, T* grad_h, T* grad_c,
                        T* grad_gates);
  void (*gru_forward)(const Step& step, T* gates, const T* extra, const T* h, T* new_h);
  void (*gru_backward)(const Step& step, const T* gates, const T* extra, const T* h, T* grad_h, T* grad_gates,
                       T* grad_extra);
};

struct Isa {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

extern const Isa kPlain;
#if defined(DEEPSTRUCT_X86)
extern const Isa kAvx2;
extern const Isa kAvx512;
#endif

// The best that this processor runs, or what DEEPSTRUCT_ISA (plain, avx2, avx512) names if it runs that.
const Isa& isa();

template <typename T>
const Kernels<T>& kernels();
template <>
inline const Kernels<float>& kernels<float>() {
  return isa().f32;
}
template <>
inline const Kernels<double>& kernels<double>() {
  return isa().f64;
}

}  // namespace deepstruct

#endif
