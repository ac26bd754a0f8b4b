#include "survey.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bits.h"
#include "pool.h"

namespace deepstruct::sweeps {
namespace {

constexpr int64_t kChunks = 16;         // parts that rows are cut into: the same for any number of threads
constexpr int64_t kSmall = 1 << 15;     // weights that one thread reads sooner than two
constexpr int kDense = 20;              // edges among 64 weights from which all 64 are read in one go

int useful(const Stored& s, int threads) { return s.rows * s.width() < kSmall ? 1 : threads; }

// Columns to taps.
std::vector<int32_t> taps_of(const Stored& s) {
  std::vector<int32_t> tap(static_cast<std::size_t>(s.taps > 1 ? s.width() : 0));
  for (std::size_t i = 0; i < tap.size(); ++i) tap[i] = static_cast<int32_t>(static_cast<int64_t>(i) % s.taps);
  return tap;
}

// Adds up rows: `line(row, sums by tap, sums by column)`, each number of which is written by one task. Rows of one
// group are cut into chunks with columns of their own, which are added in order.
template <typename Number, typename Line>
void add_rows(const Stored& s, int threads, Number* by_row, Number* by_column, Line line) {
  const int64_t width = s.width(), per = s.rows / s.groups;
  if (s.groups > 1) {
    parallel(threads, s.groups, [&](int64_t g) {
      for (int64_t r = g * per; r < (g + 1) * per; ++r) line(r, by_row + r * s.taps, by_column + g * width);
    });
    return;
  }
  const int64_t chunks = std::clamp<int64_t>(s.rows / 64, 1, kChunks);
  std::vector<Number> apart(static_cast<std::size_t>((chunks - 1) * width), Number{0});
  parallel(threads, chunks, [&](int64_t c) {
    Number* columns = c == 0 ? by_column : apart.data() + (c - 1) * width;
    for (int64_t r = s.rows * c / chunks; r < s.rows * (c + 1) / chunks; ++r) line(r, by_row + r * s.taps, columns);
  });
  for (int64_t c = 1; c < chunks; ++c)
    for (int64_t i = 0; i < width; ++i) by_column[i] += apart[static_cast<std::size_t>((c - 1) * width + i)];
}

}  // namespace

template <typename T>
void mark(const T* data, const Stored& s, T threshold, int threads, uint64_t* bits) {
  const int64_t width = s.width(), words = s.words();
  const int64_t lines = std::max<int64_t>(1, kSmall / std::max<int64_t>(width, 1));  // of one task
  parallel(useful(s, threads), (s.rows + lines - 1) / lines, [&](int64_t task) {
    for (int64_t r = task * lines; r < std::min(s.rows, (task + 1) * lines); ++r)
      for (int64_t word = 0; word < words; ++word)
        bits[r * words + word] =
            bits::edges(data + r * width + word * 64, 1, std::min<int64_t>(64, width - word * 64), threshold);
  });
}

void fill_bits(const Stored& s, uint64_t* bits) {
  const int64_t words = s.words();
  const int rest = static_cast<int>(s.width() & 63);
  std::fill_n(bits, s.rows * words, ~uint64_t{0});
  for (int64_t r = 0; rest != 0 && r < s.rows; ++r) bits[(r + 1) * words - 1] = (uint64_t{1} << rest) - 1;
}

void count(const Stored& s, const uint64_t* bits, int threads, int64_t* by_row, int64_t* by_column) {
  const std::vector<int32_t> tap = taps_of(s);
  const int64_t words = s.words();
  add_rows(s, useful(s, threads), by_row, by_column, [&](int64_t r, int64_t* by_tap, int64_t* columns) {
    const uint64_t* line = bits + r * words;
    for (int64_t word = 0; word < words; ++word) {
      uint64_t rest = line[word];
      int64_t* here = columns + word * 64;
      if (s.taps == 1) by_tap[0] += bits::population(rest);
      if (s.taps == 1 && rest == ~uint64_t{0}) {
        for (int j = 0; j < 64; ++j) ++here[j];
        continue;
      }
      for (; rest != 0; rest &= rest - 1) {
        const int j = bits::lowest(rest);
        ++here[j];
        if (s.taps > 1) ++by_tap[tap[static_cast<std::size_t>(word * 64 + j)]];
      }
    }
  });
}

template <typename T>
void magnitudes(const T* data, const Stored& s, const uint64_t* bits, int threads, double* by_row, double* by_column) {
  const std::vector<int32_t> tap = taps_of(s);
  const int64_t words = s.words(), width = s.width();
  add_rows(s, useful(s, threads), by_row, by_column, [&](int64_t r, double* by_tap, double* columns) {
    const uint64_t* line = bits + r * words;
    double total = 0;
    for (int64_t word = 0; word < words; ++word) {
      uint64_t rest = line[word];
      const T* from = data + r * width + word * 64;
      double* here = columns + word * 64;
      if (s.taps == 1 && word * 64 + 64 <= width && bits::population(rest) >= kDense) {
        double part[8] = {};
        for (int j = 0; j < 64; j += 8)
          for (int k = 0; k < 8; ++k) {
            // Not a product with the bit: what is no edge may be infinite.
            const double size = rest >> (j + k) & 1 ? std::abs(static_cast<double>(from[j + k])) : 0.0;
            here[j + k] += size;
            part[k] += size;
          }
        for (double one : part) total += one;
        continue;
      }
      for (; rest != 0; rest &= rest - 1) {
        const int j = bits::lowest(rest);
        const double size = std::abs(static_cast<double>(from[j]));
        here[j] += size;
        if (s.taps == 1)
          total += size;
        else
          by_tap[tap[static_cast<std::size_t>(word * 64 + j)]] += size;
      }
    }
    if (s.taps == 1) by_tap[0] += total;
  });
}

template void mark<float>(const float*, const Stored&, float, int, uint64_t*);
template void mark<double>(const double*, const Stored&, double, int, uint64_t*);
template void mark<uint8_t>(const uint8_t*, const Stored&, uint8_t, int, uint64_t*);
template void magnitudes<float>(const float*, const Stored&, const uint64_t*, int, double*, double*);
template void magnitudes<double>(const double*, const Stored&, const uint64_t*, int, double*, double*);

}  // namespace deepstruct::sweeps
