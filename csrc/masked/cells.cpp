#include "cells.h"

#include <algorithm>

#include "kernels.h"

namespace deepstruct {
namespace {

constexpr int64_t kTask = 8192;  // numbers of a gate that are worth a task

// Calls run(step, offset, grad_offset) on parts of the step. Where nothing lies between the rows, a part is one long
// row: the end of each short one would be work on its own.
template <typename Run>
void each_part(int64_t hidden, int64_t batch, int64_t stride, const Parallel& parallel, const Run& run) {
  if (!hidden || !batch) return;
  const bool flat = stride == batch;
  const int64_t rows = flat ? hidden * batch : hidden, each = flat ? 1 : batch;
  const int64_t tasks = (hidden * batch + kTask - 1) / kTask;
  const int64_t size = (rows + tasks - 1) / tasks;
  parallel((rows + size - 1) / size, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * size, last = std::min(end * size, rows);
    const Step step = flat ? Step{1, last - first, hidden * batch, 0, hidden * stride}
                           : Step{last - first, batch, hidden * batch, stride, hidden * stride};
    run(step, first * each, flat ? first : first * stride);
  });
}

}  // namespace

template <typename T>
void lstm_forward(int64_t hidden, int64_t batch, T* gates, const T* c, T* new_h, T* new_c, const Parallel& parallel) {
  each_part(hidden, batch, batch, parallel, [&](const Step& step, int64_t at, int64_t) {
    kernels<T>().lstm_forward(step, gates + at, c + at, new_h + at, new_c + at);
  });
}

template <typename T>
void lstm_backward(int64_t hidden, int64_t batch, const T* gates, const T* c, const T* new_c, T* grad_h, T* grad_c,
                   T* grad_gates, int64_t stride, const Parallel& parallel) {
  each_part(hidden, batch, stride, parallel, [&](const Step& step, int64_t at, int64_t to) {
    kernels<T>().lstm_backward(step, gates + at, c + at, new_c + at, grad_h + at, grad_c + at, grad_gates + to);
  });
}

template <typename T>
void gru_forward(int64_t hidden, int64_t batch, T* gates, const T* extra, const T* h, T* new_h,
                 const Parallel& parallel) {
  each_part(hidden, batch, batch, parallel, [&](const Step& step, int64_t at, int64_t) {
    kernels<T>().gru_forward(step, gates + at, extra + at, h + at, new_h + at);
  });
}

template <typename T>
void gru_backward(int64_t hidden, int64_t batch, const T* gates, const T* extra, const T* h, T* grad_h, T* grad_gates,
                  T* grad_extra, int64_t stride, const Parallel& parallel) {
  each_part(hidden, batch, stride, parallel, [&](const Step& step, int64_t at, int64_t to) {
    kernels<T>().gru_backward(step, gates + at, extra + at, h + at, grad_h + at, grad_gates + to, grad_extra + to);
  });
}

#define INSTANTIATE(T)                                                                                              \
  template void lstm_forward<T>(int64_t, int64_t, T*, const T*, T*, T*, const Parallel&);                           \
  template void lstm_backward<T>(int64_t, int64_t, const T*, const T*, const T*, T*, T*, T*, int64_t,               \
                                 const Parallel&);                                                                  \
  template void gru_forward<T>(int64_t, int64_t, T*, const T*, const T*, T*, const Parallel&);                      \
  template void gru_backward<T>(int64_t, int64_t, const T*, const T*, const T*, T*, T*, T*, int64_t, const Parallel&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace deepstruct
