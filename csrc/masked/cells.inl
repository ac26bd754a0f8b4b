// Gated recurrent cells, one step (see cells.h), and the two functions that they need.
// Included by kernels.inl, within its anonymous namespace.

// What exp needs of a type: x log2(e) is rounded by adding a number so large that nothing behind the point is left,
// whose last bits are the integer then; ln 2 comes in two parts, the first one short.
template <typename T>
struct Exponential;
template <>
struct Exponential<float> {
  static constexpr float rounder = 12582912.f, log2e = 1.44269504f, ln2 = 0.693359375f, rest = -2.12194440e-4f;
  static constexpr float most = 87.f;
  static constexpr int mantissa = 23, bias = 127, terms = 7;
};
template <>
struct Exponential<double> {
  static constexpr double rounder = 6755399441055744., log2e = 1.4426950408889634, ln2 = 6.93147180369123816490e-01,
                          rest = 1.90821492927058770002e-10, most = 708.;
  static constexpr int mantissa = 52, bias = 1023, terms = 13;
};

// 1 / (k + 1)! for the Taylor series of exp(r) - 1.
template <typename T>
constexpr T over_factorial(int k) {
  double value = 1;
  for (int i = 2; i <= k + 1; ++i) value *= i;
  return static_cast<T>(1 / value);
}

// exp(x) - 1 without losing what is small; x is kept within what a finite result has. NaN stays.
template <typename T>
INLINE Vector<T> exp_minus_1(Vector<T> x) {
  using E = Exponential<T>;
  const Vector<T> most = Vector<T>{} + E::most;
  x = x > most ? most : x;
  x = x < -most ? -most : x;
  const Vector<T> shifted = x * E::log2e + E::rounder;
  const Vector<T> n = shifted - E::rounder;
  const Vector<T> r = (x - n * E::ln2) - n * E::rest;
  typename VectorOf<T>::bits exponent;
  __builtin_memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + E::bias) << E::mantissa;  // what is above the integer leaves at the top
  Vector<T> power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  Vector<T> sum = Vector<T>{} + over_factorial<T>(E::terms - 1);
#pragma GCC unroll 16
  for (int k = E::terms - 2; k >= 0; --k) sum = sum * r + over_factorial<T>(k);
  return power * (sum * r) + (power - T(1));
}

template <typename T>
INLINE Vector<T> sigmoid(Vector<T> x) {
  return T(1) / (T(2) + exp_minus_1<T>(-x));
}

template <typename T>
INLINE Vector<T> tanh_of(Vector<T> x) {
  const Vector<T> low = exp_minus_1<T>(x > Vector<T>{} ? T(-2) * x : T(2) * x);
  const Vector<T> size = -low / (low + T(2));
  return x > Vector<T>{} ? size : -size;
}

// The numbers at p, of which `count` are to be read; the others are zero.
template <typename T>
INLINE Vector<T> load_some(const T* p, int64_t count) {
  if (count >= lanes<T>()) return load(p);
  Vector<T> v = {};
  __builtin_memcpy(&v, p, static_cast<uint64_t>(count) * sizeof(T));
  return v;
}

template <typename T>
INLINE void store_some(T* p, Vector<T> v, int64_t count) {
  if (count >= lanes<T>()) return store(p, v);
  __builtin_memcpy(p, &v, static_cast<uint64_t>(count) * sizeof(T));
}

template <typename T>
void lstm_forward(const Step& step, T* gates, const T* c, T* new_h, T* new_c) {
  T *const to_i = gates, *const to_f = gates + step.gate, *const to_g = to_f + step.gate, *const to_o = to_g + step.gate;
  for (int64_t k = 0, end = step.rows * step.width; k < end; k += lanes<T>()) {
    const int64_t left = end - k;
    const Vector<T> i = sigmoid<T>(load_some(to_i + k, left)), f = sigmoid<T>(load_some(to_f + k, left));
    const Vector<T> g = tanh_of<T>(load_some(to_g + k, left)), o = sigmoid<T>(load_some(to_o + k, left));
    const Vector<T> next = f * load_some(c + k, left) + i * g;
    store_some(to_i + k, i, left);
    store_some(to_f + k, f, left);
    store_some(to_g + k, g, left);
    store_some(to_o + k, o, left);
    store_some(new_c + k, next, left);
    store_some(new_h + k, o * tanh_of<T>(next), left);
  }
}

template <typename T>
void lstm_backward(const Step& step, const T* gates, const T* c, const T* new_c, T* grad_h, T* grad_c, T* grad_gates) {
  const T *const is = gates, *const fs = gates + step.gate, *const gs = fs + step.gate, *const os = gs + step.gate;
  for (int64_t row = 0; row < step.rows; ++row) {
    T* to = grad_gates + row * step.stride;
    for (int64_t b = 0; b < step.width; b += lanes<T>()) {
      const int64_t left = step.width - b, k = row * step.width + b;
      const Vector<T> i = load_some(is + k, left), f = load_some(fs + k, left), g = load_some(gs + k, left),
                      o = load_some(os + k, left), gh = load_some(grad_h + k, left);
      const Vector<T> curved = tanh_of<T>(load_some(new_c + k, left));
      const Vector<T> gc = load_some(grad_c + k, left) + gh * o * (T(1) - curved * curved);
      store_some(to + b, gc * g * (i * (T(1) - i)), left);
      store_some(to + step.grad_gate + b, gc * load_some(c + k, left) * (f * (T(1) - f)), left);
      store_some(to + 2 * step.grad_gate + b, gc * i * (T(1) - g * g), left);
      store_some(to + 3 * step.grad_gate + b, gh * curved * (o * (T(1) - o)), left);
      store_some(grad_c + k, gc * f, left);
      store_some(grad_h + k, Vector<T>{}, left);
    }
  }
}

template <typename T>
void gru_forward(const Step& step, T* gates, const T* extra, const T* h, T* new_h) {
  T *const to_r = gates, *const to_z = gates + step.gate, *const to_n = to_z + step.gate;
  for (int64_t k = 0, end = step.rows * step.width; k < end; k += lanes<T>()) {
    const int64_t left = end - k;
    const Vector<T> r = sigmoid<T>(load_some(to_r + k, left) + load_some(extra + k, left));
    const Vector<T> z = sigmoid<T>(load_some(to_z + k, left) + load_some(extra + step.gate + k, left));
    const Vector<T> n = tanh_of<T>(load_some(to_n + k, left) + r * load_some(extra + 2 * step.gate + k, left));
    store_some(to_r + k, r, left);
    store_some(to_z + k, z, left);
    store_some(to_n + k, n, left);
    store_some(new_h + k, n + z * (load_some(h + k, left) - n), left);
  }
}

template <typename T>
void gru_backward(const Step& step, const T* gates, const T* extra, const T* h, T* grad_h, T* grad_gates,
                  T* grad_extra) {
  const T *const rs = gates, *const zs = gates + step.gate, *const ns = zs + step.gate;
  for (int64_t row = 0; row < step.rows; ++row) {
    T *to = grad_gates + row * step.stride, *also = grad_extra + row * step.stride;
    for (int64_t b = 0; b < step.width; b += lanes<T>()) {
      const int64_t left = step.width - b, k = row * step.width + b;
      const Vector<T> r = load_some(rs + k, left), z = load_some(zs + k, left), n = load_some(ns + k, left),
                      g = load_some(grad_h + k, left);
      const Vector<T> to_n = (g - g * z) * (T(1) - n * n);
      const Vector<T> to_z = g * (load_some(h + k, left) - n) * (z * (T(1) - z));
      const Vector<T> to_r = to_n * load_some(extra + 2 * step.gate + k, left) * (r * (T(1) - r));
      store_some(to + b, to_r, left);
      store_some(also + b, to_r, left);
      store_some(to + step.grad_gate + b, to_z, left);
      store_some(also + step.grad_gate + b, to_z, left);
      store_some(to + 2 * step.grad_gate + b, to_n, left);
      store_some(also + 2 * step.grad_gate + b, to_n * r, left);
      store_some(grad_h + k, g * z, left);
    }
  }
}
