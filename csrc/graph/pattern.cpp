#include "pattern.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "bits.h"
#include "pool.h"

namespace deepstruct::sweeps {
namespace {

constexpr int64_t kLargest = std::numeric_limits<uint32_t>::max() - 4096;

void check_size(int64_t elements, const char* what) {
  if (elements > kLargest) throw std::length_error(std::string(what) + " cannot be numbered in 32 bits");
}

// What the weights in one column of the layout have in common.
struct Column {
  int64_t row = -1;       // of the table, less what the layout's row adds; -1 where the tap connects nothing
  uint32_t entry = 0;     // element of the packed source, less what the layout's row adds
};

// Bits of one word that lie in columns [begin, end).
uint64_t clipped(uint64_t bits, int64_t first, int64_t begin, int64_t end) {
  if (begin > first) bits &= ~uint64_t{0} << (begin - first);
  if (end < first + 64) bits &= (uint64_t{1} << (end - first)) - 1;
  return bits;
}

// Walks the edges of the weights, on several threads: every row of the table sees its edges in the order of storage,
// on one thread. Calls visit(row of the layout, group, column).
class Walk {
 public:
  Walk(const uint64_t* alive, const WeightLayout& layout, int threads) : alive_(alive), w_(layout), threads_(threads) {
    const int64_t size = w_.first * w_.second * w_.taps;
    if (size < 1 << 15) threads_ = 1;
  }

  template <typename Visit>
  void operator()(Visit visit) const {
    const int64_t width = w_.second * w_.taps, wanted = threads_ > 1 ? 4 * threads_ : 1;
    if (w_.source_first && w_.groups == 1) {  // rows of the table are columns of the layout
      const int64_t tasks = std::max<int64_t>(1, std::min(wanted, w_.second / 64));
      parallel(threads_, tasks, [&](int64_t task) {
        part(0, w_.first, w_.second * task / tasks * w_.taps, w_.second * (task + 1) / tasks * w_.taps, visit);
      });
      return;
    }
    const int64_t blocks = w_.source_first ? w_.groups : w_.first, tasks = std::max<int64_t>(1, std::min(wanted, blocks));
    const int64_t per = w_.first / std::max<int64_t>(1, blocks);
    parallel(threads_, tasks, [&](int64_t task) {
      part(blocks * task / tasks * per, blocks * (task + 1) / tasks * per, 0, width, visit);
    });
  }

 private:
  template <typename Visit>
  void part(int64_t from, int64_t to, int64_t begin, int64_t end, Visit visit) const {
    const int64_t words = (w_.second * w_.taps + 63) / 64, per = w_.first / w_.groups;
    for (int64_t a = from; a < to; ++a) {
      const int64_t group = a / per;
      for (int64_t word = begin / 64; word * 64 < end; ++word)
        for (uint64_t rest = clipped(alive_ ? alive_[a * words + word] : ~uint64_t{0}, word * 64, begin, end); rest != 0;
             rest &= rest - 1)
          visit(a, group, word * 64 + bits::lowest(rest));
    }
  }

  const uint64_t* alive_;
  const WeightLayout& w_;
  int threads_;
};

}  // namespace

Pattern make_pattern(const uint64_t* alive, const WeightLayout& w, Shift shift, bool weights, int threads) {
  Pattern p;
  p.shift = std::move(shift);
  p.groups = w.groups;
  const int64_t seconds = w.second * w.groups;
  p.source_channels = w.source_first ? w.first : seconds;
  p.target_channels = w.source_first ? seconds : w.first;
  const int64_t per_source = p.source_channels / w.groups, per_target = p.target_channels / w.groups;
  const int64_t plane = p.shift.plane(), in_phases = static_cast<int64_t>(p.shift.source_phases.size());
  const int64_t out_phases = static_cast<int64_t>(p.shift.target_phases.size());
  check_size(p.source_channels * in_phases * plane, "the planes of the source");
  if (weights) check_size(w.first * w.second * w.taps, "the weights");
  const std::vector<Tap>& taps = p.shift.taps;
  const int64_t rows = out_phases * p.target_channels;

  std::vector<int64_t> full(out_phases, 0);
  for (const Tap& tap : taps)
    if (tap.valid) full[tap.target_phase] += per_source;
  std::vector<int64_t> count(rows, 0);
  const int64_t width = w.second * w.taps, channel_size = in_phases * plane;
  std::vector<Column> columns(static_cast<std::size_t>(width));
  for (int64_t i = 0; i < width; ++i) {
    const int64_t b = i / w.taps;
    const Tap& tap = taps[static_cast<std::size_t>(i % w.taps)];
    if (!tap.valid) continue;
    columns[i].row = tap.target_phase * p.target_channels + (w.source_first ? b : 0);
    columns[i].entry = static_cast<uint32_t>((w.source_first ? 0 : b * channel_size) + tap.source_phase * plane + tap.offset);
  }
  const auto row_of = [&](int64_t a, int64_t group, int64_t i) {
    return columns[i].row + (w.source_first ? group * w.second : a);
  };
  const Walk walk(alive, w, threads);
  if (alive) {
    walk([&](int64_t a, int64_t group, int64_t i) {
      if (columns[i].row >= 0) ++count[row_of(a, group, i)];
    });
  } else {
    for (int64_t f = 0; f < out_phases; ++f)
      for (int64_t c = 0; c < p.target_channels; ++c) count[f * p.target_channels + c] = full[f];
  }
  for (int64_t n : count) p.largest_row = n > p.largest_row ? n : p.largest_row;

  // Full rows take the short cut where that saves more than joining the channels costs.
  int64_t saved = 0;
  for (int64_t r = 0; r < rows; ++r)
    if (count[r] && count[r] == full[r / p.target_channels]) saved += count[r];
  const bool short_cut = !weights && saved > p.source_channels + static_cast<int64_t>(taps.size()) * w.groups;

  std::vector<int64_t> place(rows, -1);
  int64_t entries = 0;
  p.sparse.phase_start.push_back(0);
  for (int64_t f = 0; f < out_phases; ++f) {
    for (int64_t c = 0; c < p.target_channels; ++c) {
      const int64_t r = f * p.target_channels + c;
      if (short_cut && count[r] && count[r] == full[f]) continue;
      place[r] = entries;
      entries += count[r];
      p.sparse.start.push_back(entries);
      p.sparse.channel.push_back(c);
      p.sparse.fan.push_back(static_cast<int64_t>(p.sparse.channel.size()));
    }
    p.sparse.phase_start.push_back(p.sparse.rows());
  }
  p.sparse.offset.resize(entries);
  if (weights) p.weight_index.resize(entries);
  if (entries) {
    walk([&](int64_t a, int64_t group, int64_t i) {
      if (columns[i].row < 0) return;
      int64_t& at = place[row_of(a, group, i)];
      if (at < 0) return;
      const int64_t base = (w.source_first ? a : group * w.second) * channel_size;
      p.sparse.offset[at] = static_cast<uint32_t>(base) + columns[i].entry;
      if (weights) p.weight_index[at] = static_cast<uint32_t>(a * width + i);
      ++at;
    });
  }

  p.dense.phase_start.push_back(0);
  for (int64_t f = 0; f < out_phases; ++f) {
    for (int64_t g = 0; g < w.groups && short_cut && full[f]; ++g) {
      const int64_t before = static_cast<int64_t>(p.dense.channel.size());
      for (int64_t c = g * per_target; c < (g + 1) * per_target; ++c)
        if (count[f * p.target_channels + c] == full[f]) p.dense.channel.push_back(c);
      if (static_cast<int64_t>(p.dense.channel.size()) == before) continue;
      for (const Tap& tap : taps)
        if (tap.valid && tap.target_phase == f)
          p.dense.offset.push_back(static_cast<uint32_t>((g * in_phases + tap.source_phase) * plane + tap.offset));
      p.dense.start.push_back(static_cast<int64_t>(p.dense.offset.size()));
      p.dense.fan.push_back(static_cast<int64_t>(p.dense.channel.size()));
    }
    p.dense.phase_start.push_back(p.dense.rows());
  }
  return p;
}

Pattern make_list(const int64_t* sources, const int64_t* targets, int64_t edges, int64_t source_elements,
                  int64_t target_elements, bool weights) {
  check_size(source_elements, "the elements of the source");
  check_size(edges, "the edges");
  Pattern p;
  p.shift = make_shift({}, true);
  p.source_channels = source_elements;
  p.target_channels = target_elements;
  std::vector<int64_t> place(target_elements + 1, 0);
  for (int64_t e = 0; e < edges; ++e) {
    if (sources[e] < 0 || sources[e] >= source_elements || targets[e] < 0 || targets[e] >= target_elements)
      throw std::out_of_range("an edge leads to an element that is not there");
    ++place[targets[e] + 1];
  }
  for (int64_t r = 0; r < target_elements; ++r) {
    p.largest_row = place[r + 1] > p.largest_row ? place[r + 1] : p.largest_row;
    place[r + 1] += place[r];
    p.sparse.start.push_back(place[r + 1]);
    p.sparse.channel.push_back(r);
    p.sparse.fan.push_back(r + 1);
  }
  p.sparse.offset.resize(edges);
  if (weights) p.weight_index.resize(edges);
  for (int64_t e = 0; e < edges; ++e) {
    const int64_t at = place[targets[e]]++;
    p.sparse.offset[at] = static_cast<uint32_t>(sources[e]);
    if (weights) p.weight_index[at] = static_cast<uint32_t>(e);
  }
  p.sparse.phase_start = {0, p.sparse.rows()};
  p.dense.phase_start = {0, 0};
  return p;
}

}  // namespace deepstruct::sweeps
