// Which weights of a window are edges, as bits (see explicit.h).
#include <algorithm>

#include "bits.h"
#include "explicit.h"

namespace deepstruct::graph {

using bits::edges;
using bits::is_edge;
using bits::lowest;

template <typename T>
void pack(const Window& w, const T* data, const Places& p, T threshold, uint64_t* bits) {
  const int64_t words = w.words(), tile = 2048, block = 64;
  const auto group = [&](int64_t c) { return c / w.group_in * p.group; };
  if (w.taps == 1 && !w.mirrored && w.channels == w.group_in) {  // a matrix: channels inside, as they lie in memory
    for (int64_t begin = 0; begin < w.channels; begin += tile)
      for (int64_t word = 0; word < words; ++word) {
        const int64_t size = std::min(tile, w.channels - begin), last = std::min<int64_t>(w.group_out, word * 64 + 64);
        uint64_t here[2048] = {};
        for (int64_t eight = word * 64; eight < last; eight += 8) {
          uint8_t byte[2048] = {};  // of eight outputs: what fits more lanes of a vector than a word does
          for (int64_t o = eight; o < std::min(eight + 8, last); ++o) {
            const T* row = data + begin * p.channel + o * p.output + p.taps[0];
            const uint8_t bit = static_cast<uint8_t>(1 << (o & 7));
            if (p.channel == 1 && threshold == 0)
              for (int64_t c = 0; c < size; ++c) byte[c] |= row[c] != 0 ? bit : uint8_t{0};
            else
              for (int64_t c = 0; c < size; ++c) byte[c] |= is_edge(row[c * p.channel], threshold) ? bit : uint8_t{0};
          }
          const int shift = static_cast<int>(eight & 63);
          for (int64_t c = 0; c < size; ++c) here[c] |= static_cast<uint64_t>(byte[c]) << shift;
        }
        for (int64_t c = 0; c < size; ++c) bits[(begin + c) * words + word] = here[c];
      }
    return;
  }
  bool dense = p.channel == w.taps;  // the weights of one output and group are one stretch
  for (int64_t k = 0; k < w.taps; ++k) dense = dense && p.taps[static_cast<std::size_t>(k)] == k;
  for (int64_t o = 0; o < w.group_out; ++o) {
    const int64_t at = (w.mirrored ? w.group_out - 1 - o : o) * w.taps;
    if (dense) {
      for (int64_t first = 0; first < w.channels; first += w.group_in) {
        const int64_t number = std::min(w.group_in, w.channels - first);
        const T* stretch = data + first * p.channel + o * p.output + group(first);
        const uint32_t taps = static_cast<uint32_t>(w.taps);
        for (int64_t j = 0; j < number * w.taps; j += block)
          for (uint64_t rest = edges(stretch + j, 1, std::min(block, number * w.taps - j), threshold); rest != 0;
               rest &= rest - 1) {
            const uint64_t here = static_cast<uint64_t>(j + lowest(rest));
            const uint64_t c = here <= UINT32_MAX ? static_cast<uint32_t>(here) / taps : here / taps;
            const int64_t bit = at + static_cast<int64_t>(here - c * taps);
            bits[(first + static_cast<int64_t>(c)) * words + (bit >> 6)] |= uint64_t{1} << (bit & 63);
          }
      }
      continue;
    }
    for (int64_t c = 0; c < w.channels; ++c) {
      const T* kernel = data + c * p.channel + o * p.output + group(c);
      uint64_t* mine = bits + c * words;
      for (int64_t k = 0; k < w.taps; k += 32) {
        uint64_t part = 0;
        const int64_t size = std::min<int64_t>(32, w.taps - k);
        for (int64_t j = 0; j < size; ++j)
          part |= static_cast<uint64_t>(is_edge(kernel[p.taps[static_cast<std::size_t>(k + j)]], threshold)) << j;
        if (part == 0) continue;
        const int64_t bit = at + k, shift = bit & 63;
        mine[bit >> 6] |= part << shift;
        if (shift + size > 64) mine[(bit >> 6) + 1] |= part >> (64 - shift);
      }
    }
  }
}

namespace {

// Rows of 64 bits: bit j of row i becomes bit i of row j.
void turn_block(uint64_t* block) {
  uint64_t mask = 0x00000000ffffffffu;
  for (int step = 32; step != 0; step >>= 1, mask ^= mask << step)
    for (int i = 0; i < 64; i = ((i | step) + 1) & ~step) {
      const uint64_t swap = ((block[i] >> step) ^ block[i | step]) & mask;
      block[i | step] ^= swap;
      block[i] ^= swap << step;
    }
}

}  // namespace

void turn(const Window& w, const uint64_t* stored, uint64_t* bits) {
  const int64_t words = w.words(), groups = w.channels / w.group_in, across = (w.group_in * w.taps + 63) / 64;
  const uint32_t taps = static_cast<uint32_t>(w.taps);
  for (int64_t g = 0; g < groups; ++g) {
    const uint64_t* rows = stored + g * w.group_out * across;
    uint64_t* mine = bits + g * w.group_in * words;
    if (w.taps == 1 && !w.mirrored) {
      for (int64_t o = 0; o < w.group_out; o += 64)
        for (int64_t word = 0; word < across; ++word) {
          uint64_t block[64] = {};
          const int64_t height = std::min<int64_t>(64, w.group_out - o);
          for (int64_t i = 0; i < height; ++i) block[i] = rows[(o + i) * across + word];
          turn_block(block);
          const int64_t width = std::min<int64_t>(64, w.group_in - word * 64);
          for (int64_t i = 0; i < width; ++i) mine[(word * 64 + i) * words + o / 64] = block[i];
        }
      continue;
    }
    for (int64_t o = 0; o < w.group_out; ++o) {
      const int64_t at = (w.mirrored ? w.group_out - 1 - o : o) * w.taps;
      for (int64_t word = 0; word < across; ++word)
        for (uint64_t rest = rows[o * across + word]; rest != 0; rest &= rest - 1) {
          const uint32_t here = static_cast<uint32_t>(word * 64 + lowest(rest));
          const uint32_t c = here / taps;
          const int64_t bit = at + (here - c * taps);
          mine[c * words + (bit >> 6)] |= uint64_t{1} << (bit & 63);
        }
    }
  }
}

template void pack<float>(const Window&, const float*, const Places&, float, uint64_t*);
template void pack<double>(const Window&, const double*, const Places&, double, uint64_t*);
template void pack<uint8_t>(const Window&, const uint8_t*, const Places&, uint8_t, uint64_t*);

}  // namespace deepstruct::graph
