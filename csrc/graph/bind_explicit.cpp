// numpy in and out: the functions of `explicit.h` on arrays that Python owns.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "explicit.h"

namespace py = pybind11;
using namespace deepstruct::graph;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Per axis: start (positions + 1), out, tap, and the strides in the source, in the target and in the kernel.
using AxisTuple = std::tuple<Array<int64_t>, Array<int32_t>, Array<int32_t>, int64_t, int64_t, int64_t>;

void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

Ends ends_of(const Array<int32_t>& source, const Array<int32_t>& target, int64_t nodes) {
  const Ends ends{source.data(), source.size(), target.data(), target.size()};
  expect(ends.num_source <= INT32_MAX && ends.num_target <= INT32_MAX, "an operand has 2^31 elements or more");
  expect(largest(ends.source, ends.num_source) < nodes, "a source element has no such node");
  expect(largest(ends.target, ends.num_target) < nodes, "a target element has no such node");
  return ends;
}

// Where weights lie: strides of channel, output and group, and the offset of each tap.
using PlacesTuple = std::tuple<int64_t, int64_t, int64_t, Array<int64_t>>;

Window geometry_of(const py::dict& geometry) {
  const auto number = [&](const char* key) { return geometry[key].cast<int64_t>(); };
  Window w{};
  w.batch = number("batch");
  w.source_batch = number("source_batch");
  w.target_batch = number("target_batch");
  w.channels = number("channels");
  w.group_in = number("group_in");
  w.group_out = number("group_out");
  w.source_channel = number("source_channel");
  w.target_channel = number("target_channel");
  w.taps = number("taps");
  w.mirrored = number("mirrored") != 0;
  expect(w.batch >= 0 && w.channels >= 0 && w.group_in > 0 && w.group_out > 0 && w.taps > 0,
         "a window with no channels or taps");
  expect(w.taps <= INT32_MAX && w.group_out <= INT32_MAX && w.group_out * w.taps <= UINT32_MAX,
         "a kernel with 2^32 taps or more");
  return w;
}

// Geometry from Python; every element that it can reach is checked to lie inside both operands.
Window window_of(const py::dict& geometry, const std::vector<AxisTuple>& axes, const std::optional<Array<uint64_t>>& alive,
                 const Ends& ends) {
  Window w = geometry_of(geometry);
  w.alive = alive ? alive->data() : nullptr;
  if (alive) expect(alive->size() == w.channels * w.words(), "the mask has another size");
  int64_t source = 0, target = 0, tap = 0;
  for (const auto& [start, out, taps, source_stride, target_stride, tap_stride] : axes) {
    const Axis axis{start.size() - 1, start.data(), out.data(), taps.data(), source_stride, target_stride, tap_stride};
    expect(axis.positions >= 0 && axis.start[0] == 0 && axis.start[axis.positions] == out.size() &&
               out.size() == taps.size() && source_stride >= 0 && target_stride >= 0 && tap_stride >= 0,
           "an axis whose table is torn");
    int64_t out_max = 0, tap_max = 0;
    for (int64_t i = 0; i < axis.positions; ++i) expect(axis.start[i] <= axis.start[i + 1], "an axis runs backwards");
    for (int64_t e = 0; e < out.size(); ++e) {
      expect(axis.out[e] >= 0 && axis.tap[e] >= 0, "an axis with a negative entry");
      out_max = std::max<int64_t>(out_max, axis.out[e]);
      tap_max = std::max<int64_t>(tap_max, axis.tap[e]);
    }
    source += std::max<int64_t>(axis.positions - 1, 0) * source_stride;
    target += out_max * target_stride;
    tap += tap_max * tap_stride;
    w.axes.push_back(axis);
  }
  if (w.batch > 0 && w.channels > 0) {
    const int64_t groups = (w.channels - 1) / w.group_in + 1;
    source += (w.batch - 1) * w.source_batch + (w.channels - 1) * w.source_channel;
    target += (w.batch - 1) * w.target_batch + (groups * w.group_out - 1) * w.target_channel;
    expect(source < ends.num_source && target < ends.num_target && tap < w.taps, "a window reaches beyond its operands");
  }
  return w;
}

// Places from Python; each is checked to lie within `size` numbers.
Places places_of(const PlacesTuple& given, const Window& w, int64_t size) {
  Places p;
  p.channel = std::get<0>(given);
  p.output = std::get<1>(given);
  p.group = std::get<2>(given);
  const Array<int64_t>& taps = std::get<3>(given);
  expect(taps.size() == w.taps && p.channel >= 0 && p.output >= 0, "places that do not fit the window");
  p.taps.assign(taps.data(), taps.data() + taps.size());
  const auto [low, high] = std::minmax_element(p.taps.begin(), p.taps.end());
  for (int64_t c = 0; c < w.channels; c += w.group_in) {
    const int64_t first = c / w.group_in * p.group + c * p.channel;
    const int64_t last = first + (std::min(w.group_in, w.channels - c) - 1) * p.channel + (w.group_out - 1) * p.output;
    expect(first + *low >= 0 && last + *high < size, "a weight that is not there");
  }
  return p;
}

template <typename T>
void bind_pack(py::module_& m, const char* name) {
  m.def(
      name,
      [](const py::dict& geometry, const Array<T>& data, const PlacesTuple& where, T threshold) {
        const Window window = geometry_of(geometry);
        const Places places = places_of(where, window, data.size());
        Array<uint64_t> bits(window.channels * window.words());
        uint64_t* const out = bits.mutable_data();
        {
          py::gil_scoped_release released;
          std::fill(out, out + window.channels * window.words(), uint64_t{0});
          pack<T>(window, data.data(), places, threshold, out);
        }
        return bits;
      },
      py::arg("geometry"), py::arg("data").noconvert(), py::arg("places"), py::arg("threshold"));
}

// `data` are the stored weights; without them, `first` is the position of the first one, or -1 for a constant.
Numbers numbers_of(const std::optional<py::array>& data, const std::optional<PlacesTuple>& where, int64_t first,
                   const Window& w) {
  Numbers n;
  if (data) {
    const bool single = py::isinstance<Array<float>>(*data);
    expect((single || py::isinstance<Array<double>>(*data)) && where.has_value(), "weights are float32 or float64");
    n.kind = single ? Numbers::Kind::single : Numbers::Kind::full;
    n.data = data->data();
    n.places = places_of(*where, w, data->size());
  } else if (first >= 0) {
    expect(where.has_value(), "positions need places");
    n.kind = Numbers::Kind::position;
    n.first = first;
    n.places = places_of(*where, w, INT64_MAX);
  }
  return n;
}

List list_of(const std::optional<Array<int64_t>>& rows, const std::optional<Array<int64_t>>& cols, const Ends& ends) {
  expect(rows.has_value() == cols.has_value(), "rows and cols come together or not at all");
  if (!rows) {
    expect(ends.num_source == ends.num_target, "an identity between operands of two sizes");
    return {nullptr, nullptr, ends.num_source};
  }
  expect(rows->size() == cols->size(), "as many rows as cols");
  const List list{rows->data(), cols->data(), rows->size()};
  for (int64_t e = 0; e < list.size; ++e)
    expect(list.rows[e] >= 0 && list.rows[e] < ends.num_source && list.cols[e] >= 0 && list.cols[e] < ends.num_target,
           "an edge between elements that are not there");
  return list;
}

// Whether the rows cover the columns.
bool whole(const Array<int64_t>& start, const Array<int32_t>& columns) {
  const int64_t nodes = start.size() - 1;
  return nodes >= 0 && start.data()[0] == 0 && start.data()[nodes] == columns.size() &&
         std::is_sorted(start.data(), start.data() + nodes + 1);
}

template <typename V>
Rows<V> rows_of(Array<int64_t>& start, Array<int32_t>& columns, std::optional<Array<V>>& values) {
  expect(!values || values->size() == columns.size(), "as many values as columns");
  return {start.mutable_data() + 1, columns.mutable_data(), values ? values->mutable_data() : nullptr, columns.size()};
}

template <typename V>
void bind_fill(py::module_& m, const char* window_name, const char* list_name, const char* finish_name) {
  m.def(
      window_name,
      [](const py::dict& geometry, const std::vector<AxisTuple>& axes, const std::optional<Array<uint64_t>>& alive,
         const std::optional<py::array>& data, const std::optional<PlacesTuple>& places, int64_t first, V constant,
         const Array<int32_t>& source, const Array<int32_t>& target, Array<int64_t> start, Array<int32_t> columns,
         std::optional<Array<V>> values) {
        const Ends ends = ends_of(source, target, start.size() - 1);
        const Window window = window_of(geometry, axes, alive, ends);
        const Numbers numbers = numbers_of(data, places, first, window);
        const Rows<V> rows = rows_of<V>(start, columns, values);
        py::gil_scoped_release released;
        fill<V>(window, ends, numbers, constant, rows);
      },
      py::arg("geometry"), py::arg("axes"), py::arg("alive").noconvert().none(true), py::arg("data").none(true),
      py::arg("places").none(true), py::arg("first"), py::arg("constant"), py::arg("source").noconvert(),
      py::arg("target").noconvert(), py::arg("start").noconvert(), py::arg("columns").noconvert(),
      py::arg("values").noconvert().none(true));
  m.def(
      list_name,
      [](const std::optional<Array<int64_t>>& from, const std::optional<Array<int64_t>>& to,
         const std::optional<Array<V>>& stored, V constant, const Array<int32_t>& source, const Array<int32_t>& target,
         Array<int64_t> start, Array<int32_t> columns, std::optional<Array<V>> values) {
        const Ends ends = ends_of(source, target, start.size() - 1);
        const List list = list_of(from, to, ends);
        expect(!stored || stored->size() == list.size, "as many stored numbers as edges");
        const Rows<V> rows = rows_of<V>(start, columns, values);
        const V* numbers = stored ? stored->data() : nullptr;
        py::gil_scoped_release released;
        fill<V>(list, ends, numbers, constant, rows);
      },
      py::arg("rows").noconvert().none(true), py::arg("cols").noconvert().none(true),
      py::arg("stored").noconvert().none(true), py::arg("constant"), py::arg("source").noconvert(),
      py::arg("target").noconvert(), py::arg("start").noconvert(), py::arg("columns").noconvert(),
      py::arg("values").noconvert().none(true));
  m.def(
      finish_name,
      [](const Array<int64_t>& start, Array<int32_t> columns, std::optional<Array<V>> values) {
        const int64_t nodes = start.size() - 1;
        expect(whole(start, columns), "the starts are torn, or end elsewhere than the columns do");
        expect(!values || values->size() == columns.size(), "as many values as columns");
        int32_t* const column = columns.mutable_data();
        V* const value = values ? values->mutable_data() : nullptr;
        py::gil_scoped_release released;
        return finish<V>(nodes, start.data(), column, value);
      },
      py::arg("start").noconvert(), py::arg("columns").noconvert(), py::arg("values").noconvert().none(true));
}

}  // namespace

void bind_explicit(py::module_& m) {
  m.def(
      "csr_count_window",
      [](const py::dict& geometry, const std::vector<AxisTuple>& axes, const std::optional<Array<uint64_t>>& alive,
         const Array<int32_t>& source, const Array<int32_t>& target, Array<int64_t> start) {
        const Ends ends = ends_of(source, target, start.size() - 1);
        const Window window = window_of(geometry, axes, alive, ends);
        int64_t* const degree = start.mutable_data() + 1;
        py::gil_scoped_release released;
        count(window, ends, degree);
      },
      py::arg("geometry"), py::arg("axes"), py::arg("alive").noconvert().none(true), py::arg("source").noconvert(),
      py::arg("target").noconvert(), py::arg("start").noconvert());
  m.def(
      "csr_count_alive",
      [](const py::dict& geometry, const std::vector<AxisTuple>& axes, const Array<int64_t>& alive,
         const Array<int32_t>& source, const Array<int32_t>& target, Array<int64_t> start) {
        const Ends ends = ends_of(source, target, start.size() - 1);
        const Window window = window_of(geometry, axes, std::nullopt, ends);
        expect(alive.size() == window.channels * window.taps, "a number for every channel and tap");
        int64_t* const degree = start.mutable_data() + 1;
        py::gil_scoped_release released;
        count(window, ends, alive.data(), degree);
      },
      py::arg("geometry"), py::arg("axes"), py::arg("alive"), py::arg("source").noconvert(),
      py::arg("target").noconvert(), py::arg("start").noconvert());
  m.def(
      "csr_turn",
      [](const py::dict& geometry, const Array<uint64_t>& stored) {
        const Window window = geometry_of(geometry);
        expect(window.channels % window.group_in == 0, "groups of one size");
        expect(window.group_in * window.taps <= UINT32_MAX, "a row with 2^32 weights or more");
        const int64_t rows = window.channels / window.group_in * window.group_out;
        expect(stored.size() == rows * ((window.group_in * window.taps + 63) / 64), "bits of another size");
        Array<uint64_t> bits(window.channels * window.words());
        uint64_t* const out = bits.mutable_data();
        {
          py::gil_scoped_release released;
          std::fill(out, out + window.channels * window.words(), uint64_t{0});
          turn(window, stored.data(), out);
        }
        return bits;
      },
      py::arg("geometry"), py::arg("stored").noconvert());
  m.def(
      "csr_count_list",
      [](const std::optional<Array<int64_t>>& from, const std::optional<Array<int64_t>>& to,
         const Array<int32_t>& source, const Array<int32_t>& target, Array<int64_t> start) {
        const Ends ends = ends_of(source, target, start.size() - 1);
        const List list = list_of(from, to, ends);
        int64_t* const degree = start.mutable_data() + 1;
        py::gil_scoped_release released;
        count(list, ends, degree);
      },
      py::arg("rows").noconvert().none(true), py::arg("cols").noconvert().none(true), py::arg("source").noconvert(),
      py::arg("target").noconvert(), py::arg("start").noconvert());
  m.def(
      "csr_starts", [](Array<int64_t> start) { return starts_from_degrees(start.size() - 1, start.mutable_data()); },
      py::arg("start").noconvert());
  bind_pack<float>(m, "csr_pack_f32");
  bind_pack<double>(m, "csr_pack_f64");
  bind_pack<uint8_t>(m, "csr_pack_u8");
  bind_fill<float>(m, "csr_fill_window_f32", "csr_fill_list_f32", "csr_finish_f32");
  bind_fill<double>(m, "csr_fill_window_f64", "csr_fill_list_f64", "csr_finish_f64");
  bind_fill<int64_t>(m, "csr_fill_window_i64", "csr_fill_list_i64", "csr_finish_i64");
  m.def(
      "csr_transpose",
      [](const Array<int64_t>& start, const Array<int32_t>& columns) {
        const int64_t nodes = start.size() - 1;
        expect(whole(start, columns), "the starts are torn, or end elsewhere than the columns do");
        for (int64_t e = 0; e < columns.size(); ++e)
          expect(columns.data()[e] >= 0 && columns.data()[e] < nodes, "a column that is no node");
        Array<int64_t> start_t(nodes + 1);
        Array<int32_t> columns_t(columns.size());
        int64_t* const a = start_t.mutable_data();
        int32_t* const b = columns_t.mutable_data();
        {
          py::gil_scoped_release released;
          transpose(nodes, start.data(), columns.data(), a, b);
        }
        return py::make_tuple(start_t, columns_t);
      },
      py::arg("start").noconvert(), py::arg("columns").noconvert());
}
