// What one reading of stored weights says: where they are edges, how many there are, and how large they are.
#ifndef DEEPSTRUCT_GRAPH_SURVEY_H
#define DEEPSTRUCT_GRAPH_SURVEY_H

#include <cstdint>

namespace deepstruct::sweeps {

// Weights in the layout (rows, columns * taps). The rows of one group have columns of their own.
struct Stored {
  int64_t rows = 0, columns = 0, taps = 1, groups = 1;

  int64_t width() const { return columns * taps; }
  int64_t words() const { return (width() + 63) / 64; }  // of one row
};

// One bit a weight: row r has the words [r * words, (r + 1) * words).
template <typename T>
void mark(const T* data, const Stored& stored, T threshold, int threads, uint64_t* bits);
void fill_bits(const Stored& stored, uint64_t* bits);  // all of them

// Sums over the weights that are edges, by (row, tap) and by (group, column, tap), both zero before: how many there
// are, and their magnitudes. Added up in one order, whatever the number of threads.
void count(const Stored& stored, const uint64_t* bits, int threads, int64_t* by_row, int64_t* by_column);
template <typename T>
void magnitudes(const T* data, const Stored& stored, const uint64_t* bits, int threads, double* by_row,
                double* by_column);

}  // namespace deepstruct::sweeps

#endif
