#include "pattern.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

namespace deepstruct::sweeps {
namespace {

constexpr int64_t kLargest = std::numeric_limits<uint32_t>::max() - 4096;

void check_size(int64_t elements, const char* what) {
  if (elements > kLargest) throw std::length_error(std::string(what) + " cannot be numbered in 32 bits");
}

// Calls visit(first, second, tap) for every edge of the weights, in the order of storage.
template <typename Visit>
void each(const uint8_t* alive, const WeightLayout& w, Visit visit) {
  const int64_t width = w.second * w.taps;
  for (int64_t a = 0; a < w.first; ++a) {
    const uint8_t* row = alive ? alive + a * width : nullptr;
    int64_t i = 0;
    // Eight at a time: most are nothing.
    for (; row && i + 8 <= width; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, row + i, 8);
      if (eight == 0) continue;
      for (int64_t at = i; at < i + 8; ++at)
        if (row[at]) visit(a, at / w.taps, at % w.taps);
    }
    for (; i < width; ++i)
      if (!row || row[i]) visit(a, i / w.taps, i % w.taps);
  }
}

}  // namespace

Pattern make_pattern(const uint8_t* alive, const WeightLayout& w, Shift shift, bool weights) {
  Pattern p;
  p.shift = std::move(shift);
  p.groups = w.groups;
  const int64_t per_first = w.first / w.groups, seconds = w.second * w.groups;
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
  const auto row_of = [&](int64_t a, int64_t b, const Tap& tap) {
    const int64_t channel = w.source_first ? a / per_first * w.second + b : a;
    return tap.target_phase * p.target_channels + channel;
  };
  if (alive) {
    each(alive, w, [&](int64_t a, int64_t b, int64_t t) {
      if (taps[t].valid) ++count[row_of(a, b, taps[t])];
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
    const int64_t width = w.second * w.taps;
    each(alive, w, [&](int64_t a, int64_t b, int64_t t) {
      const Tap& tap = taps[t];
      if (!tap.valid) return;
      int64_t& at = place[row_of(a, b, tap)];
      if (at < 0) return;
      const int64_t channel = w.source_first ? a : a / per_first * w.second + b;
      p.sparse.offset[at] = static_cast<uint32_t>((channel * in_phases + tap.source_phase) * plane + tap.offset);
      if (weights) p.weight_index[at] = static_cast<uint32_t>(a * width + b * w.taps + t);
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
