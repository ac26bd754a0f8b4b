// Forward and backward pass over a directed acyclic graph for one batch tile [vertices][units * kUnit bytes].
// Included by kernels.inl, within its anonymous namespace.

template <typename T, int N>
INLINE void store_row(T* p, const Vector<T>* v) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(p + i * lanes<T>(), v[i]);
}

// Lanes are added by halves, which is a fixed order.
template <typename T>
INLINE T lane_sum(Vector<T> v) {
  T a[lanes<T>()];
  store(a, v);
  typedef T Quarter __attribute__((vector_size(16)));
  constexpr int n = 16 / static_cast<int>(sizeof(T)), quarters = VECTOR_BYTES / 16;
  Quarter q[quarters];
  __builtin_memcpy(q, a, sizeof q);
  for (int step = quarters / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) q[i] += q[i + step];
  if constexpr (n == 4) return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
  return q[0][0] + q[0][1];
}

template <typename T, int N>
INLINE T row_sum(const Vector<T>* v) {
  Vector<T> sum = v[0];
#pragma GCC unroll 16
  for (int i = 1; i < N; ++i) sum += v[i];
  return lane_sum<T>(sum);
}

// z = bias + sum of weight[k] h[cols[k]] over the edges [begin, end).
template <typename T, int N>
INLINE void dag_row(const T* weight, const int32_t* cols, int32_t begin, int32_t end, T bias, const T* h,
                    Vector<T>* z) {
  constexpr int64_t width = N * lanes<T>();
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) z[i] = Vector<T>{} + bias;
  for (int32_t k = begin; k < end; ++k) {
    const T w = weight[k];
    const T* source = h + cols[k] * width;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) z[i] += load(source + i * lanes<T>()) * w;
  }
}

// For the gradient g of a row's z: gradients of its weights, and g sent back along its edges.
template <typename T, int N>
INLINE void dag_spread(const T* weight, const int32_t* cols, int32_t begin, int32_t end, const Vector<T>* g,
                       const T* h, T* grad_h, T* grad_weight) {
  constexpr int64_t width = N * lanes<T>();
  for (int32_t k = begin; k < end; ++k) {
    const T w = weight[k];
    const T* source = h + cols[k] * width;
    T* back = grad_h + cols[k] * width;
    Vector<T> dot = {};
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      dot += load(source + i * lanes<T>()) * g[i];
      store(back + i * lanes<T>(), load(back + i * lanes<T>()) + g[i] * w);
    }
    grad_weight[k] = lane_sum<T>(dot);
  }
}

template <typename T, int N>
INLINE void positive_part(Vector<T>* z) {
  const Vector<T> zero = {};
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) z[i] = z[i] < zero ? zero : z[i];  // NaN stays
}

// Main rows of a layer into z[size][width]; mean and 1 / deviation of every sample over the layer.
template <typename T, int N>
void dag_main_rows(const Dag& dag, const DagParameters<T>& p, int32_t first, int32_t last, const T* h, T* z,
                   Vector<T>* mean, Vector<T>* scale) {
  constexpr int64_t width = N * lanes<T>();
  const T size = static_cast<T>(last - first);
  for (int i = 0; i < N; ++i) mean[i] = scale[i] = Vector<T>{};
  for (int32_t v = first; v < last; ++v) {
    const int32_t row = dag.vertex_row[v];
    Vector<T> sum[N];
    dag_row<T, N>(p.weight, dag.cols, dag.row_start[row], dag.row_start[row + 1], p.bias[row], h, sum);
    store_row<T, N>(z + (v - first) * width, sum);
    for (int i = 0; i < N; ++i) mean[i] += sum[i];
  }
  for (int i = 0; i < N; ++i) mean[i] /= size;
  for (int32_t v = 0; v < last - first; ++v)
    for (int i = 0; i < N; ++i) {
      const Vector<T> off = load(z + v * width + i * lanes<T>()) - mean[i];
      scale[i] += off * off;
    }
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < lanes<T>(); ++j)
      scale[i][j] = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(scale[i][j] / size + p.eps)));
}

template <typename T, int N>
void dag_forward_tile(const Dag& dag, const DagParameters<T>& p, T* h, T* scratch) {
  constexpr int64_t width = N * lanes<T>();
  for (int64_t layer = 1; layer < dag.layers; ++layer) {
    const int32_t first = dag.layer_start[layer], last = dag.layer_start[layer + 1];
    Vector<T> mean[N], scale[N], z[N], out[N];
    if (p.gamma) dag_main_rows<T, N>(dag, p, first, last, h, scratch, mean, scale);
    for (int32_t v = first; v < last; ++v) {
      int32_t row = dag.vertex_row[v];
      for (int i = 0; i < N; ++i) out[i] = Vector<T>{} + p.extra[v];
      if (p.gamma) {
        load_row<T, N>(scratch + (v - first) * width, z);
        for (int i = 0; i < N; ++i) z[i] = (z[i] - mean[i]) * scale[i] * p.gamma[v] + p.beta[v];
        positive_part<T, N>(z);
        for (int i = 0; i < N; ++i) out[i] += z[i];
        ++row;
      }
      for (; row < dag.vertex_row[v + 1]; ++row) {
        dag_row<T, N>(p.weight, dag.cols, dag.row_start[row], dag.row_start[row + 1], p.bias[row], h, z);
        positive_part<T, N>(z);
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) out[i] += z[i];
      }
      store_row<T, N>(h + v * width, out);
    }
  }
}

// Where z is not positive, nothing goes back.
template <typename T, int N>
INLINE void dag_gate(const Vector<T>* z, const Vector<T>* g, Vector<T>* out) {
  const Vector<T> zero = {};
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) out[i] = z[i] > zero ? g[i] : zero;
}

// The main rows of a layer, through relu and norm.
template <typename T, int N>
void dag_backward_norm(const Dag& dag, const DagParameters<T>& p, int32_t first, int32_t last, const T* h, T* grad_h,
                       const DagGradients<T>& grads, T* scratch) {
  constexpr int64_t width = N * lanes<T>();
  Vector<T> mean[N], scale[N], z[N], g[N], sum[N], dot[N];
  T* unit = scratch;  // the normalised z
  T* back = scratch + dag.widest * width;
  dag_main_rows<T, N>(dag, p, first, last, h, unit, mean, scale);
  for (int i = 0; i < N; ++i) sum[i] = dot[i] = Vector<T>{};
  for (int32_t v = first; v < last; ++v) {
    T* place = unit + (v - first) * width;
    load_row<T, N>(place, z);
    load_row<T, N>(grad_h + v * width, g);
    Vector<T> y[N], product[N];
    for (int i = 0; i < N; ++i) {
      z[i] = (z[i] - mean[i]) * scale[i];
      y[i] = z[i] * p.gamma[v] + p.beta[v];
    }
    dag_gate<T, N>(y, g, g);
    for (int i = 0; i < N; ++i) product[i] = g[i] * z[i];
    grads.beta[v] = row_sum<T, N>(g);
    grads.gamma[v] = row_sum<T, N>(product);
    for (int i = 0; i < N; ++i) {
      g[i] *= p.gamma[v];
      sum[i] += g[i];
      dot[i] += g[i] * z[i];
    }
    store_row<T, N>(place, z);
    store_row<T, N>(back + (v - first) * width, g);
  }
  const T size = static_cast<T>(last - first);
  for (int32_t v = first; v < last; ++v) {
    const int32_t row = dag.vertex_row[v];
    load_row<T, N>(unit + (v - first) * width, z);
    load_row<T, N>(back + (v - first) * width, g);
    for (int i = 0; i < N; ++i) g[i] = scale[i] * (g[i] - (sum[i] + z[i] * dot[i]) / size);
    grads.bias[row] = row_sum<T, N>(g);
    dag_spread<T, N>(p.weight, dag.cols, dag.row_start[row], dag.row_start[row + 1], g, h, grad_h, grads.weight);
  }
}

// grad_h holds the gradients of what was read, and gets those of every vertex.
template <typename T, int N>
void dag_backward_tile(const Dag& dag, const DagParameters<T>& p, const T* h, T* grad_h, const DagGradients<T>& grads,
                       T* scratch) {
  constexpr int64_t width = N * lanes<T>();
  for (int64_t layer = dag.layers - 1; layer > 0; --layer) {
    const int32_t first = dag.layer_start[layer], last = dag.layer_start[layer + 1];
    if (p.gamma) dag_backward_norm<T, N>(dag, p, first, last, h, grad_h, grads, scratch);
    for (int32_t v = first; v < last; ++v) {
      Vector<T> g[N], z[N], gated[N];
      load_row<T, N>(grad_h + v * width, g);
      grads.extra[v] = row_sum<T, N>(g);
      for (int32_t row = dag.vertex_row[v] + (p.gamma ? 1 : 0); row < dag.vertex_row[v + 1]; ++row) {
        const int32_t begin = dag.row_start[row], end = dag.row_start[row + 1];
        dag_row<T, N>(p.weight, dag.cols, begin, end, p.bias[row], h, z);
        dag_gate<T, N>(z, g, gated);
        grads.bias[row] = row_sum<T, N>(gated);
        dag_spread<T, N>(p.weight, dag.cols, begin, end, gated, h, grad_h, grads.weight);
      }
    }
  }
  for (int32_t v = 0; v < dag.layer_start[1]; ++v) {
    grads.extra[v] = 0;
    if (grads.gamma) grads.gamma[v] = grads.beta[v] = 0;
  }
}

template <typename T>
void dag_forward(const Dag& dag, const DagParameters<T>& p, int units, T* h, T* scratch) {
  constexpr int n = kUnit / VECTOR_BYTES;
  switch (units) {
    case 1: return dag_forward_tile<T, n>(dag, p, h, scratch);
    case 2: return dag_forward_tile<T, 2 * n>(dag, p, h, scratch);
    case 3: return dag_forward_tile<T, 3 * n>(dag, p, h, scratch);
    default: return dag_forward_tile<T, 4 * n>(dag, p, h, scratch);
  }
}

template <typename T>
void dag_backward(const Dag& dag, const DagParameters<T>& p, int units, const T* h, T* grad_h,
                  const DagGradients<T>& grads, T* scratch) {
  constexpr int n = kUnit / VECTOR_BYTES;
  switch (units) {
    case 1: return dag_backward_tile<T, n>(dag, p, h, grad_h, grads, scratch);
    case 2: return dag_backward_tile<T, 2 * n>(dag, p, h, grad_h, grads, scratch);
    case 3: return dag_backward_tile<T, 3 * n>(dag, p, h, grad_h, grads, scratch);
    default: return dag_backward_tile<T, 4 * n>(dag, p, h, grad_h, grads, scratch);
  }
}
