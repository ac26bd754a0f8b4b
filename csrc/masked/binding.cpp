// The kernels as the CPU side of torch.ops.deepstruct.*, through torch's stable ABI: one binary serves every
// Python, and every torch from 2.10 on. Schemas, fake kernels and autograd are on the Python side.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <tuple>

#include "build.h"
#include "cells.h"
#include "kernels.h"
#include "linear.h"
#include "memory.h"
#include "network.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const deepstruct::Parallel kParallel = {
    [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
      if (tasks == 1) return body(0, 1);
      torch::stable::parallel_for(0, tasks, 1, body);
    },
    [] { return static_cast<int64_t>(torch::stable::get_num_threads()); }};

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data_ptr());
}

Tensor plain(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

// A tensor that is about to be filled.
Tensor fresh(const Tensor& like, std::initializer_list<int64_t> sizes) {
  Tensor tensor = torch::stable::new_empty(like, sizes);
  deepstruct::ask_for_huge_pages(tensor.data_ptr(), tensor.numel() * tensor.element_size());
  return tensor;
}

void expect(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "deepstruct: ", name, " has the wrong dtype");
  STD_TORCH_CHECK(tensor.is_contiguous(), "deepstruct: ", name, " is not contiguous");
  STD_TORCH_CHECK(tensor.is_cpu(), "deepstruct: ", name, " is not on the CPU");
}

// The view of a structure whose sizes fit the values; its content was checked when it was made or loaded.
deepstruct::Layout layout_of(const Tensor& table, const Tensor& row_ids, const Tensor& columns) {
  expect(table, ScalarType::Int, "table");
  expect(row_ids, ScalarType::Int, "row_ids");
  STD_TORCH_CHECK(table.numel() >= deepstruct::kHeader + 3, "deepstruct: the table is too short");
  const int32_t* t = data<int32_t>(table);
  const int64_t tiles = static_cast<int64_t>(t[5]) * t[6];
  STD_TORCH_CHECK(t[0] == deepstruct::kVersion && tiles >= 0 && t[7] >= 0 &&
                      table.numel() == deepstruct::kHeader + 3 * (tiles + 1) + 2 * static_cast<int64_t>(t[7]),
                  "deepstruct: the table is no layout of this version");
  const deepstruct::Layout layout = deepstruct::view(t, data<int32_t>(row_ids), columns.data_ptr());
  expect(columns, wide(layout) ? ScalarType::Short : ScalarType::Byte, "columns");
  STD_TORCH_CHECK(layout.row_start[tiles] == row_ids.numel() && layout.value_start[tiles] == columns.numel(),
                  "deepstruct: the table does not fit its rows and columns");
  return layout;
}

void expect_operands(const Tensor& x, const Tensor& values, const Tensor& columns, int64_t cols) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == cols, "deepstruct: the input must be (batch, ", cols, ")");
  STD_TORCH_CHECK(values.dim() == 1 && values.numel() == columns.numel(),
                  "deepstruct: there must be as many values as the structure has entries");
  STD_TORCH_CHECK(x.scalar_type() == values.scalar_type(), "deepstruct: input and values differ in dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "deepstruct: the kernels compute in float32 and float64");
}

Tensor sparse_linear(Tensor x, Tensor values, std::optional<Tensor> bias, Tensor table, Tensor row_ids, Tensor columns,
                     Tensor, Tensor, Tensor, Tensor, int64_t rows) {
  const deepstruct::Layout layout = layout_of(table, row_ids, columns);
  expect_operands(x, values, columns, layout.cols);
  STD_TORCH_CHECK(layout.rows == rows, "deepstruct: the structure has another number of rows");
  x = plain(x);
  values = plain(values);
  Tensor b = bias ? plain(*bias) : x;
  if (bias)
    STD_TORCH_CHECK(b.dim() == 1 && b.size(0) == rows && b.scalar_type() == x.scalar_type(),
                    "deepstruct: the bias does not fit");
  Tensor y = fresh(x, {x.size(0), rows});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::forward<T>(layout, data<T>(values), data<T>(x), bias ? data<T>(b) : nullptr, x.size(0),
                           static_cast<T*>(y.data_ptr()), kParallel);
  };
  x.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return y;
}

std::tuple<Tensor, Tensor> sparse_linear_backward(Tensor grad, Tensor x, Tensor values, Tensor table, Tensor row_ids,
                                                  Tensor columns, Tensor twin_table, Tensor twin_row_ids,
                                                  Tensor twin_columns, Tensor twin_order, bool need_x,
                                                  bool need_values) {
  const deepstruct::Layout layout = layout_of(table, row_ids, columns);
  expect_operands(x, values, columns, layout.cols);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == x.size(0) && grad.size(1) == layout.rows &&
                      grad.scalar_type() == x.scalar_type(),
                  "deepstruct: the gradient does not fit");
  grad = plain(grad);
  x = plain(x);
  values = plain(values);
  std::optional<deepstruct::Twin> twin;
  if (twin_table.numel()) {
    expect(twin_order, ScalarType::Int, "twin_order");
    twin = deepstruct::Twin{layout_of(twin_table, twin_row_ids, twin_columns), data<int32_t>(twin_order),
                            twin_order.numel()};
    STD_TORCH_CHECK(twin->layout.rows == layout.cols && twin->layout.cols == layout.rows &&
                        twin_order.numel() == values.numel() && twin_columns.numel() == values.numel(),
                    "deepstruct: the transposed structure is another one's");
  }
  Tensor grad_x = need_x ? fresh(x, {x.size(0), x.size(1)}) : fresh(x, {0});
  Tensor grad_values = fresh(values, {need_values ? values.numel() : 0});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::backward<T>(layout, twin ? &*twin : nullptr, data<T>(values), data<T>(x), data<T>(grad), x.size(0),
                            need_x ? static_cast<T*>(grad_x.data_ptr()) : nullptr,
                            need_values ? static_cast<T*>(grad_values.data_ptr()) : nullptr, values.numel(), kParallel);
  };
  x.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return {grad_x, grad_values};
}

// The graph behind the tensors, whose sizes fit; what they hold was checked when they were made.
deepstruct::Dag dag_of(const Tensor& layer_start, const Tensor& vertex_row, const Tensor& row_start,
                       const Tensor& cols) {
  expect(layer_start, ScalarType::Int, "layer_start");
  expect(vertex_row, ScalarType::Int, "vertex_row");
  expect(row_start, ScalarType::Int, "row_start");
  expect(cols, ScalarType::Int, "cols");
  STD_TORCH_CHECK(layer_start.numel() >= 2 && vertex_row.numel() >= 1 && row_start.numel() >= 1,
                  "deepstruct: the graph's tensors are too short");
  deepstruct::Dag dag{vertex_row.numel() - 1, layer_start.numel() - 1, row_start.numel() - 1, cols.numel(), 0,
                      data<int32_t>(layer_start), data<int32_t>(vertex_row), data<int32_t>(row_start),
                      data<int32_t>(cols)};
  STD_TORCH_CHECK(dag.layer_start[dag.layers] == dag.vertices && dag.vertex_row[dag.vertices] == dag.rows &&
                      dag.row_start[dag.rows] == dag.edges,
                  "deepstruct: the graph's tensors do not fit together");
  for (int64_t i = 0; i < dag.layers; ++i)
    dag.widest = std::max<int64_t>(dag.widest, dag.layer_start[i + 1] - dag.layer_start[i]);
  return dag;
}

void expect_like(const Tensor& tensor, const Tensor& like, int64_t count, const char* name) {
  expect(tensor, like.scalar_type(), name);
  STD_TORCH_CHECK(tensor.numel() == count, "deepstruct: ", name, " has ", tensor.numel(), " numbers, expected ", count);
}

template <typename T>
deepstruct::DagParameters<T> dag_parameters(const Tensor& weight, const Tensor& bias, const Tensor& extra,
                                            const Tensor& gamma, const Tensor& beta, double eps) {
  const bool norm = gamma.numel() > 0;
  return {data<T>(weight), data<T>(bias), data<T>(extra), norm ? data<T>(gamma) : nullptr,
          norm ? data<T>(beta) : nullptr, static_cast<T>(eps)};
}

// Without a norm, gamma and beta are empty.
std::tuple<Tensor, Tensor> dag_forward(Tensor first, Tensor weight, Tensor bias, Tensor extra, Tensor gamma,
                                       Tensor beta, Tensor layer_start, Tensor vertex_row, Tensor row_start,
                                       Tensor cols, Tensor reads, double eps) {
  const deepstruct::Dag dag = dag_of(layer_start, vertex_row, row_start, cols);
  expect(reads, ScalarType::Int, "reads");
  first = plain(first);
  STD_TORCH_CHECK(first.dim() == 2 && first.size(1) == dag.layer_start[1], "deepstruct: the first layer does not fit");
  STD_TORCH_CHECK(first.scalar_type() == ScalarType::Float || first.scalar_type() == ScalarType::Double,
                  "deepstruct: the kernels compute in float32 and float64");
  const int64_t batch = first.size(0), norm = gamma.numel() ? dag.vertices : 0;
  weight = plain(weight);
  bias = plain(bias);
  extra = plain(extra);
  gamma = plain(gamma);
  beta = plain(beta);
  expect_like(weight, first, dag.edges, "the weight");
  expect_like(bias, first, dag.rows, "the bias");
  expect_like(extra, first, dag.vertices, "extra");
  expect_like(gamma, first, norm, "gamma");
  expect_like(beta, first, norm, "beta");
  Tensor out = fresh(first, {batch, reads.numel()});
  Tensor state = fresh(first, {deepstruct::dag_state_size(dag.vertices, batch)});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::dag_forward_batch<T>(dag, dag_parameters<T>(weight, bias, extra, gamma, beta, eps), data<T>(first),
                                     batch, data<int32_t>(reads), reads.numel(), static_cast<T*>(state.data_ptr()),
                                     static_cast<T*>(out.data_ptr()), kParallel);
  };
  first.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return {out, state};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dag_backward(Tensor grad, Tensor state, Tensor weight,
                                                                        Tensor bias, Tensor extra, Tensor gamma,
                                                                        Tensor beta, Tensor layer_start,
                                                                        Tensor vertex_row, Tensor row_start,
                                                                        Tensor cols, Tensor reads, double eps,
                                                                        int64_t inputs) {
  const deepstruct::Dag dag = dag_of(layer_start, vertex_row, row_start, cols);
  STD_TORCH_CHECK(inputs == dag.layer_start[1], "deepstruct: layer 0 has another size");
  grad = plain(grad);
  weight = plain(weight);
  bias = plain(bias);
  extra = plain(extra);
  gamma = plain(gamma);
  beta = plain(beta);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(1) == reads.numel(), "deepstruct: the gradient does not fit");
  const int64_t batch = grad.size(0), norm = gamma.numel() ? dag.vertices : 0;
  expect_like(state, grad, deepstruct::dag_state_size(dag.vertices, batch), "the state");
  expect_like(weight, grad, dag.edges, "the weight");
  expect_like(bias, grad, dag.rows, "the bias");
  expect_like(extra, grad, dag.vertices, "extra");
  expect_like(gamma, grad, norm, "gamma");
  expect_like(beta, grad, norm, "beta");
  Tensor grad_first = fresh(grad, {batch, dag.layer_start[1]});
  Tensor grad_weight = fresh(grad, {dag.edges}), grad_bias = fresh(grad, {dag.rows}),
         grad_extra = fresh(grad, {dag.vertices}), grad_gamma = fresh(grad, {norm}),
         grad_beta = fresh(grad, {norm});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto at = [](Tensor& tensor) { return static_cast<T*>(tensor.data_ptr()); };
    const deepstruct::DagGradients<T> grads{at(grad_weight), at(grad_bias), at(grad_extra),
                                            norm ? at(grad_gamma) : nullptr, norm ? at(grad_beta) : nullptr};
    deepstruct::dag_backward_batch<T>(dag, dag_parameters<T>(weight, bias, extra, gamma, beta, eps), data<T>(state),
                                      data<T>(grad), batch, data<int32_t>(reads), reads.numel(), at(grad_first), grads,
                                      kParallel);
  };
  grad.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return {grad_first, grad_weight, grad_bias, grad_extra, grad_gamma, grad_beta};
}

deepstruct::Layout layout_of_weight(const Tensor& table, const Tensor& row_ids, const Tensor& columns,
                                    const Tensor& weight, const Tensor& values) {
  const deepstruct::Layout layout = layout_of(table, row_ids, columns);
  STD_TORCH_CHECK(weight.is_cpu() && weight.is_contiguous() && weight.scalar_type() == values.scalar_type() &&
                      weight.numel() == static_cast<int64_t>(layout.rows) * layout.cols,
                  "deepstruct: the weight must be contiguous, of the structure's size and of the values' dtype");
  STD_TORCH_CHECK(values.is_contiguous() && values.numel() == columns.numel(),
                  "deepstruct: there must be as many values as the structure has entries");
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double,
                  "deepstruct: the kernels compute in float32 and float64");
  return layout;
}

Tensor read_support(Tensor weight, Tensor table, Tensor row_ids, Tensor columns) {
  weight = plain(weight);
  Tensor values = fresh(weight, {columns.numel()});
  const deepstruct::Layout layout = layout_of_weight(table, row_ids, columns, weight, values);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::read_support<T>(layout, data<T>(weight), static_cast<T*>(values.data_ptr()), kParallel);
  };
  weight.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return values;
}

void write_support(Tensor values, Tensor table, Tensor row_ids, Tensor columns, Tensor weight) {
  values = plain(values);
  const deepstruct::Layout layout = layout_of_weight(table, row_ids, columns, weight, values);
  deepstruct::ask_for_huge_pages(weight.data_ptr(), weight.numel() * weight.element_size());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::write_support<T>(layout, data<T>(values), static_cast<T*>(weight.data_ptr()), kParallel);
  };
  weight.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

// The number of units of a tile whose samples lie side by side, (features, samples).
int units_of(const Tensor& tile, int64_t features) {
  expect(tile, tile.scalar_type(), "a tile");
  STD_TORCH_CHECK(tile.scalar_type() == ScalarType::Float || tile.scalar_type() == ScalarType::Double,
                  "deepstruct: the kernels compute in float32 and float64");
  STD_TORCH_CHECK(tile.dim() == 2 && tile.size(0) == features, "deepstruct: a tile must have ", features, " rows");
  const int64_t bytes = tile.size(1) * static_cast<int64_t>(tile.element_size());
  STD_TORCH_CHECK(bytes > 0 && bytes % deepstruct::kUnit == 0 && bytes <= deepstruct::kMaxUnits * deepstruct::kUnit,
                  "deepstruct: a tile has rows of 64, 128, 192 or 256 bytes");
  return static_cast<int>(bytes / deepstruct::kUnit);
}

// out (rows, batch) += W x, x (cols, batch): both are tiles already.
void sparse_product_(Tensor x, Tensor values, Tensor table, Tensor row_ids, Tensor columns, Tensor out) {
  const deepstruct::Layout layout = layout_of(table, row_ids, columns);
  const int units = units_of(x, layout.cols);
  expect_like(values, x, columns.numel(), "the values");
  expect_like(out, x, layout.rows * x.size(1), "the result");
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::add_product<T>(layout, data<T>(values), data<T>(x), units, static_cast<T*>(out.data_ptr()), kParallel);
  };
  x.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

// grad_values += grad x' on the support, grad (rows, batch) and x (cols, batch) tiles.
void sparse_support_(Tensor grad, Tensor x, Tensor table, Tensor row_ids, Tensor columns, Tensor grad_values) {
  const deepstruct::Layout layout = layout_of(table, row_ids, columns);
  const int units = units_of(x, layout.cols);
  expect_like(grad, x, layout.rows * x.size(1), "the gradient");
  expect_like(grad_values, x, columns.numel(), "the values' gradient");
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::add_support<T>(layout, data<T>(grad), data<T>(x), units, static_cast<T*>(grad_values.data_ptr()),
                               kParallel);
  };
  x.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

// hidden and batch of a state (hidden, batch) that the gates of a step fit.
std::tuple<int64_t, int64_t> step_of(const Tensor& state, const Tensor& gates, int64_t blocks) {
  expect(state, state.scalar_type(), "the state");
  STD_TORCH_CHECK(state.scalar_type() == ScalarType::Float || state.scalar_type() == ScalarType::Double,
                  "deepstruct: the kernels compute in float32 and float64");
  STD_TORCH_CHECK(state.dim() == 2, "deepstruct: a state must be (hidden, batch)");
  expect_like(gates, state, blocks * state.numel(), "the gates");
  return {state.size(0), state.size(1)};
}

// The distance of the rows of gradients (rows, batch), in which each row must be contiguous.
int64_t row_stride(const Tensor& grad, const Tensor& state, int64_t blocks) {
  STD_TORCH_CHECK(grad.is_cpu() && grad.scalar_type() == state.scalar_type() && grad.dim() == 2 &&
                      grad.size(0) == blocks * state.size(0) && grad.size(1) == state.size(1) &&
                      (grad.stride(1) == 1 || state.size(1) == 1) && grad.stride(0) >= state.size(1),
                  "deepstruct: the gates' gradients do not fit");
  return grad.stride(0);
}

void lstm_forward_(Tensor gates, Tensor c, Tensor new_h, Tensor new_c) {
  const auto [hidden, batch] = step_of(c, gates, 4);
  expect_like(new_h, c, c.numel(), "the next state");
  expect_like(new_c, c, c.numel(), "the next cell");
  const auto run = [&, hidden = hidden, batch = batch](auto zero) {
    using T = decltype(zero);
    deepstruct::lstm_forward<T>(hidden, batch, static_cast<T*>(gates.data_ptr()), data<T>(c),
                                static_cast<T*>(new_h.data_ptr()), static_cast<T*>(new_c.data_ptr()), kParallel);
  };
  c.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

void lstm_backward_(Tensor gates, Tensor c, Tensor new_c, Tensor grad_h, Tensor grad_c, Tensor grad_gates) {
  const auto [hidden, batch] = step_of(c, gates, 4);
  expect_like(new_c, c, c.numel(), "the next cell");
  expect_like(grad_h, c, c.numel(), "the state's gradient");
  expect_like(grad_c, c, c.numel(), "the cell's gradient");
  const int64_t stride = row_stride(grad_gates, c, 4);
  const auto run = [&, hidden = hidden, batch = batch](auto zero) {
    using T = decltype(zero);
    const auto at = [](const Tensor& tensor) { return static_cast<T*>(tensor.data_ptr()); };
    deepstruct::lstm_backward<T>(hidden, batch, at(gates), at(c), at(new_c), at(grad_h), at(grad_c), at(grad_gates),
                                 stride, kParallel);
  };
  c.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

void gru_forward_(Tensor gates, Tensor extra, Tensor h, Tensor new_h) {
  const auto [hidden, batch] = step_of(h, gates, 3);
  expect_like(extra, h, 3 * h.numel(), "the hidden state's share");
  expect_like(new_h, h, h.numel(), "the next state");
  const auto run = [&, hidden = hidden, batch = batch](auto zero) {
    using T = decltype(zero);
    deepstruct::gru_forward<T>(hidden, batch, static_cast<T*>(gates.data_ptr()), data<T>(extra), data<T>(h),
                               static_cast<T*>(new_h.data_ptr()), kParallel);
  };
  h.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

void gru_backward_(Tensor gates, Tensor extra, Tensor h, Tensor grad_h, Tensor grad_gates, Tensor grad_extra) {
  const auto [hidden, batch] = step_of(h, gates, 3);
  expect_like(extra, h, 3 * h.numel(), "the hidden state's share");
  expect_like(grad_h, h, h.numel(), "the state's gradient");
  const int64_t stride = row_stride(grad_gates, h, 3);
  STD_TORCH_CHECK(row_stride(grad_extra, h, 3) == stride, "deepstruct: the gates' gradients do not fit each other");
  const auto run = [&, hidden = hidden, batch = batch](auto zero) {
    using T = decltype(zero);
    const auto at = [](const Tensor& tensor) { return static_cast<T*>(tensor.data_ptr()); };
    deepstruct::gru_backward<T>(hidden, batch, at(gates), at(extra), at(h), at(grad_h), at(grad_gates),
                                at(grad_extra), stride, kParallel);
  };
  h.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
}

template <typename T>
Tensor copy_of(const std::vector<T>& from, const Tensor& like, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(like, {static_cast<int64_t>(from.size())}, dtype);
  std::copy(from.begin(), from.end(), static_cast<T*>(out.data_ptr()));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> build_layout(Tensor starts, Tensor indices, int64_t cols, int64_t block) {
  expect(starts, ScalarType::Long, "starts");
  expect(indices, ScalarType::Long, "indices");
  STD_TORCH_CHECK(starts.numel() >= 1 && data<int64_t>(starts)[starts.numel() - 1] == indices.numel(),
                  "deepstruct: the row starts do not end at the number of indices");
  const deepstruct::Built built = deepstruct::build(starts.numel() - 1, cols, static_cast<int32_t>(block),
                                                    data<int64_t>(starts), data<int64_t>(indices));
  const bool wide = block > deepstruct::kNarrow;
  Tensor columns = torch::stable::new_empty(starts, {static_cast<int64_t>(built.order.size())},
                                            wide ? ScalarType::Short : ScalarType::Byte);
  std::copy(built.columns.begin(), built.columns.end(), static_cast<uint8_t*>(columns.data_ptr()));
  return {copy_of(built.table, starts, ScalarType::Int), copy_of(built.row_ids, starts, ScalarType::Int), columns,
          copy_of(built.order, starts, ScalarType::Int)};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* deepstruct_masked_isa() { return deepstruct::isa().name; }

STABLE_TORCH_LIBRARY_IMPL(deepstruct, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparse_linear_backward));
  m.impl("read_support", TORCH_BOX(&read_support));
  m.impl("write_support", TORCH_BOX(&write_support));
  m.impl("sparse_product_", TORCH_BOX(&sparse_product_));
  m.impl("sparse_support_", TORCH_BOX(&sparse_support_));
  m.impl("build_layout", TORCH_BOX(&build_layout));
  m.impl("dag_forward", TORCH_BOX(&dag_forward));
  m.impl("lstm_forward_", TORCH_BOX(&lstm_forward_));
  m.impl("lstm_backward_", TORCH_BOX(&lstm_backward_));
  m.impl("gru_forward_", TORCH_BOX(&gru_forward_));
  m.impl("gru_backward_", TORCH_BOX(&gru_backward_));
  m.impl("dag_backward", TORCH_BOX(&dag_backward));
}
