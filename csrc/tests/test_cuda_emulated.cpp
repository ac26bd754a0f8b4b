// The CUDA kernels on an emulated grid, against plain loops: shapes, densities, batches, and thread orders.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "build.h"
#include "emulated_grid.h"

#include "cuda/kernels.cuh"

using namespace deepstruct;
namespace gpu = deepstruct::cuda;

static int failures = 0;

static void expect(bool holds, const char* what, const char* where) {
  if (holds) return;
  std::printf("FAILED: %s (%s)\n", what, where);
  ++failures;
}

struct Case {
  int64_t rows, cols;
  double density;
  int32_t block;
  int64_t batch;
};

struct Matrix {
  std::vector<int64_t> starts{0}, indices{}, row{};
};

static Matrix support_of(const Case& c, std::mt19937& random) {
  Matrix m;
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t col = 0; col < c.cols; ++col)
      if (uniform(random) < c.density) {
        m.indices.push_back(col);
        m.row.push_back(r);
      }
    m.starts.push_back(static_cast<int64_t>(m.indices.size()));
  }
  return m;
}

template <typename T>
static std::vector<T> numbers(int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> out(n);
  for (T& v : out) v = static_cast<T>(normal(random));
  return out;
}

template <typename T>
static bool close(const std::vector<T>& a, const std::vector<double>& b, double tolerance) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(static_cast<double>(a[i]) - b[i]) <= tolerance * (1 + std::abs(b[i])))) return false;
  return a.size() == b.size();
}

static gpu::Structure structure_of(const Built& built) {
  return {built.table.data(), built.row_ids.data(), built.columns.data()};
}

template <typename T>
static void check(const Case& c, double tolerance, unsigned seed) {
  char where[160];
  std::snprintf(where, sizeof where, "%ldx%ld, density %.2f, block %d, batch %ld, %zu bytes, order %u", (long)c.rows,
                (long)c.cols, c.density, c.block, (long)c.batch, sizeof(T), seed);
  std::mt19937 random(seed * 7919 + static_cast<unsigned>(c.rows));
  const Matrix m = support_of(c, random);
  const int64_t n = static_cast<int64_t>(m.indices.size());
  const Built built = build(c.rows, c.cols, c.block, m.starts.data(), m.indices.data());
  const gpu::Structure layout = structure_of(built);
  const auto x = numbers<T>(c.batch * c.cols, random), grad = numbers<T>(c.batch * c.rows, random);
  const auto values = numbers<T>(n, random), bias = numbers<T>(c.rows, random);

  std::vector<double> y(c.batch * c.rows), grad_x(c.batch * c.cols), grad_values(n);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t r = 0; r < c.rows; ++r) y[b * c.rows + r] = static_cast<double>(bias[r]);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t at = built.order[k], r = m.row[at], col = m.indices[at];
    for (int64_t b = 0; b < c.batch; ++b) {
      const double v = static_cast<double>(values[k]), g = static_cast<double>(grad[b * c.rows + r]);
      const double in = static_cast<double>(x[b * c.cols + col]);
      y[b * c.rows + r] += v * in;
      grad_x[b * c.cols + col] += v * g;
      grad_values[k] += g * in;
    }
  }

  const auto parts = [](int64_t n, int per) { return static_cast<unsigned>((n + per - 1) / per); };
  const unsigned panels = parts(c.rows, gpu::kRows), blocks = parts(c.cols, gpu::kMinBlock);
  const unsigned tiles_of_batch = static_cast<unsigned>((c.batch + gpu::kLanes - 1) / gpu::kLanes);
  std::vector<T> out(y.size());
  emulated::launch({panels, tiles_of_batch}, gpu::kThreads, gpu::kSharedBytes, seed, [&] {
    gpu::product<T>(layout, values.data(), x.data(), bias.data(), c.batch, out.data());
  });
  expect(close(out, y, tolerance), "product", where);

  std::vector<T> back(grad_x.size());
  emulated::launch({blocks, tiles_of_batch}, gpu::kThreads, gpu::kSharedBytes, seed, [&] {
    gpu::scatter<T>(layout, values.data(), grad.data(), c.batch, back.data());
  });
  expect(close(back, grad_x, tolerance), "scatter", where);

  std::vector<float> of_values(n, std::nanf(""));
  emulated::launch({panels * blocks, 1}, gpu::kThreads, gpu::kSharedBytes, seed,
                   [&] { gpu::support<T>(layout, grad.data(), x.data(), c.batch, of_values.data()); });
  expect(close(of_values, grad_values, tolerance), "support", where);

  // The transposed twin: its product, with gathered values, is grad_x as well.
  std::vector<int64_t> starts(c.cols + 1), indices(n), origin(n);
  for (int64_t k = 0; k < n; ++k) ++starts[m.indices[k] + 1];
  for (int64_t col = 0; col < c.cols; ++col) starts[col + 1] += starts[col];
  std::vector<int64_t> place(starts.begin(), starts.end() - 1);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t at = place[m.indices[k]]++;
    indices[at] = m.row[k];
    origin[at] = k;
  }
  const Built twin = build(c.cols, c.rows, c.block, starts.data(), indices.data());
  std::vector<int32_t> where_in_layout(n), order(n);
  for (int64_t k = 0; k < n; ++k) where_in_layout[built.order[k]] = static_cast<int32_t>(k);
  for (int64_t k = 0; k < n; ++k) order[k] = where_in_layout[origin[twin.order[k]]];
  std::vector<T> gathered(n);
  const unsigned grids = static_cast<unsigned>((n + gpu::kThreads - 1) / gpu::kThreads);
  emulated::launch({grids, 1}, gpu::kThreads, 0, seed,
                   [&] { gpu::gather<T>(values.data(), order.data(), n, gathered.data()); });
  const gpu::Structure turned = structure_of(twin);
  std::vector<T> through_twin(grad_x.size());
  emulated::launch({parts(c.cols, gpu::kRows), tiles_of_batch}, gpu::kThreads, gpu::kSharedBytes, seed, [&] {
    gpu::product<T>(turned, gathered.data(), grad.data(), nullptr, c.batch, through_twin.data());
  });
  expect(close(through_twin, grad_x, tolerance), "product of the twin", where);

  std::vector<T> narrowed(n);
  emulated::launch({grids, 1}, gpu::kThreads, 0, seed,
                   [&] { gpu::narrow<T>(of_values.data(), n, narrowed.data()); });
  expect(close(narrowed, grad_values, tolerance), "narrow", where);
}

// A sum over a block that forgets its barrier: the grid must show it, or a passing test says nothing.
static void the_grid_shows_a_missing_barrier() {
  bool wrong = false;
  for (unsigned seed = 0; seed < 5; ++seed) {
    float total = 0;
    emulated::launch({1, 1}, 64, 64 * sizeof(float), seed, [&] {
      DEEPSTRUCT_SHARED(memory);
      memory[threadIdx.x] = 1.f;
      if (threadIdx.x == 0)
        for (int i = 0; i < 64; ++i) total += memory[i];
    });
    wrong |= !(total == 64.f);
  }
  expect(wrong, "a missing barrier shows", "emulated grid");
  bool refused = false;
  try {
    emulated::launch({1, 1}, 64, 0, 0, [&] {
      if (threadIdx.x < 32) __syncthreads();
    });
  } catch (const std::logic_error&) {
    refused = true;
  }
  expect(refused, "a barrier that half the block reaches is refused", "emulated grid");
}

int main() {
  the_grid_shows_a_missing_barrier();
  const Case cases[] = {
      {1, 1, 1.0, 128, 1},     {5, 7, 0.5, 128, 3},      {5, 7, 0.0, 128, 3},     {40, 300, 0.3, 128, 33},
      {600, 40, 0.2, 128, 20}, {530, 270, 0.05, 256, 5}, {64, 513, 0.02, 256, 65}, {30, 20, 1.0, 128, 64},
      {40, 700, 0.05, 300, 33}, {600, 40, 0.1, 2048, 20}, {3, 600, 0.5, 2048, 40},
      {0, 7, 0.5, 128, 3},     {7, 0, 0.5, 128, 3},      {5, 7, 0.5, 128, 0},
  };
  for (const Case& c : cases)
    for (unsigned seed = 1; seed <= 2; ++seed) {
      check<float>(c, 2e-4, seed);
#if defined(__FLT16_MAX__)
      check<_Float16>(c, 2e-2, seed);
#endif
    }
  if (failures == 0) std::printf("all kernels agree with plain loops\n");
  return failures != 0;
}
