// The semiring kernels against plain loops over the definition: random windows, lists and identities, all semirings,
// both directions, any strides, joined and fresh, on one and more threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "pattern.h"
#include "pool.h"
#include "run.h"
#include "survey.h"

using namespace deepstruct::sweeps;

static int failures = 0;
static std::mt19937 rng(7);

static void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

static int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

template <typename T>
struct Rules {
  const char* name;
  Semiring semiring;
  T zero;
  std::function<T(T, T)> add;            // of two values
  std::function<T(T, T, bool)> along;    // a value through an edge of that weight; whether there is one
  std::function<T()> draw;
  bool weights = false;
  int64_t prime = 0;
};

// Edges between flat elements, with the index of their weight.
struct Edge {
  int64_t source, target, weight;
};

struct Case {
  Pattern pattern, weighted;
  std::vector<Edge> edges;
  int64_t source_channels, target_channels;
  Triple source, target;
  int64_t weights;
};

static int64_t volume(const Triple& t) { return t[0] * t[1] * t[2]; }

// One bit per weight from one byte.
static std::vector<uint64_t> bits_of(const std::vector<uint8_t>& alive, const WeightLayout& w) {
  const Stored stored{w.first, w.second, w.taps, w.groups};
  std::vector<uint64_t> bits(static_cast<std::size_t>(w.first * stored.words()));
  mark<uint8_t>(alive.data(), stored, 0, 2, bits.data());
  return bits;
}

// Random windows, in either layout of the weights and either direction.
static Case random_windows() {
  std::array<Window, kAxes> axes;
  const int64_t rank = pick(0, 3);
  for (int a = 0; a < kAxes; ++a) {
    Window& w = axes[a];
    if (a < kAxes - rank) {
      if (pick(0, 3) == 0) w.reader = w.read = pick(1, 70);  // rows of a product
      continue;
    }
    w.taps = pick(1, 3), w.stride = pick(1, 3), w.dilation = pick(1, 2), w.padding = pick(0, 3), w.read = pick(1, 9);
    const int64_t span = w.read + 2 * w.padding - w.dilation * (w.taps - 1) - 1;
    w.reader = span < 0 ? 1 : span / w.stride + 1;
  }
  const bool gather = pick(0, 1) != 0, first_reads = pick(0, 1) != 0;
  WeightLayout layout;
  layout.groups = pick(1, 3);
  layout.first = layout.groups * pick(1, 4), layout.second = pick(1, 20);
  // `first` is the reader or the one that is read; gathering, the sources are read.
  layout.source_first = gather ? !first_reads : first_reads;
  const Triple reader{axes[0].reader, axes[1].reader, axes[2].reader}, read{axes[0].read, axes[1].read, axes[2].read};
  for (const Window& w : axes) layout.taps *= w.taps;
  const double densities[] = {0, 0.05, 0.5, 0.97, 1};
  const double density = densities[pick(0, 4)];
  std::vector<uint8_t> alive(static_cast<std::size_t>(layout.first * layout.second * layout.taps));
  for (uint8_t& a : alive) a = std::uniform_real_distribution<double>()(rng) < density;
  const bool all = pick(0, 5) == 0;
  if (all) std::fill(alive.begin(), alive.end(), 1);

  const std::vector<uint64_t> bits = bits_of(alive, layout);

  Case c;
  const Shift shift = make_shift(axes, gather);
  c.pattern = make_pattern(all ? nullptr : bits.data(), layout, shift, false, static_cast<int>(pick(1, 3)));
  c.weighted = make_pattern(bits.data(), layout, shift, true, static_cast<int>(pick(1, 3)));
  c.source_channels = c.pattern.source_channels, c.target_channels = c.pattern.target_channels;
  c.source = gather ? read : reader, c.target = gather ? reader : read;
  c.weights = static_cast<int64_t>(alive.size());
  const int64_t per = layout.first / layout.groups;
  for (int64_t a = 0; a < layout.first; ++a)
    for (int64_t b = 0; b < layout.second; ++b)
      for (int64_t t = 0; t < layout.taps; ++t) {
        const int64_t index = (a * layout.second + b) * layout.taps + t;
        if (!alive[static_cast<std::size_t>(index)]) continue;
        const int64_t other = a / per * layout.second + b;
        const int64_t from = layout.source_first ? a : other, to = layout.source_first ? other : a;
        const Triple tap{t / axes[2].taps / axes[1].taps, t / axes[2].taps % axes[1].taps, t % axes[2].taps};
        for (int64_t o = 0; o < volume(reader); ++o) {
          const Triple at{o / reader[2] / reader[1], o / reader[2] % reader[1], o % reader[2]};
          int64_t i = 0;
          bool inside = true;
          for (int x = 0; x < kAxes; ++x) {
            const int64_t n = at[x] * axes[x].stride - axes[x].padding + tap[x] * axes[x].dilation;
            inside = inside && n >= 0 && n < read[x];
            i = i * read[x] + n;
          }
          if (!inside) continue;
          const int64_t s = gather ? i : o, r = gather ? o : i;
          c.edges.push_back({from * volume(c.source) + s, to * volume(c.target) + r, index});
        }
      }
  return c;
}

static Case random_list() {
  Case c;
  c.source_channels = pick(1, 30), c.target_channels = pick(1, 30), c.weights = pick(0, 100);
  c.source = c.target = {1, 1, 1};
  std::vector<int64_t> sources, targets;
  for (int64_t e = 0; e < c.weights; ++e) {
    sources.push_back(pick(0, c.source_channels - 1)), targets.push_back(pick(0, c.target_channels - 1));
    c.edges.push_back({sources.back(), targets.back(), e});
  }
  c.pattern = make_list(sources.data(), targets.data(), c.weights, c.source_channels, c.target_channels, false);
  c.weighted = make_list(sources.data(), targets.data(), c.weights, c.source_channels, c.target_channels, true);
  return c;
}

// Planes in memory with gaps, the axes in random order; element e of the operand is memory[place[e]].
template <typename T>
struct Strided {
  std::vector<T> memory;
  std::vector<int64_t> place;
  Planes planes;

  Strided(int64_t channels, const Triple& n, bool broadcast, T value) {
    std::array<int64_t, 4> size{channels, n[0], n[1], n[2]}, stride{}, order{0, 1, 2, 3};
    std::shuffle(order.begin(), order.end(), rng);
    int64_t next = pick(1, 2);
    for (int64_t a : order) {
      stride[a] = next;
      next *= size[a] + pick(0, 1);
    }
    if (broadcast) stride[pick(0, 3)] = 0;
    memory.assign(static_cast<std::size_t>(next + 3), value);
    planes.stride = {stride[1], stride[2], stride[3]};
    for (int64_t c = 0; c < channels; ++c) {
      planes.base.push_back(c * stride[0]);
      for (int64_t d = 0; d < n[0]; ++d)
        for (int64_t h = 0; h < n[1]; ++h)
          for (int64_t w = 0; w < n[2]; ++w)
            place.push_back(c * stride[0] + d * stride[1] + h * stride[2] + w * stride[3]);
    }
    planes.data = memory.data();
  }
};

template <typename T>
static T finished(const Rules<T>& r, T value) {
  if constexpr (std::is_same_v<T, int64_t>)
    return r.prime ? value % r.prime : value;
  else
    return value;
}

template <typename T>
static void check(const Case& c, const Rules<T>& r, bool weighted) {
  const bool join = pick(0, 1) != 0;
  Strided<T> source(c.source_channels, c.source, pick(0, 3) == 0, r.zero);
  for (T& v : source.memory) v = r.draw();
  const Strided<T> blank(c.target_channels, c.target, false, r.zero);
  Strided<T> start = blank;
  for (T& v : start.memory) v = r.draw();
  std::vector<T> weight;
  for (int64_t w = 0; w < c.weights; ++w) weight.push_back(static_cast<T>(pick(1, 4)));
  std::vector<T> wanted(start.place.size(), r.zero);
  for (const Edge& e : c.edges) {
    const T x = source.memory[static_cast<std::size_t>(source.place[static_cast<std::size_t>(e.source)])];
    T& into = wanted[static_cast<std::size_t>(e.target)];
    into = finished(r, r.add(into, r.along(x, weight[static_cast<std::size_t>(e.weight)], weighted)));
  }
  const Pattern& p = weighted ? c.weighted : c.pattern;
  std::vector<T> beside;
  for (uint32_t index : p.weight_index) beside.push_back(weight[index]);
  std::vector<T> first;
  for (int threads : {1, 2, 3}) {
    Strided<T> target = start;
    target.planes.data = target.memory.data();
    source.planes.data = source.memory.data();
    Options options;
    options.join = join, options.prime = r.prime, options.threads = threads;
    options.weights = weighted ? static_cast<const void*>(beside.data()) : nullptr;
    run(p, r.semiring, source.planes, target.planes, options);
    if (threads == 1)
      first = target.memory;
    else
      expect(std::memcmp(first.data(), target.memory.data(), first.size() * sizeof(T)) == 0,
             std::string(r.name) + ": the same bits on any number of threads");
    std::vector<T> expected = start.memory;
    for (std::size_t e = 0; e < wanted.size(); ++e) {
      T& at = expected[static_cast<std::size_t>(start.place[e])];
      at = join ? finished(r, r.add(at, wanted[e])) : wanted[e];
    }
    expect(expected == target.memory,
           std::string(r.name) + (weighted ? " weighted" : "") + (join ? " joined" : " fresh"));
  }
}

template <typename T>
static void check_identity(const Rules<T>& r, bool lengths) {
  const Triple n{pick(1, 5), pick(1, 9), pick(1, 40)};
  const int64_t channels = pick(1, 5);
  Strided<T> source(channels, n, false, r.zero), target(channels, n, false, r.zero);
  for (T& v : source.memory) v = r.draw();
  for (T& v : target.memory) v = r.draw();
  std::vector<uint8_t> kept(source.place.size());
  for (uint8_t& k : kept) k = static_cast<uint8_t>(pick(0, 1));
  const bool join = pick(0, 1) != 0, some = lengths && pick(0, 1) != 0;
  std::vector<T> expected = target.memory;
  for (std::size_t e = 0; e < source.place.size(); ++e) {
    const T x = source.memory[static_cast<std::size_t>(source.place[e])];
    const T value = some && !kept[e] ? x : r.along(x, T(1), false);
    T& at = expected[static_cast<std::size_t>(target.place[e])];
    at = finished(r, join ? r.add(at, value) : value);
  }
  Elements e;
  e.target = target.memory.data(), e.source = source.memory.data(), e.kept = some ? kept.data() : nullptr;
  e.shape = {channels, n[0], n[1], n[2]};
  const auto strides = [&](const Strided<T>& x) {
    return std::vector<int64_t>{channels > 1 ? x.planes.base[1] : 0, x.planes.stride[0], x.planes.stride[1],
                                x.planes.stride[2]};
  };
  e.target_stride = strides(target), e.source_stride = strides(source);
  e.kept_stride = {n[0] * n[1] * n[2], n[1] * n[2], n[2], 1};
  Options options;
  options.join = join, options.prime = r.prime, options.threads = 2;
  run_identity(r.semiring, e, options);
  expect(expected == target.memory, std::string(r.name) + " identity");
}

// <A x, y> = <x, A' y> for the sums, where A and A' are compiled apart.
static void check_adjoint() {
  const std::array<Window, kAxes> axes{Window{}, Window{4, 9, 3, 2, 1, 1}, Window{7, 7, 3, 1, 2, 2}};
  WeightLayout layout{6, 5, 9, 2, false};
  std::vector<uint8_t> alive(270);
  for (uint8_t& a : alive) a = pick(0, 3) == 0;
  const Pattern ahead = make_pattern(bits_of(alive, layout).data(), layout, make_shift(axes, true), false);
  layout.source_first = true;
  const Pattern back = make_pattern(bits_of(alive, layout).data(), layout, make_shift(axes, false), false);
  std::vector<double> x(10 * 63), y(6 * 28), ax(y.size()), aty(x.size());
  for (double& v : x) v = static_cast<double>(pick(-9, 9));
  for (double& v : y) v = static_cast<double>(pick(-9, 9));
  const auto planes = [](std::vector<double>& v, int64_t channels, int64_t h, int64_t w) {
    Planes p;
    p.data = v.data(), p.stride = {h * w, w, 1};
    for (int64_t c = 0; c < channels; ++c) p.base.push_back(c * h * w);
    return p;
  };
  Options options;
  options.join = false;
  run(ahead, kSumF64, planes(x, 10, 9, 7), planes(ax, 6, 4, 7), options);
  run(back, kSumF64, planes(y, 6, 4, 7), planes(aty, 10, 9, 7), options);
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) left += ax[i] * y[i];
  for (std::size_t i = 0; i < x.size(); ++i) right += x[i] * aty[i];
  expect(left == right && left != 0, "the two directions are adjoint");
}

// Large enough for several threads: patterns and surveys are the same for any number of them.
static void check_threads() {
  const std::array<Window, kAxes> axes{Window{}, Window{4, 9, 3, 2, 1, 1}, Window{7, 7, 3, 1, 2, 2}};
  for (const int64_t groups : {1, 4}) {
    for (const bool source_first : {false, true}) {
      WeightLayout layout{128, 130, 9, groups, source_first};
      std::vector<uint8_t> alive(128 * 130 * 9);
      for (uint8_t& a : alive) a = pick(0, 9) == 0;
      std::fill(alive.begin(), alive.begin() + 3 * 130 * 9, 1);
      const std::vector<uint64_t> bits = bits_of(alive, layout);
      for (const bool weights : {false, true}) {
        const Pattern one = make_pattern(bits.data(), layout, make_shift(axes, source_first), weights, 1);
        const Pattern three = make_pattern(bits.data(), layout, make_shift(axes, source_first), weights, 3);
        expect(one.sparse.offset == three.sparse.offset && one.sparse.start == three.sparse.start &&
                   one.weight_index == three.weight_index && !one.sparse.offset.empty(),
               "a pattern does not depend on threads");
        const Pattern all = make_pattern(nullptr, layout, make_shift(axes, source_first), weights, 3);
        expect(all.sparse.offset.empty() != weights, "all edges need entries for their weights only");
      }
    }
  }
}

template <typename T>
static void check_survey() {
  for (int round = 0; round < 40; ++round) {
    Stored s{0, pick(0, 150), pick(1, 4), pick(1, 3)};
    s.rows = s.groups * pick(1, round % 4 == 0 ? 120 : 9);
    const T threshold = pick(0, 1) ? static_cast<T>(0.5) : T{0};
    const double zeros[] = {0, 0.5, 0.9, 1};
    const double share = zeros[pick(0, 3)];
    std::vector<T> weights(static_cast<std::size_t>(s.rows * s.width()));
    for (T& w : weights)
      w = std::uniform_real_distribution<double>()(rng) < share
              ? T{0}
              : static_cast<T>(static_cast<double>(pick(-16, 16)) / 8);
    std::vector<uint64_t> bits(static_cast<std::size_t>(s.rows * s.words()), 77), all = bits;
    mark<T>(weights.data(), s, threshold, 2, bits.data());
    fill_bits(s, all.data());
    std::vector<int64_t> by_row(static_cast<std::size_t>(s.rows * s.taps)), rows = by_row;
    std::vector<int64_t> by_column(static_cast<std::size_t>(s.groups * s.width())), columns = by_column;
    std::vector<double> row_sizes(by_row.size()), column_sizes(by_column.size()), r = row_sizes, c = column_sizes;
    bool right = true;
    for (int64_t a = 0; a < s.rows; ++a)
      for (int64_t i = 0; i < s.width(); ++i) {
        const T w = weights[static_cast<std::size_t>(a * s.width() + i)];
        const bool edge = threshold > 0 ? std::abs(w) > threshold : w != 0;
        const std::size_t word = static_cast<std::size_t>(a * s.words() + i / 64);
        right = right && (bits[word] >> (i % 64) & 1) == edge && (all[word] >> (i % 64) & 1) == 1;
        if (!edge) continue;
        const std::size_t row = static_cast<std::size_t>(a * s.taps + i % s.taps);
        const std::size_t column = static_cast<std::size_t>(a / (s.rows / s.groups) * s.width() + i);
        ++rows[row], ++columns[column];
        r[row] += std::abs(w), c[column] += std::abs(w);  // eighths: sums are exact
      }
    for (int64_t a = 0; a < s.rows && s.width() % 64 != 0; ++a)
      right = right && all[static_cast<std::size_t>((a + 1) * s.words() - 1)] >> (s.width() % 64) == 0;
    expect(right, "a bit for every edge");
    count(s, bits.data(), 2, by_row.data(), by_column.data());
    magnitudes<T>(weights.data(), s, bits.data(), 3, row_sizes.data(), column_sizes.data());
    expect(by_row == rows && by_column == columns, "edges by row and by column");
    expect(row_sizes == r && column_sizes == c, "magnitudes by row and by column");
  }
}

static void check_pool() {
  std::vector<int64_t> hits(1000, 0);
  parallel(3, 1000, [&](int64_t i) {
    ++hits[static_cast<std::size_t>(i)];
    parallel(2, 2, [](int64_t) {});  // from inside: the caller alone
  });
  expect(std::count(hits.begin(), hits.end(), 1) == 1000, "every task runs once");
  bool caught = false;
  try {
    parallel(2, 50, [](int64_t i) {
      if (i == 20) throw std::runtime_error("task 20");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  expect(caught, "an error in a task reaches the caller");
  Pattern unused;
  bool refused = false;
  try {
    const std::array<Window, kAxes> wide{Window{}, Window{100000, 100000}, Window{100000, 100000}};
    unused = make_pattern(nullptr, WeightLayout{1, 1, 1, 1, false}, make_shift(wide, true), false);
  } catch (const std::length_error&) {
    refused = true;
  }
  expect(refused, "what 32 bits cannot number is refused");
}

// The number of rounds may be given: sanitizers are slow.
int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 150;
  const auto small = [](int64_t low, int64_t high) { return pick(low, high); };
  const float inf = std::numeric_limits<float>::infinity();
  const Rules<float> sum_f32{"sum_f32", kSumF32, 0, [](float a, float b) { return a + b; },
                             [](float x, float w, bool has) { return has ? x * w : x; },
                             [&] { return static_cast<float>(small(0, 3)); }, true};
  const Rules<double> sum_f64{"sum_f64", kSumF64, 0, [](double a, double b) { return a + b; },
                              [](double x, double w, bool has) { return has ? x * w : x; },
                              [&] { return static_cast<double>(small(0, 3)); }, true};
  const int64_t prime = (int64_t{1} << 49) - 81;
  const Rules<int64_t> mod{"mod", kMod, 0, [](int64_t a, int64_t b) { return a + b; },
                           [](int64_t x, int64_t, bool) { return x; }, [&] { return small(0, prime - 1); }, false, prime};
  const Rules<uint8_t> or_u8{"or_u8", kOrU8, 0, [](uint8_t a, uint8_t b) { return static_cast<uint8_t>(a | b); },
                             [](uint8_t x, uint8_t, bool) { return x; },
                             [&] { return static_cast<uint8_t>(small(0, 255) & small(0, 255)); }};
  const Rules<uint64_t> or_u64{"or_u64", kOrU64, 0, [](uint64_t a, uint64_t b) { return a | b; },
                               [](uint64_t x, uint64_t, bool) { return x; },
                               [&] { return static_cast<uint64_t>(small(0, INT64_MAX) & small(0, INT64_MAX)) << 1; }};
  const Rules<uint16_t> min_u16{
      "min_u16", kMinU16, 65535, [](uint16_t a, uint16_t b) { return std::min(a, b); },
      [](uint16_t x, uint16_t, bool) { return static_cast<uint16_t>(x == 65535 ? x : std::min(x + 1, 65534)); },
      [&] { return static_cast<uint16_t>(small(0, 2) ? small(0, 9) : small(65533, 65535)); }};
  const Rules<uint16_t> max_u16{
      "max_u16", kMaxU16, 0, [](uint16_t a, uint16_t b) { return std::max(a, b); },
      [](uint16_t x, uint16_t, bool) { return static_cast<uint16_t>(x == 0 ? x : std::min(x + 1, 65535)); },
      [&] { return static_cast<uint16_t>(small(0, 9) ? small(0, 9) : small(65533, 65535)); }};
  const Rules<int32_t> min_i32{"min_i32", kMinI32, INT32_MAX, [](int32_t a, int32_t b) { return std::min(a, b); },
                               [](int32_t x, int32_t, bool) { return x == INT32_MAX ? x : x + 1; },
                               [&] { return static_cast<int32_t>(small(0, 2) ? small(0, 9) : INT32_MAX); }};
  const Rules<int32_t> max_i32{"max_i32", kMaxI32, -1, [](int32_t a, int32_t b) { return std::max(a, b); },
                               [](int32_t x, int32_t, bool) { return x == -1 ? x : x + 1; },
                               [&] { return static_cast<int32_t>(small(-1, 9)); }};
  const Rules<float> widest{"widest_f32", kWidestF32, 0, [](float a, float b) { return std::max(a, b); },
                            [](float x, float w, bool has) { return has ? std::min(x, w) : x; },
                            [&] { return static_cast<float>(small(0, 5)); }, true};
  const Rules<float> min_f32{"min_f32", kMinF32, inf, [](float a, float b) { return std::min(a, b); },
                             [](float x, float w, bool has) { return x + (has ? w : 1); },
                             [&] { return small(0, 2) ? static_cast<float>(small(0, 9)) : inf; }, true};
  const Rules<float> max_f32{"max_f32", kMaxF32, -inf, [](float a, float b) { return std::max(a, b); },
                             [](float x, float w, bool has) { return x + (has ? w : 1); },
                             [&] { return small(0, 2) ? static_cast<float>(small(0, 9)) : -inf; }, true};

  std::printf("kernels: %s\n", isa().name);
  for (int round = 0; round < rounds && failures < 10; ++round) {
    const Case c = round % 6 == 5 ? random_list() : random_windows();
    const auto both = [&](const auto& rules, bool lengths) {
      check(c, rules, false);
      if (rules.weights) check(c, rules, true);
      check_identity(rules, lengths);
    };
    both(sum_f32, false), both(sum_f64, false), both(mod, false), both(or_u8, false), both(or_u64, false);
    both(min_u16, true), both(max_u16, true), both(min_i32, true), both(max_i32, true);
    both(widest, false), both(min_f32, true), both(max_f32, true);
  }
  check_adjoint();
  check_pool();
  check_threads();
  check_survey<float>();
  check_survey<double>();
  release_scratch();
  std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  return failures ? 1 : 0;
}
