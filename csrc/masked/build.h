// From compressed sparse rows to the layout of the kernels.
#ifndef DEEPSTRUCT_MASKED_BUILD_H
#define DEEPSTRUCT_MASKED_BUILD_H

#include <cstdint>
#include <vector>

#include "layout.h"

namespace deepstruct {

struct Built {
  std::vector<int32_t> table;
  std::vector<int32_t> row_ids;
  std::vector<uint8_t> columns;  // bytes: one for each value, two in wide blocks
  std::vector<int32_t> order;  // value k of the layout is entry order[k] of the compressed rows
};

// `starts` has rows + 1 entries, `indices` are ascending within each row. Throws std::invalid_argument on
// anything else, and on sizes past 32 bits.
Built build(int64_t rows, int64_t cols, int32_t block, const int64_t* starts, const int64_t* indices);

}  // namespace deepstruct

#endif
