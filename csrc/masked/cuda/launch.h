// Launchers of the CUDA kernels: raw device pointers and a stream, nothing of torch.
#ifndef DEEPSTRUCT_MASKED_CUDA_LAUNCH_H
#define DEEPSTRUCT_MASKED_CUDA_LAUNCH_H

#include <stdint.h>

struct DeepstructStructure {  // device pointers, and the shape of the matrix
  const int32_t* table;
  const int32_t* row_ids;
  const void* columns;
  int64_t rows;
  int64_t cols;
};

extern "C" {

enum DeepstructDtype { kDeepstructFloat = 0, kDeepstructHalf = 1, kDeepstructBFloat16 = 2 };

// Each returns nullptr, or what CUDA says is wrong. Shapes are as in kernels.cuh.
const char* deepstruct_cuda_product(int dtype, DeepstructStructure s, const void* values, const void* x,
                                    const void* bias, int64_t batch, void* y, void* stream);
const char* deepstruct_cuda_scatter(int dtype, DeepstructStructure s, const void* values, const void* grad,
                                    int64_t batch, void* grad_x, void* stream);
const char* deepstruct_cuda_support(int dtype, DeepstructStructure s, const void* grad, const void* x,
                                    int64_t batch, float* grad_values, void* stream);
const char* deepstruct_cuda_gather(int dtype, const void* values, const int32_t* order, int64_t n, void* out,
                                   void* stream);
const char* deepstruct_cuda_narrow(int dtype, const float* values, int64_t n, void* out, void* stream);
}

#endif
