// y = x W' + b and its gradients, W sparse: how the kernels are put together. Knows no torch.
#ifndef DEEPSTRUCT_MASKED_LINEAR_H
#define DEEPSTRUCT_MASKED_LINEAR_H

#include <cstdint>
#include <functional>

#include "layout.h"

namespace deepstruct {

// Calls body(begin, end) on parts that together make up [0, tasks), and tells on how many threads it does.
struct Parallel {
  std::function<void(int64_t tasks, const std::function<void(int64_t, int64_t)>& body)> run;
  std::function<int64_t()> threads;
  void operator()(int64_t tasks, const std::function<void(int64_t, int64_t)>& body) const { run(tasks, body); }
};

// y[batch][rows] = x[batch][cols] W' + bias. x and y are row-major and contiguous; bias may be null.
template <typename T>
void forward(const Layout& layout, const T* values, const T* x, const T* bias, int64_t batch, T* y,
             const Parallel& parallel);

// The transposed twin of a layout: its own layout (cols x rows), and where its values come from.
struct Twin {
  Layout layout;
  const int32_t* order;
  int64_t values;
};

// grad_x[batch][cols] = grad_y W and grad_values = (grad_y' x) on the support. Either may be null.
// `twin` may be null: then grad_x goes through the layout itself, adding into columns.
template <typename T>
void backward(const Layout& layout, const Twin* twin, const T* values, const T* x, const T* grad_y, int64_t batch,
              T* grad_x, T* grad_values, int64_t n_values, const Parallel& parallel);

// One batch tile that lies feature-major already, rows of `units` * 64 bytes: out[rows][..] += W x, x[cols][..].
template <typename T>
void add_product(const Layout& layout, const T* values, const T* x, int units, T* out, const Parallel& parallel);

// grad_values += grad x' on the support, of such a tile grad[rows][..] and x[cols][..].
template <typename T>
void add_support(const Layout& layout, const T* grad, const T* x, int units, T* grad_values, const Parallel& parallel);

// values = the entries of a dense, contiguous weight [rows][cols] on the support.
template <typename T>
void read_support(const Layout& layout, const T* weight, T* values, const Parallel& parallel);

// The dense weight [rows][cols] that has `values` on the support and zeros elsewhere; all of it is written.
template <typename T>
void write_support(const Layout& layout, const T* values, T* weight, const Parallel& parallel);

}  // namespace deepstruct

#endif
