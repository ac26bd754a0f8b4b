// The kernels as the CPU side of torch.ops.deepstruct.*, through torch's stable ABI: one binary serves every
// Python, and every torch from 2.10 on. Schemas, fake kernels and autograd are on the Python side.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "build.h"
#include "kernels.h"
#include "linear.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const deepstruct::Parallel kParallel = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
  if (tasks == 1) return body(0, 1);
  torch::stable::parallel_for(0, tasks, 1, body);
};

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data_ptr());
}

Tensor plain(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

void expect(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "deepstruct: ", name, " has the wrong dtype");
  STD_TORCH_CHECK(tensor.is_contiguous(), "deepstruct: ", name, " is not contiguous");
  STD_TORCH_CHECK(tensor.is_cpu(), "deepstruct: ", name, " is not on the CPU");
}

// The view of a structure whose sizes fit the values; its content was checked when it was made or loaded.
deepstruct::Layout layout_of(const Tensor& table, const Tensor& row_ids, const Tensor& columns) {
  expect(table, ScalarType::Int, "table");
  expect(row_ids, ScalarType::Int, "row_ids");
  expect(columns, ScalarType::Byte, "columns");
  STD_TORCH_CHECK(table.numel() >= deepstruct::kHeader + 3, "deepstruct: the table is too short");
  const int32_t* t = data<int32_t>(table);
  const int64_t tiles = static_cast<int64_t>(t[5]) * t[6];
  STD_TORCH_CHECK(t[0] == deepstruct::kVersion && tiles >= 0 && t[7] >= 0 &&
                      table.numel() == deepstruct::kHeader + 3 * (tiles + 1) + 2 * static_cast<int64_t>(t[7]),
                  "deepstruct: the table is no layout of this version");
  const deepstruct::Layout layout = deepstruct::view(t, data<int32_t>(row_ids), data<uint8_t>(columns));
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
  Tensor y = torch::stable::new_empty(x, {x.size(0), rows});
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
  Tensor grad_x = need_x ? torch::stable::new_empty(x, {x.size(0), x.size(1)}) : torch::stable::new_empty(x, {0});
  Tensor grad_values = torch::stable::new_empty(values, {need_values ? values.numel() : 0});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::backward<T>(layout, twin ? &*twin : nullptr, data<T>(values), data<T>(x), data<T>(grad), x.size(0),
                            need_x ? static_cast<T*>(grad_x.data_ptr()) : nullptr,
                            need_values ? static_cast<T*>(grad_values.data_ptr()) : nullptr, values.numel(), kParallel);
  };
  x.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
  return {grad_x, grad_values};
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
  Tensor values = torch::stable::new_empty(weight, {columns.numel()});
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
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    deepstruct::write_support<T>(layout, data<T>(values), static_cast<T*>(weight.data_ptr()), kParallel);
  };
  weight.scalar_type() == ScalarType::Float ? run(0.f) : run(0.);
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
  return {copy_of(built.table, starts, ScalarType::Int), copy_of(built.row_ids, starts, ScalarType::Int),
          copy_of(built.columns, starts, ScalarType::Byte), copy_of(built.order, starts, ScalarType::Int)};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* deepstruct_masked_isa() { return deepstruct::isa().name; }

STABLE_TORCH_LIBRARY_IMPL(deepstruct, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparse_linear_backward));
  m.impl("read_support", TORCH_BOX(&read_support));
  m.impl("write_support", TORCH_BOX(&write_support));
  m.impl("build_layout", TORCH_BOX(&build_layout));
}
