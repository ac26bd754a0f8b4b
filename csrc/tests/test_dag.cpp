// The passes over a directed acyclic graph against plain loops, and their gradients against differences.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels.h"
#include "network.h"

using namespace deepstruct;

namespace {

int failures = 0;

struct Graph {
  std::vector<int32_t> layer_start, vertex_row, row_start, cols;
  Dag dag() const {
    Dag d{static_cast<int64_t>(vertex_row.size()) - 1, static_cast<int64_t>(layer_start.size()) - 1,
          static_cast<int64_t>(row_start.size()) - 1, static_cast<int64_t>(cols.size()), 0,
          layer_start.data(), vertex_row.data(), row_start.data(), cols.data()};
    for (std::size_t k = 1; k < layer_start.size(); ++k)
      d.widest = std::max<int64_t>(d.widest, layer_start[k] - layer_start[k - 1]);
    return d;
  }
};

// Every vertex above layer 0 has one to three rows of zero to five edges.
Graph random_graph(std::mt19937& rng, const std::vector<int>& sizes) {
  Graph g;
  g.layer_start = {0};
  for (int size : sizes) g.layer_start.push_back(g.layer_start.back() + size);
  g.vertex_row = {0};
  g.row_start = {0};
  for (int v = 0; v < g.layer_start.back(); ++v) {
    if (v >= g.layer_start[1]) {
      int layer = 1;
      while (g.layer_start[layer + 1] <= v) ++layer;
      for (int r = 0, rows = 1 + static_cast<int>(rng() % 3); r < rows; ++r) {
        for (int k = 0, edges = static_cast<int>(rng() % 6); k < edges; ++k)
          g.cols.push_back(static_cast<int32_t>(rng() % g.layer_start[layer]));
        g.row_start.push_back(static_cast<int32_t>(g.cols.size()));
      }
    }
    g.vertex_row.push_back(static_cast<int32_t>(g.row_start.size()) - 1);
  }
  return g;
}

struct Parameters {
  std::vector<double> weight, bias, extra, gamma, beta;
  std::vector<std::vector<double>*> all() { return {&weight, &bias, &extra, &gamma, &beta}; }
};

// The definition, one sample at a time.
std::vector<double> plain(const Graph& g, const Parameters& p, const double* first) {
  const Dag d = g.dag();
  std::vector<double> h(first, first + g.layer_start[1]);
  h.resize(d.vertices);
  for (int64_t layer = 1; layer < d.layers; ++layer) {
    const int begin = g.layer_start[layer], end = g.layer_start[layer + 1];
    auto row = [&](int r) {
      double z = p.bias[r];
      for (int k = g.row_start[r]; k < g.row_start[r + 1]; ++k) z += p.weight[k] * h[g.cols[k]];
      return z;
    };
    std::vector<double> main;
    double mean = 0, variance = 0;
    for (int v = begin; v < end; ++v) main.push_back(row(g.vertex_row[v]));
    for (double z : main) mean += z / (end - begin);
    for (double z : main) variance += (z - mean) * (z - mean) / (end - begin);
    for (int v = begin; v < end; ++v) {
      double z = main[v - begin];
      if (!p.gamma.empty()) z = (z - mean) / std::sqrt(variance + 1e-5) * p.gamma[v] + p.beta[v];
      h[v] = p.extra[v] + std::max(z, 0.0);
      for (int r = g.vertex_row[v] + 1; r < g.vertex_row[v + 1]; ++r) h[v] += std::max(row(r), 0.0);
    }
  }
  return h;
}

const Parallel serial = {[](int64_t n, const std::function<void(int64_t, int64_t)>& body) { body(0, n); },
                         [] { return 1; }};

template <typename T>
std::vector<T> as(const std::vector<double>& from) {
  return {from.begin(), from.end()};
}

template <typename T>
void check(const Graph& g, Parameters p, int64_t batch, std::mt19937& rng, double tolerance) {
  const Dag dag = g.dag();
  std::normal_distribution<double> normal;
  const int64_t inputs = g.layer_start[1];
  std::vector<double> first(batch * inputs);
  for (double& x : first) x = std::abs(normal(rng));
  std::vector<int32_t> reads;
  for (int32_t v = 0; v < dag.vertices; v += 2) reads.push_back(v);
  const int64_t n_reads = static_cast<int64_t>(reads.size());
  std::vector<double> grad(batch * n_reads);
  for (double& x : grad) x = normal(rng);
  const auto loss = [&] {
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const std::vector<double> h = plain(g, p, first.data() + b * inputs);
      for (int64_t k = 0; k < n_reads; ++k) sum += grad[b * n_reads + k] * h[reads[k]];
    }
    return sum;
  };
  const bool norm = !p.gamma.empty();
  const auto w = as<T>(p.weight), bias = as<T>(p.bias), extra = as<T>(p.extra), gamma = as<T>(p.gamma),
             beta = as<T>(p.beta), x = as<T>(first), up = as<T>(grad);
  const DagParameters<T> parameters{w.data(), bias.data(), extra.data(), norm ? gamma.data() : nullptr,
                                    norm ? beta.data() : nullptr, static_cast<T>(1e-5)};
  std::vector<T> state(dag_state_size(dag.vertices, batch)), out(batch * n_reads), grad_first(batch * inputs);
  dag_forward_batch<T>(dag, parameters, x.data(), batch, reads.data(), n_reads, state.data(), out.data(), serial);
  for (int64_t b = 0; b < batch; ++b) {
    const std::vector<double> h = plain(g, p, first.data() + b * inputs);
    for (int64_t k = 0; k < n_reads; ++k)
      if (!(std::abs(out[b * n_reads + k] - h[reads[k]]) <= tolerance * (1 + std::abs(h[reads[k]])))) {
        if (++failures < 10) std::printf("forward: sample %ld read %ld\n", long(b), long(k));
      }
  }
  std::vector<std::vector<T>> grads;
  for (auto* part : p.all()) grads.emplace_back(part->size());
  const DagGradients<T> into{grads[0].data(), grads[1].data(), grads[2].data(), norm ? grads[3].data() : nullptr,
                             norm ? grads[4].data() : nullptr};
  dag_backward_batch<T>(dag, parameters, state.data(), up.data(), batch, reads.data(), n_reads, grad_first.data(),
                        into, serial);
  // Differences of the definition, at some places of every parameter. A kink of relu within the step is not counted.
  int parts = 0;
  for (auto* part : p.all()) {
    for (int trial = 0; trial < 6 && !part->empty(); ++trial) {
      const std::size_t k = rng() % part->size();
      const double kept = (*part)[k], step = 1e-6;
      (*part)[k] = kept + step;
      const double above = loss();
      (*part)[k] = kept - step;
      const double below = loss();
      (*part)[k] = kept;
      const double here = loss(), right = (above - here) / step, left = (here - below) / step;
      if (std::abs(right - left) > 1e-2 * (1 + std::abs(right))) continue;
      const bool fixed = parts >= 2 && static_cast<int64_t>(k) < inputs;  // layer 0 has no extra and no norm
      const double wanted = fixed ? 0 : (above - below) / (2 * step);
      if (!(std::abs(grads[parts][k] - wanted) <= (tolerance * 50 + 1e-4) * (1 + std::abs(wanted))))
        if (++failures < 10)
          std::printf("gradient %d[%zu]: %g, expected %g\n", parts, k, double(grads[parts][k]), wanted);
    }
    ++parts;
  }
}

}  // namespace

int main() {
  std::mt19937 rng(1);
  std::normal_distribution<double> normal(0, 0.5);
  int cases = 0;
  for (const std::vector<int>& sizes : {std::vector<int>{1}, {3, 1, 4}, {5, 9, 2, 7, 1, 1, 12}})
    for (bool norm : {false, true})
      for (int64_t batch : {1, 5, 16, 33, 64, 65, 600}) {
        const Graph g = random_graph(rng, sizes);
        const Dag dag = g.dag();
        Parameters p;
        p.weight.resize(dag.edges);
        p.bias.resize(dag.rows);
        p.extra.resize(dag.vertices);
        if (norm) p.gamma.resize(dag.vertices), p.beta.resize(dag.vertices);
        for (auto* part : p.all())
          for (double& value : *part) value = normal(rng);
        check<double>(g, p, batch, rng, 1e-9);
        check<float>(g, p, batch, rng, 2e-4);
        ++cases;
      }
  std::printf("%s: %d cases, %d failures\n", isa().name, cases, failures);
  return failures ? 1 : 0;
}
