// Compiled by nvcc alone; see launch.h.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEEPSTRUCT_SHARED(name) extern __shared__ float name[]

#include "kernels.cuh"
#include "launch.h"

namespace {

using namespace deepstruct::cuda;

const char* outcome() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// More shared memory than a kernel gets unasked.
template <typename Kernel>
void widen(Kernel kernel) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

unsigned grid(int64_t n, int64_t per) { return static_cast<unsigned>((n + per - 1) / per); }

Structure structure(const DeepstructStructure& s) { return {s.table, s.row_ids, s.columns}; }

template <typename Body>
const char* with_dtype(int dtype, Body body) {
  switch (dtype) {
    case kDeepstructFloat: body(float{}); break;
    case kDeepstructHalf: body(__half{}); break;
    case kDeepstructBFloat16: body(__nv_bfloat16{}); break;
    default: return "deepstruct: the CUDA kernels compute in float32, float16 and bfloat16";
  }
  return outcome();
}

// A grid has at most 65535 blocks along its second axis: larger batches go in parts.
constexpr int64_t kMost = int64_t{65535} * kLanes;

}  // namespace

extern "C" {

const char* deepstruct_cuda_product(int dtype, DeepstructStructure s, const void* values, const void* x,
                                    const void* bias, int64_t batch, void* y, void* stream) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    widen(product<T>);
    for (int64_t at = 0; at < batch && s.rows; at += kMost) {
      const int64_t n = batch - at < kMost ? batch - at : kMost;
      const dim3 blocks(grid(s.rows, kRows), grid(n, kLanes));
      product<T><<<blocks, kThreads, kSharedBytes, static_cast<cudaStream_t>(stream)>>>(
          structure(s), static_cast<const T*>(values), static_cast<const T*>(x) + at * s.cols,
          static_cast<const T*>(bias), n, static_cast<T*>(y) + at * s.rows);
    }
  });
}

const char* deepstruct_cuda_scatter(int dtype, DeepstructStructure s, const void* values, const void* grad,
                                    int64_t batch, void* grad_x, void* stream) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    widen(scatter<T>);
    for (int64_t at = 0; at < batch && s.cols; at += kMost) {
      const int64_t n = batch - at < kMost ? batch - at : kMost;
      const dim3 blocks(grid(s.cols, kMinBlock), grid(n, kLanes));
      scatter<T><<<blocks, kThreads, kSharedBytes, static_cast<cudaStream_t>(stream)>>>(
          structure(s), static_cast<const T*>(values), static_cast<const T*>(grad) + at * s.rows, n,
          static_cast<T*>(grad_x) + at * s.cols);
    }
  });
}

const char* deepstruct_cuda_support(int dtype, DeepstructStructure s, const void* grad, const void* x,
                                    int64_t batch, float* grad_values, void* stream) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    widen(support<T>);
    const int64_t tiles = static_cast<int64_t>(grid(s.rows, kRows)) * grid(s.cols, kMinBlock);
    if (tiles)
      support<T><<<static_cast<unsigned>(tiles), kThreads, kSharedBytes, static_cast<cudaStream_t>(stream)>>>(
          structure(s), static_cast<const T*>(grad), static_cast<const T*>(x), batch, grad_values);
  });
}

const char* deepstruct_cuda_gather(int dtype, const void* values, const int32_t* order, int64_t n, void* out,
                                   void* stream) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (n)
      gather<T><<<grid(n, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<const T*>(values), order, n, static_cast<T*>(out));
  });
}

const char* deepstruct_cuda_narrow(int dtype, const float* values, int64_t n, void* out, void* stream) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (n)
      narrow<T><<<grid(n, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, n, static_cast<T*>(out));
  });
}
}
