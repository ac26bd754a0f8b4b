// Compressed rows of random windows and lists against loops over their definition.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "explicit.h"

using namespace deepstruct::graph;

static int failures = 0;
static std::mt19937 rng(11);

static void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

static int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

static bool chance(double p) { return std::uniform_real_distribution<double>(0, 1)(rng) < p; }

using Edge = std::tuple<int32_t, int32_t, double>;  // source node, target node, number

static bool before(const Edge& a, const Edge& b) {
  const auto [s, t, v] = a;
  const auto [u, w, x] = b;
  if (s != u) return s < u;
  if (t != w) return t < w;
  if (std::isnan(v) || std::isnan(x)) return !std::isnan(v) && std::isnan(x);
  return v < x;
}

static bool same(const Edge& a, const Edge& b) { return !before(a, b) && !before(b, a); }

// Elements to nodes in one of three ways: consecutive, with nodes in any order, or with some that are no nodes.
static std::vector<int32_t> nodes_of(int64_t elements, int64_t nodes) {
  std::vector<int32_t> out(static_cast<std::size_t>(elements));
  const int64_t kind = pick(0, 2), first = pick(0, nodes - elements);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<int32_t>(kind == 0 ? first + static_cast<int64_t>(i) : pick(0, nodes - 1));
    if (kind == 2 && chance(0.3)) out[i] = -1;
  }
  return out;
}

struct AxisTable {
  std::vector<int64_t> start{0};
  std::vector<int32_t> out, tap;
};

struct Layer {
  Window window;
  std::vector<AxisTable> tables;
  std::vector<int64_t> in_shape, out_shape, kernel;
  Places places;
  std::vector<double> stored;
  std::vector<uint64_t> bits;
  double threshold;
  bool masked;
};

static int64_t volume(const std::vector<int64_t>& shape) {
  int64_t total = 1;
  for (int64_t n : shape) total *= n;
  return total;
}

// A convolution of random geometry (`mirrored` or transposed), or a linear layer over rows.
static void random_layer(Layer& l) {
  Window& w = l.window;
  const int64_t groups = chance(0.6) ? 1 : pick(2, 3), rank = pick(0, 3);
  const bool forward = chance(0.6);
  w.batch = pick(1, 2);
  w.group_in = chance(0.1) ? pick(1900, 2300) : pick(1, 4);
  w.group_out = chance(0.2) && w.group_in < 5 ? pick(60, 140) : pick(1, 4);
  w.channels = groups * w.group_in;
  for (int64_t a = 0; a < rank; ++a) {
    const int64_t k = pick(1, 4), stride = pick(1, 3), padding = pick(0, 2), dilation = pick(1, 2), n = pick(1, 5);
    const int64_t m = std::max<int64_t>(1, forward ? (n + 2 * padding - dilation * (k - 1) - 1) / stride + 1
                                                   : (n - 1) * stride - 2 * padding + dilation * (k - 1) + 1);
    l.kernel.push_back(k), l.in_shape.push_back(n), l.out_shape.push_back(m);
    AxisTable t;
    for (int64_t i = 0; i < n; ++i) {
      std::vector<std::pair<int32_t, int32_t>> reached;
      for (int64_t o = 0; o < m; ++o)
        for (int64_t j = 0; j < k; ++j)
          if (forward ? o * stride - padding + j * dilation == i : i * stride - padding + j * dilation == o)
            reached.emplace_back(static_cast<int32_t>(o), static_cast<int32_t>(j));
      std::sort(reached.begin(), reached.end());
      for (const auto& [o, j] : reached) t.out.push_back(o), t.tap.push_back(j);
      t.start.push_back(static_cast<int64_t>(t.out.size()));
    }
    l.tables.push_back(t);
  }
  const int64_t inside = volume(l.in_shape), outside = volume(l.out_shape);
  w.taps = volume(l.kernel);
  w.mirrored = forward && w.taps > 1;
  w.source_channel = inside, w.target_channel = outside;
  w.source_batch = w.channels * inside, w.target_batch = groups * w.group_out * outside;
  int64_t in = inside, out = outside, tap = w.taps;
  for (std::size_t a = 0; a < l.tables.size(); ++a) {
    in /= l.in_shape[a], out /= l.out_shape[a], tap /= l.kernel[a];
    const AxisTable& t = l.tables[a];
    w.axes.push_back({l.in_shape[a], t.start.data(), t.out.data(), t.tap.data(), in, out, tap});
  }
  // Weights as (groups * outputs, inputs, taps) or (groups * inputs, outputs, taps), or with the taps outermost.
  const bool outputs_first = chance(0.5), taps_first = chance(0.3);
  const int64_t inner = outputs_first ? w.group_in : w.group_out, k = taps_first ? 1 : w.taps;
  const int64_t rows = groups * (outputs_first ? w.group_out : w.group_in);
  l.places.channel = outputs_first ? k : inner * k;
  l.places.output = outputs_first ? inner * k : k;
  l.places.group = outputs_first ? w.group_out * inner * k - w.group_in * k : 0;
  for (int64_t j = 0; j < w.taps; ++j) l.places.taps.push_back(taps_first ? j * rows * inner : j);
  const double zeros = std::vector<double>{0, 0.02, 0.5, 0.97, 1}[static_cast<std::size_t>(pick(0, 4))];
  for (int64_t i = 0; i < rows * inner * w.taps; ++i)
    l.stored.push_back(chance(zeros) ? 0 : std::normal_distribution<double>()(rng));
  l.threshold = chance(0.3) ? 0.6 : 0;
  l.masked = zeros > 0 || l.threshold > 0 || chance(0.3);
  w.alive = nullptr;
  if (l.masked) {
    l.bits.assign(static_cast<std::size_t>(w.channels * w.words()), 0);
    pack<double>(w, l.stored.data(), l.places, l.threshold, l.bits.data());
    w.alive = l.bits.data();
  }
}

// By the definition: every channel, output, position and tap.
static std::vector<Edge> edges_of(const Layer& l, const Ends& ends, Numbers::Kind kind, double constant) {
  const Window& w = l.window;
  std::vector<Edge> edges;
  const int64_t inside = volume(l.in_shape);
  for (int64_t n = 0; n < w.batch; ++n)
    for (int64_t c = 0; c < w.channels; ++c)
      for (int64_t o = 0; o < w.group_out; ++o)
        for (int64_t i = 0; i < inside; ++i) {
          const int64_t group = c / w.group_in;
          // (tap, target) pairs, axis by axis
          std::vector<std::pair<int64_t, int64_t>> reached{{0, 0}};
          int64_t rest = i;
          for (std::size_t a = 0; a < l.tables.size(); ++a) {
            const Axis& axis = w.axes[a];
            const int64_t here = rest / axis.source_stride;
            rest %= axis.source_stride;
            std::vector<std::pair<int64_t, int64_t>> longer;
            for (const auto& [tap, to] : reached)
              for (int64_t e = axis.start[here]; e < axis.start[here + 1]; ++e)
                longer.emplace_back(tap + axis.tap[e] * axis.tap_stride, to + axis.out[e] * axis.target_stride);
            reached = longer;
          }
          for (const auto& [tap, to] : reached) {
            const int64_t at = c * l.places.channel + o * l.places.output + group * l.places.group +
                               l.places.taps[static_cast<std::size_t>(tap)];
            const double weight = l.stored[static_cast<std::size_t>(at)];
            if (l.masked && !(l.threshold > 0 ? std::abs(weight) > l.threshold : weight != 0)) continue;
            const int32_t from = ends.source[n * w.source_batch + c * w.source_channel + i];
            const int32_t there =
                ends.target[n * w.target_batch + (group * w.group_out + o) * w.target_channel + to];
            if (from < 0 || there < 0) continue;
            const double number = kind == Numbers::Kind::constant   ? constant
                                  : kind == Numbers::Kind::position ? static_cast<double>(5 + at)
                                                                    : weight;
            edges.emplace_back(from, there, number);
          }
        }
  return edges;
}

// Rows of a window and of a list on the same nodes, so that rows have several parts, against all edges sorted.
template <typename V>
static void check(const std::string& what, bool with_values) {
  Layer l;
  random_layer(l);
  const Window& w = l.window;
  const int64_t num_source = w.batch * w.source_batch, num_target = w.batch * w.target_batch;
  const int64_t nodes = num_source + num_target + 3;
  const auto source = nodes_of(num_source, nodes), target = nodes_of(num_target, nodes);
  const Ends ends{source.data(), num_source, target.data(), num_target};
  const double constant = sizeof(V) == 8 && !std::is_floating_point_v<V> ? -1 : std::nan("");
  Numbers numbers;
  const int64_t kind = pick(0, 2);
  if (kind == 1 && std::is_same_v<V, double>)
    numbers = {Numbers::Kind::full, l.stored.data(), 0, l.places};
  else if (kind == 2)
    numbers = {Numbers::Kind::position, nullptr, 5, l.places};
  std::vector<Edge> expected = edges_of(l, ends, numbers.kind, constant);

  const bool identity = chance(0.3) && num_source == num_target;
  std::vector<int64_t> rows, cols;
  std::vector<V> carried;
  for (int64_t e = 0; e < (identity ? num_source : pick(0, 60)); ++e) {
    rows.push_back(identity ? e : pick(0, num_source - 1));
    cols.push_back(identity ? e : pick(0, num_target - 1));
    carried.push_back(static_cast<V>(pick(0, 9)));
    const int32_t from = source[static_cast<std::size_t>(rows.back())];
    const int32_t to = target[static_cast<std::size_t>(cols.back())];
    if (from >= 0 && to >= 0) expected.emplace_back(from, to, static_cast<double>(carried.back()));
  }
  const List list{identity ? nullptr : rows.data(), identity ? nullptr : cols.data(), static_cast<int64_t>(rows.size())};

  std::vector<int64_t> start(static_cast<std::size_t>(nodes + 1), 0);
  count(w, ends, start.data() + 1);
  count(list, ends, start.data() + 1);
  const int64_t total = starts_from_degrees(nodes, start.data());
  expect(total == static_cast<int64_t>(expected.size()), what + ": as many edges");
  if (total != static_cast<int64_t>(expected.size())) return;
  std::vector<int32_t> columns(static_cast<std::size_t>(total));
  std::vector<V> values(with_values ? columns.size() : 0);
  const Rows<V> out{start.data() + 1, columns.data(), with_values ? values.data() : nullptr, total};
  fill<V>(w, ends, numbers, static_cast<V>(constant), out);
  fill<V>(list, ends, carried.data(), static_cast<V>(constant), out);
  finish<V>(nodes, start.data(), columns.data(), out.values);
  expect(start.back() == total, what + ": rows end where the edges do");

  std::vector<Edge> found, back;
  for (int64_t v = 0; v < nodes; ++v)
    for (int64_t e = start[static_cast<std::size_t>(v)]; e < start[static_cast<std::size_t>(v + 1)]; ++e)
      found.emplace_back(static_cast<int32_t>(v), columns[static_cast<std::size_t>(e)],
                         with_values ? static_cast<double>(values[static_cast<std::size_t>(e)]) : 0);
  for (Edge& edge : expected) {
    if (!with_values) std::get<2>(edge) = 0;
    if (std::is_same_v<V, float>) std::get<2>(edge) = static_cast<float>(std::get<2>(edge));
  }
  std::sort(expected.begin(), expected.end(), before);
  expect(std::equal(found.begin(), found.end(), expected.begin(), expected.end(), same), what + ": the same edges");

  std::vector<int64_t> start_t(start.size());
  std::vector<int32_t> columns_t(columns.size());
  transpose(nodes, start.data(), columns.data(), start_t.data(), columns_t.data());
  for (int64_t v = 0; v < nodes; ++v)
    for (int64_t e = start_t[static_cast<std::size_t>(v)]; e < start_t[static_cast<std::size_t>(v + 1)]; ++e)
      back.emplace_back(columns_t[static_cast<std::size_t>(e)], static_cast<int32_t>(v), 0);
  for (Edge& edge : expected) std::get<2>(edge) = 0;
  std::stable_sort(expected.begin(), expected.end(),
                   [](const Edge& a, const Edge& b) { return std::get<1>(a) < std::get<1>(b); });
  expect(std::equal(back.begin(), back.end(), expected.begin(), expected.end(), same), what + ": reversed");

  // What the counts leave no room for is an error, never a write beyond the end.
  if (total > 0) {
    std::fill(start.begin(), start.end(), 0);
    bool thrown = false;
    try {
      fill<V>(w, ends, numbers, static_cast<V>(constant), {start.data() + 1, columns.data(), nullptr, 0});
      fill<V>(list, ends, nullptr, static_cast<V>(constant), {start.data() + 1, columns.data(), nullptr, 0});
    } catch (const std::length_error&) {
      thrown = true;
    }
    expect(thrown, what + ": no room");
  }
}

// The packed bits do not depend on the type of the weights.
static void check_pack() {
  Layer l;
  random_layer(l);
  std::vector<float> single(l.stored.begin(), l.stored.end());
  std::vector<uint8_t> flags;
  for (double v : l.stored) flags.push_back(l.threshold > 0 ? std::abs(v) > l.threshold : v != 0);
  std::vector<uint64_t> full(static_cast<std::size_t>(l.window.channels * l.window.words())), narrow = full, bytes = full;
  pack<double>(l.window, l.stored.data(), l.places, l.threshold, full.data());
  pack<float>(l.window, single.data(), l.places, static_cast<float>(l.threshold), narrow.data());
  pack<uint8_t>(l.window, flags.data(), l.places, 0, bytes.data());
  expect(full == narrow && full == bytes, "packed bits");
  // Bits that lie as the weights of a layer do, one row per output, turn into the same; so do counts by channel and tap.
  const Window& w = l.window;
  const int64_t across = (w.group_in * w.taps + 63) / 64, groups = w.channels / w.group_in;
  std::vector<uint64_t> stored(static_cast<std::size_t>(groups * w.group_out * across)), turned(full.size());
  std::vector<int64_t> alive(static_cast<std::size_t>(w.channels * w.taps));
  for (int64_t c = 0; c < w.channels; ++c)
    for (int64_t o = 0; o < w.group_out; ++o)
      for (int64_t k = 0; k < w.taps; ++k) {
        const int64_t g = c / w.group_in;
        const std::size_t at = static_cast<std::size_t>(c * l.places.channel + o * l.places.output + g * l.places.group +
                                                        l.places.taps[static_cast<std::size_t>(k)]);
        if (flags[at] == 0) continue;
        const int64_t bit = (c - g * w.group_in) * w.taps + k;
        stored[static_cast<std::size_t>((g * w.group_out + o) * across + bit / 64)] |= uint64_t{1} << bit % 64;
        ++alive[static_cast<std::size_t>(c * w.taps + k)];
      }
  turn(w, stored.data(), turned.data());
  expect(full == turned, "turned bits");
  std::vector<int32_t> from(static_cast<std::size_t>(w.batch * w.source_batch)), to(static_cast<std::size_t>(w.batch * w.target_batch));
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = chance(0.1) ? -1 : static_cast<int32_t>(i);
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<int32_t>(i);
  const Ends ends{from.data(), static_cast<int64_t>(from.size()), to.data(), static_cast<int64_t>(to.size())};
  std::vector<int64_t> all(from.size()), few = all;
  Window masked = w;
  masked.alive = full.data();
  count(masked, ends, all.data());
  count(w, ends, alive.data(), few.data());
  expect(all == few, "degrees by channel and tap");
}

// Long rows out of order, in runs and at random, with and without ties.
static void check_sort() {
  for (int64_t size : {0, 1, 2, 63, 1000}) {
    for (int64_t runs : {int64_t{1}, int64_t{3}, size}) {
      std::vector<int32_t> columns;
      std::vector<float> values;
      for (int64_t i = 0; i < size; ++i) {
        const int64_t length = std::max<int64_t>(1, size / std::max<int64_t>(1, runs));
        columns.push_back(static_cast<int32_t>(runs == size ? pick(0, 50) : i % length));
        values.push_back(chance(0.2) ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(pick(0, 9)));
      }
      const int64_t start[2] = {0, size};
      std::vector<Edge> expected, found;
      for (std::size_t i = 0; i < columns.size(); ++i) expected.emplace_back(0, columns[i], values[i]);
      std::sort(expected.begin(), expected.end(), before);
      std::vector<int32_t> bare = columns, sorted = columns;
      std::sort(sorted.begin(), sorted.end());
      finish<float>(1, start, columns.data(), values.data());
      for (std::size_t i = 0; i < columns.size(); ++i) found.emplace_back(0, columns[i], values[i]);
      expect(std::equal(found.begin(), found.end(), expected.begin(), expected.end(), same), "sorted with numbers");
      finish<float>(1, start, bare.data(), nullptr);
      expect(bare == sorted, "sorted");
    }
  }
}

int main() {
  for (int i = 0; i < 60; ++i) {
    const std::string round = " " + std::to_string(i);
    check<float>("float" + round, i % 2 == 0);
    check<double>("double" + round, i % 3 != 0);
    check<int64_t>("positions" + round, i % 3 != 1);
    check_pack();
  }
  check_sort();
  std::printf(failures == 0 ? "explicit rows: all good\n" : "explicit rows: %d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
