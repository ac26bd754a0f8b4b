// Batch tiles from and to row-major matrices, by transposing squares of lanes. Included by kernels.inl, within its
// anonymous namespace.
//
// Squares are of 32 bytes at most: those of 64 need more micro-operations for a number where these are executed in two
// halves, and no fewer cache lines.

constexpr int kSquare = VECTOR_BYTES < 32 ? VECTOR_BYTES : 32;

// First within groups, by interleaving rows i and i + g / 2 of each g, then groups as a whole.
template <typename T>
INLINE void transpose_square(Vector<T, kSquare>* v) {
  constexpr int n = lanes<T, kSquare>(), g = group<T>(), parts = n / g;
  Vector<T, kSquare> w[n];
#pragma GCC unroll 2
  for (int round = 1; round < g; round *= 2) {
#pragma GCC unroll 2
    for (int part = 0; part < n; part += g) {
#pragma GCC unroll 2
      for (int i = part; i < part + g / 2; ++i) {
        w[2 * i - part] = shuffle<T, Zipped<n, g, false>, kSquare>(v[i], v[i + g / 2]);
        w[2 * i - part + 1] = shuffle<T, Zipped<n, g, true>, kSquare>(v[i], v[i + g / 2]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
  if constexpr (parts == 2) {
#pragma GCC unroll 4
    for (int i = 0; i < g; ++i) {
      w[i] = shuffle<T, Alternate<n, g, false>, kSquare>(v[i], v[g + i]);
      w[g + i] = shuffle<T, Alternate<n, g, true>, kSquare>(v[i], v[g + i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
}

template <typename T>
void pack(const T* matrix, int64_t stride, int batch, int units, int64_t begin, int64_t end, T* tile) {
  constexpr int n = lanes<T, kSquare>();
  const int width = units * (kUnit / static_cast<int>(sizeof(T)));
  const int64_t whole = begin + (end - begin) / n * n;
  for (int b = 0; b < width; b += n) {
    for (int64_t f = begin; f < whole; f += n) {
      Vector<T, kSquare> v[n];
      if (b + n <= batch) {
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) v[i] = load<T, kSquare>(matrix + (b + i) * stride + f);
      } else {
        for (int i = 0; i < n; ++i)
          v[i] = b + i < batch ? load<T, kSquare>(matrix + (b + i) * stride + f) : Vector<T, kSquare>{};
      }
      transpose_square<T>(v);
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) store(tile + (f + i) * width + b, v[i]);
    }
  }
  for (int64_t f = whole; f < end; ++f)
    for (int b = 0; b < width; ++b) tile[f * width + b] = b < batch ? matrix[b * stride + f] : T(0);
}

template <typename T>
void unpack(const T* tile, int units, int64_t begin, int64_t end, T* matrix, int64_t stride, int batch) {
  constexpr int n = lanes<T, kSquare>();
  const int width = units * (kUnit / static_cast<int>(sizeof(T)));
  const int64_t whole = begin + (end - begin) / n * n;
  for (int b = 0; b < batch; b += n) {
    const T* from = tile + b;
    for (int64_t f = begin; f < whole; f += n, from += n * width) {
      Vector<T, kSquare> v[n];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) v[i] = load<T, kSquare>(from + i * width);
      transpose_square<T>(v);
      if (b + n <= batch) {
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) store(matrix + (b + i) * stride + f, v[i]);
      } else {
        for (int i = 0; b + i < batch; ++i) store(matrix + (b + i) * stride + f, v[i]);
      }
    }
  }
  for (int64_t f = whole; f < end; ++f)
    for (int b = 0; b < batch; ++b) matrix[b * stride + f] = tile[(f - begin) * width + b];
}
