// Times of the parts of the sparse linear layer on one thread: bench_linear [rows cols density batch block repeats]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

#include "../masked/build.h"
#include "../masked/kernels.h"
#include "../masked/linear.h"

using namespace deepstruct;

// CPU time: other programs on the machine disturb it least.
static double now_ms() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}

template <typename F>
static double best_ms(int repeats, F f) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const double start = now_ms();
    f();
    best = std::min(best, now_ms() - start);
  }
  return best;
}

int main(int argc, char** argv) {
  const auto argument = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  const int64_t rows = argument(1, 4096), cols = argument(2, 4096), batch = argument(4, 256);
  const double density = argument(3, .1);
  const int block = argument(5, 128), repeats = argument(6, 10);
  std::mt19937 random(0);
  std::vector<int64_t> starts{0}, indices;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      if (random() < density * 4294967296.0) indices.push_back(c);
    starts.push_back(indices.size());
  }
  const int64_t nnz = indices.size();
  std::vector<int64_t> t_starts(cols + 1), t_indices(nnz), t_entry(nnz);
  for (int64_t c : indices) ++t_starts[c + 1];
  for (int64_t c = 0; c < cols; ++c) t_starts[c + 1] += t_starts[c];
  std::vector<int64_t> cursor(t_starts.begin(), t_starts.end() - 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = starts[r]; k < starts[r + 1]; ++k) {
      t_indices[cursor[indices[k]]] = r;
      t_entry[cursor[indices[k]]++] = k;
    }
  const Built a = build(rows, cols, block, starts.data(), indices.data());
  const Built t = build(cols, rows, block, t_starts.data(), t_indices.data());
  std::vector<int32_t> slot(nnz), order(nnz);
  for (int64_t k = 0; k < nnz; ++k) slot[a.order[k]] = k;
  for (int64_t k = 0; k < nnz; ++k) order[k] = slot[t_entry[t.order[k]]];
  const Layout layout = view(a.table.data(), a.row_ids.data(), a.columns.data());
  const Twin twin{view(t.table.data(), t.row_ids.data(), t.columns.data()), order.data(), nnz};
  std::vector<float> v(nnz, .5f), x(std::max<int64_t>(batch, 64) * cols, 1.f), y(std::max<int64_t>(batch, 64) * rows), gx(batch * cols), gv(nnz);
  const Parallel serial = {[](int64_t n, const std::function<void(int64_t, int64_t)>& f) { f(0, n); }, [] { return 1; }};
  const double flop = 2e-6 * nnz * batch;
  const auto show = [&](const char* name, double ms) { std::printf("%-18s %8.3f ms %7.1f GF/s\n", name, ms, flop / ms); };
  std::printf("%s %ldx%ld density %g batch %ld block %d\n", isa().name, long(rows), long(cols), density, long(batch), block);
  show("forward", best_ms(repeats, [&] { forward<float>(layout, v.data(), x.data(), nullptr, batch, y.data(), serial); }));
  show("grad_x, twin", best_ms(repeats, [&] { backward<float>(layout, &twin, v.data(), x.data(), y.data(), batch, gx.data(), nullptr, nnz, serial); }));
  show("grad_x, scatter", best_ms(repeats, [&] { backward<float>(layout, nullptr, v.data(), x.data(), y.data(), batch, gx.data(), nullptr, nnz, serial); }));
  show("grad_values", best_ms(repeats, [&] { backward<float>(layout, nullptr, v.data(), x.data(), y.data(), batch, nullptr, gv.data(), nnz, serial); }));
  std::vector<float> packed(64 * cols), sums(64 * rows);
  show("pack one tile", best_ms(repeats, [&] { for (int64_t f = 0; f < cols; f += 64) kernels<float>().pack(x.data(), cols, 64, 4, f, std::min(f + 64, cols), packed.data()); }));
  show("unpack", best_ms(repeats, [&] { for (int64_t p = 0; p < rows; p += kPanel) kernels<float>().unpack(sums.data() + p * 64, 4, p, std::min(p + kPanel, rows), y.data(), rows, 64); }) * batch / 64);
  show("gather", best_ms(repeats, [&] { kernels<float>().gather(v.data(), order.data(), nnz, gv.data()); }));
  std::vector<float> weight(rows * cols);
  show("write support", best_ms(repeats, [&] { write_support<float>(layout, v.data(), weight.data(), serial); }));
  show("read support", best_ms(repeats, [&] { read_support<float>(layout, weight.data(), gv.data(), serial); }));
}
