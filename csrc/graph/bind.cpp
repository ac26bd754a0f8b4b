// deepstruct._graph: compiled patterns and their semiring passes, on NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "pattern.h"
#include "pool.h"
#include "run.h"
#include "survey.h"

namespace py = pybind11;
using namespace deepstruct::sweeps;

#if defined(DEEPSTRUCT_EXPLICIT)
void bind_explicit(py::module_& m);
#endif

namespace {

struct Format {
  const char* name;
  char kind;  // of the NumPy dtype; 'i' stands for signed and unsigned alike
};

// In the order of Semiring.
constexpr Format kFormats[kSemirings] = {
    {"sum_f32", 'f'}, {"sum_f64", 'f'}, {"mod", 'i'},     {"or_u8", 'i'},      {"or_u64", 'i'},  {"min_u16", 'i'},
    {"max_u16", 'i'}, {"min_i32", 'i'}, {"max_i32", 'i'}, {"widest_f32", 'f'}, {"min_f32", 'f'}, {"max_f32", 'f'},
};

Semiring semiring_of(const std::string& name) {
  for (int i = 0; i < kSemirings; ++i)
    if (name == kFormats[i].name) return static_cast<Semiring>(i);
  throw py::value_error("there is no semiring " + name);
}

// A NumPy scalar type that can hold the semiring's values.
void check_type(const py::array& array, Semiring semiring, const char* what) {
  char kind = array.dtype().kind();
  if (kind == 'u' || kind == 'b') kind = 'i';
  if (kind != kFormats[semiring].kind || array.itemsize() != isa().kernels[semiring].size)
    throw py::type_error(std::string(what) + " has a dtype that does not fit " + kFormats[semiring].name);
}

std::vector<int64_t> element_strides(const py::array& array) {
  std::vector<int64_t> strides;
  for (py::ssize_t a = 0; a < array.ndim(); ++a) {
    if (array.strides(a) < 0 || array.strides(a) % array.itemsize() != 0)
      throw py::value_error("strides must be whole elements, not below 0");
    strides.push_back(array.strides(a) / array.itemsize());
  }
  return strides;
}

// (samples, groups, channels of a group, depth, height, width)
constexpr int kRank = 6;

void check_planes(const py::array& array, int64_t channels, const Triple& extent, const char* what) {
  bool fits = array.ndim() == kRank && array.shape(1) * array.shape(2) == channels;
  for (int a = 0; fits && a < kAxes; ++a) fits = array.shape(3 + a) == extent[a];
  if (!fits)
    throw py::value_error(std::string(what) + " must have the shape (n, groups, channels, depth, height, width) of the " +
                          "pattern: " + std::to_string(channels) + " channels of " + std::to_string(extent[0]) + "x" +
                          std::to_string(extent[1]) + "x" + std::to_string(extent[2]));
}

Planes planes_of(const py::array& array, void* data) {
  const std::vector<int64_t> stride = element_strides(array);
  Planes planes;
  planes.data = data;
  planes.stride = {stride[3], stride[4], stride[5]};
  planes.base.reserve(static_cast<std::size_t>(array.shape(1) * array.shape(2)));
  for (int64_t g = 0; g < array.shape(1); ++g)
    for (int64_t c = 0; c < array.shape(2); ++c) planes.base.push_back(g * stride[1] + c * stride[2]);
  return planes;
}

void run_pattern(const Pattern& pattern, const std::string& name, const py::array& source, py::array& target, bool join,
                 bool last, int64_t prime, int threads, const std::optional<py::array>& weights) {
  const Semiring semiring = semiring_of(name);
  check_type(source, semiring, "the source");
  check_type(target, semiring, "the target");
  check_planes(source, pattern.source_channels, pattern.shift.source, "the source");
  check_planes(target, pattern.target_channels, pattern.shift.target, "the target");
  if (source.shape(0) != target.shape(0)) throw py::value_error("source and target differ in their samples");
  Options options;
  options.join = join, options.last = last, options.prime = prime, options.threads = threads;
  if (semiring == kMod && (prime < 2 || pattern.largest_row >= INT64_MAX / prime))
    throw py::value_error("the prime is too small, or too large for the most edges into one element");
  if (weights) {
    check_type(*weights, semiring, "the weights");
    if (isa().kernels[semiring].weighted[0] == nullptr) throw py::value_error(name + " knows no weights");
    if (weights->ndim() != 1 || weights->size() != static_cast<py::ssize_t>(pattern.sparse.offset.size()) ||
        pattern.weight_index.size() != pattern.sparse.offset.size() || 
        (weights->size() > 1 && weights->strides(0) != weights->itemsize()))
      throw py::value_error("there must be one weight beside every entry of a pattern with weights");
    options.weights = weights->data();
  }
  char* to = static_cast<char*>(target.mutable_data());
  const char* from = static_cast<const char*>(source.data());
  Planes in = planes_of(source, const_cast<char*>(from)), out = planes_of(target, to);
  const int64_t samples = source.shape(0), in_step = source.strides(0), out_step = target.strides(0);
  py::gil_scoped_release release;
  for (int64_t n = 0; n < samples; ++n) {
    in.data = const_cast<char*>(from) + n * in_step;
    out.data = to + n * out_step;
    run(pattern, semiring, in, out, options);
  }
}

void identity(const std::string& name, const py::array& source, py::array& target, const std::optional<py::array>& kept,
              bool join, bool last, int64_t prime, int threads) {
  const Semiring semiring = semiring_of(name);
  check_type(source, semiring, "the source");
  check_type(target, semiring, "the target");
  if (semiring == kMod && prime < 2) throw py::value_error("the prime is too small");
  const auto same = [&](const py::array& other) {
    if (other.ndim() != target.ndim()) return false;
    for (py::ssize_t a = 0; a < target.ndim(); ++a)
      if (other.shape(a) != target.shape(a)) return false;
    return true;
  };
  if (!same(source) || (kept && !same(*kept))) throw py::value_error("source, target and kept must have one shape");
  if (kept && kept->itemsize() != 1) throw py::type_error("kept must have one byte per element");
  Elements e;
  e.target = target.mutable_data(), e.source = source.data();
  for (py::ssize_t a = 0; a < target.ndim(); ++a) e.shape.push_back(target.shape(a));
  e.target_stride = element_strides(target), e.source_stride = element_strides(source);
  if (kept) e.kept = static_cast<const uint8_t*>(kept->data()), e.kept_stride = element_strides(*kept);
  Options options;
  options.join = join, options.last = last, options.prime = prime, options.threads = threads;
  py::gil_scoped_release release;
  run_identity(semiring, e, options);
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Words = py::array_t<uint64_t, py::array::c_style>;
using Integers = py::array_t<int64_t, py::array::c_style>;

// The geometry that `windows` and `from_bits` share.
std::array<Window, kAxes> windows_of(const std::vector<std::array<int64_t, 6>>& axes, WeightLayout& layout) {
  if (axes.size() != kAxes) throw py::value_error("three axes, please");
  std::array<Window, kAxes> parts;
  for (int a = 0; a < kAxes; ++a) {
    parts[a] = {axes[a][0], axes[a][1], axes[a][2], axes[a][3], axes[a][4], axes[a][5]};
    if (parts[a].reader < 0 || parts[a].read < 0 || parts[a].taps < 1 || parts[a].stride < 1 || parts[a].dilation < 1)
      throw py::value_error("a window needs extents of at least 0, and taps, stride and dilation of at least 1");
    layout.taps *= parts[a].taps;
  }
  if (layout.groups < 1 || layout.first < 0 || layout.second < 0 || layout.first % layout.groups != 0)
    throw py::value_error("channels do not fit groups");
  return parts;
}

std::unique_ptr<Pattern> windows(const std::optional<Bytes>& alive, int64_t first, int64_t second, int64_t groups,
                                 bool source_first, const std::vector<std::array<int64_t, 6>>& axes, bool gather,
                                 bool weights) {
  WeightLayout layout{first, second, 1, groups, source_first};
  const std::array<Window, kAxes> parts = windows_of(axes, layout);
  const Stored stored{first, second, layout.taps, groups};
  if (alive && alive->size() != first * stored.width()) throw py::value_error("one byte per weight, please");
  const uint8_t* data = alive ? alive->data() : nullptr;
  py::gil_scoped_release release;
  std::vector<uint64_t> bits(static_cast<std::size_t>(data ? first * stored.words() : 0));
  if (data) mark<uint8_t>(data, stored, 0, 1, bits.data());
  return std::make_unique<Pattern>(
      make_pattern(data ? bits.data() : nullptr, layout, make_shift(parts, gather), weights));
}

std::unique_ptr<Pattern> from_bits(const std::optional<Words>& bits, int64_t first, int64_t second, int64_t groups,
                                   bool source_first, const std::vector<std::array<int64_t, 6>>& axes, bool gather,
                                   bool weights, int threads) {
  WeightLayout layout{first, second, 1, groups, source_first};
  const std::array<Window, kAxes> parts = windows_of(axes, layout);
  if (bits && bits->size() != first * Stored{first, second, layout.taps, groups}.words())
    throw py::value_error("one bit per weight, every row in words of its own, please");
  const uint64_t* data = bits ? bits->data() : nullptr;
  py::gil_scoped_release release;
  return std::make_unique<Pattern>(make_pattern(data, layout, make_shift(parts, gather), weights, threads));
}

Stored stored_of(int64_t size, int64_t rows, int64_t columns, int64_t taps, int64_t groups) {
  if (rows < 0 || columns < 0 || taps < 1 || groups < 1 || rows % groups != 0 || size != rows * columns * taps)
    throw py::value_error("weights of another shape than (rows, columns, taps), or rows that do not fit groups");
  return Stored{rows, columns, taps, groups};
}

// One bit for each weight that is an edge, and how many there are by row and by column.
template <typename T>
py::tuple survey(const py::array_t<T, py::array::c_style>& weights, int64_t rows, int64_t columns, int64_t taps,
                 int64_t groups, double threshold, int threads) {
  const Stored stored = stored_of(weights.size(), rows, columns, taps, groups);
  Words bits({rows, stored.words()});
  Integers by_row({rows, taps}), by_column({groups, columns, taps});
  const T* data = weights.data();
  uint64_t* words = bits.mutable_data();
  int64_t *r = by_row.mutable_data(), *c = by_column.mutable_data();
  {
    py::gil_scoped_release release;
    mark<T>(data, stored, static_cast<T>(threshold), threads, words);
    std::fill_n(r, rows * taps, int64_t{0});
    std::fill_n(c, groups * stored.width(), int64_t{0});
    count(stored, words, threads, r, c);
  }
  return py::make_tuple(bits, by_row, by_column);
}

// Sums of the magnitudes of the weights whose bit is set (without bits: of all), by row and by column.
template <typename T>
py::tuple sizes(const py::array_t<T, py::array::c_style>& weights, const std::optional<Words>& bits, int64_t rows,
                int64_t columns, int64_t taps, int64_t groups, int threads) {
  const Stored stored = stored_of(weights.size(), rows, columns, taps, groups);
  if (bits && bits->size() != rows * stored.words()) throw py::value_error("one bit per weight, please");
  py::array_t<double> by_row({rows, taps}), by_column({groups, columns, taps});
  const T* data = weights.data();
  const uint64_t* words = bits ? bits->data() : nullptr;
  double *r = by_row.mutable_data(), *c = by_column.mutable_data();
  {
    py::gil_scoped_release release;
    std::vector<uint64_t> all;
    if (words == nullptr) {
      all.resize(static_cast<std::size_t>(rows * stored.words()));
      fill_bits(stored, all.data());
      words = all.data();
    }
    std::fill_n(r, rows * taps, 0.0);
    std::fill_n(c, groups * stored.width(), 0.0);
    magnitudes<T>(data, stored, words, threads, r, c);
  }
  return py::make_tuple(by_row, by_column);
}

template <typename T>
void bind_survey(py::module_& m, const char* code) {
  m.def((std::string("survey_") + code).c_str(), &survey<T>, py::arg("weights").noconvert(), py::arg("rows"),
        py::arg("columns"), py::arg("taps"), py::arg("groups"), py::arg("threshold"), py::arg("threads"));
  if constexpr (std::is_floating_point_v<T>)
    m.def((std::string("magnitudes_") + code).c_str(), &sizes<T>, py::arg("weights").noconvert(),
          py::arg("bits").none(true), py::arg("rows"), py::arg("columns"), py::arg("taps"), py::arg("groups"),
          py::arg("threads"));
}

std::unique_ptr<Pattern> list(const Integers& sources, const Integers& targets, int64_t source_elements,
                              int64_t target_elements, bool weights) {
  if (sources.size() != targets.size()) throw py::value_error("one source and one target per edge, please");
  const int64_t *s = sources.data(), *t = targets.data(), n = sources.size();
  py::gil_scoped_release release;
  return std::make_unique<Pattern>(make_list(s, t, n, source_elements, target_elements, weights));
}

}  // namespace

PYBIND11_MODULE(_graph, m) {
  m.doc() = "Compiled edge patterns and their semiring passes.";
  py::class_<Pattern>(m, "Pattern", "The pattern of an operator in one direction, as a shift-CSR.")
      .def_static("windows", &windows, py::arg("alive").none(true), py::arg("first"), py::arg("second"),
                  py::arg("groups"), py::arg("source_first"), py::arg("axes"), py::arg("gather"), py::arg("weights"),
                  "From weights (first, second per group, taps) and, per axis, (reader, read, taps, stride, padding, "
                  "dilation).")
      .def_static("from_bits", &from_bits, py::arg("bits").none(true), py::arg("first"), py::arg("second"),
                  py::arg("groups"), py::arg("source_first"), py::arg("axes"), py::arg("gather"), py::arg("weights"),
                  py::arg("threads"), "The same from one bit per weight, as `survey` makes them.")
      .def_static("list", &list, py::arg("sources"), py::arg("targets"), py::arg("source_elements"),
                  py::arg("target_elements"), py::arg("weights"), "From explicit edges.")
      .def_property_readonly("bytes", &Pattern::bytes)
      .def_property_readonly("entries", [](const Pattern& p) { return p.sparse.offset.size() + p.dense.offset.size(); })
      .def_property_readonly("full_rows", [](const Pattern& p) { return p.dense.channel.size(); })
      .def_property_readonly("largest_row", [](const Pattern& p) { return p.largest_row; })
      .def_property_readonly("weight_index",
                             [](const Pattern& p) {
                               return py::array_t<uint32_t>(static_cast<py::ssize_t>(p.weight_index.size()),
                                                            p.weight_index.data());
                             })
      .def("run", &run_pattern, py::arg("semiring"), py::arg("source"), py::arg("target"), py::arg("join"),
           py::arg("last"), py::arg("prime"), py::arg("threads"), py::arg("weights").none(true));
  m.def("identity", &identity, py::arg("semiring"), py::arg("source"), py::arg("target"), py::arg("kept").none(true),
        py::arg("join"), py::arg("last"), py::arg("prime"), py::arg("threads"));
  bind_survey<float>(m, "f32");
  bind_survey<double>(m, "f64");
  bind_survey<uint8_t>(m, "u8");
  m.def("isa", [] { return isa().name; });
  m.def("scratch_bytes", &scratch_bytes);
  m.def("release_scratch", &release_scratch);
#if defined(DEEPSTRUCT_EXPLICIT)
  bind_explicit(m);
#endif
}
