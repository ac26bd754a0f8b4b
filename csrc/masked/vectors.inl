// Vectors of VECTOR_BYTES, or of fewer, and their shuffles. Included by kernels.inl, within its anonymous namespace.

template <typename T, int Bytes = VECTOR_BYTES>
struct VectorOf;
template <int Bytes>
struct VectorOf<float, Bytes> {
  typedef float type __attribute__((vector_size(Bytes)));
  typedef int32_t index __attribute__((vector_size(Bytes)));
  typedef uint32_t bits __attribute__((vector_size(Bytes)));
};
template <int Bytes>
struct VectorOf<double, Bytes> {
  typedef double type __attribute__((vector_size(Bytes)));
  typedef int64_t index __attribute__((vector_size(Bytes)));
  typedef uint64_t bits __attribute__((vector_size(Bytes)));
};
template <typename T, int Bytes = VECTOR_BYTES>
using Vector = typename VectorOf<T, Bytes>::type;

template <typename T, int Bytes = VECTOR_BYTES>
constexpr int lanes() {
  return Bytes / static_cast<int>(sizeof(T));
}

// As many numbers as fit into 16 bytes, within which shuffles are cheapest.
template <typename T>
constexpr int group() {
  return 16 / static_cast<int>(sizeof(T));
}

template <typename T, int Bytes = VECTOR_BYTES>
INLINE Vector<T, Bytes> load(const T* p) {
  Vector<T, Bytes> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <typename T, typename V>
INLINE void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// The 16 bytes at p, again and again. Compilers make several instructions of that where they have to find out.
template <typename T>
INLINE Vector<T> repeat(const T* p) {
#if VECTOR_BYTES == 64
  return (Vector<T>)_mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(p)));
#elif VECTOR_BYTES == 32
  return (Vector<T>)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#else
  return load(p);
#endif
}

// Shuffles by an order that is known when this is compiled: lane i is Order::at(i) of a and b, one after the other.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct LanesTo : LanesTo<N - 1, N - 1, I...> {};
template <int... I>
struct LanesTo<0, I...> {
  typedef Lanes<I...> type;
};

template <typename T, typename Order, int Bytes, int... I>
INLINE Vector<T, Bytes> shuffled(Vector<T, Bytes> a, Vector<T, Bytes> b, Lanes<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Order::at(I)...);
#else
  return __builtin_shuffle(a, b, typename VectorOf<T, Bytes>::index{Order::at(I)...});
#endif
}

template <typename T, typename Order, int Bytes = VECTOR_BYTES>
INLINE Vector<T, Bytes> shuffle(Vector<T, Bytes> a, Vector<T, Bytes> b) {
  return shuffled<T, Order, Bytes>(a, b, typename LanesTo<lanes<T, Bytes>()>::type());
}

// Orders of N lanes in groups of G, all but the last two within groups.

// One lane of each group, everywhere in it.
template <int G, int Lane>
struct Spread {
  static constexpr int at(int i) { return i / G * G + Lane; }
};

// The lower or upper halves of both, lane by lane in turn.
template <int N, int G, bool Upper>
struct Zipped {
  static constexpr int at(int i) { return i / G * G + (Upper ? G / 2 : 0) + i % G / 2 + (i % 2 ? N : 0); }
};

// The even or odd lanes of the one, then those of the other.
template <int N, int G, bool Odd>
struct Decimated {
  static constexpr int at(int i) { return i / G * G + i % (G / 2) * 2 + Odd + (i % G < G / 2 ? 0 : N); }
};

// One half of a, then the other half of b: each half where it was, or where the other one was.
template <int N, int G, bool Crossed>
struct Halves {
  static constexpr int at(int i) { return (Crossed ? i / G * G + (i % G + G / 2) % G : i) + (i % G < G / 2 ? 0 : N); }
};

// The groups with even or odd numbers, first those of the one, then those of the other.
template <int N, int G, bool Odd>
struct Alternate {
  static constexpr int at(int i) { return i / G * 2 * G + (Odd ? G : 0) + i % G; }
};

template <int N, int Apart>
struct Rotated {
  static constexpr int at(int i) { return (i + Apart) % N; }
};
