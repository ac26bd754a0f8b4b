// The kernels, written once in the vector extensions of GCC and Clang and compiled once per instruction set.
//
// An including unit defines VECTOR_BYTES, ISA_NAME and ISA_TABLE. Everything here has internal linkage and uses no
// std header: otherwise the linker could merge a copy compiled for AVX-512 into the code that older machines run.

#include "kernels.h"

#define INLINE inline __attribute__((always_inline))

namespace deepstruct::sweeps {
namespace {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int lanes() {
  return VECTOR_BYTES / static_cast<int>(sizeof(T));
}

template <typename T>
INLINE Vector<T> load(const T* p) {
  Vector<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <typename T>
INLINE void store(T* p, Vector<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

template <typename A>
INLINE A least(A a, A b) {
  return a < b ? a : b;
}
template <typename A>
INLINE A most(A a, A b) {
  return a > b ? a : b;
}

// ---- semirings -----------------------------------------------------------------------------------------------
// add, edge (a value through a weighted edge) and finish (what happens once per sum) take numbers and vectors alike.

template <typename Number>
struct Sum {
  typedef Number T;
  static constexpr bool kWeights = true;
  static constexpr T zero() { return 0; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return a + b;
  }
  template <typename A>
  static INLINE A edge(A sum, A x, A w) {
    return sum + w * x;
  }
  template <typename A>
  static INLINE A finish(A a, bool, int64_t) {
    return a;
  }
  static INLINE T join(T a, T b, int64_t) { return a + b; }
};

struct Mod {
  typedef int64_t T;
  static constexpr bool kWeights = false;
  static constexpr T zero() { return 0; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return a + b;
  }
  // The quotient in floating point is at most one off.
  static INLINE Vector<T> finish(Vector<T> a, bool, int64_t prime) {
    const Vector<double> quotient = __builtin_convertvector(a, Vector<double>) * (1.0 / static_cast<double>(prime));
    const Vector<T> p = Vector<T>{} + prime;
    a -= __builtin_convertvector(quotient, Vector<T>) * p;
    a += (a < 0) & p;
    return a - ((a >= p) & p);
  }
  static INLINE T finish(T a, bool, int64_t prime) {
    a -= static_cast<T>(static_cast<double>(a) * (1.0 / static_cast<double>(prime))) * prime;
    a += a < 0 ? prime : 0;
    return a - (a >= prime ? prime : 0);
  }
  static INLINE T join(T a, T b, int64_t prime) {
    const T sum = a + b;
    return sum >= prime ? sum - prime : sum;
  }
};

template <typename Number>
struct Or {
  typedef Number T;
  static constexpr bool kWeights = false;
  static constexpr T zero() { return 0; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return static_cast<A>(a | b);
  }
  template <typename A>
  static INLINE A finish(A a, bool, int64_t) {
    return a;
  }
  static INLINE T join(T a, T b, int64_t) { return static_cast<T>(a | b); }
};

template <typename A, typename T>
INLINE A all(T value) {
  if constexpr (sizeof(A) == sizeof(T)) {
    return value;
  } else {
    return A{} + value;
  }
}

template <typename Number, Number Far>
struct Min {
  typedef Number T;
  static constexpr bool kWeights = false;
  static constexpr T zero() { return Far; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return least(a, b);
  }
  template <typename A>
  static INLINE A finish(A a, bool last, int64_t) {
    // The longest length that is not Far stays.
    return last ? static_cast<A>(a + (a < all<A>(static_cast<T>(Far - 1)) ? all<A>(T(1)) : all<A>(T(0)))) : a;
  }
  static INLINE T join(T a, T b, int64_t) { return least(a, b); }
};

// Nothing is Far; the largest number stays.
template <typename Number, Number Far, Number Largest>
struct Max {
  typedef Number T;
  static constexpr bool kWeights = false;
  static constexpr T zero() { return Far; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return most(a, b);
  }
  template <typename A>
  static INLINE A finish(A a, bool last, int64_t) {
    if (!last) return a;
    const A one = a > all<A>(Far) ? all<A>(T(1)) : all<A>(T(0));
    return static_cast<A>(a + (a < all<A>(Largest) ? one : all<A>(T(0))));
  }
  static INLINE T join(T a, T b, int64_t) { return most(a, b); }
};

struct Widest {
  typedef float T;
  static constexpr bool kWeights = true;
  static constexpr T zero() { return 0; }
  template <typename A>
  static INLINE A add(A a, A b) {
    return most(a, b);
  }
  template <typename A>
  static INLINE A edge(A sum, A x, A w) {
    return most(sum, least(x, w));
  }
  template <typename A>
  static INLINE A finish(A a, bool, int64_t) {
    return a;
  }
  static INLINE T join(T a, T b, int64_t) { return most(a, b); }
};

template <bool Longest>
struct Length {
  typedef float T;
  static constexpr bool kWeights = true;
  static constexpr T zero() { return Longest ? -__builtin_inff() : __builtin_inff(); }
  template <typename A>
  static INLINE A add(A a, A b) {
    return Longest ? most(a, b) : least(a, b);
  }
  template <typename A>
  static INLINE A edge(A sum, A x, A w) {
    return add<A>(sum, x + w);
  }
  template <typename A>
  static INLINE A finish(A a, bool last, int64_t) {
    return last ? a + 1.0f : a;
  }
  static INLINE T join(T a, T b, int64_t) { return add<T>(a, b); }
};

// ---- writing -------------------------------------------------------------------------------------------------

// What is read in a loop that stores bytes is copied first: a byte may be a part of anything.
template <typename S>
INLINE void emit(const Rows& j, int64_t row, const typename S::T* buffer) {
  typedef typename S::T T;
  const Segment* const segments = j.segments;
  const int64_t count = j.segment_count, step = j.step, prime = j.prime;
  const bool join = j.join;
  for (int64_t f = j.fan[row]; f < j.fan[row + 1]; ++f) {
    T* plane = static_cast<T*>(j.target) + j.base[j.channel[f]];
    for (int64_t s = 0; s < count; ++s) {
      const T* from = buffer + segments[s].from;
      T* to = plane + segments[s].to;
      const int64_t n = segments[s].length;
      if (step == 1) {
        if (join)
          for (int64_t i = 0; i < n; ++i) to[i] = S::join(to[i], from[i], prime);
        else
          for (int64_t i = 0; i < n; ++i) to[i] = from[i];
      } else {
        if (join)
          for (int64_t i = 0; i < n; ++i) to[i * step] = S::join(to[i * step], from[i], prime);
        else
          for (int64_t i = 0; i < n; ++i) to[i * step] = from[i];
      }
    }
  }
}

// ---- rows ----------------------------------------------------------------------------------------------------

// V vectors of a row stay in registers. Short tiles take several entries at once, into sums of their own:
// otherwise each addition would wait for the one before.
template <typename S, int V, bool Weighted>
void rows_of(const Rows& j) {
  typedef typename S::T T;
  constexpr int n = lanes<T>();
  constexpr int U = V >= 4 ? 1 : 4 / V;
  alignas(64) T buffer[V * n];
  const T* source = static_cast<const T*>(j.source);
  const T* weight = static_cast<const T*>(j.weight);
  for (int64_t row = j.begin; row < j.end; ++row) {
    int64_t k = j.start[row];
    const int64_t end = j.start[row + 1];
    if (k == end && j.join) continue;
    Vector<T> sum[U][V];
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[u][v] = all<Vector<T>>(S::zero());
    for (; k + U <= end; k += U) {
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) {
        const T* p = source + j.offset[k + u];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          if constexpr (Weighted)
            sum[u][v] = S::edge(sum[u][v], load(p + v * n), all<Vector<T>>(weight[k + u]));
          else
            sum[u][v] = S::add(sum[u][v], load(p + v * n));
        }
      }
    }
    if constexpr (U > 1) {
      for (; k < end; ++k) {
        const T* p = source + j.offset[k];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          if constexpr (Weighted)
            sum[0][v] = S::edge(sum[0][v], load(p + v * n), all<Vector<T>>(weight[k]));
          else
            sum[0][v] = S::add(sum[0][v], load(p + v * n));
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
      for (int u = 1; u < U; ++u) sum[0][v] = S::add(sum[0][v], sum[u][v]);
      store(buffer + v * n, S::finish(sum[0][v], j.last, j.prime));
    }
    emit<S>(j, row, buffer);
  }
}

// Planes of one element: a product of a sparse matrix and a vector.
template <typename S, bool Weighted>
void single_of(const Rows& j) {
  typedef typename S::T T;
  const T* source = static_cast<const T*>(j.source);
  const T* weight = static_cast<const T*>(j.weight);
  for (int64_t row = j.begin; row < j.end; ++row) {
    int64_t k = j.start[row];
    const int64_t end = j.start[row + 1];
    if (k == end && j.join) continue;
    T sum[4] = {S::zero(), S::zero(), S::zero(), S::zero()};
    for (; k < end; k += 4) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        if (k + u >= end) break;
        if constexpr (Weighted)
          sum[u] = S::edge(sum[u], source[j.offset[k + u]], weight[k + u]);
        else
          sum[u] = S::add(sum[u], source[j.offset[k + u]]);
      }
    }
    const T total = S::finish(S::add(S::add(sum[0], sum[1]), S::add(sum[2], sum[3])), j.last, j.prime);
    for (int64_t f = j.fan[row]; f < j.fan[row + 1]; ++f) {
      T* to = static_cast<T*>(j.target) + j.base[j.channel[f]] + j.segments[0].to;
      *to = j.join ? S::join(*to, total, j.prime) : total;
    }
  }
}

// ---- lines ---------------------------------------------------------------------------------------------------

template <typename S, bool Join, bool Unit>
INLINE void line_of(const Line& j) {
  typedef typename S::T T;
  T* to = static_cast<T*>(j.target);
  const T* from = static_cast<const T*>(j.source);
  const uint8_t* const kept = j.kept;
  const int64_t a = Unit ? 1 : j.target_step, b = Unit ? 1 : j.source_step, c = j.kept_step;
  const int64_t n = j.length, prime = j.prime;
  const bool last = j.last;
  if (kept == nullptr || !last) {
    for (int64_t i = 0; i < n; ++i) {
      const T value = S::finish(from[i * b], last, prime);
      to[i * a] = Join ? S::join(to[i * a], value, prime) : value;
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const T value = S::finish(from[i * b], kept[i * c], prime);
    to[i * a] = Join ? S::join(to[i * a], value, prime) : value;
  }
}

template <typename S>
void line(const Line& j) {
  const bool unit = j.target_step == 1 && j.source_step == 1;
  if (j.join)
    unit ? line_of<S, true, true>(j) : line_of<S, true, false>(j);
  else
    unit ? line_of<S, false, true>(j) : line_of<S, false, false>(j);
}

template <typename S>
void reduce(const Line& j) {
  typedef typename S::T T;
  T* to = static_cast<T*>(j.target);
  const T* from = static_cast<const T*>(j.source);
  if (j.target_step == 0) {  // all into one element
    const int64_t step = j.source_step;
    T sum[4] = {*to, S::zero(), S::zero(), S::zero()};
    int64_t i = 0;
    for (; i + 4 <= j.length; i += 4)
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) sum[u] = S::add(sum[u], from[(i + u) * step]);
    for (; i < j.length; ++i) sum[0] = S::add(sum[0], from[i * step]);
    *to = S::add(S::add(sum[0], sum[1]), S::add(sum[2], sum[3]));
    return;
  }
  const int64_t n = j.length, a = j.target_step, b = j.source_step;
  if (a == 1 && b == 1)
    for (int64_t i = 0; i < n; ++i) to[i] = S::add(to[i], from[i]);
  else
    for (int64_t i = 0; i < n; ++i) to[i * a] = S::add(to[i * a], from[i * b]);
}

// ---- the table -----------------------------------------------------------------------------------------------

template <typename S>
constexpr Kernels kernels_of(uint64_t zero) {
  Kernels k = {};
  k.size = static_cast<int>(sizeof(typename S::T));
  k.zero = zero;
  k.rows[0] = single_of<S, false>;
  k.rows[1] = rows_of<S, 1, false>;
  k.rows[2] = rows_of<S, 2, false>;
  k.rows[3] = rows_of<S, 3, false>;
  k.rows[4] = rows_of<S, 4, false>;
  k.rows[5] = rows_of<S, 5, false>;
  k.rows[6] = rows_of<S, 6, false>;
  k.rows[7] = rows_of<S, 7, false>;
  k.rows[8] = rows_of<S, 8, false>;
  if constexpr (S::kWeights) {
    k.weighted[0] = single_of<S, true>;
    k.weighted[1] = rows_of<S, 1, true>;
    k.weighted[2] = rows_of<S, 2, true>;
    k.weighted[3] = rows_of<S, 3, true>;
    k.weighted[4] = rows_of<S, 4, true>;
    k.weighted[5] = rows_of<S, 5, true>;
    k.weighted[6] = rows_of<S, 6, true>;
    k.weighted[7] = rows_of<S, 7, true>;
    k.weighted[8] = rows_of<S, 8, true>;
  }
  k.line = line<S>;
  k.reduce = reduce<S>;
  return k;
}

constexpr Kernels kTable[kSemirings] = {
    kernels_of<Sum<float>>(0),
    kernels_of<Sum<double>>(0),
    kernels_of<Mod>(0),
    kernels_of<Or<uint8_t>>(0),
    kernels_of<Or<uint64_t>>(0),
    kernels_of<Min<uint16_t, 65535>>(65535),
    kernels_of<Max<uint16_t, 0, 65535>>(0),
    kernels_of<Min<int32_t, 2147483647>>(2147483647),
    kernels_of<Max<int32_t, -1, 2147483647>>(0xffffffffu),
    kernels_of<Widest>(0),
    kernels_of<Length<false>>(0x7f800000u),
    kernels_of<Length<true>>(0xff800000u),
};

}  // namespace

const Isa ISA_TABLE = {ISA_NAME, VECTOR_BYTES, kTable};

}  // namespace deepstruct::sweeps
