// Weights as bits: one for each, set where the weight is an edge.
#ifndef DEEPSTRUCT_GRAPH_BITS_H
#define DEEPSTRUCT_GRAPH_BITS_H

#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace deepstruct::bits {

inline int population(uint64_t bits) {  // number of ones
  bits -= bits >> 1 & 0x5555555555555555u;
  bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
  return static_cast<int>(((bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

inline int lowest(uint64_t bits) {  // position of the lowest one
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_ctzll(bits);
#else
  return population((bits & -bits) - 1);
#endif
}

// Not zero (and so NaN is an edge); with a positive threshold, above it in magnitude.
template <typename T>
inline bool is_edge(T weight, T threshold) {
  if constexpr (std::is_floating_point_v<T>) return threshold > 0 ? std::abs(weight) > threshold : weight != 0;
  return weight != 0;
}

// Bit j of the result: whether data[j] is not zero, of 64 numbers.
template <typename T>
inline uint64_t nonzeros(const T* data) {
  uint64_t bits = 0;
  for (int j = 0; j < 64; ++j) bits |= static_cast<uint64_t>(data[j] != 0) << j;
  return bits;
}

#if defined(__SSE2__)  // every x86-64 has it
template <>
inline uint64_t nonzeros<float>(const float* data) {
  const __m128 zero = _mm_setzero_ps();
  uint64_t bits = 0;
  for (int j = 0; j < 64; j += 16) {
    const __m128i a = _mm_castps_si128(_mm_cmpneq_ps(_mm_loadu_ps(data + j), zero));
    const __m128i b = _mm_castps_si128(_mm_cmpneq_ps(_mm_loadu_ps(data + j + 4), zero));
    const __m128i c = _mm_castps_si128(_mm_cmpneq_ps(_mm_loadu_ps(data + j + 8), zero));
    const __m128i d = _mm_castps_si128(_mm_cmpneq_ps(_mm_loadu_ps(data + j + 12), zero));
    const __m128i all = _mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(all))) << j;
  }
  return bits;
}

template <>
inline uint64_t nonzeros<uint8_t>(const uint8_t* data) {
  uint64_t bits = 0;
  for (int j = 0; j < 64; j += 16) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + j));
    const int zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(eight, _mm_setzero_si128()));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(~zeros & 0xffff)) << j;
  }
  return bits;
}
#endif

// Bit j: whether data[j * step] is an edge, of at most 64 numbers.
template <typename T>
inline uint64_t edges(const T* data, int64_t step, int64_t size, T threshold) {
  if (size == 64 && step == 1 && !(threshold > 0)) return nonzeros(data);
  uint64_t bits = 0;
  for (int64_t j = 0; j < size; ++j) bits |= static_cast<uint64_t>(is_edge(data[j * step], threshold)) << j;
  return bits;
}

}  // namespace deepstruct::bits

#endif
