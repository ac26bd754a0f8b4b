#include "run.h"

#include <algorithm>
#include <cstring>

#include "pool.h"

namespace deepstruct::sweeps {
namespace {

constexpr int kBlock = 16;  // planes that are transposed together: one cache line of each position

// ---- packing -------------------------------------------------------------------------------------------------

// The part of a packed plane that holds elements, per axis: [low, high).
struct Inside {
  Triple low, high, first;  // first: the source's element at `low`
  bool all, none;
};

Inside inside(const Shift& s, const Triple& phase) {
  Inside r{};
  r.all = true, r.none = false;
  for (int a = 0; a < kAxes; ++a) {
    const int64_t scale = s.source_scale[a], first = s.source_first[a];
    // scale * (q + first) + phase in [0, source)
    const int64_t past = (s.source[a] - phase[a] + scale - 1) / scale;  // q + first < past
    r.low[a] = std::max<int64_t>(0, -first);
    r.high[a] = std::min(s.extent[a], past - first);
    r.first[a] = scale * (r.low[a] + first) + phase[a];
    if (r.low[a] >= r.high[a]) r.none = true;
    if (r.low[a] > 0 || r.high[a] < s.extent[a]) r.all = false;
  }
  if (r.none) r.all = false;
  return r;
}

template <typename U>
void pack_block(const Shift& s, const Inside& in, const U* source, int64_t plane_step, int planes, const Triple& stride,
                int64_t packed_step, U zero, U* packed) {
  const int64_t plane = s.plane();
  if (!in.all)
    for (int p = 0; p < planes; ++p) std::fill_n(packed + p * packed_step, plane, zero);
  if (in.none) return;
  const Triple step{stride[0] * s.source_scale[0], stride[1] * s.source_scale[1], stride[2] * s.source_scale[2]};
  const int64_t width = in.high[2] - in.low[2];
  const U* corner = source + in.first[0] * stride[0] + in.first[1] * stride[1] + in.first[2] * stride[2];
  for (int64_t d = in.low[0]; d < in.high[0]; ++d)
    for (int64_t h = in.low[1]; h < in.high[1]; ++h) {
      const U* from = corner + (d - in.low[0]) * step[0] + (h - in.low[1]) * step[1];
      U* to = packed + (d * s.extent[1] + h) * s.extent[2] + in.low[2];
      if (planes > 1 && step[2] != 1) {
        for (int64_t w = 0; w < width; ++w)
          for (int p = 0; p < planes; ++p) to[p * packed_step + w] = from[p * plane_step + w * step[2]];
        continue;
      }
      for (int p = 0; p < planes; ++p) {
        const U* line = from + p * plane_step;
        U* into = to + p * packed_step;
        if (step[2] == 1)
          std::memcpy(into, line, static_cast<std::size_t>(width) * sizeof(U));
        else
          for (int64_t w = 0; w < width; ++w) into[w] = line[w * step[2]];
      }
    }
}

template <typename U>
void pack_as(const Shift& s, const Planes& source, uint64_t zero_bits, int threads, U* packed) {
  const int64_t phases = static_cast<int64_t>(s.source_phases.size()), plane = s.plane();
  const int64_t channels = static_cast<int64_t>(source.base.size());
  const U zero = static_cast<U>(zero_bits);
  std::vector<Inside> parts;
  for (const Triple& phase : s.source_phases) parts.push_back(inside(s, phase));
  const int64_t tasks = (channels + kBlock - 1) / kBlock;
  parallel(channels * phases * plane > 1 << 14 ? threads : 1, tasks, [&](int64_t task) {
    const int64_t begin = task * kBlock, end = std::min(channels, begin + kBlock);
    const int64_t step = end - begin > 1 ? source.base[begin + 1] - source.base[begin] : 0;
    bool even = true;
    for (int64_t c = begin + 1; c < end; ++c) even = even && source.base[c] - source.base[c - 1] == step;
    const U* data = static_cast<const U*>(source.data);
    for (int64_t f = 0; f < phases; ++f) {
      U* into = packed + (begin * phases + f) * plane;
      if (even) {
        pack_block(s, parts[f], data + source.base[begin], step, static_cast<int>(end - begin), source.stride,
                   phases * plane, zero, into);
        continue;
      }
      for (int64_t c = begin; c < end; ++c)
        pack_block(s, parts[f], data + source.base[c], 0, 1, source.stride, 0, zero, into + (c - begin) * phases * plane);
    }
  });
  std::fill_n(packed + channels * phases * plane, kTileBytes / sizeof(U), zero);
}

const void* pack(const Shift& s, const Planes& source, const Kernels& k, int threads, Scratch purpose) {
  const std::size_t elements = source.base.size() * s.source_phases.size() * static_cast<std::size_t>(s.plane());
  void* packed = scratch(purpose, elements * k.size + kTileBytes);
  switch (k.size) {
    case 1: pack_as(s, source, k.zero, threads, static_cast<uint8_t*>(packed)); break;
    case 2: pack_as(s, source, k.zero, threads, static_cast<uint16_t*>(packed)); break;
    case 4: pack_as(s, source, k.zero, threads, static_cast<uint32_t*>(packed)); break;
    default: pack_as(s, source, k.zero, threads, static_cast<uint64_t*>(packed)); break;
  }
  return packed;
}

// ---- the dense short cut -------------------------------------------------------------------------------------

void fill(void* target, int64_t elements, const Kernels& k) {
  switch (k.size) {
    case 1: std::fill_n(static_cast<uint8_t*>(target), elements, static_cast<uint8_t>(k.zero)); break;
    case 2: std::fill_n(static_cast<uint16_t*>(target), elements, static_cast<uint16_t>(k.zero)); break;
    case 4: std::fill_n(static_cast<uint32_t*>(target), elements, static_cast<uint32_t>(k.zero)); break;
    default: std::fill_n(static_cast<uint64_t*>(target), elements, k.zero); break;
  }
}

// The channels of each group joined to one plane.
Planes join_channels(const Pattern& p, const Kernels& k, const Planes& source, int threads) {
  const Triple& n = p.shift.source;
  const int64_t plane = n[0] * n[1] * n[2], per = p.source_channels / p.groups, lines = n[0] * n[1];
  char* joined = static_cast<char*>(scratch(kReduced, static_cast<std::size_t>(p.groups * plane) * k.size));
  const char* data = static_cast<const char*>(source.data);
  const bool across = per > n[2] && per > 1;  // short lines: run along the channels instead
  const int64_t chunk = std::max<int64_t>(1, std::min(lines, 4096 / std::max<int64_t>(1, n[2])));
  const int64_t chunks = (lines + chunk - 1) / chunk;
  parallel(p.source_channels * plane > 1 << 14 ? threads : 1, p.groups * chunks, [&](int64_t task) {
    const int64_t g = task / chunks, begin = task % chunks * chunk, end = std::min(lines, begin + chunk);
    char* plane_of = joined + g * plane * k.size;
    fill(plane_of + begin * n[2] * k.size, (end - begin) * n[2], k);
    const int64_t* base = source.base.data() + g * per;
    Line job{};
    if (across) {
      // Evenly spaced channels are a line themselves; its neighbours in the caller's memory come one after another.
      const int64_t step = base[1] - base[0];
      bool even = true;
      for (int64_t c = 1; c < per; ++c) even = even && base[c] - base[c - 1] == step;
      if (even && (step == 1 || n[2] == 1)) {
        for (int64_t line = begin; line < end; ++line)
          for (int64_t w = 0; w < n[2]; ++w) {
            job.target = plane_of + (line * n[2] + w) * k.size;
            job.source = data + (base[0] + line / n[1] * source.stride[0] + line % n[1] * source.stride[1] +
                                 w * source.stride[2]) * k.size;
            job.target_step = 0, job.source_step = step, job.length = per;
            k.reduce(job);
          }
        return;
      }
    }
    job.target_step = 1, job.source_step = source.stride[2], job.length = n[2];
    const bool whole = source.stride[1] == n[2] * source.stride[2] && source.stride[0] == n[1] * source.stride[1];
    if (whole) job.length = (end - begin) * n[2];
    for (int64_t c = 0; c < per; ++c)
      for (int64_t line = begin; line < end; line += whole ? end - begin : 1) {
        job.target = plane_of + line * n[2] * k.size;
        job.source = data + (base[c] + line / n[1] * source.stride[0] + line % n[1] * source.stride[1]) * k.size;
        k.reduce(job);
      }
  });
  Planes planes;
  planes.data = joined;
  for (int64_t g = 0; g < p.groups; ++g) planes.base.push_back(g * plane);
  planes.stride = {n[1] * n[2], n[2], 1};
  return planes;
}

// ---- rows ----------------------------------------------------------------------------------------------------

// Where the elements [begin, end) of a target plane of one phase go.
std::vector<Segment> segments(const Shift& s, const Triple& phase, const Triple& stride, int64_t begin, int64_t end) {
  std::vector<Segment> out;
  Triple count, step;
  int64_t origin = 0;
  for (int a = 0; a < kAxes; ++a) {
    count[a] = (s.target[a] - phase[a] + s.target_scale[a] - 1) / s.target_scale[a];
    step[a] = stride[a] * s.target_scale[a];
    origin += phase[a] * stride[a];
  }
  const int64_t pitch = s.extent[2];
  for (int64_t line = begin / pitch; line * pitch < end; ++line) {
    const int64_t d = line / s.extent[1], h = line % s.extent[1];
    if (d >= count[0]) break;
    if (h >= count[1]) continue;
    const int64_t low = std::max(begin, line * pitch), high = std::min(end, line * pitch + count[2]);
    if (low >= high) continue;
    const Segment next{static_cast<int32_t>(low - begin), static_cast<int32_t>(high - low),
                       origin + d * step[0] + h * step[1] + (low - line * pitch) * step[2]};
    if (!out.empty() && out.back().from + out.back().length == next.from &&
        out.back().to + out.back().length * step[2] == next.to)
      out.back().length += next.length;
    else
      out.push_back(next);
  }
  return out;
}

void run_table(const Pattern& p, const Table& table, const Kernels& k, const void* packed, const Planes& target,
               const Options& o) {
  if (table.rows() == 0) return;
  const Shift& s = p.shift;
  const int64_t length = s.length(), per_vector = isa().vector_bytes / k.size;
  const bool weighted = o.weights != nullptr && &table == &p.sparse;
  const int64_t vectors = (length + per_vector - 1) / per_vector;
  const int64_t tiles = length == 1 ? 1 : (vectors + kMaxVectors - 1) / kMaxVectors;
  const int64_t phases = static_cast<int64_t>(s.target_phases.size());
  const int64_t work = (static_cast<int64_t>(table.offset.size()) + static_cast<int64_t>(table.channel.size())) * length;
  const int threads = work > 1 << 14 ? o.threads : 1;
  // Enough blocks of rows to keep all threads busy to the end.
  const int64_t wanted = threads > 1 ? 8 * threads : 1;
  const int64_t blocks = std::max<int64_t>(1, std::min((wanted + tiles * phases - 1) / (tiles * phases),
                                                       (table.rows() / phases + 7) / 8));
  parallel(threads, tiles * phases * blocks, [&](int64_t task) {
    const int64_t tile = task / (phases * blocks), phase = task / blocks % phases, block = task % blocks;
    const int64_t first = table.phase_start[phase], rows = table.phase_start[phase + 1] - first;
    Rows job{};
    job.begin = first + rows * block / blocks, job.end = first + rows * (block + 1) / blocks;
    if (job.begin == job.end) return;
    // Tiles of nearly equal width: few vectors would waste the reads of the entries.
    const int64_t begin = vectors * tile / tiles * per_vector, end = vectors * (tile + 1) / tiles * per_vector;
    const std::vector<Segment> parts =
        segments(s, s.target_phases[phase], target.stride, length == 1 ? 0 : begin, std::min(length, end));
    if (parts.empty()) return;
    job.start = table.start.data(), job.offset = table.offset.data();
    job.fan = table.fan.data(), job.channel = table.channel.data();
    job.weight = weighted ? o.weights : nullptr;
    job.source = static_cast<const char*>(packed) + begin * k.size;
    job.target = target.data, job.base = target.base.data();
    job.segments = parts.data(), job.segment_count = static_cast<int64_t>(parts.size());
    job.step = target.stride[2] * s.target_scale[2];
    job.join = o.join, job.last = o.last && !weighted, job.prime = o.prime;
    const int64_t width = length == 1 ? 0 : (end - begin) / per_vector;
    (weighted ? k.weighted : k.rows)[width](job);
  });
}

}  // namespace

void run(const Pattern& p, Semiring semiring, const Planes& source, const Planes& target, const Options& o) {
  const Kernels& k = isa().kernels[semiring];
  const Shift& s = p.shift;
  if (s.target[0] * s.target[1] * s.target[2] == 0 || target.base.empty()) return;
  const void* dense = nullptr;
  // Everything is read before anything is written: source and target may be the same memory.
  if (p.dense.rows()) dense = pack(s, join_channels(p, k, source, o.threads), k, o.threads, kDensePlanes);
  const void* sparse = p.sparse.rows() ? pack(s, source, k, o.threads, kPlanes) : nullptr;
  run_table(p, p.dense, k, dense, target, o);
  run_table(p, p.sparse, k, sparse, target, o);
}

void run_identity(Semiring semiring, const Elements& e, const Options& o) {
  const Kernels& k = isa().kernels[semiring];
  // Neighbouring axes that are one stretch of memory on all sides become one; the longest of what is left is inner.
  struct Axis {
    int64_t n, target, source, kept;
  };
  std::vector<Axis> axes;
  for (std::size_t a = 0; a < e.shape.size(); ++a) {
    if (e.shape[a] == 0) return;
    if (e.shape[a] == 1) continue;
    const Axis next{e.shape[a], e.target_stride[a], e.source_stride[a], e.kept ? e.kept_stride[a] : 0};
    if (!axes.empty() && axes.back().target == next.n * next.target && axes.back().source == next.n * next.source &&
        axes.back().kept == next.n * next.kept) {
      axes.back() = {axes.back().n * next.n, next.target, next.source, next.kept};
    } else {
      axes.push_back(next);
    }
  }
  if (axes.empty()) axes.push_back({1, 1, 1, 0});
  std::size_t inner = axes.size() - 1;
  for (std::size_t a = 0; a + 1 < axes.size(); ++a)
    if (axes[a].target < axes[inner].target || (axes[inner].n < 8 && axes[a].n > 8 * axes[inner].n)) inner = a;
  std::swap(axes[inner], axes.back());
  const Axis line = axes.back();
  const int64_t chunk = 8192, pieces = (line.n + chunk - 1) / chunk;
  int64_t outer = 1;
  for (std::size_t a = 0; a + 1 < axes.size(); ++a) outer *= axes[a].n;
  // Short lines go many to a task.
  const int64_t batch = std::max<int64_t>(1, chunk / line.n);
  const int64_t groups = (outer + batch - 1) / batch;
  parallel(outer * line.n > 1 << 14 ? o.threads : 1, groups * pieces, [&](int64_t task) {
    const int64_t piece = task % pieces, from = piece * chunk;
    const int64_t low = task / pieces * batch, high = std::min(outer, low + batch);
    for (int64_t index = low; index < high; ++index) {
      int64_t target = from * line.target, source = from * line.source, kept = from * line.kept, rest = index;
      for (std::size_t a = axes.size() - 1; a-- > 0;) {
        const int64_t i = rest % axes[a].n;
        rest /= axes[a].n;
        target += i * axes[a].target, source += i * axes[a].source, kept += i * axes[a].kept;
      }
      Line job{};
      job.target = static_cast<char*>(e.target) + target * k.size;
      job.source = static_cast<const char*>(e.source) + source * k.size;
      job.kept = e.kept ? e.kept + kept : nullptr;
      job.target_step = line.target, job.source_step = line.source, job.kept_step = line.kept;
      job.length = std::min(chunk, line.n - from);
      job.join = o.join, job.last = o.last, job.prime = o.prime;
      k.line(job);
    }
  });
}

}  // namespace deepstruct::sweeps
