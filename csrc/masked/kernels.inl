// The kernels, written once in the vector extensions of GCC and Clang and compiled once per instruction set.
//
// An including unit defines VECTOR_BYTES and ISA_TABLE. Everything here has internal linkage and uses no std
// header: otherwise the linker could merge a copy compiled for AVX-512 into the code that older machines run.

#include "kernels.h"

#if VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace deepstruct {
namespace {

#include "vectors.inl"
#include "tiles.inl"

// ---- products ------------------------------------------------------------------------------------------------

template <typename T, int N>
INLINE void load_row(const T* p, Vector<T>* v) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) v[i] = load(p + i * lanes<T>());
}

template <int Bytes>
struct Unsigned;
template <>
struct Unsigned<2> {
  typedef uint16_t type;
};
template <>
struct Unsigned<4> {
  typedef uint32_t type;
};
template <>
struct Unsigned<8> {
  typedef uint64_t type;
};

// The next G columns, read as one number, since loads are what is short.
template <typename C, int G>
struct Columns {
  typename Unsigned<G * sizeof(C)>::type all;
  INLINE explicit Columns(const C* p) { __builtin_memcpy(&all, p, sizeof all); }
  INLINE C operator[](int i) const {
    constexpr int bits = 8 * sizeof(C);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return static_cast<C>(all >> bits * i);
#else
    return static_cast<C>(all >> bits * (G - 1 - i));
#endif
  }
};

// A plain pointer in one register: with base and index apart, each use of it would cost two micro-operations.
template <typename T, int Width>
INLINE const T* row_at(const T* base, uint32_t index) {
  const T* p = base + index * static_cast<uint64_t>(Width);
  __asm__("" : "+r"(p));
  return p;
}

// Brings what comes next from the outer caches while this is computed, a few lines for each row.
struct Ahead {
  const char* at;
  const char* end;
  int step;

  INLINE Ahead(const void* begin, int64_t bytes, int rows)
      : at(static_cast<const char*>(begin)), end(at + (begin ? bytes : 0)),
        step(static_cast<int>((bytes / 64 + rows) / (rows + 1)) * 64) {}

  INLINE void go() {
    if (at >= end) return;
    for (int i = 0; i < step; i += 64) __builtin_prefetch(at + i, 0, 2);
    at += step;
  }
};

template <typename T, int N>
INLINE void add_multiple(Vector<T>* sum, Vector<T> value, const T* p) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) sum[i] += value * load(p + i * lanes<T>());
}

template <typename T, int N>
INLINE void add_multiple(Vector<T>* sum, T value, const T* p) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) sum[i] += value * load(p + i * lanes<T>());
}

// Four values and columns. The values are read 16 bytes at a time and spread by shuffles: a load for each would take
// the place of one that a multiplication waits for.
template <typename T, int N, typename C, int... I>
INLINE void add_four(Vector<T>* sum, const T* values, Columns<C, 4> columns, const T* x, Lanes<I...>) {
  constexpr int g = group<T>();
  Vector<T> some[4 / g];
#pragma GCC unroll 2
  for (int i = 0; i < 4 / g; ++i) some[i] = repeat(values + i * g);
  (add_multiple<T, N>(sum, shuffle<T, Spread<g, I % g>>(some[I / g], some[I / g]), row_at<T, N * lanes<T>()>(x, columns[I])), ...);
}

// One row: N vectors of the batch stay in registers. Columns are read four at a time, since loads are what is short, and
// what is left (count % 4) is known when this is compiled: rows of as many come one after the other, and a loop more
// would end in another place for each number, which the processor guesses wrongly.
template <typename T, int N, int Left, typename C>
INLINE void gather_row(int count, const C* columns, const T* values, const T* x, T* out) {
  constexpr int width = N * lanes<T>();
  Vector<T> sum[N];
  load_row<T, N>(out, sum);
  const T* end = values + (count - Left);
  for (; values != end; values += 4, columns += 4) {
    add_four<T, N, C>(sum, values, Columns<C, 4>(columns), x, Lanes<0, 1, 2, 3>());
  }
#pragma GCC unroll 4
  for (int i = 0; i < Left; ++i) add_multiple<T, N>(sum, values[i], row_at<T, width>(x, columns[i]));
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(out + i * lanes<T>(), sum[i]);
}

// Whether there are registers for the sums of two rows.
template <int N>
constexpr bool pairs() {
  return 2 * N <= (VECTOR_BYTES == 64 ? 16 : 8);
}

// Two rows of as many non-zeros: a sum waits for the one before it, and one row has too few to keep both
// multipliers busy.
template <typename T, int N, int Left, typename C>
INLINE void gather_rows(int count, const C* columns, const T* values, const T* x, T* out, T* other) {
  constexpr int width = N * lanes<T>();
  const C* more = columns + count;
  const T* others = values + count;
  Vector<T> a[N], b[N];
  load_row<T, N>(out, a);
  load_row<T, N>(other, b);
  const T* end = values + (count - Left);
  for (; values != end; values += 4, others += 4, columns += 4, more += 4) {
    add_four<T, N, C>(a, values, Columns<C, 4>(columns), x, Lanes<0, 1, 2, 3>());
    add_four<T, N, C>(b, others, Columns<C, 4>(more), x, Lanes<0, 1, 2, 3>());
  }
#pragma GCC unroll 4
  for (int i = 0; i < Left; ++i) {
    add_multiple<T, N>(a, values[i], row_at<T, width>(x, columns[i]));
    add_multiple<T, N>(b, others[i], row_at<T, width>(x, more[i]));
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(out + i * lanes<T>(), a[i]);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(other + i * lanes<T>(), b[i]);
}

// A run: n rows of `count` non-zeros each.
template <typename T, int N, int Left, typename C>
INLINE void product_run(int count, int n, const int32_t* rows, const C* c, const T* v, const T* x, Ahead& ahead, T* out) {
  constexpr int width = N * lanes<T>();
  int i = 0;
  if constexpr (pairs<N>()) {
    for (; i + 2 <= n; i += 2, v += 2 * count, c += 2 * count) {
      ahead.go();
      ahead.go();
      gather_rows<T, N, Left, C>(count, c, v, x, out + rows[i] * width, out + rows[i + 1] * width);
    }
  }
  for (; i < n; ++i, v += count, c += count) {
    ahead.go();
    gather_row<T, N, Left, C>(count, c, v, x, out + rows[i] * width);
  }
}

template <typename T, int N, typename C>
void product_of(const Layout* layout, const T* v, int64_t panel, int64_t block, const T* x, const T* next, T* out) {
  constexpr int width = N * lanes<T>();
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const C* c = static_cast<const C*>(layout->columns) + layout->value_start[tile];
  Ahead ahead(next, static_cast<int64_t>(sizeof(T)) * layout->block * width,
              layout->row_start[tile + 1] - layout->row_start[tile]);
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    switch (count % 4) {
      case 0: product_run<T, N, 0, C>(count, n, rows, c, v, x, ahead, out); break;
      case 1: product_run<T, N, 1, C>(count, n, rows, c, v, x, ahead, out); break;
      case 2: product_run<T, N, 2, C>(count, n, rows, c, v, x, ahead, out); break;
      default: product_run<T, N, 3, C>(count, n, rows, c, v, x, ahead, out);
    }
    rows += n, v += static_cast<int64_t>(n) * count, c += static_cast<int64_t>(n) * count;
  }
}

template <typename T, int N, typename C>
void scatter_of(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out) {
  constexpr int width = N * lanes<T>();
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const T* v = values + layout->value_start[tile];
  const C* c = static_cast<const C*>(layout->columns) + layout->value_start[tile];
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

template <typename T, int Apart = lanes<T>() / 2>
INLINE Vector<T> fold(Vector<T> v) {
  if constexpr (Apart < group<T>())
    return v;
  else
    return fold<T, Apart / 2>(v + shuffle<T, Rotated<lanes<T>(), Apart>>(v, v));
}

template <typename T>
INLINE Vector<T> sum_halves(Vector<T> a, Vector<T> b) {
  constexpr int n = lanes<T>(), g = group<T>();
  return shuffle<T, Halves<n, g, false>>(a, b) + shuffle<T, Halves<n, g, true>>(a, b);
}

// Sums over the lanes of `group` vectors, in the first lanes of the result. All shuffles stay within 16 bytes until the
// last rounds, which fold the 16-byte parts.
template <typename T>
INLINE Vector<T> sum_lanes(const Vector<T>* v) {
  constexpr int n = lanes<T>(), g = group<T>();
  const Vector<T> a = sum_halves<T>(v[0], v[1]);
  if constexpr (g == 2) {
    return fold<T>(a);
  } else {
    const Vector<T> b = sum_halves<T>(v[2], v[3]);
    return fold<T>(shuffle<T, Decimated<n, g, false>>(a, b) + shuffle<T, Decimated<n, g, true>>(a, b));
  }
}

template <typename T, int N>
INLINE Vector<T> dot(const Vector<T>* row, const T* p) {
  Vector<T> sum = row[0] * load(p);
#pragma GCC unroll 16
  for (int j = 1; j < N; ++j) sum += row[j] * load(p + j * lanes<T>());
  return sum;
}

template <typename T>
INLINE void put(Vector<T> sums, T* target, bool first) {
  typedef T Group __attribute__((vector_size(16)));
  Group total, old;
  __builtin_memcpy(&total, &sums, sizeof total);
  if (!first) {
    __builtin_memcpy(&old, target, sizeof old);
    total += old;
  }
  __builtin_memcpy(target, &total, sizeof total);
}

template <typename T, int N, int Left, typename C>
INLINE void support_run(int count, int n, const int32_t* rows, const C* c, const T* grad, const T* x, bool first,
                        Ahead& ahead, T* target, const T* last) {
  constexpr int width = N * lanes<T>(), g = group<T>();
  for (int i = 0; i < n; ++i) {
    ahead.go();
    Vector<T> row[N];
    load_row<T, N>(grad + rows[i] * width, row);
    const T* end = target + (count - Left);
    for (; target != end; target += g, c += g) {
      Vector<T> sums[g];
      const Columns<C, g> some(c);
#pragma GCC unroll 4
      for (int j = 0; j < g; ++j) sums[j] = dot<T, N>(row, row_at<T, width>(x, some[j]));
      put<T>(sum_lanes<T>(sums), target, first);
    }
    if constexpr (Left > 0) {
      Vector<T> sums[g];
#pragma GCC unroll 4
      for (int j = 0; j < g; ++j) sums[j] = j < Left ? dot<T, N>(row, row_at<T, width>(x, c[j])) : Vector<T>{};
      const Vector<T> all = sum_lanes<T>(sums);
      if (target + g <= last) {
        // The zeros beyond the row are added to, or overwritten by, what comes after it.
        put<T>(all, target, first);
      } else {
        for (int j = 0; j < Left; ++j) target[j] = first ? all[j] : target[j] + all[j];
      }
      target += Left;
      c += Left;
    }
  }
}

template <typename T, int N, typename C>
void support_of(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, const T* next, bool first,
                T* out) {
  constexpr int width = N * lanes<T>(), g = group<T>();
  const int64_t tile = panel * layout->blocks + block;
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const C* c = static_cast<const C*>(layout->columns) + layout->value_start[tile];
  T* target = out + layout->value_start[tile];
  const T* last = out + layout->value_start[tile + 1];
  Ahead ahead(next, static_cast<int64_t>(sizeof(T)) * layout->block * width,
              layout->row_start[tile + 1] - layout->row_start[tile]);
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    switch (count % g) {
      case 0: support_run<T, N, 0, C>(count, n, rows, c, grad, x, first, ahead, target, last); break;
      case 1: support_run<T, N, 1, C>(count, n, rows, c, grad, x, first, ahead, target, last); break;
      case 2: support_run<T, N, 2 % g, C>(count, n, rows, c, grad, x, first, ahead, target, last); break;
      default: support_run<T, N, 3 % g, C>(count, n, rows, c, grad, x, first, ahead, target, last);
    }
    rows += n, c += static_cast<int64_t>(n) * count, target += static_cast<int64_t>(n) * count;
  }
}

// ---- from the number of units to the number of vectors -------------------------------------------------------

// And from the width of a block to the type of its columns.
#define BY_UNITS_OF(C, function, ...)                                     \
  switch (units) {                                                        \
    case 1: return function<T, 1 * kUnit / VECTOR_BYTES, C>(__VA_ARGS__); \
    case 2: return function<T, 2 * kUnit / VECTOR_BYTES, C>(__VA_ARGS__); \
    case 3: return function<T, 3 * kUnit / VECTOR_BYTES, C>(__VA_ARGS__); \
    default: return function<T, 4 * kUnit / VECTOR_BYTES, C>(__VA_ARGS__); \
  }
#define BY_UNITS(function, ...)                  \
  if (wide(*layout)) {                           \
    BY_UNITS_OF(uint16_t, function, __VA_ARGS__) \
  } else {                                       \
    BY_UNITS_OF(uint8_t, function, __VA_ARGS__)  \
  }

template <typename T>
void product(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* x, const T* next,
             T* out) {
  BY_UNITS(product_of, layout, values, panel, block, x, next, out)
}

template <typename T>
void scatter(const Layout* layout, const T* values, int64_t panel, int64_t block, int units, const T* grad, T* out) {
  BY_UNITS(scatter_of, layout, values, panel, block, grad, out)
}

template <typename T>
void support(const Layout* layout, int64_t panel, int64_t block, int units, const T* grad, const T* x, const T* next,
             bool first, T* grad_values) {
  BY_UNITS(support_of, layout, panel, block, grad, x, next, first, grad_values)
}

// ---- one sample ----------------------------------------------------------------------------------------------

// Calls body(row, its number of non-zeros, its columns, where it begins) for the rows of a tile.
template <typename C, typename Body>
INLINE void each_row(const Layout* layout, int64_t tile, Body body) {
  const int32_t* rows = layout->row_ids + layout->row_start[tile];
  const C* c = static_cast<const C*>(layout->columns) + layout->value_start[tile];
  int64_t at = layout->value_start[tile];
  for (int run = layout->run_start[tile]; run < layout->run_start[tile + 1]; ++run) {
    const int count = layout->runs[2 * run], n = layout->runs[2 * run + 1];
    for (int i = 0; i < n; ++i, ++rows, c += count, at += count) body(*rows, count, c, at);
  }
}

// Calls body(k, columns[k], one of four sums to add to) for all k. Columns are read four at a time; and it is kept from
// compilers that they could gather with one instruction, which is slower than four loads.
template <typename C, typename Body>
INLINE void each_column(int count, const C* columns, Body body) {
  int k = 0;
  for (; k + 4 <= count; k += 4) {
    const Columns<C, 4> four(columns + k);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      uint64_t column = four[i];
      __asm__("" : "+r"(column));
      body(k + i, column, i);
    }
  }
  for (; k < count; ++k) {
    uint64_t column = columns[k];
    __asm__("" : "+r"(column));
    body(k, column, 0);
  }
}

template <typename T, typename C>
void product_vector_of(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* x, T* out) {
  const T* xs = x + block * layout->block;
  each_row<C>(layout, panel * layout->blocks + block, [&](int32_t row, int count, const C* columns, int64_t at) {
    T sums[4] = {};
    each_column(count, columns, [&](int k, uint64_t column, int i) { sums[i] += values[at + k] * xs[column]; });
    out[row] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  });
}

template <typename T, typename C>
void scatter_vector_of(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out) {
  const T* g = grad + panel * kPanel;
  each_row<C>(layout, panel * layout->blocks + block, [&](int32_t row, int count, const C* columns, int64_t at) {
    const T value = g[row];
    each_column(count, columns, [&](int k, uint64_t column, int) { out[column] += values[at + k] * value; });
  });
}

template <typename T, typename C>
void support_vector_of(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, T* grad_values) {
  const T* g = grad + panel * kPanel;
  const T* xs = x + block * layout->block;
  each_row<C>(layout, panel * layout->blocks + block, [&](int32_t row, int count, const C* columns, int64_t at) {
    const T value = g[row];
    each_column(count, columns, [&](int k, uint64_t column, int) { grad_values[at + k] = value * xs[column]; });
  });
}

#define BY_COLUMNS(function, ...) \
  return wide(*layout) ? function<T, uint16_t>(__VA_ARGS__) : function<T, uint8_t>(__VA_ARGS__);

template <typename T>
void product_vector(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* x, T* out) {
  BY_COLUMNS(product_vector_of, layout, values, panel, block, x, out)
}

template <typename T>
void scatter_vector(const Layout* layout, const T* values, int64_t panel, int64_t block, const T* grad, T* out) {
  BY_COLUMNS(scatter_vector_of, layout, values, panel, block, grad, out)
}

template <typename T>
void support_vector(const Layout* layout, int64_t panel, int64_t block, const T* grad, const T* x, T* grad_values) {
  BY_COLUMNS(support_vector_of, layout, panel, block, grad, x, grad_values)
}

template <typename T>
void gather(const T* values, const int32_t* order, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = values[order[i]];
}

#include "dag.inl"
#include "cells.inl"

#define TABLE(T) \
  {pack<T>,         unpack<T>,       product<T>,        scatter<T>, support<T>, \
   product_vector<T>, scatter_vector<T>, support_vector<T>, gather<T>, dag_forward<T>, dag_backward<T>, \
   lstm_forward<T>, lstm_backward<T>, gru_forward<T>, gru_backward<T>}

}  // namespace

extern const Isa ISA_TABLE;
const Isa ISA_TABLE = {ISA_NAME, TABLE(float), TABLE(double)};

}  // namespace deepstruct
