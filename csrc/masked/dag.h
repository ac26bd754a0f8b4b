// A network over a directed acyclic graph, vertex by vertex: one value per edge. Knows no torch.
//
// Vertices are numbered layer by layer. Layer 0 is given. A vertex v above it has rows [vertex_row[v],
// vertex_row[v + 1]), at least one; row r has edges [row_start[r], row_start[r + 1]) from vertices cols[e] of lower
// layers, and adds relu(bias[r] + sum of w[e] h[cols[e]]). The first row of a vertex is its main row: with a norm,
// the main rows of a layer are normalised together before the relu. extra[v] is added at the end.
#ifndef DEEPSTRUCT_MASKED_DAG_H
#define DEEPSTRUCT_MASKED_DAG_H

#include <cstdint>

namespace deepstruct {

struct Dag {
  int64_t vertices, layers, rows, edges, widest;  // widest: vertices of the largest layer
  const int32_t* layer_start;                     // layers + 1
  const int32_t* vertex_row;                      // vertices + 1
  const int32_t* row_start;                       // rows + 1
  const int32_t* cols;                            // edges
};

template <typename T>
struct DagParameters {
  const T* weight;  // edges
  const T* bias;    // rows
  const T* extra;   // vertices
  const T* gamma;   // vertices, or null: no norm
  const T* beta;
  T eps;
};

// One gradient of each parameter; gamma and beta may be null.
template <typename T>
struct DagGradients {
  T* weight;
  T* bias;
  T* extra;
  T* gamma;
  T* beta;
};

}  // namespace deepstruct

#endif
