// The kernels, written once in the vector extensions of GCC and Clang and compiled once per instruction set.
//
// An including unit defines VECTOR_BYTES and ISA_TABLE. Everything here has internal linkage and uses no std
// header: otherwise the linker could merge a copy compiled for AVX-512 into the code that older machines run.

#include "kernels.h"

namespace deepstruct {
namespace {

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t index __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t index __attribute__((vector_size(VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int lanes() {
  return VECTOR_BYTES / static_cast<int>(sizeof(T));
}

#define INLINE inline __attribute__((always_inline))

// ---- transposing ---------------------------------------------------------------------------------------------

template <typename T>
INLINE Vector<T> interleave(Vector<T> a, Vector<T> b, bool high) {
  constexpr int n = lanes<T>();
  typename VectorOf<T>::index order;
  for (int i = 0; i < n; ++i) order[i] = (i >> 1) + (i & 1) * n + (high ? n / 2 : 0);
#if defined(__clang__)
  Vector<T> out;
  for (int i = 0; i < n; ++i) out[i] = (i & 1 ? b : a)[(i >> 1) + (high ? n / 2 : 0)];
  return out;
#else
  return __builtin_shuffle(a, b, order);
#endif
}

// A square of lanes x lanes, by log2(lanes) rounds of interleaving rows i and i + lanes / 2.
template <typename T>
INLINE void transpose_square(Vector<T>* v) {
  constexpr int n = lanes<T>();
  Vector<T> w[n];
#pragma GCC unroll 8
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      w[2 * i] = interleave<T>(v[i], v[i + n / 2], false);
      w[2 * i + 1] = interleave<T>(v[i], v[i + n / 2], true);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
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

template <typename T>
void pack(const T* matrix, int64_t stride, int batch, int units, int64_t begin, int64_t end, T* tile) {
  constexpr int n = lanes<T>();
  const int width = units * (kUnit / static_cast<int>(sizeof(T)));
  int64_t f = begin;
  for (; f + n <= end; f += n) {
    for (int b = 0; b < width; b += n) {
      Vector<T> v[n];
      if (b + n <= batch) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) v[i] = load(matrix + (b + i) * stride + f);
      } else {
        for (int i = 0; i < n; ++i) v[i] = b + i < batch ? load(matrix + (b + i) * stride + f) : Vector<T>{};
      }
      transpose_square<T>(v);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) store(tile + (f + i) * width + b, v[i]);
    }
  }
  for (; f < end; ++f)
    for (int b = 0; b < width; ++b) tile[f * width + b] = b < batch ? matrix[b * stride + f] : T(0);
}

template <typename T>
void unpack(const T* tile, int units, int64_t begin, int64_t end, T* matrix, int64_t stride, int batch) {
  constexpr int n = lanes<T>();
  const int width = units * (kUnit / static_cast<int>(sizeof(T)));
  int64_t f = begin;
  for (; f + n <= end; f += n, tile += n * width) {
    for (int b = 0; b < batch; b += n) {
      Vector<T> v[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) v[i] = load(tile + i * width + b);
      transpose_square<T>(v);
      if (b + n <= batch) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(matrix + (b + i) * stride + f, v[i]);
      } else {
        for (int i = 0; b + i < batch; ++i) store(matrix + (b + i) * stride + f, v[i]);
      }
    }
  }
  for (; f < end; ++f, tile += width)
    for (int b = 0; b < batch; ++b) matrix[b * stride + f] = tile[b];
}

// ---- products ------------------------------------------------------------------------------------------------

template <typename T, int N>
INLINE void load_row(const T* p, Vector<T>* v) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) v[i] = load(p + i * lanes<T>());
}

// A plain pointer in one register: with base and index apart, each use of it would cost two micro-operations.
template <typename T, int Width>
INLINE const T* row_at(const T* base, uint8_t index) {
  const T* p = base + static_cast<uint32_t>(index) * static_cast<uint64_t>(Width);
  __asm__("" : "+r"(p));
  return p;
}

// R rows with the same count at once: N vectors of the batch each stay in registers.
template <typename T, int N, int R>
INLINE void gather_rows(int count, const uint8_t* columns, const T* values, const T* x, const int32_t* rows, T* out) {
  constexpr int width = N * lanes<T>();
  Vector<T> sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) load_row<T, N>(out + rows[r] * width, sum[r]);
  for (int k = 0; k < count; ++k) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T value = values[r * count + k];
      const T* p = row_at<T, width>(x, columns[r * count + k]);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) sum[r][i] += value * load(p + i * lanes<T>());
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) store(out + rows[r] * width + i * lanes<T>(), sum[r][i]);
}

template <typename T, int N>
void product_of(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* x, T* out) {
  constexpr int width = N * lanes<T>();
  constexpr int R = N >= 8 ? 1 : 8 / N;
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const T* v = values + layout->value_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  const T* xs = x + block * layout->block * width;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    int i = 0;
    for (; i + R <= n; i += R, rows += R, v += R * count, c += R * count)
      gather_rows<T, N, R>(count, c, v, xs, rows, out);
    for (; i < n; ++i, ++rows, v += count, c += count) gather_rows<T, N, 1>(count, c, v, xs, rows, out);
  }
}

template <typename T, int N>
void scatter_of(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out) {
  constexpr int width = N * lanes<T>();
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const T* v = values + layout->value_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  const T* g = grad + panel * kPanel * width;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows) {
      Vector<T> row[N];
      load_row<T, N>(g + *rows * width, row);
      for (int k = 0; k < count; ++k, ++v, ++c) {
        T* p = const_cast<T*>(row_at<T, width>(out, *c));
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) store(p + j * lanes<T>(), load(p + j * lanes<T>()) + *v * row[j]);
      }
    }
  }
}

// ---- the gradient of the values ------------------------------------------------------------------------------

// Lane i of the result is the sum of the lanes of v[i]: a transposing reduction, halving the vectors each round.
template <typename T, int Left>
INLINE Vector<T> sum_lanes(Vector<T>* v) {
  if constexpr (Left == 1) {
    return v[0];
  } else {
    constexpr int half = Left / 2;
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i)
      v[i] = interleave<T>(v[i], v[i + half], false) + interleave<T>(v[i], v[i + half], true);
    return sum_lanes<T, half>(v);
  }
}

template <typename T, int N>
void support_of(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, bool first, T* out) {
  constexpr int width = N * lanes<T>();
  constexpr int n_lanes = lanes<T>();
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  T* target = out + layout->value_start[tile];
  const T* g = grad + panel * kPanel * width;
  const T* xs = x + block * layout->block * width;
  // Partial sums wait here until there are enough for one transposing reduction, whatever row they are from.
  Vector<T> waiting[n_lanes];
  int filled = 0;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows) {
      Vector<T> row[N];
      load_row<T, N>(g + *rows * width, row);
      for (int k = 0; k < count; ++k, ++c) {
        const T* p = row_at<T, width>(xs, *c);
        Vector<T> sum = row[0] * load(p);
#pragma GCC unroll 16
        for (int j = 1; j < N; ++j) sum += row[j] * load(p + j * n_lanes);
        waiting[filled++] = sum;
        if (filled == n_lanes) {
          filled = 0;
          Vector<T> total = sum_lanes<T, n_lanes>(waiting);
          store(target, first ? total : total + load(target));
          target += n_lanes;
        }
      }
    }
  }
  if (filled) {
    for (int i = filled; i < n_lanes; ++i) waiting[i] = Vector<T>{};
    const Vector<T> total = sum_lanes<T, n_lanes>(waiting);
    for (int i = 0; i < filled; ++i) target[i] = first ? total[i] : total[i] + target[i];
  }
}

// ---- from the number of units to the number of vectors -------------------------------------------------------

#define BY_UNITS(function, ...)                                        \
  switch (units) {                                                     \
    case 1: return function<T, 1 * kUnit / VECTOR_BYTES>(__VA_ARGS__); \
    case 2: return function<T, 2 * kUnit / VECTOR_BYTES>(__VA_ARGS__); \
    case 3: return function<T, 3 * kUnit / VECTOR_BYTES>(__VA_ARGS__); \
    default: return function<T, 4 * kUnit / VECTOR_BYTES>(__VA_ARGS__); \
  }

template <typename T>
void product(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* x, T* out) {
  BY_UNITS(product_of, layout, values, panel, block, x, out)
}

template <typename T>
void scatter(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* grad, T* out) {
  BY_UNITS(scatter_of, layout, values, panel, block, grad, out)
}

template <typename T>
void support(const Layout* layout, int64_t panel, int64_t block, int units, const T* grad, const T* x, bool first,
             T* grad_values) {
  BY_UNITS(support_of, layout, panel, block, grad, x, first, grad_values)
}

// ---- one sample ----------------------------------------------------------------------------------------------

template <typename T>
void product_vector(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* x, T* out) {
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const T* v = values + layout->value_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  const T* xs = x + block * layout->block;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows, v += count, c += count) {
      T a = 0, b = 0;
      int k = 0;
      for (; k + 1 < count; k += 2) {
        a += v[k] * xs[c[k]];
        b += v[k + 1] * xs[c[k + 1]];
      }
      if (k < count) a += v[k] * xs[c[k]];
      out[*rows] += a + b;
    }
  }
}

template <typename T>
void scatter_vector(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out) {
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const T* v = values + layout->value_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  const T* g = grad + panel * kPanel;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows) {
      const T value = g[*rows];
      for (int k = 0; k < count; ++k, ++v, ++c) out[*c] += *v * value;
    }
  }
}

template <typename T>
void support_vector(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, T* grad_values) {
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const uint8_t* c = layout->columns + layout->value_start[tile];
  T* target = grad_values + layout->value_start[tile];
  const T* g = grad + panel * kPanel;
  const T* xs = x + block * layout->block;
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows) {
      const T value = g[*rows];
      for (int k = 0; k < count; ++k) *target++ = value * xs[*c++];
    }
  }
}

template <typename T>
void gather(const T* values, const int32_t* order, int64_t begin, int64_t end, T* out) {
  for (int64_t i = begin; i < end; ++i) out[i] = values[order[i]];
}

#include "dag.inl"

#define TABLE(T) \
  {pack<T>,         unpack<T>,       product<T>,        scatter<T>, support<T>, \
   product_vector<T>, scatter_vector<T>, support_vector<T>, gather<T>, dag_forward<T>, dag_backward<T>}

}  // namespace

extern const Isa ISA_TABLE;
const Isa ISA_TABLE = {ISA_NAME, TABLE(float), TABLE(double)};

}  // namespace deepstruct
