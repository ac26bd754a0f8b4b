#include "explicit.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "bits.h"

namespace deepstruct::graph {
namespace {

using bits::lowest;
using bits::population;

constexpr int64_t kShort = 16;  // rows of a pruned convolution have a handful of edges each

// Whether elements map to consecutive nodes: then a target is an addition, not a look-up.
bool consecutive(const int32_t* node, int64_t size) {
  if (size == 0 || node[0] < 0) return false;
  for (int64_t i = 1; i < size; ++i)
    if (node[i] != node[0] + i) return false;
  return true;
}

bool complete(const int32_t* node, int64_t size) { return std::all_of(node, node + size, [](int32_t v) { return v >= 0; }); }

enum class Targets { consecutive, complete, holes };

Targets kind_of(const Ends& ends) {
  if (consecutive(ends.target, ends.num_target)) return Targets::consecutive;
  return complete(ends.target, ends.num_target) ? Targets::complete : Targets::holes;
}

// Positions of one axis that see the same taps at the same distances: one list of edges serves them all.
struct Class {
  std::vector<std::pair<int32_t, int32_t>> reach;  // (tap, output less the first output)
  std::vector<std::pair<int64_t, int64_t>> at;     // (offset of the position in the source, of its first output)
};

std::vector<Class> classes_of(const Axis& axis) {
  std::vector<Class> classes;
  std::unordered_multimap<std::size_t, std::size_t> known;  // hash of the reach -> class
  std::vector<std::pair<int32_t, int32_t>> reach;
  for (int64_t i = 0; i < axis.positions; ++i) {
    const int64_t begin = axis.start[i], end = axis.start[i + 1];
    if (begin == end) continue;
    reach.clear();
    std::size_t hash = 0;
    for (int64_t e = begin; e < end; ++e) {
      reach.emplace_back(axis.tap[e], axis.out[e] - axis.out[begin]);
      hash = hash * 1000003u + static_cast<std::size_t>(reach.back().first) * 31u +
             static_cast<std::size_t>(reach.back().second);
    }
    std::size_t mine = classes.size();
    const auto [low, high] = known.equal_range(hash);
    for (auto it = low; it != high; ++it)
      if (classes[it->second].reach == reach) mine = it->second;
    if (mine == classes.size()) {
      known.emplace(hash, mine);
      classes.push_back({reach, {}});
    }
    classes[mine].at.emplace_back(i * axis.source_stride, axis.out[begin] * axis.target_stride);
  }
  return classes;
}

// Walks all combinations of one index per axis; `body(indices)`.
template <typename Body>
void combinations(const std::vector<std::size_t>& sizes, Body body) {
  for (std::size_t size : sizes)
    if (size == 0) return;
  std::vector<std::size_t> index(sizes.size(), 0);
  while (true) {
    body(index);
    std::size_t axis = sizes.size();
    while (axis > 0 && ++index[axis - 1] == sizes[axis - 1]) index[--axis] = 0;
    if (axis == 0) return;
  }
}

struct Tap {
  int32_t tap;
  int32_t shift;  // of the target element
};

struct Entry {
  int32_t output, tap;
};

// What one source element reaches: target elements relative to its base, ascending, and the weights on the way.
struct Reach {
  int64_t channel = 0;
  std::vector<int32_t> shift;
  std::vector<Entry> entries;
};

using Offsets = std::pair<int64_t, int64_t>;  // in the source and in the target, in elements

// One class of positions on every axis, and the taps that those positions see.
struct Combination {
  std::vector<Tap> taps;
  std::vector<Offsets> lines;   // of all positions on the axes but the last
  std::vector<Offsets> places;  // of the positions on the last axis
};

Combination combine(const Window& w, const std::vector<std::vector<Class>>& classes,
                    const std::vector<std::size_t>& index) {
  Combination here{{{0, 0}}, {{0, 0}}, {{0, 0}}};
  for (std::size_t a = 0; a < index.size(); ++a) {
    const Class& part = classes[a][index[a]];
    std::vector<Tap> longer;
    longer.reserve(here.taps.size() * part.reach.size());
    for (const Tap& tap : here.taps)
      for (const auto& [k, out] : part.reach)
        longer.push_back({static_cast<int32_t>(tap.tap + k * w.axes[a].tap_stride),
                          static_cast<int32_t>(tap.shift + out * w.axes[a].target_stride)});
    here.taps = std::move(longer);
    if (a > 0) {
      std::vector<Offsets> lines;
      lines.reserve(here.lines.size() * here.places.size());
      for (const Offsets& line : here.lines)
        for (const Offsets& place : here.places) lines.emplace_back(line.first + place.first, line.second + place.second);
      here.lines = std::move(lines);
    }
    here.places = part.at;
  }
  return here;
}

std::vector<Combination> all_combinations(const Window& w) {
  std::vector<std::vector<Class>> classes;
  std::vector<std::size_t> sizes;
  for (const Axis& axis : w.axes) {
    classes.push_back(classes_of(axis));
    sizes.push_back(classes.back().size());
  }
  std::vector<Combination> table;
  combinations(sizes, [&](const std::vector<std::size_t>& index) { table.push_back(combine(w, classes, index)); });
  return table;
}

// `emit(source element, target base)` for every line of positions of a combination in one channel: the positions of
// the line are `here.places` further on.
template <typename Emit>
void each_line(const Window& w, const Combination& here, int64_t channel, Emit emit) {
  for (int64_t n = 0; n < w.batch; ++n) {
    const int64_t source = n * w.source_batch + channel * w.source_channel;
    const int64_t target = n * w.target_batch + channel / w.group_in * w.group_out * w.target_channel;
    for (const auto& [from, to] : here.lines) emit(source + from, target + to);
  }
}

// How many bits of one channel are set.
int64_t ones(const Window& w, int64_t channel) {
  const uint64_t* bits = w.alive + channel * w.words();
  int64_t total = 0;
  for (int64_t word = 0; word < w.words(); ++word) total += population(bits[word]);
  return total;
}

// The taps of one channel that are alive, by ascending output element.
void entries_of(const Window& w, int64_t channel, std::vector<Entry>& entries) {
  entries.resize(static_cast<std::size_t>(ones(w, channel)));
  Entry* entry = entries.data();
  const uint64_t* bits = w.alive + channel * w.words();
  const uint32_t taps = static_cast<uint32_t>(w.taps);
  for (int64_t word = 0; word < w.words(); ++word)
    for (uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
      const uint32_t at = static_cast<uint32_t>(word * 64 + lowest(rest));
      const uint32_t o = taps == 1 ? at : at / taps;
      *entry++ = {static_cast<int32_t>(o), static_cast<int32_t>(at - o * taps)};
    }
  if (!w.mirrored) return;
  // Outputs were packed backwards, so that the whole turns round at once: outputs ascend then, and taps descend.
  std::reverse(entries.begin(), entries.end());
  for (Entry& turned : entries) turned.output = static_cast<int32_t>(w.group_out - 1 - turned.output);
}

// `renew(reach)` whenever the list of targets changes, and `emit(positions, source element, target base)` for every
// line of source elements that have that list.
template <typename Renew, typename Emit>
void walk(const Window& w, bool want_entries, Renew renew, Emit emit) {
  const std::vector<Combination> table = all_combinations(w);
  const auto emit_all = [&](const Combination& here, int64_t channel) {
    each_line(w, here, channel, [&](int64_t from, int64_t to) { emit(here.places, from, to); });
  };
  Reach reach;
  if (w.alive == nullptr) {  // the list is the same in every channel, only the numbers are not
    for (const Combination& here : table) {
      reach.shift.clear();
      reach.entries.clear();
      for (int64_t o = 0; o < w.group_out; ++o)
        for (const Tap& tap : here.taps) {
          reach.shift.push_back(static_cast<int32_t>(o * w.target_channel + tap.shift));
          if (want_entries) reach.entries.push_back({static_cast<int32_t>(o), tap.tap});
        }
      for (reach.channel = 0; reach.channel < w.channels; ++reach.channel) {
        if (reach.channel == 0 || want_entries) renew(reach);
        emit_all(here, reach.channel);
      }
    }
    return;
  }
  constexpr int32_t kNone = INT32_MIN;
  std::vector<int32_t> shift_of(static_cast<std::size_t>(w.taps), kNone);
  std::vector<Entry> entries;
  for (reach.channel = 0; reach.channel < w.channels; ++reach.channel) {
    entries_of(w, reach.channel, entries);
    if (entries.empty()) continue;
    for (const Combination& here : table) {
      for (const Tap& tap : here.taps) shift_of[static_cast<std::size_t>(tap.tap)] = tap.shift;
      reach.shift.resize(entries.size());
      reach.entries.resize(want_entries ? entries.size() : 0);
      std::size_t size = 0;
      for (const Entry& entry : entries) {
        const int32_t shift = shift_of[static_cast<std::size_t>(entry.tap)];
        reach.shift[size] = static_cast<int32_t>(entry.output * w.target_channel + shift);
        if (want_entries) reach.entries[size] = entry;
        size += shift != kNone;
      }
      for (const Tap& tap : here.taps) shift_of[static_cast<std::size_t>(tap.tap)] = kNone;
      if (size == 0) continue;
      reach.shift.resize(size);
      if (want_entries) reach.entries.resize(size);
      renew(reach);
      emit_all(here, reach.channel);
    }
  }
}

// The numbers of one list, in its order.
template <typename V, typename Read>
void read_numbers(const Window& w, const Places& p, const Reach& reach, V* out, Read read) {
  const int64_t base = reach.channel * p.channel + reach.channel / w.group_in * p.group;
  for (const Entry& entry : reach.entries)
    *out++ = static_cast<V>(read(base + entry.output * p.output + p.taps[static_cast<std::size_t>(entry.tap)]));
}

[[noreturn]] void no_room() { throw std::length_error("an operator has more edges than were counted"); }

template <typename V>
bool before(int32_t a, V x, int32_t b, V y) {
  if (a != b) return a < b;
  if constexpr (std::is_floating_point_v<V>) {
    if (std::isnan(x)) return false;
    if (std::isnan(y)) return true;
  }
  return x < y;
}

// Merge sort that starts from the ascending runs that are there. Values may be null.
template <typename V>
struct RowSorter {
  std::vector<int32_t> columns;
  std::vector<V> values;
  std::vector<int64_t> bounds, merged;

  // Whether the row had to be sorted.
  bool operator()(int32_t* c, V* v, int64_t size) {
    if (v == nullptr && size <= kShort) return insert(c, size);
    int32_t odd = 0;  // no early end: compilers make this loop wide
    if (v == nullptr)
      for (int64_t i = 1; i < size; ++i) odd |= c[i] < c[i - 1];
    else
      for (int64_t i = 1; i < size; ++i) odd |= c[i] <= c[i - 1];
    if (!odd) return false;
    bounds.assign(1, 0);
    for (int64_t i = 1; i < size; ++i)
      if (v == nullptr ? c[i] < c[i - 1] : before(c[i], v[i], c[i - 1], v[i - 1])) bounds.push_back(i);
    if (bounds.size() == 1) return false;
    bounds.push_back(size);
    columns.resize(static_cast<std::size_t>(size));
    if (v != nullptr) values.resize(static_cast<std::size_t>(size));
    int32_t *from = c, *to = columns.data();
    V *from_v = v, *to_v = v == nullptr ? nullptr : values.data();
    while (bounds.size() > 2) {
      merged.assign(1, 0);
      for (std::size_t r = 0; r + 1 < bounds.size(); r += 2) {
        const int64_t a = bounds[r], b = bounds[r + 1], e = r + 2 < bounds.size() ? bounds[r + 2] : b;
        merge(from, from_v, to, to_v, a, b, e);
        merged.push_back(e);
      }
      bounds.swap(merged);
      std::swap(from, to);
      std::swap(from_v, to_v);
    }
    if (from != c) {
      std::copy(from, from + size, c);
      if (v != nullptr) std::copy(from_v, from_v + size, v);
    }
    return true;
  }

 private:
  // Short rows are in order but for a few: one comparison each.
  static bool insert(int32_t* c, int64_t size) {
    bool odd = false;
    for (int64_t i = 1; i < size; ++i) {
      const int32_t here = c[i];
      if (here >= c[i - 1]) continue;
      odd = true;
      int64_t j = i;
      for (; j > 0 && c[j - 1] > here; --j) c[j] = c[j - 1];
      c[j] = here;
    }
    return odd;
  }

  static void merge(const int32_t* c, const V* v, int32_t* out, V* out_v, int64_t a, int64_t b, int64_t e) {
    int64_t i = a, j = b, k = a;
    if (v == nullptr) {
      while (i < b && j < e) out[k++] = c[j] < c[i] ? c[j++] : c[i++];
      k = std::copy(c + i, c + b, out + k) - out;
      std::copy(c + j, c + e, out + k);
      return;
    }
    while (i < b && j < e) {
      const int64_t next = before(c[j], v[j], c[i], v[i]) ? j++ : i++;
      out[k] = c[next];
      out_v[k++] = v[next];
    }
    for (; i < b; ++i, ++k) out[k] = c[i], out_v[k] = v[i];
    for (; j < e; ++j, ++k) out[k] = c[j], out_v[k] = v[j];
  }
};

}  // namespace

int32_t largest(const int32_t* node, int64_t size) {
  int32_t most = -1;  // no early end: compilers make this loop wide
  for (int64_t i = 0; i < size; ++i) most = node[i] > most ? node[i] : most;
  return most;
}

namespace {

// Writes the same `Size` targets, moved along, for every position of a line. The size is known when this is compiled,
// which makes the short loop a few moves.
template <int64_t Size, typename V>
void rows_of_size(const std::vector<Offsets>& places, const int32_t* source, int32_t base, const int32_t* relative,
                  const Rows<V>& rows) {
  int32_t shift[Size];
  std::copy(relative, relative + Size, shift);
  for (const Offsets& place : places) {
    const int32_t node = source[place.first];
    if (node < 0) continue;
    const int64_t at = rows.cursor[node];
    if (at + Size > rows.capacity) no_room();
    const int32_t here = base + static_cast<int32_t>(place.second);
    int32_t* column = rows.columns + at;
    for (int64_t j = 0; j < Size; ++j) column[j] = here + shift[j];
    rows.cursor[node] = at + Size;
  }
}

template <typename V, int64_t Size = 1>
void short_rows(int64_t size, const std::vector<Offsets>& places, const int32_t* source, int32_t base,
                const int32_t* relative, const Rows<V>& rows) {
  if constexpr (Size <= kShort) {
    if (size == Size) return rows_of_size<Size, V>(places, source, base, relative, rows);
    short_rows<V, Size + 1>(size, places, source, base, relative, rows);
  }
}

}  // namespace

void count(const Window& window, const Ends& ends, const int64_t* alive, int64_t* degree) {
  const std::vector<Combination> table = all_combinations(window);
  for (int64_t c = 0; c < window.channels; ++c, alive += window.taps)
    for (const Combination& here : table) {
      int64_t size = 0;
      for (const Tap& tap : here.taps) size += alive[tap.tap];
      if (size == 0) continue;
      each_line(window, here, c, [&](int64_t from, int64_t) {
        for (const Offsets& place : here.places) {
          const int32_t node = ends.source[from + place.first];
          if (node >= 0) degree[node] += size;
        }
      });
    }
}

void count(const Window& window, const Ends& ends, int64_t* degree) {
  if (kind_of(ends) != Targets::holes) {  // no target is missing, so that how often each tap is alive says all
    std::vector<int64_t> alive(static_cast<std::size_t>(window.channels * window.taps), window.group_out);
    std::vector<Entry> entries;
    for (int64_t c = 0; window.alive != nullptr && c < window.channels; ++c) {
      int64_t* mine = alive.data() + c * window.taps;
      std::fill(mine, mine + window.taps, 0);
      if (window.taps == 1) {
        *mine = ones(window, c);
        continue;
      }
      entries_of(window, c, entries);
      for (const Entry& entry : entries) ++mine[entry.tap];
    }
    count(window, ends, alive.data(), degree);
    return;
  }
  const Reach* reach = nullptr;
  walk(
      window, false, [&](const Reach& now) { reach = &now; },
      [&](const std::vector<Offsets>& places, int64_t from, int64_t to) {
        for (const Offsets& place : places) {
          const int32_t node = ends.source[from + place.first];
          if (node < 0) continue;
          const int32_t* target = ends.target + to + place.second;
          int64_t live = 0;
          for (const int32_t shift : reach->shift) live += target[shift] >= 0;
          degree[node] += live;
        }
      });
}

void count(const List& list, const Ends& ends, int64_t* degree) {
  for (int64_t e = 0; e < list.size; ++e) {
    const int32_t node = ends.source[list.rows == nullptr ? e : list.rows[e]];
    if (node >= 0 && ends.target[list.cols == nullptr ? e : list.cols[e]] >= 0) ++degree[node];
  }
}

template <typename V>
void fill(const Window& window, const Ends& ends, const Numbers& n, V constant, const Rows<V>& rows) {
  const Targets kind = kind_of(ends);
  const int64_t first = kind == Targets::consecutive ? ends.target[0] : 0;
  const bool carried = rows.values != nullptr && n.kind != Numbers::Kind::constant;
  const Reach* reach = nullptr;
  std::vector<V> numbers;
  walk(
      window, carried,
      [&](const Reach& now) {
        reach = &now;
        if (rows.values == nullptr) return;
        numbers.assign(now.shift.size(), constant);
        V* out = numbers.data();
        if (n.kind == Numbers::Kind::single)
          read_numbers(window, n.places, now, out, [&](int64_t at) { return static_cast<const float*>(n.data)[at]; });
        else if (n.kind == Numbers::Kind::full)
          read_numbers(window, n.places, now, out, [&](int64_t at) { return static_cast<const double*>(n.data)[at]; });
        else if (n.kind == Numbers::Kind::position)
          read_numbers(window, n.places, now, out, [&](int64_t at) { return n.first + at; });
      },
      [&](const std::vector<Offsets>& places, int64_t from, int64_t to) {
        const int64_t size = static_cast<int64_t>(reach->shift.size());
        const int32_t* relative = reach->shift.data();
        if (kind == Targets::consecutive && rows.values == nullptr && size <= kShort) {
          short_rows<V>(size, places, ends.source + from, static_cast<int32_t>(first + to), relative, rows);
          return;
        }
        for (const Offsets& place : places) {
          const int32_t node = ends.source[from + place.first];
          if (node < 0) continue;
          const int64_t at = rows.cursor[node];
          int32_t* column = rows.columns + at;
          const int32_t* target = ends.target + to + place.second;
          if (kind == Targets::holes) {
            int64_t live = 0;
            for (int64_t j = 0; j < size; ++j) {
              const int32_t there = target[relative[j]];
              if (there < 0) continue;
              if (at + live >= rows.capacity) no_room();
              column[live] = there;
              if (rows.values != nullptr) rows.values[at + live] = numbers[static_cast<std::size_t>(j)];
              ++live;
            }
            rows.cursor[node] += live;
            continue;
          }
          if (at + size > rows.capacity) no_room();
          if (kind == Targets::consecutive) {
            const int32_t base = static_cast<int32_t>(first + to + place.second);
            for (int64_t j = 0; j < size; ++j) column[j] = base + relative[j];
          } else {
            for (int64_t j = 0; j < size; ++j) column[j] = target[relative[j]];
          }
          if (rows.values != nullptr) std::copy(numbers.begin(), numbers.end(), rows.values + at);
          rows.cursor[node] += size;
        }
      });
}

template <typename V>
void fill(const List& list, const Ends& ends, const V* stored, V constant, const Rows<V>& rows) {
  for (int64_t e = 0; e < list.size; ++e) {
    const int32_t node = ends.source[list.rows == nullptr ? e : list.rows[e]];
    const int32_t there = ends.target[list.cols == nullptr ? e : list.cols[e]];
    if (node < 0 || there < 0) continue;
    const int64_t at = rows.cursor[node]++;
    if (at >= rows.capacity) no_room();
    rows.columns[at] = there;
    if (rows.values != nullptr) rows.values[at] = stored == nullptr ? constant : stored[e];
  }
}

int64_t starts_from_degrees(int64_t nodes, int64_t* start) {
  int64_t total = 0;
  for (int64_t v = 0; v < nodes; ++v) total += std::exchange(start[v + 1], total);
  return total;
}

template <typename V>
int64_t finish(int64_t nodes, const int64_t* start, int32_t* columns, V* values) {
  RowSorter<V> sort;
  int64_t sorted = 0;
  for (int64_t v = 0; v < nodes; ++v) {
    const int64_t begin = start[v];
    sorted += sort(columns + begin, values == nullptr ? nullptr : values + begin, start[v + 1] - begin);
  }
  return sorted;
}

void transpose(int64_t nodes, const int64_t* start, const int32_t* columns, int64_t* start_t, int32_t* columns_t) {
  std::fill(start_t, start_t + nodes + 1, int64_t{0});
  for (int64_t e = 0; e < start[nodes]; ++e) ++start_t[columns[e] + 1];
  starts_from_degrees(nodes, start_t);
  for (int64_t v = 0; v < nodes; ++v)
    for (int64_t e = start[v]; e < start[v + 1]; ++e) columns_t[start_t[columns[e] + 1]++] = static_cast<int32_t>(v);
}

#define DEEPSTRUCT_INSTANTIATE(V)                                                                  \
  template void fill<V>(const Window&, const Ends&, const Numbers&, V, const Rows<V>&);            \
  template void fill<V>(const List&, const Ends&, const V*, V, const Rows<V>&);                    \
  template int64_t finish<V>(int64_t, const int64_t*, int32_t*, V*);
DEEPSTRUCT_INSTANTIATE(float)
DEEPSTRUCT_INSTANTIATE(double)
DEEPSTRUCT_INSTANTIATE(int64_t)
#undef DEEPSTRUCT_INSTANTIATE

}  // namespace deepstruct::graph
