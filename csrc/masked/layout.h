// The structure of a sparse matrix as the kernels read it. No torch, no std: the per-ISA units include this.
//
// The matrix (rows x cols) is cut into panels of 512 rows and blocks of columns. Within a tile (one panel, one block)
// the rows that have non-zeros are sorted by their count, so that trip counts repeat: a run (count, n) says that the
// next n rows have `count` non-zeros each. Tiles lie panel by panel. Columns within a block are numbers of 8 bits where
// blocks have up to 256, whose activations stay in the first cache, and of 16 bits in wide ones, for the second.
#ifndef DEEPSTRUCT_MASKED_LAYOUT_H
#define DEEPSTRUCT_MASKED_LAYOUT_H

#include <stdint.h>

#if defined(__CUDACC__)
#define DEEPSTRUCT_HOST_DEVICE __host__ __device__
#else
#define DEEPSTRUCT_HOST_DEVICE
#endif

namespace deepstruct {

enum { kHeader = 8, kVersion = 1, kPanel = 512, kNarrow = 256, kWidest = 32768 };

// A view of the three tensors `table` (int32), `row_ids` (int32) and `columns` (uint8, or int16 in wide blocks).
//
// table = version, rows, cols, panel, block, panels, blocks, runs,
//         run_start[tiles + 1], row_start[tiles + 1], value_start[tiles + 1], (count, n) x runs
struct Layout {
  int32_t rows;
  int32_t cols;
  int32_t block;
  int32_t panels;
  int32_t blocks;
  const int32_t* run_start;
  const int32_t* row_start;
  const int32_t* value_start;
  const int32_t* runs;
  const int32_t* row_ids;
  const void* columns;
};

DEEPSTRUCT_HOST_DEVICE inline Layout view(const int32_t* table, const int32_t* row_ids, const void* columns) {
  Layout layout;
  layout.rows = table[1];
  layout.cols = table[2];
  layout.block = table[4];
  layout.panels = table[5];
  layout.blocks = table[6];
  const int64_t tiles = static_cast<int64_t>(table[5]) * table[6];
  layout.run_start = table + kHeader;
  layout.row_start = layout.run_start + tiles + 1;
  layout.value_start = layout.row_start + tiles + 1;
  layout.runs = layout.value_start + tiles + 1;
  layout.row_ids = row_ids;
  layout.columns = columns;
  return layout;
}

// Whether columns are numbers of 16 bits.
DEEPSTRUCT_HOST_DEVICE static inline bool wide(const Layout& layout) { return layout.block > kNarrow; }

// The column of value `i` within its block.
DEEPSTRUCT_HOST_DEVICE static inline int column_at(const Layout& layout, int64_t i) {
  if (wide(layout)) return static_cast<const uint16_t*>(layout.columns)[i];
  return static_cast<const uint8_t*>(layout.columns)[i];
}

}  // namespace deepstruct

#endif
