// The sparse linear layer on CUDA: y = x W' + b, grad_x and grad_values, in the layout of layout.h.
//
// No torch header and no host code: nvcc compiles this for the GPU, and a C++ compiler for the emulated grid of the
// tests (emulated_grid.h). Every output element is summed by one thread, or one warp, in a fixed order: no atomics,
// and equal results from run to run. Sums are float32 whatever T is (float, __half, __nv_bfloat16).
//
// A block of threads handles one panel of 512 rows and kLanes samples. The activations of one column block lie in
// shared memory as [column][sample], a lane for each sample; rows are padded by one word so that reading along
// either axis meets different banks.
#ifndef DEEPSTRUCT_MASKED_CUDA_KERNELS_CUH
#define DEEPSTRUCT_MASKED_CUDA_KERNELS_CUH

#include "../layout.h"

namespace deepstruct {
namespace cuda {

constexpr int kRows = kPanel, kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps, kPitch = kLanes + 1;
constexpr int kMinBlock = 128, kMaxBlock = kNarrow;  // columns in a block that fits into shared memory

// Shared memory of every kernel here: a panel and a column block of activations, or of sums.
constexpr int kSharedBytes = (kRows + kMaxBlock) * kPitch * 4;

// The three tensors of a layout, in device memory: their header is read there, so that no launch waits for it.
struct Structure {
  const int32_t* table;
  const int32_t* row_ids;
  const void* columns;
};

__device__ inline Layout layout_of(const Structure& s) { return view(s.table, s.row_ids, s.columns); }

struct Shared {
  float* rows;     // [kPanel][kPitch]
  float* columns;  // [kMaxBlock][kPitch]
};

__device__ inline Shared shared_of(float* memory) {
  Shared out;
  out.rows = memory;
  out.columns = memory + kRows * kPitch;
  return out;
}

// tile[f][s] = matrix[first_sample + s][first + f] for f < features; samples past the batch are zero.
template <typename T>
__device__ inline void load(const T* matrix, int64_t width, int64_t batch, int64_t first_sample, int64_t first,
                            int features, float* tile) {
  for (int i = threadIdx.x; i < features * kLanes; i += kThreads) {
    const int sample = i / features, feature = i % features;
    const int64_t row = first_sample + sample;
    tile[feature * kPitch + sample] =
        row < batch ? static_cast<float>(matrix[row * width + first + feature]) : 0.f;
  }
}

// matrix[first_sample + s][first + f] = tile[f][s] + bias[first + f]
template <typename T>
__device__ inline void store(const float* tile, const T* bias, int64_t width, int64_t batch, int64_t first_sample,
                             int64_t first, int features, T* matrix) {
  for (int i = threadIdx.x; i < features * kLanes; i += kThreads) {
    const int sample = i / features, feature = i % features;
    const int64_t row = first_sample + sample;
    if (row >= batch) continue;
    const float add = bias ? static_cast<float>(bias[first + feature]) : 0.f;
    matrix[row * width + first + feature] = static_cast<T>(tile[feature * kPitch + sample] + add);
  }
}

__device__ inline int part(int64_t total, int64_t first, int size) {
  const int64_t rest = total - first;
  return static_cast<int>(rest < size ? rest : size);
}

// The activations of a column block: in shared memory, or, as wide blocks do not fit there, where they are.
template <typename T>
struct Columns {
  const float* tile;
  const T* matrix;
  int64_t width, batch, first;
  bool direct;

  __device__ Columns(const Layout& layout, const T* x, int64_t batch_size, int block, const float* shared)
      : tile(shared), matrix(x), width(layout.cols), batch(batch_size),
        first(static_cast<int64_t>(block) * layout.block), direct(wide(layout)) {}

  __device__ float at(int column, int64_t first_sample, int sample) const {
    if (!direct) return tile[column * kPitch + sample];
    const int64_t row = first_sample + sample;
    return row < batch ? static_cast<float>(matrix[row * width + first + column]) : 0.f;
  }
};

// y[batch][rows] = x[batch][cols] W' + bias. Grid: (panels, batch / kLanes).
template <typename T>
__global__ void product(Structure structure, const T* values, const T* x, const T* bias, int64_t batch, T* y) {
  DEEPSTRUCT_SHARED(memory);
  const Shared shared = shared_of(memory);
  const Layout layout = layout_of(structure);
  const int panel = blockIdx.x, lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t first_sample = static_cast<int64_t>(blockIdx.y) * kLanes;
  const int64_t first_row = static_cast<int64_t>(panel) * kRows;
  for (int i = threadIdx.x; i < kRows * kPitch; i += kThreads) shared.rows[i] = 0.f;
  for (int block = 0; block < layout.blocks; ++block) {
    const int tile = panel * layout.blocks + block;
    int row = layout.row_start[tile];
    int64_t value = layout.value_start[tile];
    __syncthreads();  // the last block's columns are read, and the sums are cleared
    if (value == layout.value_start[tile + 1]) continue;
    const int64_t first = static_cast<int64_t>(block) * layout.block;
    const Columns<T> columns(layout, x, batch, block, shared.columns);
    if (!columns.direct)
      load(x, layout.cols, batch, first_sample, first, part(layout.cols, first, layout.block), shared.columns);
    __syncthreads();
    for (int run = layout.run_start[tile]; run < layout.run_start[tile + 1]; ++run) {
      const int count = layout.runs[2 * run], n = layout.runs[2 * run + 1];
      for (int i = warp; i < n; i += kWarps) {
        const int64_t start = value + static_cast<int64_t>(i) * count;
        float sum = 0.f;
        for (int base = 0; base < count; base += kLanes) {
          // Each lane fetches one entry, and hands it round: one read of memory serves 32 samples.
          const int mine = base + lane < count ? base + lane : count - 1;
          const float weight = static_cast<float>(values[start + mine]);
          const int column = column_at(layout, start + mine);
          const int here = part(count, base, kLanes);
          for (int k = 0; k < here; ++k) {
            const float w = __shfl_sync(0xffffffffu, weight, k);
            const int c = __shfl_sync(0xffffffffu, column, k);
            sum += w * columns.at(c, first_sample, lane);
          }
        }
        shared.rows[layout.row_ids[row + i] * kPitch + lane] += sum;
      }
      row += n;
      value += static_cast<int64_t>(n) * count;
    }
  }
  __syncthreads();
  store(shared.rows, bias, layout.rows, batch, first_sample, first_row, part(layout.rows, first_row, kRows), y);
}

// grad_x[batch][cols] = grad[batch][rows] W through the layout itself, where there is no transposed twin.
// Grid: (cols / kMinBlock or more, batch / kLanes). A warp owns the columns that are congruent to it: no two add to one
// sum. Wide blocks are done in pieces of kMaxBlock columns, each by threads that skip all others.
template <typename T>
__global__ void scatter(Structure structure, const T* values, const T* grad, int64_t batch, T* grad_x) {
  DEEPSTRUCT_SHARED(memory);
  const Shared shared = shared_of(memory);
  const Layout layout = layout_of(structure);
  const int pieces = (layout.block + kMaxBlock - 1) / kMaxBlock, block = blockIdx.x / pieces;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int left = blockIdx.x % pieces * kMaxBlock, here = part(layout.block, left, kMaxBlock);
  const int64_t first_sample = static_cast<int64_t>(blockIdx.y) * kLanes;
  const int64_t first = static_cast<int64_t>(block) * layout.block + left;
  if (block >= layout.blocks || first >= layout.cols) return;
  for (int i = threadIdx.x; i < kMaxBlock * kPitch; i += kThreads) shared.columns[i] = 0.f;
  for (int panel = 0; panel < layout.panels; ++panel) {
    const int tile = panel * layout.blocks + block;
    int row = layout.row_start[tile];
    int64_t value = layout.value_start[tile];
    __syncthreads();
    if (value == layout.value_start[tile + 1]) continue;
    const int64_t first_row = static_cast<int64_t>(panel) * kRows;
    load(grad, layout.rows, batch, first_sample, first_row, part(layout.rows, first_row, kRows), shared.rows);
    __syncthreads();
    for (int run = layout.run_start[tile]; run < layout.run_start[tile + 1]; ++run) {
      const int count = layout.runs[2 * run], n = layout.runs[2 * run + 1];
      for (int i = 0; i < n; ++i) {
        const int64_t start = value + static_cast<int64_t>(i) * count;
        const float g = shared.rows[layout.row_ids[row + i] * kPitch + lane];
        for (int k = 0; k < count; ++k) {
          const int column = column_at(layout, start + k) - left;
          if (column < 0 || column >= here) continue;
          if (column % kWarps == warp) shared.columns[column * kPitch + lane] += static_cast<float>(values[start + k]) * g;
        }
      }
      row += n;
      value += static_cast<int64_t>(n) * count;
    }
  }
  __syncthreads();
  store<T>(shared.columns, nullptr, layout.cols, batch, first_sample, first, part(layout.cols, first, here), grad_x);
}

// grad_values = grad' x on the support, as float32. Grid: (panels * cols / kMinBlock or more). A thread owns its entries.
template <typename T>
__global__ void support(Structure structure, const T* grad, const T* x, int64_t batch, float* grad_values) {
  DEEPSTRUCT_SHARED(memory);
  const Shared shared = shared_of(memory);
  const Layout layout = layout_of(structure);
  const int tile = blockIdx.x;
  if (tile >= layout.panels * layout.blocks) return;
  const int panel = tile / layout.blocks, block = tile % layout.blocks;
  const int64_t first_row = static_cast<int64_t>(panel) * kRows, first = static_cast<int64_t>(block) * layout.block;
  const int64_t begin = layout.value_start[tile], end = layout.value_start[tile + 1];
  if (begin == end) return;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) grad_values[i] = 0.f;
  const Columns<T> columns(layout, x, batch, block, shared.columns);
  for (int64_t sample = 0; sample < batch; sample += kLanes) {
    __syncthreads();
    load(grad, layout.rows, batch, sample, first_row, part(layout.rows, first_row, kRows), shared.rows);
    if (!columns.direct)
      load(x, layout.cols, batch, sample, first, part(layout.cols, first, layout.block), shared.columns);
    __syncthreads();
    int row = layout.row_start[tile];
    int64_t value = begin;
    for (int run = layout.run_start[tile]; run < layout.run_start[tile + 1]; ++run) {
      const int count = layout.runs[2 * run], n = layout.runs[2 * run + 1];
      // Entries of a run are threads of their own: short rows leave no lane idle.
      for (int q = threadIdx.x - static_cast<int>((value - begin) % kThreads); q < n * count; q += kThreads) {
        if (q < 0) continue;
        const float* g = shared.rows + layout.row_ids[row + q / count] * kPitch;
        const int column = column_at(layout, value + q);
        float sum = 0.f;
        for (int s = 0; s < kLanes; ++s) sum += g[s] * columns.at(column, sample, s);
        grad_values[value + q] += sum;
      }
      row += n;
      value += static_cast<int64_t>(n) * count;
    }
  }
}

// out[i] = values[order[i]]: the values of a layout in the order of its twin.
template <typename T>
__global__ void gather(const T* values, const int32_t* order, int64_t n, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = values[order[i]];
}

// out[i] = values[i] in another precision.
template <typename T>
__global__ void narrow(const float* values, int64_t n, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = static_cast<T>(values[i]);
}

}  // namespace cuda
}  // namespace deepstruct

#endif
