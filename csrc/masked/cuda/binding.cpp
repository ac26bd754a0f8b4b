// The CUDA kernels as torch.ops.deepstruct._cuda_*, through torch's stable ABI. Python picks them by dtype: the
// kernels compute in float32, float16 and bfloat16, everything else goes to the PyTorch reference.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "launch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor plain(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

int dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return kDeepstructFloat;
    case ScalarType::Half: return kDeepstructHalf;
    case ScalarType::BFloat16: return kDeepstructBFloat16;
    default: STD_TORCH_CHECK(false, "deepstruct: the CUDA kernels compute in float32, float16 and bfloat16");
  }
  return -1;
}

void expect(const Tensor& tensor, const Tensor& like, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "deepstruct: ", name, " has the wrong dtype");
  STD_TORCH_CHECK(tensor.is_contiguous(), "deepstruct: ", name, " is not contiguous");
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), "deepstruct: ", name,
                  " is not on the device of the input");
}

void expect_float(const Tensor& tensor, const Tensor& like, const char* name) {
  expect(tensor, like, like.scalar_type(), name);
}

DeepstructStructure structure(const Tensor& table, const Tensor& row_ids, const Tensor& columns, const Tensor& like,
                              int64_t rows, int64_t cols) {
  expect(table, like, ScalarType::Int, "table");
  expect(row_ids, like, ScalarType::Int, "row_ids");
  expect(columns, like, columns.scalar_type() == ScalarType::Short ? ScalarType::Short : ScalarType::Byte, "columns");
  return {static_cast<const int32_t*>(table.data_ptr()), static_cast<const int32_t*>(row_ids.data_ptr()),
          columns.data_ptr(), rows, cols};
}

void* stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

void done(const char* problem) { STD_TORCH_CHECK(problem == nullptr, "deepstruct: CUDA: ", problem); }

Tensor sparse_linear(Tensor x, Tensor values, std::optional<Tensor> bias, Tensor table, Tensor row_ids, Tensor columns,
                     Tensor, Tensor, Tensor, Tensor, int64_t rows) {
  STD_TORCH_CHECK(x.dim() == 2 && values.dim() == 1 && values.numel() == columns.numel(),
                  "deepstruct: the operands do not fit the structure");
  x = plain(x);
  values = plain(values);
  const int dtype = dtype_of(x);
  expect_float(values, x, "values");
  Tensor b = bias ? plain(*bias) : x;
  if (bias) {
    expect_float(b, x, "bias");
    STD_TORCH_CHECK(b.dim() == 1 && b.size(0) == rows, "deepstruct: the bias does not fit");
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = torch::stable::new_empty(x, {x.size(0), rows});
  done(deepstruct_cuda_product(dtype, structure(table, row_ids, columns, x, rows, x.size(1)), values.data_ptr(),
                               x.data_ptr(), bias ? b.data_ptr() : nullptr, x.size(0), y.data_ptr(), stream_of(x)));
  return y;
}

std::tuple<Tensor, Tensor> sparse_linear_backward(Tensor grad, Tensor x, Tensor values, Tensor table, Tensor row_ids,
                                                  Tensor columns, Tensor twin_table, Tensor twin_row_ids,
                                                  Tensor twin_columns, Tensor twin_order, bool need_x,
                                                  bool need_values) {
  STD_TORCH_CHECK(x.dim() == 2 && grad.dim() == 2 && grad.size(0) == x.size(0) && values.numel() == columns.numel(),
                  "deepstruct: the operands do not fit the structure");
  grad = plain(grad);
  x = plain(x);
  values = plain(values);
  const int dtype = dtype_of(x);
  expect_float(grad, x, "the gradient");
  expect_float(values, x, "values");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = stream_of(x);
  const int64_t batch = x.size(0), rows = grad.size(1), cols = x.size(1);
  const DeepstructStructure s = structure(table, row_ids, columns, x, rows, cols);
  Tensor grad_x = need_x ? torch::stable::new_empty(x, {batch, cols}) : torch::stable::new_empty(x, {0});
  if (need_x && twin_table.numel()) {
    expect(twin_order, x, ScalarType::Int, "twin_order");
    STD_TORCH_CHECK(twin_order.numel() == values.numel() && twin_columns.numel() == values.numel(),
                    "deepstruct: the transposed structure is another one's");
    Tensor turned = torch::stable::new_empty(values, {values.numel()});
    done(deepstruct_cuda_gather(dtype, values.data_ptr(), static_cast<const int32_t*>(twin_order.data_ptr()),
                                values.numel(), turned.data_ptr(), stream));
    done(deepstruct_cuda_product(dtype, structure(twin_table, twin_row_ids, twin_columns, x, cols, rows),
                                 turned.data_ptr(), grad.data_ptr(), nullptr, batch, grad_x.data_ptr(), stream));
  } else if (need_x) {
    done(deepstruct_cuda_scatter(dtype, s, values.data_ptr(), grad.data_ptr(), batch, grad_x.data_ptr(), stream));
  }
  Tensor grad_values = torch::stable::new_empty(values, {need_values ? values.numel() : 0});
  if (need_values) {
    const bool single = x.scalar_type() == ScalarType::Float;
    Tensor sums = single ? grad_values : torch::stable::new_empty(values, {values.numel()}, ScalarType::Float);
    done(deepstruct_cuda_support(dtype, s, grad.data_ptr(), x.data_ptr(), batch,
                                 static_cast<float*>(sums.data_ptr()), stream));
    if (!single)
      done(deepstruct_cuda_narrow(dtype, static_cast<const float*>(sums.data_ptr()), sums.numel(),
                                  grad_values.data_ptr(), stream));
  }
  return {grad_x, grad_values};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(deepstruct, m) {
  m.def(
      "_cuda_sparse_linear(Tensor x, Tensor values, Tensor? bias, Tensor table, Tensor row_ids, Tensor columns, "
      "Tensor twin_table, Tensor twin_row_ids, Tensor twin_columns, Tensor twin_order, int rows) -> Tensor");
  m.def(
      "_cuda_sparse_linear_backward(Tensor grad, Tensor x, Tensor values, Tensor table, Tensor row_ids, "
      "Tensor columns, Tensor twin_table, Tensor twin_row_ids, Tensor twin_columns, Tensor twin_order, bool need_x, "
      "bool need_values) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(deepstruct, CUDA, m) {
  m.impl("_cuda_sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("_cuda_sparse_linear_backward", TORCH_BOX(&sparse_linear_backward));
}
