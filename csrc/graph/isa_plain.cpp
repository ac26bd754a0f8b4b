// The kernels for plain: vectors of 16 bytes.
#define VECTOR_BYTES 16
#define ISA_NAME "plain"
#define ISA_TABLE kPlain
#include "kernels.inl"
