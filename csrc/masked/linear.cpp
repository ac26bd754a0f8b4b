#include "linear.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "kernels.h"
#include "memory.h"

namespace deepstruct {
namespace {

constexpr int64_t kChunk = 4;     // batch tiles that are packed at a time, at most: bounds the scratch memory
constexpr int64_t kStretch = 16;  // panels that take turns at a wide block, which stays in the second cache meanwhile
constexpr int64_t kFar = 1 << 24;  // bytes of values beyond which they come from memory, and not from the last cache

template <typename T>
bool far(const Layout& layout) {
  return layout.value_start[static_cast<int64_t>(layout.panels) * layout.blocks] > kFar / static_cast<int64_t>(sizeof(T));
}

// How many batch tiles take turns at a block while its values are in the caches. The fewer, the better these hold what
// else is needed: a wide block fills them with one tile.
template <typename T>
int64_t turns(const Layout& layout) {
  return wide(layout) ? 1 : far<T>(layout) ? kChunk : kChunk / 2;
}

// How many batch tiles are packed at a time: as many as take turns, more where there are too few panels for all threads.
template <typename T>
int64_t chunk(const Layout& layout, int64_t tiles, const Parallel& parallel) {
  const int64_t threads = parallel.threads(), least = turns<T>(layout), panels = std::max(layout.panels, 1);
  const int64_t wanted = threads == 1 ? 1 : (2 * threads * least + panels - 1) / panels;
  return std::max<int64_t>(1, std::min({std::max(wanted, least), tiles, kChunk}));
}

// Memory that is kept between calls: fresh pages cost more than the transposes that fill them.
class Scratch {
 public:
  explicit Scratch(int slot) : slot_(slot) {}
  template <typename T>
  T* get(int64_t count) {
    std::size_t bytes = (static_cast<std::size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + 63) / 64 * 64;
    Block& block = blocks()[slot_];
    if (block.bytes < bytes) {
      block.data.reset();
      block.bytes = 0;
      // Tiles are read in every order: with pages of 4 KB, looking up addresses would cost as much as the data.
      const bool large = bytes >= kHugePage / 2;
      if (large) bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
      block.data.reset(std::aligned_alloc(large ? kHugePage : 64, bytes));
      if (!block.data) throw std::bad_alloc();
      if (large) ask_for_huge_pages(block.data.get(), bytes);
      block.bytes = bytes;
    }
    return static_cast<T*>(block.data.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    std::size_t bytes = 0;
  };
  static Block* blocks() {
    thread_local Block all[5];
    return all;
  }
  int slot_;
};

template <typename T>
struct Tiles {
  static constexpr int64_t unit = kUnit / sizeof(T);
  static constexpr int64_t full = unit * kMaxUnits;
  int64_t batch;
  int64_t count() const { return (batch + full - 1) / full; }
  int64_t samples(int64_t tile) const { return std::min(full, batch - tile * full); }
  // The last tile is only as wide as it must be.
  int units(int64_t tile) const { return static_cast<int>((samples(tile) + unit - 1) / unit); }
};

// Where the blocks of the packed tiles of a chunk are.
template <typename T>
struct Blocks {
  const T* packed;
  int64_t features, block;
  Tiles<T> tiles;
  int64_t first;
  const T* at(int64_t t, int64_t b) const {
    return packed + t * tiles.full * features + b * block * tiles.units(first + t) * tiles.unit;
  }
  // To be fetched in advance: whole blocks only, of whole tiles, and none that would displace the one in use.
  const T* ahead(int64_t t, int64_t b) const {
    const bool fits = block <= kNarrow && (b + 1) * block <= features;
    return fits && tiles.units(first + t) == kMaxUnits ? at(t, b) : nullptr;
  }
};

// Tiles [first, first + n) of a row-major matrix, each at its own place of `out`.
template <typename T>
void pack_chunk(const T* matrix, int64_t features, Tiles<T> tiles, int64_t first, int64_t n, T* out,
                const Parallel& parallel) {
  // Long strips read whole pages of a few samples at a time; short ones give every thread some.
  const int64_t strip = std::clamp<int64_t>(features * n / (2 * parallel.threads()) / 64 * 64, 64, 1024);
  const int64_t strips = (features + strip - 1) / strip;
  parallel(n * strips, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t t = task / strips, f = task % strips * strip;
      kernels<T>().pack(matrix + (first + t) * tiles.full * features, features,
                        static_cast<int>(tiles.samples(first + t)), tiles.units(first + t), f,
                        std::min(f + strip, features), out + t * tiles.full * features);
    }
  });
}

// out[batch][rows] for the tiles of one chunk. A task is one panel of some batch tiles, whose sums stay in the second
// cache while they take turns at the values of a block; at wide blocks the panels of a stretch take turns. Values are in
// the layout's order, or come in another one if `order` says where each is: then those of a block are collected first.
template <typename T>
void product_chunk(const Layout& layout, const T* values, const int32_t* order, const T* packed, const T* bias,
                   Tiles<T> tiles, int64_t first, int64_t n, T* out, const Parallel& parallel) {
  const int64_t stretch = wide(layout) && layout.blocks > 1 ? std::min<int64_t>(kStretch, layout.panels) : 1;
  const int64_t tasks = parallel.threads() == 1 ? 1 : 2 * parallel.threads();
  const int64_t most = std::clamp<int64_t>(n * layout.panels / tasks, 1, std::min(n, turns<T>(layout)));
  const Blocks<T> x{packed, layout.cols, layout.block, tiles, first};
  const int64_t groups = (n + most - 1) / most;
  parallel(groups * layout.panels, [&](int64_t begin, int64_t end) {
    T* all = Scratch(4).get<T>(stretch * most * kPanel * tiles.full);
    T* collected = order ? Scratch(2).get<T>(kPanel * layout.block) : nullptr;
    for (int64_t task = begin, next; task < end; task = next) {
      const int64_t from = task / layout.panels * most, to = std::min(from + most, n);
      const int64_t low = task % layout.panels;
      const int64_t high = std::min({low + stretch, low + end - task, static_cast<int64_t>(layout.panels)});
      next = task + high - low;
      const int64_t top = low * kPanel, bottom = std::min<int64_t>(high * kPanel, layout.rows);
      const auto sums = [&](int64_t t, int64_t panel) {
        const int64_t width = tiles.units(first + t) * tiles.unit;
        return all + (t - from) * stretch * kPanel * tiles.full + (panel - low) * kPanel * width;
      };
      for (int64_t t = from; t < to; ++t) {
        const int64_t width = tiles.units(first + t) * tiles.unit;
        T* s = sums(t, low);
        if (bias)
          for (int64_t r = top; r < bottom; ++r) std::fill_n(s + (r - top) * width, width, bias[r]);
        else
          std::memset(s, 0, (bottom - top) * width * sizeof(T));
      }
      for (int64_t block = 0; block < layout.blocks; ++block)
        for (int64_t panel = low; panel < high; ++panel) {
          const int32_t* start = layout.value_start + panel * layout.blocks + block;
          if (order) kernels<T>().gather(values, order + start[0], start[1] - start[0], collected);
          for (int64_t t = from; t < to; ++t) {
            const T* ahead = t + 1 < to ? x.ahead(t + 1, block) : x.ahead(from, block + 1);
            kernels<T>().product(&layout, order ? collected : values + start[0], panel, block, tiles.units(first + t),
                                 x.at(t, block), ahead, sums(t, panel));
          }
        }
      for (int64_t t = from; t < to; ++t)
        kernels<T>().unpack(sums(t, low), tiles.units(first + t), top, bottom,
                            out + (first + t) * tiles.full * layout.rows, layout.rows,
                            static_cast<int>(tiles.samples(first + t)));
    }
  });
}

// grad_x through the layout itself. A task is a block of columns, since tasks must not add into the same ones.
template <typename T>
void scatter_chunk(const Layout& layout, const T* values, const T* packed_grad, Tiles<T> tiles, int64_t first,
                   int64_t n, T* grad_x, const Parallel& parallel) {
  parallel(layout.blocks, [&](int64_t begin, int64_t end) {
    const int64_t stride = layout.block * tiles.full;
    T* sums = Scratch(4).get<T>(n * stride);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t left = block * layout.block, columns = std::min<int64_t>(layout.block, layout.cols - left);
      std::memset(sums, 0, n * stride * sizeof(T));
      for (int64_t panel = 0; panel < layout.panels; ++panel)
        for (int64_t t = 0; t < n; ++t)
          kernels<T>().scatter(&layout, values, panel, block, tiles.units(first + t),
                               packed_grad + t * tiles.full * layout.rows, sums + t * stride);
      for (int64_t t = 0; t < n; ++t)
        kernels<T>().unpack(sums + t * stride, tiles.units(first + t), left, left + columns,
                            grad_x + (first + t) * tiles.full * layout.cols, layout.cols,
                            static_cast<int>(tiles.samples(first + t)));
    }
  });
}

template <typename T>
void backward_vector(const Layout& layout, const T* values, const T* x, const T* grad_y, T* grad_x, T* grad_values,
                     const Parallel& parallel) {
  parallel(layout.blocks, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t left = block * layout.block;
      if (grad_x) std::fill_n(grad_x + left, std::min<int64_t>(layout.block, layout.cols - left), T(0));
      for (int64_t panel = 0; panel < layout.panels; ++panel) {
        if (grad_x) kernels<T>().scatter_vector(&layout, values, panel, block, grad_y, grad_x + left);
        if (grad_values) kernels<T>().support_vector(&layout, panel, block, grad_y, x, grad_values);
      }
    }
  });
}

}  // namespace

template <typename T>
void forward(const Layout& layout, const T* values, const T* x, const T* bias, int64_t batch, T* y,
             const Parallel& parallel) {
  const Tiles<T> tiles{batch};
  if (batch == 1) {
    parallel(layout.panels, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t top = panel * kPanel, height = std::min<int64_t>(kPanel, layout.rows - top);
        if (bias)
          std::copy_n(bias + top, height, y + top);
        else
          std::fill_n(y + top, height, T(0));
        for (int64_t block = 0; block < layout.blocks; ++block)
          kernels<T>().product_vector(&layout, values, panel, block, x, y + top);
      }
    });
    return;
  }
  const int64_t most = chunk<T>(layout, tiles.count(), parallel);
  T* packed = Scratch(0).get<T>(most * tiles.full * layout.cols);
  for (int64_t first = 0; first < tiles.count(); first += most) {
    const int64_t n = std::min(most, tiles.count() - first);
    pack_chunk(x, layout.cols, tiles, first, n, packed, parallel);
    product_chunk<T>(layout, values, nullptr, packed, bias, tiles, first, n, y, parallel);
  }
}

template <typename T>
void backward(const Layout& layout, const Twin* twin, const T* values, const T* x, const T* grad_y, int64_t batch,
              T* grad_x, T* grad_values, int64_t n_values, const Parallel& parallel) {
  const Tiles<T> tiles{batch};
  if (batch == 0) {
    if (grad_values) std::fill_n(grad_values, n_values, T(0));
    return;
  }
  if (batch == 1) return backward_vector(layout, values, x, grad_y, grad_x, grad_values, parallel);
  const int64_t most = chunk<T>(grad_x && twin ? twin->layout : layout, tiles.count(), parallel);
  T* packed_grad = Scratch(0).get<T>(most * tiles.full * layout.rows);
  T* packed_x = grad_values ? Scratch(1).get<T>(most * tiles.full * layout.cols) : nullptr;
  // Values are collected once; but not where they would go to memory and come back.
  const bool at_once = grad_x && twin && (wide(twin->layout) || !far<T>(twin->layout));
  T* twin_values = at_once ? Scratch(2).get<T>(twin->values) : nullptr;
  if (at_once)
    parallel((twin->values + 4095) / 4096, [&](int64_t begin, int64_t end) {
      const int64_t from = begin * 4096, to = std::min(end * 4096, twin->values);
      kernels<T>().gather(values, twin->order + from, to - from, twin_values + from);
    });
  for (int64_t first = 0; first < tiles.count(); first += most) {
    const int64_t n = std::min(most, tiles.count() - first);
    pack_chunk(grad_y, layout.rows, tiles, first, n, packed_grad, parallel);
    if (grad_x && twin)
      product_chunk<T>(twin->layout, at_once ? twin_values : values, at_once ? nullptr : twin->order, packed_grad,
                       nullptr, tiles, first, n, grad_x, parallel);
    else if (grad_x)
      scatter_chunk(layout, values, packed_grad, tiles, first, n, grad_x, parallel);
    if (!grad_values) continue;
    pack_chunk(x, layout.cols, tiles, first, n, packed_x, parallel);
    const Blocks<T> blocks{packed_x, layout.cols, layout.block, tiles, first};
    const Blocks<T> panels{packed_grad, layout.rows, kPanel, tiles, first};
    parallel(static_cast<int64_t>(layout.panels) * layout.blocks, [&](int64_t begin, int64_t end) {
      for (int64_t from = 0, to; from < n; from = to) {
        to = std::min(from + turns<T>(layout), n);
        for (int64_t task = begin; task < end; ++task) {
          // What is larger stays in the second cache: the panel, or a wide block.
          const int64_t panel = wide(layout) ? task % layout.panels : task / layout.blocks;
          const int64_t block = wide(layout) ? task / layout.panels : task % layout.blocks;
          for (int64_t t = from; t < to; ++t) {
            const T* ahead = t + 1 < to ? blocks.ahead(t + 1, block) : blocks.ahead(from, block + 1);
            kernels<T>().support(&layout, panel, block, tiles.units(first + t), panels.at(t, panel),
                                 blocks.at(t, block), ahead, first + t == 0, grad_values);
          }
        }
      }
    });
  }
}

template <typename T>
void add_product(const Layout& layout, const T* values, const T* x, int units, T* out, const Parallel& parallel) {
  const int64_t width = units * (kUnit / static_cast<int64_t>(sizeof(T)));
  parallel(layout.panels, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      for (int64_t block = 0; block < layout.blocks; ++block)
        kernels<T>().product(&layout, values + layout.value_start[panel * layout.blocks + block], panel, block, units,
                             x + block * layout.block * width, nullptr, out + panel * kPanel * width);
  });
}

template <typename T>
void add_support(const Layout& layout, const T* grad, const T* x, int units, T* grad_values, const Parallel& parallel) {
  const int64_t width = units * (kUnit / static_cast<int64_t>(sizeof(T)));
  parallel(static_cast<int64_t>(layout.panels) * layout.blocks, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / layout.blocks, block = task % layout.blocks;
      kernels<T>().support(&layout, panel, block, units, grad + panel * kPanel * width,
                           x + block * layout.block * width, nullptr, false, grad_values);
    }
  });
}

namespace {

// Calls body(row segment's offset in the weight, its columns, their number, its values) for a tile, and fetches the
// segments that follow: each is in a page of its own, where no prefetching by the processor finds it.
template <typename C, typename Body>
void each_segment_of(const Layout& layout, int64_t tile, Body body) {
  constexpr int64_t early = 8;
  const int64_t left = tile % layout.blocks * layout.block, top = tile / layout.blocks * kPanel;
  const int64_t end = layout.row_start[tile + 1];
  const auto offset = [&](int64_t row) { return (top + layout.row_ids[row]) * layout.cols + left; };
  const C* columns = static_cast<const C*>(layout.columns);
  int64_t row = layout.row_start[tile], value = layout.value_start[tile];
  for (int32_t run = layout.run_start[tile]; run < layout.run_start[tile + 1]; ++run) {
    const int32_t count = layout.runs[2 * run];
    for (int32_t i = 0; i < layout.runs[2 * run + 1]; ++i, ++row, value += count)
      body(offset(row), offset(std::min(row + early, end - 1)), columns + value, count, value);
  }
}

template <typename Body>
void each_segment(const Layout& layout, int64_t tile, Body body) {
  wide(layout) ? each_segment_of<uint16_t>(layout, tile, body) : each_segment_of<uint8_t>(layout, tile, body);
}

}  // namespace

template <typename T>
void read_support(const Layout& layout, const T* weight, T* values, const Parallel& parallel) {
  const int64_t bytes = std::min(layout.block, layout.cols) * static_cast<int64_t>(sizeof(T));
  parallel(static_cast<int64_t>(layout.panels) * layout.blocks, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      each_segment(layout, tile, [&](int64_t at, int64_t soon, const auto* columns, int32_t count, int64_t value) {
        if (count * int64_t{128} >= bytes)  // else most of it is not needed
          for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(weight + soon) + b);
        for (int32_t k = 0; k < count; ++k) values[value + k] = weight[at + columns[k]];
      });
  });
}

template <typename T>
void write_support(const Layout& layout, const T* values, T* weight, const Parallel& parallel) {
  const int64_t bytes = std::min(layout.block, layout.cols) * static_cast<int64_t>(sizeof(T));
  parallel(layout.panels, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t top = panel * kPanel, height = std::min<int64_t>(kPanel, layout.rows - top);
      std::fill_n(weight + top * layout.cols, height * layout.cols, T(0));
      for (int64_t block = 0; block < layout.blocks; ++block)
        each_segment(layout, panel * layout.blocks + block,
                     [&](int64_t at, int64_t soon, const auto* columns, int32_t count, int64_t value) {
                       if (count * int64_t{128} >= bytes)
                         for (int64_t b = 0; b < bytes; b += 64)
                           __builtin_prefetch(reinterpret_cast<char*>(weight + soon) + b, 1);
                       for (int32_t k = 0; k < count; ++k) weight[at + columns[k]] = values[value + k];
                     });
    }
  });
}

template void forward(const Layout&, const float*, const float*, const float*, int64_t, float*, const Parallel&);
template void forward(const Layout&, const double*, const double*, const double*, int64_t, double*, const Parallel&);
template void backward(const Layout&, const Twin*, const float*, const float*, const float*, int64_t, float*, float*,
                       int64_t, const Parallel&);
template void backward(const Layout&, const Twin*, const double*, const double*, const double*, int64_t, double*,
                       double*, int64_t, const Parallel&);
template void add_product(const Layout&, const float*, const float*, int, float*, const Parallel&);
template void add_product(const Layout&, const double*, const double*, int, double*, const Parallel&);
template void add_support(const Layout&, const float*, const float*, int, float*, const Parallel&);
template void add_support(const Layout&, const double*, const double*, int, double*, const Parallel&);
template void read_support(const Layout&, const float*, float*, const Parallel&);
template void read_support(const Layout&, const double*, double*, const Parallel&);
template void write_support(const Layout&, const float*, float*, const Parallel&);
template void write_support(const Layout&, const double*, double*, const Parallel&);

}  // namespace deepstruct
