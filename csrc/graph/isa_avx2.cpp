// The kernels for avx2: vectors of 32 bytes.
#define VECTOR_BYTES 32
#define ISA_NAME "avx2"
#define ISA_TABLE kAvx2
#include "kernels.inl"
