#include "network.h"

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace deepstruct {
namespace {

constexpr int64_t kWave = 8;  // tiles whose gradients are held at a time; the same whatever the number of threads

template <typename T>
struct Tile {
  static constexpr int64_t unit = kUnit / static_cast<int64_t>(sizeof(T)), full = unit * kMaxUnits;
  Tile(int64_t index, int64_t batch) : first(index * full), samples(std::min(full, batch - first)) {
    units = static_cast<int>((samples + unit - 1) / unit);
    width = units * unit;
  }
  static int64_t count(int64_t batch) { return (batch + full - 1) / full; }
  int64_t first, samples, width;
  int units;
};

// Aligned to a cache line, and kept by the vector that it lies in.
template <typename T>
T* aligned(std::vector<T>& memory, int64_t count) {
  memory.resize(count + 64 / sizeof(T));
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return reinterpret_cast<T*>((address + 63) / 64 * 64);
}

template <typename T>
void add_into(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace

template <typename T>
void dag_forward_batch(const Dag& dag, const DagParameters<T>& parameters, const T* first, int64_t batch,
                       const int32_t* reads, int64_t n_reads, T* state, T* out, const Parallel& parallel) {
  const int64_t inputs = dag.layer_start[1];
  parallel(Tile<T>::count(batch), [&](int64_t begin, int64_t end) {
    std::vector<T> memory, picked_memory;
    T* scratch = aligned(memory, parameters.gamma ? dag.widest * Tile<T>::full : 0);
    T* picked = aligned(picked_memory, n_reads * Tile<T>::full);
    for (int64_t t = begin; t < end; ++t) {
      const Tile<T> tile(t, batch);
      T* h = state + tile.first * dag.vertices;
      kernels<T>().pack(first + tile.first * inputs, inputs, static_cast<int>(tile.samples), tile.units, 0, inputs, h);
      kernels<T>().dag_forward(dag, parameters, tile.units, h, scratch);
      for (int64_t k = 0; k < n_reads; ++k) std::copy_n(h + reads[k] * tile.width, tile.width, picked + k * tile.width);
      kernels<T>().unpack(picked, tile.units, 0, n_reads, out + tile.first * n_reads, n_reads,
                          static_cast<int>(tile.samples));
    }
  });
}

template <typename T>
void dag_backward_batch(const Dag& dag, const DagParameters<T>& parameters, const T* state, const T* grad_out,
                        int64_t batch, const int32_t* reads, int64_t n_reads, T* grad_first,
                        const DagGradients<T>& grads, const Parallel& parallel) {
  const int64_t inputs = dag.layer_start[1], tiles = Tile<T>::count(batch);
  const bool norm = parameters.gamma != nullptr;
  const int64_t sizes[5] = {dag.edges, dag.rows, dag.vertices, norm ? dag.vertices : 0, norm ? dag.vertices : 0};
  T* const targets[5] = {grads.weight, grads.bias, grads.extra, grads.gamma, grads.beta};
  int64_t offsets[6] = {0};
  for (int i = 0; i < 5; ++i) offsets[i + 1] = offsets[i] + sizes[i];
  // A single tile writes where its results belong; more of them write beside each other and are summed in order.
  std::vector<T> partial(tiles > 1 ? std::min(kWave, tiles) * offsets[5] : 0);
  if (tiles != 1)
    for (int i = 0; i < 5; ++i) std::fill_n(targets[i], sizes[i], T(0));
  for (int64_t wave = 0; wave < tiles; wave += kWave) {
    const int64_t n = std::min(kWave, tiles - wave);
    parallel(n, [&](int64_t begin, int64_t end) {
      std::vector<T> grad_memory, scratch_memory, picked_memory;
      T* grad_h = aligned(grad_memory, dag.vertices * Tile<T>::full);
      T* scratch = aligned(scratch_memory, norm ? 2 * dag.widest * Tile<T>::full : 0);
      T* picked = aligned(picked_memory, n_reads * Tile<T>::full);
      for (int64_t t = begin; t < end; ++t) {
        const Tile<T> tile(wave + t, batch);
        T* own = partial.data() + t * offsets[5];
        const DagGradients<T> here = tiles == 1
                                         ? grads
                                         : DagGradients<T>{own, own + offsets[1], own + offsets[2],
                                                           norm ? own + offsets[3] : nullptr,
                                                           norm ? own + offsets[4] : nullptr};
        std::fill_n(grad_h, dag.vertices * tile.width, T(0));
        kernels<T>().pack(grad_out + tile.first * n_reads, n_reads, static_cast<int>(tile.samples), tile.units, 0,
                          n_reads, picked);
        for (int64_t k = 0; k < n_reads; ++k)
          add_into(picked + k * tile.width, tile.width, grad_h + reads[k] * tile.width);
        kernels<T>().dag_backward(dag, parameters, tile.units, state + tile.first * dag.vertices, grad_h, here,
                                  scratch);
        kernels<T>().unpack(grad_h, tile.units, 0, inputs, grad_first + tile.first * inputs, inputs,
                            static_cast<int>(tile.samples));
      }
    });
    if (tiles > 1)
      for (int64_t t = 0; t < n; ++t)
        for (int i = 0; i < 5; ++i)
          add_into(partial.data() + t * offsets[5] + offsets[i], sizes[i], targets[i]);
  }
}

template void dag_forward_batch(const Dag&, const DagParameters<float>&, const float*, int64_t, const int32_t*,
                                int64_t, float*, float*, const Parallel&);
template void dag_forward_batch(const Dag&, const DagParameters<double>&, const double*, int64_t, const int32_t*,
                                int64_t, double*, double*, const Parallel&);
template void dag_backward_batch(const Dag&, const DagParameters<float>&, const float*, const float*, int64_t,
                                 const int32_t*, int64_t, float*, const DagGradients<float>&, const Parallel&);
template void dag_backward_batch(const Dag&, const DagParameters<double>&, const double*, const double*, int64_t,
                                 const int32_t*, int64_t, double*, const DagGradients<double>&, const Parallel&);

}  // namespace deepstruct
