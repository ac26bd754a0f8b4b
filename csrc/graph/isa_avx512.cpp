// The kernels for avx512: vectors of 64 bytes.
#define VECTOR_BYTES 64
#define ISA_NAME "avx512"
#define ISA_TABLE kAvx512
#include "kernels.inl"
