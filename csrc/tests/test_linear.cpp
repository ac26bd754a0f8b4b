// The sparse linear layer against three plain loops, over shapes, densities, batches and threads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "build.h"
#include "kernels.h"
#include "linear.h"
#include "memory.h"

using namespace deepstruct;

static int failures = 0;

static void expect(bool holds, const char* what, const char* where) {
  if (!holds) {
    std::printf("FAILED: %s (%s)\n", what, where);
    ++failures;
  }
}

// Parts go to threads of their own, last part first: nothing may depend on who runs what, or when.
static Parallel threads(int n) {
  const auto run = [n](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    std::vector<std::thread> workers;
    for (int i = n - 1; i >= 0; --i)
      if (tasks * i / n < tasks * (i + 1) / n) workers.emplace_back(body, tasks * i / n, tasks * (i + 1) / n);
    for (auto& worker : workers) worker.join();
  };
  return {run, [n] { return n; }};
}

struct Sparse {
  int64_t rows, cols;
  std::vector<int64_t> starts{0}, indices{};
};

static Sparse random_support(int64_t rows, int64_t cols, double density, std::mt19937& random) {
  Sparse s{rows, cols};
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      if (uniform(random) < density) s.indices.push_back(c);
    s.starts.push_back(static_cast<int64_t>(s.indices.size()));
  }
  return s;
}

struct Entries {
  std::vector<int64_t> row, col;
};

// Row and column of every value, read from the layout alone.
static Entries entries(const Layout& layout, int64_t n) {
  Entries out;
  const int64_t tiles = static_cast<int64_t>(layout.panels) * layout.blocks;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int64_t row = layout.row_start[tile], value = layout.value_start[tile];
    for (int32_t run = layout.run_start[tile]; run < layout.run_start[tile + 1]; ++run)
      for (int32_t i = 0; i < layout.runs[2 * run + 1]; ++i, ++row)
        for (int32_t k = 0; k < layout.runs[2 * run]; ++k, ++value) {
          out.row.push_back(tile / layout.blocks * kPanel + layout.row_ids[row]);
          out.col.push_back(tile % layout.blocks * layout.block + column_at(layout, value));
        }
  }
  expect(static_cast<int64_t>(out.row.size()) == n, "the layout has every entry", "layout");
  return out;
}

template <typename T>
static bool close(const std::vector<T>& a, const std::vector<double>& b) {
  const double tolerance = sizeof(T) == 4 ? 2e-4 : 1e-11;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= tolerance * (1 + std::abs(b[i])))) return false;
  return a.size() == b.size();
}

template <typename T>
static void check(int64_t rows, int64_t cols, double density, int64_t batch, int block, std::mt19937& random) {
  char where[128];
  std::snprintf(where, sizeof where, "%s, %zu bytes, %ldx%ld, density %g, batch %ld, block %d", isa().name, sizeof(T),
                long(rows), long(cols), density, long(batch), block);
  const Sparse s = random_support(rows, cols, density, random);
  const int64_t nnz = static_cast<int64_t>(s.indices.size());
  const Built built = build(rows, cols, block, s.starts.data(), s.indices.data());
  const Layout layout = view(built.table.data(), built.row_ids.data(), built.columns.data());
  const Entries e = entries(layout, nnz);
  for (int64_t k = 0; k < nnz; ++k) {
    const int64_t entry = built.order[k];
    if (s.indices[entry] != e.col[k] || s.starts[e.row[k]] > entry || s.starts[e.row[k] + 1] <= entry)
      return expect(false, "order leads to the same entry", where);
  }
  // The transpose, by counting.
  Sparse t{cols, rows};
  t.starts.assign(cols + 1, 0);
  for (int64_t c : s.indices) ++t.starts[c + 1];
  for (int64_t c = 0; c < cols; ++c) t.starts[c + 1] += t.starts[c];
  t.indices.resize(nnz);
  std::vector<int64_t> cursor(t.starts.begin(), t.starts.end() - 1), from(nnz);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = s.starts[r]; k < s.starts[r + 1]; ++k) {
      from[cursor[s.indices[k]]] = k;
      t.indices[cursor[s.indices[k]]++] = r;
    }
  const Built twin_built = build(cols, rows, block, t.starts.data(), t.indices.data());
  std::vector<int32_t> slot(nnz), twin_order(nnz);
  for (int64_t k = 0; k < nnz; ++k) slot[built.order[k]] = static_cast<int32_t>(k);
  for (int64_t k = 0; k < nnz; ++k) twin_order[k] = slot[from[twin_built.order[k]]];
  const Twin twin{view(twin_built.table.data(), twin_built.row_ids.data(), twin_built.columns.data()),
                  twin_order.data(), nnz};

  std::normal_distribution<double> normal;
  const auto fill = [&](int64_t n) {
    std::vector<T> v(n);
    for (auto& value : v) value = static_cast<T>(normal(random));
    return v;
  };
  const auto values = fill(nnz), x = fill(batch * cols), bias = fill(rows), grad = fill(batch * rows);
  std::vector<double> y(batch * rows), grad_x(batch * cols), grad_values(nnz);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t r = 0; r < rows; ++r) y[b * rows + r] = bias[r];
    for (int64_t k = 0; k < nnz; ++k) {
      const double v = values[k], g = grad[b * rows + e.row[k]], in = x[b * cols + e.col[k]];
      y[b * rows + e.row[k]] += v * in;
      grad_x[b * cols + e.col[k]] += v * g;
      grad_values[k] += g * in;
    }
  }
  std::vector<T> weight(rows * cols, NAN), read(nnz, NAN);
  write_support<T>(layout, values.data(), weight.data(), threads(3));
  read_support<T>(layout, weight.data(), read.data(), threads(3));
  std::vector<T> wanted(rows * cols);
  for (int64_t k = 0; k < nnz; ++k) wanted[e.row[k] * cols + e.col[k]] = values[k];
  expect(weight == wanted, "a dense weight is written: values on the support, zeros elsewhere", where);
  expect(read == values, "the support of a dense weight is read", where);
  std::vector<T> first_y, first_grad;
  for (int n : {1, 3}) {
    // Results start as NaN: whatever is not written shows.
    std::vector<T> got_y(batch * rows, NAN), got_x(batch * cols, NAN), got_v(nnz, NAN), scattered(batch * cols, NAN);
    forward<T>(layout, values.data(), x.data(), bias.data(), batch, got_y.data(), threads(n));
    backward<T>(layout, &twin, values.data(), x.data(), grad.data(), batch, got_x.data(), got_v.data(), nnz, threads(n));
    backward<T>(layout, nullptr, values.data(), x.data(), grad.data(), batch, scattered.data(), nullptr, nnz, threads(n));
    expect(close(got_y, y), "forward", where);
    expect(close(got_x, grad_x), "grad_x through the twin", where);
    expect(close(scattered, grad_x), "grad_x through the layout", where);
    expect(close(got_v, grad_values), "grad_values", where);
    if (n == 1) first_y = got_y, first_grad = got_v;
    expect(first_y == got_y && first_grad == got_v, "results do not depend on threads", where);
  }
}

// Products of a batch tile that lies feature-major, which add to what is there.
template <typename T>
static void check_tile(int64_t rows, int64_t cols, double density, int units, int block, std::mt19937& random) {
  char where[128];
  std::snprintf(where, sizeof where, "%s, %zu bytes, tile of %d units, %ldx%ld, density %g, block %d", isa().name,
                sizeof(T), units, long(rows), long(cols), density, block);
  const Sparse s = random_support(rows, cols, density, random);
  const int64_t nnz = static_cast<int64_t>(s.indices.size()), width = units * (kUnit / static_cast<int64_t>(sizeof(T)));
  const Built built = build(rows, cols, block, s.starts.data(), s.indices.data());
  const Layout layout = view(built.table.data(), built.row_ids.data(), built.columns.data());
  const Entries e = entries(layout, nnz);
  std::normal_distribution<double> normal;
  const auto fill = [&](int64_t n) {
    std::vector<T> v(n);
    for (auto& value : v) value = static_cast<T>(normal(random));
    return v;
  };
  const auto values = fill(nnz), x = fill(cols * width), grad = fill(rows * width), out = fill(rows * width),
             sums = fill(nnz);
  std::vector<double> wanted_out(out.begin(), out.end()), wanted_sums(sums.begin(), sums.end());
  for (int64_t k = 0; k < nnz; ++k)
    for (int64_t b = 0; b < width; ++b) {
      const double in = x[e.col[k] * width + b];
      wanted_out[e.row[k] * width + b] += values[k] * in;
      wanted_sums[k] += grad[e.row[k] * width + b] * in;
    }
  std::vector<T> first_out, first_sums;
  for (int n : {1, 3}) {
    std::vector<T> got_out = out, got_sums = sums;
    add_product<T>(layout, values.data(), x.data(), units, got_out.data(), threads(n));
    add_support<T>(layout, grad.data(), x.data(), units, got_sums.data(), threads(n));
    expect(close(got_out, wanted_out), "the product of a tile", where);
    expect(close(got_sums, wanted_sums), "the support of a tile", where);
    if (n == 1) first_out = got_out, first_sums = got_sums;
    expect(first_out == got_out && first_sums == got_sums, "a tile's results do not depend on threads", where);
  }
}

int main() {
  std::mt19937 random(7);
  const int64_t shapes[][2] = {{0, 5}, {5, 0}, {1, 1}, {7, 3}, {100, 130}, {513, 257}, {1100, 300}};
  int cases = 0;
  for (const auto& shape : shapes)
    for (double density : {0., .02, .3, 1.})
      for (int64_t batch : {0, 1, 2, 16, 17, 40, 64, 65, 300}) {
        if (shape[0] * shape[1] * density * batch > 5e5) continue;
        for (int block : {128, 256, 260, 2048}) {
          check<float>(shape[0], shape[1], density, batch, block, random);
          check<double>(shape[0], shape[1], density, batch, block, random);
          cases += 2;
        }
      }
  check<double>(1500, 1500, .96, 130, 128, random);  // more values than the last cache is taken to hold
  ++cases;
  for (const auto& shape : shapes)
    for (double density : {0., .02, .3, 1.})
      for (int units : {1, 2, 3, 4}) {
        if (shape[0] * shape[1] * density * units > 3e4) continue;
        for (int block : {128, 256, 260, 2048}) {
          check_tile<float>(shape[0], shape[1], density, units, block, random);
          check_tile<double>(shape[0], shape[1], density, units, block, random);
          cases += 2;
        }
      }
  std::vector<char> bytes(std::size_t{5} << 20, 'x');
  for (std::size_t from : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, kHugePage})
    for (std::size_t n : {std::size_t{0}, std::size_t{100}, kHugePage, bytes.size() - from - kHugePage, bytes.size() - from})
      ask_for_huge_pages(bytes.data() + from, n);
  ask_for_huge_pages(nullptr, 0);
  expect(std::all_of(bytes.begin(), bytes.end(), [](char b) { return b == 'x'; }), "a wish for pages keeps the content", "memory");
  const int64_t starts[] = {0, 2}, descending[] = {3, 1}, outside[] = {0, 9};
  for (const int64_t* indices : {descending, outside}) {
    bool refused = false;
    try {
      build(1, 5, 128, starts, indices);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    expect(refused, "indices that do not ascend or fit are refused", "build");
  }
  std::printf("%s: %d cases, %d failures\n", isa().name, cases, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
