#include "shift.h"

#include <algorithm>

namespace deepstruct::sweeps {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

struct AxisTap {
  bool valid;
  int64_t shift, phase;
};

struct Axis {
  std::vector<AxisTap> taps;
  std::vector<int64_t> phases;  // of the read side
  int64_t low = 0, high = 0;    // of the shifts
};

// k * dilation - padding = stride * shift + phase: reader o reads element (o + shift) of the phase.
Axis analyse(const Window& w, bool gather) {
  Axis axis;
  bool any = false;
  for (int64_t k = 0; k < w.taps; ++k) {
    const int64_t reach = k * w.dilation - w.padding;
    const int64_t shift = floor_div(reach, w.stride), phase = reach - w.stride * shift;
    // The first reader at or past the lower edge, if it is one and reads inside.
    const int64_t first = std::max<int64_t>(0, -shift);
    const bool valid = first < w.reader && (first + shift) * w.stride + phase < w.read;
    axis.taps.push_back({valid, shift, phase});
    if (!valid) continue;
    axis.low = any ? std::min(axis.low, shift) : shift;
    axis.high = any ? std::max(axis.high, shift) : shift;
    any = true;
    if (gather && std::find(axis.phases.begin(), axis.phases.end(), phase) == axis.phases.end())
      axis.phases.push_back(phase);
  }
  if (!gather)  // whoever reads them or not, all elements are written
    for (int64_t phase = 0; phase < std::min(w.stride, w.read); ++phase) axis.phases.push_back(phase);
  if (axis.phases.empty()) axis.phases.push_back(0);
  std::sort(axis.phases.begin(), axis.phases.end());
  return axis;
}

int64_t position(const std::vector<int64_t>& phases, int64_t phase) {
  return std::find(phases.begin(), phases.end(), phase) - phases.begin();
}

}  // namespace

Shift make_shift(const std::array<Window, kAxes>& windows, bool gather) {
  Shift s;
  std::array<Axis, kAxes> axes;
  for (int a = 0; a < kAxes; ++a) {
    const Window& w = windows[a];
    const Axis& axis = axes[a] = analyse(w, gather);
    if (gather) {
      s.source[a] = w.read, s.source_scale[a] = w.stride, s.source_first[a] = axis.low;
      s.target[a] = s.steps[a] = w.reader;
    } else {
      s.source[a] = w.reader, s.source_first[a] = -axis.high;
      s.target[a] = w.read, s.target_scale[a] = w.stride, s.steps[a] = (w.read + w.stride - 1) / w.stride;
    }
    s.extent[a] = s.steps[a] + axis.high - axis.low;
  }
  std::vector<Triple>& phases = gather ? s.source_phases : s.target_phases;
  for (int64_t d : axes[0].phases)
    for (int64_t h : axes[1].phases)
      for (int64_t w : axes[2].phases) phases.push_back({d, h, w});
  (gather ? s.target_phases : s.source_phases).push_back({0, 0, 0});
  for (const AxisTap& d : axes[0].taps)
    for (const AxisTap& h : axes[1].taps)
      for (const AxisTap& w : axes[2].taps) {
        const std::array<const AxisTap*, kAxes> of{&d, &h, &w};
        Tap tap;
        tap.valid = d.valid && h.valid && w.valid;
        int64_t phase = 0;
        for (int a = 0; a < kAxes && tap.valid; ++a) {
          const Axis& axis = axes[a];
          tap.offset = tap.offset * s.extent[a] + (gather ? of[a]->shift - axis.low : axis.high - of[a]->shift);
          phase = phase * static_cast<int64_t>(axis.phases.size()) + position(axis.phases, of[a]->phase);
        }
        (gather ? tap.source_phase : tap.target_phase) = phase;
        s.taps.push_back(tap);
      }
  return s;
}

}  // namespace deepstruct::sweeps
