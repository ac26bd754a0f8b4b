// The geometry of a shift-CSR: how the planes of both sides are laid out so that every tap is one offset.
#ifndef DEEPSTRUCT_GRAPH_SHIFT_H
#define DEEPSTRUCT_GRAPH_SHIFT_H

#include <array>
#include <cstdint>
#include <vector>

namespace deepstruct::sweeps {

constexpr int kAxes = 3;
using Triple = std::array<int64_t, kAxes>;

// One axis of a window. `reader` counts the positions that read, `read` those that are read:
// reader o reads o * stride - padding + k * dilation for every tap k, where that is inside.
struct Window {
  int64_t reader = 1, read = 1, taps = 1, stride = 1, padding = 0, dilation = 1;
};

struct Tap {
  bool valid = false;  // whether it connects any two positions at all
  int64_t source_phase = 0, target_phase = 0, offset = 0;
};

// Planes of both sides have one common extent. Element q of a packed source plane of phase f holds the source's
// element scale * (q + first) + f of each axis; step m of a target plane of phase f is element scale * m + f.
struct Shift {
  Triple extent{1, 1, 1};
  Triple source{1, 1, 1}, source_scale{1, 1, 1}, source_first{0, 0, 0};
  Triple target{1, 1, 1}, target_scale{1, 1, 1}, steps{1, 1, 1};
  std::vector<Triple> source_phases, target_phases;
  std::vector<Tap> taps;  // row-major over the axes

  int64_t plane() const { return extent[0] * extent[1] * extent[2]; }
  // From the first to the last element of a target plane.
  int64_t length() const { return ((steps[0] - 1) * extent[1] + steps[1] - 1) * extent[2] + steps[2]; }
};

// `gather`: the targets are the readers (a convolution); otherwise the sources are (its transpose).
Shift make_shift(const std::array<Window, kAxes>& windows, bool gather);

}  // namespace deepstruct::sweeps

#endif
