// The table of kernels that every instruction set fills in, one row per semiring.
//
// A pattern of edges is a shift-CSR: target plane r takes, for each of its entries, the source planes from that
// offset on: target[r][j] (+)= source[offset + j]. One task computes some rows of one tile of the planes; tasks
// never write the same element and sum in the order of the entries, so results do not depend on the threads.
#ifndef DEEPSTRUCT_GRAPH_KERNELS_H
#define DEEPSTRUCT_GRAPH_KERNELS_H

#include <stdint.h>

namespace deepstruct::sweeps {

enum { kMaxVectors = 8, kTileBytes = 64 * kMaxVectors };

// What is joined along the edges. Nothing ("zero") is what a unit holds that no path reaches.
enum Semiring {
  kSumF32,     // (+, x) float
  kSumF64,     // (+, x) double
  kMod,        // (+, x) int64 below a prime; (edges into one element + 1) * prime < 2^63
  kOrU8,       // (or, and) 8 sweeps in the bits of a byte
  kOrU64,      // (or, and) 64 sweeps in the bits of an int64
  kMinU16,     // (min, +1) uint16: the length, 65535 = unreached; lengths stop at 65534
  kMaxU16,     // (max, +1) uint16: the length + 1, 0 = unreached; stops at 65535
  kMinI32,     // (min, +1) int32: the length, 2147483647 = unreached
  kMaxI32,     // (max, +1) int32: the length, -1 = unreached
  kWidestF32,  // (max, min) float: the width, 0 = unreached; edges without a weight have no bound
  kMinF32,     // (min, +w) float: the length, inf = unreached; edges without a weight have length 1
  kMaxF32,     // (max, +w) float: the length, -inf = unreached; edges without a weight have length 1
  kSemirings
};

// A stretch of a tile that lies in one line of the target: elements [from, from + length) of the tile.
struct Segment {
  int32_t from, length;
  int64_t to;  // element of the target's plane
};

struct Rows {
  const int64_t* start;    // entries of row r: [start[r], start[r + 1])
  const uint32_t* offset;  // element of the packed source planes
  const void* weight;      // beside the entries, or null
  const int64_t* fan;      // row r goes to channel[fan[r]] ... channel[fan[r + 1] - 1]
  const int64_t* channel;
  const void* source;    // packed planes, from the tile's first element on; readable kTileBytes beyond the end
  void* target;          // of the caller
  const int64_t* base;   // where in the target the plane of a channel starts, in elements
  const Segment* segments;
  int64_t segment_count;
  int64_t step;          // elements between neighbours in a line of the target
  int64_t begin, end;    // rows
  bool join;             // add to what is there, instead of overwriting it
  bool last;             // lengths: count the edge
  int64_t prime;
};

struct Line {
  void* target;
  const void* source;
  const uint8_t* kept;  // lengths: whether the element has an edge that counts; null: all of them
  int64_t target_step, source_step, kept_step, length;
  bool join, last;
  int64_t prime;
};

struct Kernels {
  int size;            // bytes of an element
  uint64_t zero;       // its bits for "nothing"
  // By the vectors in a tile; [0] is for planes of one element.
  void (*rows[kMaxVectors + 1])(const Rows&);
  void (*weighted[kMaxVectors + 1])(const Rows&);  // null where edges carry no weights
  void (*line)(const Line&);                       // target (join)= source, element by element
  void (*reduce)(const Line&);                     // target += source, without the reduction modulo a prime
};

struct Isa {
  const char* name;
  int vector_bytes;
  const Kernels* kernels;  // kSemirings of them
};

extern const Isa kPlain;
#if defined(DEEPSTRUCT_X86)
extern const Isa kAvx2;
extern const Isa kAvx512;
#endif

// The best that this processor runs, or what DEEPSTRUCT_ISA (plain, avx2, avx512) names if it runs that.
const Isa& isa();

}  // namespace deepstruct::sweeps

#endif
