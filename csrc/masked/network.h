// The passes over a directed acyclic graph for a whole batch: how the tiles are put together. Knows no torch.
#ifndef DEEPSTRUCT_MASKED_NETWORK_H
#define DEEPSTRUCT_MASKED_NETWORK_H

#include "dag.h"
#include "linear.h"

namespace deepstruct {

// Numbers that the activations of a batch take: the last tile is padded to a multiple of 16 samples.
inline int64_t dag_state_size(int64_t vertices, int64_t batch) { return vertices * ((batch + 15) / 16 * 16); }

// first[batch][size of layer 0] -> out[batch][n_reads], the activations of the vertices `reads`. `state` gets all
// activations, tile by tile, and is what the backward pass takes.
template <typename T>
void dag_forward_batch(const Dag& dag, const DagParameters<T>& parameters, const T* first, int64_t batch,
                       const int32_t* reads, int64_t n_reads, T* state, T* out, const Parallel& parallel);

// Gradients of `first` and of all parameters, from grad_out[batch][n_reads].
template <typename T>
void dag_backward_batch(const Dag& dag, const DagParameters<T>& parameters, const T* state, const T* grad_out,
                        int64_t batch, const int32_t* reads, int64_t n_reads, T* grad_first,
                        const DagGradients<T>& grads, const Parallel& parallel);

}  // namespace deepstruct

#endif
