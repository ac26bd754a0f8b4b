// Runs a compiled pattern: packs the source, computes the rows, and writes or joins the target in place.
#ifndef DEEPSTRUCT_GRAPH_RUN_H
#define DEEPSTRUCT_GRAPH_RUN_H

#include <array>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "pattern.h"

namespace deepstruct::sweeps {

// The planes of one side in the caller's memory: channel c, position (d, h, w) is the element
// base[c] + d * stride[0] + h * stride[1] + w * stride[2]. Strides of 0 are fine in a source.
struct Planes {
  void* data = nullptr;
  std::vector<int64_t> base;
  Triple stride{0, 0, 0};
};

struct Options {
  bool join = true;     // add to the target, instead of overwriting it
  bool last = true;     // lengths: count this edge (false for all but one pass of a product of windows)
  int64_t prime = 0;    // kMod only
  int threads = 1;
  const void* weights = nullptr;  // beside the pattern's sparse entries, of the semiring's type
};

void run(const Pattern& pattern, Semiring semiring, const Planes& source, const Planes& target, const Options& options);

// Edges one to one: target (join)= source. Of up to any rank; `kept` (bytes, or null) says whose edge counts.
struct Elements {
  void* target = nullptr;
  const void* source = nullptr;
  const uint8_t* kept = nullptr;
  std::vector<int64_t> shape, target_stride, source_stride, kept_stride;
};

void run_identity(Semiring semiring, const Elements& elements, const Options& options);

}  // namespace deepstruct::sweeps

#endif
