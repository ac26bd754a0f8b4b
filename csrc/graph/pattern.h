// The pattern of an operator in one direction, compiled to a shift-CSR.
#ifndef DEEPSTRUCT_GRAPH_PATTERN_H
#define DEEPSTRUCT_GRAPH_PATTERN_H

#include <cstdint>
#include <vector>

#include "shift.h"

namespace deepstruct::sweeps {

// Rows, ordered by the target phase that they write.
struct Table {
  std::vector<int64_t> start{0};
  std::vector<uint32_t> offset;
  std::vector<int64_t> fan{0}, channel;    // row r is written to channel[fan[r]] ... channel[fan[r + 1] - 1]
  std::vector<int64_t> phase_start;        // rows of target phase f: [phase_start[f], phase_start[f + 1])

  int64_t rows() const { return static_cast<int64_t>(start.size()) - 1; }
  int64_t bytes() const {
    return static_cast<int64_t>(8 * (start.size() + fan.size() + channel.size() + phase_start.size()) +
                                4 * offset.size());
  }
};

// Weights in the layout (first, second / groups, taps): first is the output channel of a convolution and the input
// channel of a transposed one, or of a matrix (inner, outer).
struct WeightLayout {
  int64_t first = 1, second = 1, taps = 1, groups = 1;  // `second` per group
  bool source_first = false;                            // whether `first` is the side that is read
};

struct Pattern {
  Shift shift;
  int64_t source_channels = 0, target_channels = 0, groups = 1;
  Table sparse;  // rows over the planes of the source channels
  Table dense;   // rows over the planes of a group's channels, joined to one: a full pattern needs no more
  std::vector<uint32_t> weight_index;  // of the sparse entries, if asked for
  int64_t largest_row = 0;             // the most edges into one element

  int64_t bytes() const {
    return sparse.bytes() + dense.bytes() + static_cast<int64_t>(4 * weight_index.size());
  }
};

// `alive` has one bit per weight, each row of the layout in (second * taps + 63) / 64 words of its own; null means that
// all are edges. With `weights` every entry is written down, since the dense short cut knows no weights. Throws
// std::length_error where 32 bits cannot number the source's elements.
Pattern make_pattern(const uint64_t* alive, const WeightLayout& layout, Shift shift, bool weights, int threads = 1);

// An explicit list of edges between flat elements. Throws std::out_of_range for an edge that is not inside.
Pattern make_list(const int64_t* sources, const int64_t* targets, int64_t edges, int64_t source_elements,
                  int64_t target_elements, bool weights);

}  // namespace deepstruct::sweeps

#endif
