#include "build.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace deepstruct {

Built build(int64_t rows, int64_t cols, int32_t block, const int64_t* starts, const int64_t* indices) {
  if (rows < 0 || cols < 0 || rows > INT32_MAX || cols > INT32_MAX) throw std::invalid_argument("sizes past 32 bits");
  if (block < 1 || block > kWidest) throw std::invalid_argument("blocks have 1 to 32768 columns");
  if (starts[0] != 0 || starts[rows] > INT32_MAX) throw std::invalid_argument("more than 2^31 - 1 values");
  for (int64_t r = 0; r < rows; ++r) {
    if (starts[r] > starts[r + 1]) throw std::invalid_argument("row starts descend");
    for (int64_t k = starts[r]; k < starts[r + 1]; ++k)
      if (indices[k] < 0 || indices[k] >= cols || (k > starts[r] && indices[k] <= indices[k - 1]))
        throw std::invalid_argument("column indices are out of range, or do not ascend");
  }
  const int32_t panels = static_cast<int32_t>((rows + kPanel - 1) / kPanel);
  const int32_t blocks = static_cast<int32_t>((cols + block - 1) / block);
  const int64_t tiles = static_cast<int64_t>(panels) * blocks;
  Built out;
  out.columns.reserve(starts[rows] * (block > kNarrow ? 2 : 1));
  out.order.reserve(starts[rows]);
  const auto push = [&](uint16_t column) {
    uint8_t bytes[2] = {static_cast<uint8_t>(column), 0};
    if (block > kNarrow) std::memcpy(bytes, &column, 2);
    out.columns.insert(out.columns.end(), bytes, bytes + (block > kNarrow ? 2 : 1));
  };
  std::vector<int32_t> run_start{0}, row_start{0}, value_start{0}, runs;
  std::vector<int64_t> cursor(starts, starts + rows);  // where each row's next entry is
  std::vector<int32_t> count(kPanel), first(block + 2);
  std::vector<int32_t> sorted(kPanel);
  for (int32_t panel = 0; panel < panels; ++panel) {
    const int64_t top = static_cast<int64_t>(panel) * kPanel;
    const int height = static_cast<int>(std::min<int64_t>(kPanel, rows - top));
    for (int32_t b = 0; b < blocks; ++b) {
      const int64_t left = static_cast<int64_t>(b) * block;
      std::fill(first.begin(), first.end(), 0);
      for (int r = 0; r < height; ++r) {
        int64_t end = cursor[top + r];
        while (end < starts[top + r + 1] && indices[end] < left + block) ++end;
        count[r] = static_cast<int32_t>(end - cursor[top + r]);
        ++first[count[r] + 1];
      }
      for (int c = 1; c <= block + 1; ++c) first[c] += first[c - 1];
      const int empty = first[1];
      for (int r = 0; r < height; ++r) sorted[first[count[r]]++] = static_cast<int32_t>(r);
      for (int i = empty; i < height; ++i) {
        const int r = sorted[i];
        if (i == empty || count[r] != count[sorted[i - 1]]) {
          runs.push_back(count[r]);
          runs.push_back(0);
        }
        ++runs.back();
        out.row_ids.push_back(static_cast<int32_t>(r));
        for (int k = 0; k < count[r]; ++k) {
          const int64_t entry = cursor[top + r] + k;
          push(static_cast<uint16_t>(indices[entry] - left));
          out.order.push_back(static_cast<int32_t>(entry));
        }
        cursor[top + r] += count[r];
      }
      run_start.push_back(static_cast<int32_t>(runs.size() / 2));
      row_start.push_back(static_cast<int32_t>(out.row_ids.size()));
      value_start.push_back(static_cast<int32_t>(out.order.size()));
    }
  }
  out.table = {kVersion, static_cast<int32_t>(rows), static_cast<int32_t>(cols), kPanel, block, panels, blocks,
               static_cast<int32_t>(runs.size() / 2)};
  out.table.reserve(kHeader + 3 * (tiles + 1) + runs.size());
  for (const auto* part : {&run_start, &row_start, &value_start, &runs})
    out.table.insert(out.table.end(), part->begin(), part->end());
  return out;
}

}  // namespace deepstruct
