// One step of the gated cells against the definitions in long double, and the gradients against differences.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "cells.h"
#include "kernels.h"

using namespace deepstruct;

namespace {

using Real = long double;
int failures = 0, checks = 0;

void expect(bool good, const char* what, long at) {
  ++checks;
  if (!good && ++failures < 10) std::printf("%s at %ld\n", what, at);
}

Real sigmoid(Real x) { return 1 / (1 + std::exp(-x)); }

// In parts and out of order, as threads would.
const Parallel parts = {[](int64_t n, const std::function<void(int64_t, int64_t)>& body) {
                          if (n > 1) body(n / 2, n);
                          body(0, n > 1 ? n / 2 : n);
                        },
                        [] { return 2; }};

// Vectors that end where they should: what lies behind is for the sanitizers to see.
template <typename T>
std::vector<T> drawn(std::mt19937& rng, int64_t count, double deviation = 1) {
  std::normal_distribution<double> normal(0, deviation);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(normal(rng));
  return values;
}

template <typename T>
void functions() {
  std::vector<T> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<T>(i * 0.00513));
  for (int i = 1; i < 400; ++i) x.push_back(static_cast<T>(std::pow(10.0, -i * 0.05) * (i % 2 ? 1 : -1)));
  const T nan = std::numeric_limits<T>::quiet_NaN(), big = std::numeric_limits<T>::infinity();
  const int64_t regular = static_cast<int64_t>(x.size());
  for (T special : {nan, big, -big, T(0), T(1e4), T(-1e4)}) x.push_back(special);
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<T> gates, c(n, 0), h(n), next(n);
  for (int k = 0; k < 4; ++k) gates.insert(gates.end(), x.begin(), x.end());
  lstm_forward<T>(n, 1, gates.data(), c.data(), h.data(), next.data(), parts);
  const Real eps = std::numeric_limits<T>::epsilon();
  for (int64_t k = 0; k < regular; ++k) {
    const Real s = sigmoid(x[k]), t = std::tanh(static_cast<Real>(x[k]));
    expect(std::abs(gates[k] - s) <= 2 * eps * s, "sigmoid", k);
    expect(std::abs(gates[2 * n + k] - t) <= 2 * eps * std::abs(t), "tanh", k);
  }
  const T* s = gates.data() + regular;
  const T* t = gates.data() + 2 * n + regular;
  expect(std::isnan(s[0]) && std::isnan(t[0]) && std::isnan(h[regular]), "NaN", 0);
  for (int k : {1, 4}) expect(s[k] == 1 && t[k] == 1, "large", k);
  for (int k : {2, 5}) expect(s[k] >= 0 && s[k] < 1e-30 && t[k] == -1, "small", k);
  expect(s[3] == T(0.5) && t[3] == 0, "zero", 3);
}

template <typename T>
void lstm(int64_t hidden, int64_t batch, int64_t stride, std::mt19937& rng, Real tolerance) {
  const int64_t n = hidden * batch;
  const std::vector<T> before = drawn<T>(rng, 4 * n, 1.5), c = drawn<T>(rng, n), gh = drawn<T>(rng, n), gc = drawn<T>(rng, n);
  std::vector<T> gates = before, new_h(n), new_c(n), grad_h = gh, grad_c = gc;
  lstm_forward<T>(hidden, batch, gates.data(), c.data(), new_h.data(), new_c.data(), parts);
  const T mark = 7;
  std::vector<T> grads((4 * hidden - 1) * stride + batch, mark);
  lstm_backward<T>(hidden, batch, gates.data(), c.data(), new_c.data(), grad_h.data(), grad_c.data(), grads.data(),
                   stride, parts);
  for (int64_t row = 0; row < hidden; ++row)
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t k = row * batch + b;
      const auto close = [&](Real a, Real wanted, const char* what) {
        expect(std::abs(a - wanted) <= tolerance * (1 + std::abs(wanted)), what, k);
      };
      Real z[4];
      for (int gate = 0; gate < 4; ++gate) z[gate] = before[gate * n + k];
      const auto loss = [&](Real cell, Real& h, Real& next) {
        next = sigmoid(z[1]) * cell + sigmoid(z[0]) * std::tanh(z[2]);
        h = sigmoid(z[3]) * std::tanh(next);
        return gh[k] * h + gc[k] * next;
      };
      Real h, next, other, step = 1e-6L;
      loss(c[k], h, next);
      close(new_h[k], h, "h");
      close(new_c[k], next, "c");
      for (int gate = 0; gate < 4; ++gate) {
        const Real kept = z[gate];
        z[gate] = kept + step;
        const Real above = loss(c[k], h, other);
        z[gate] = kept - step;
        const Real below = loss(c[k], h, other);
        z[gate] = kept;
        close(grads[(gate * hidden + row) * stride + b], (above - below) / (2 * step), "gradient of a gate");
      }
      close(grad_c[k], (loss(c[k] + step, h, other) - loss(c[k] - step, h, other)) / (2 * step), "gradient of c");
      expect(grad_h[k] == 0, "gradient of h", k);
    }
  for (int64_t row = 0; row + 1 < 4 * hidden; ++row)
    for (int64_t b = batch; b < stride; ++b) expect(grads[row * stride + b] == mark, "between rows", row);
}

template <typename T>
void gru(int64_t hidden, int64_t batch, int64_t stride, std::mt19937& rng, Real tolerance) {
  const int64_t n = hidden * batch;
  const std::vector<T> before = drawn<T>(rng, 3 * n, 1.5), extra = drawn<T>(rng, 3 * n), h = drawn<T>(rng, n),
                       gh = drawn<T>(rng, n);
  std::vector<T> gates = before, new_h(n), grad_h = gh;
  gru_forward<T>(hidden, batch, gates.data(), extra.data(), h.data(), new_h.data(), parts);
  const T mark = 7;
  std::vector<T> grads((3 * hidden - 1) * stride + batch, mark), more = grads;
  gru_backward<T>(hidden, batch, gates.data(), extra.data(), h.data(), grad_h.data(), grads.data(), more.data(), stride,
                  parts);
  for (int64_t row = 0; row < hidden; ++row)
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t k = row * batch + b;
      const auto close = [&](Real a, Real wanted, const char* what) {
        expect(std::abs(a - wanted) <= tolerance * (1 + std::abs(wanted)), what, k);
      };
      Real z[6];
      for (int gate = 0; gate < 3; ++gate) z[gate] = before[gate * n + k], z[3 + gate] = extra[gate * n + k];
      const auto next = [&](Real state) {
        const Real made = std::tanh(z[2] + sigmoid(z[0] + z[3]) * z[5]);
        return made + sigmoid(z[1] + z[4]) * (state - made);
      };
      close(new_h[k], next(h[k]), "h");
      const Real step = 1e-6L;
      for (int part = 0; part < 6; ++part) {
        const Real kept = z[part];
        z[part] = kept + step;
        const Real above = next(h[k]);
        z[part] = kept - step;
        const Real below = next(h[k]);
        z[part] = kept;
        const std::vector<T>& found = part < 3 ? grads : more;
        close(found[(part % 3 * hidden + row) * stride + b], gh[k] * (above - below) / (2 * step), "gradient of a share");
      }
      close(grad_h[k], gh[k] * (next(h[k] + step) - next(h[k] - step)) / (2 * step), "gradient of h");
    }
  for (int64_t row = 0; row + 1 < 3 * hidden; ++row)
    for (int64_t b = batch; b < stride; ++b)
      expect(grads[row * stride + b] == mark && more[row * stride + b] == mark, "between rows", row);
}

}  // namespace

int main() {
  std::mt19937 rng(1);
  functions<float>();
  functions<double>();
  for (int64_t hidden : {1, 3, 17, 300})
    for (int64_t batch : {1, 5, 16, 32, 33})
      for (int64_t between : {0, 1, 64}) {
        lstm<float>(hidden, batch, batch + between, rng, 2e-6L);
        lstm<double>(hidden, batch, batch + between, rng, 1e-11L);
        gru<float>(hidden, batch, batch + between, rng, 2e-6L);
        gru<double>(hidden, batch, batch + between, rng, 1e-11L);
      }
  lstm<float>(0, 4, 4, rng, 0);
  gru<double>(4, 0, 0, rng, 0);
  std::printf("%s: %d checks, %d failures\n", isa().name, checks, failures);
  return failures ? 1 : 0;
}
