// Compressed sparse rows of a whole graph, straight from the weights and the geometry of its operators.
//
// Two passes over the operators: `count` adds the out-degrees, `fill` writes each edge to its final row; no list of
// edges is ever in between. Rows are the source nodes, columns the target nodes, sorted within a row by `finish`.
// Nodes are int32, and -1 stands for an element that is no node: its edges are dropped. Nothing here knows Python.
#ifndef DEEPSTRUCT_GRAPH_EXPLICIT_H
#define DEEPSTRUCT_GRAPH_EXPLICIT_H

#include <cstdint>
#include <vector>

namespace deepstruct::graph {

// Which outputs an input position reaches along one axis, and through which tap: for position i the entries
// start[i] .. start[i + 1] of `out`, ascending, and of `tap`.
struct Axis {
  int64_t positions;  // on the side of the source
  const int64_t* start;
  const int32_t* out;
  const int32_t* tap;
  int64_t source_stride, target_stride, tap_stride;  // in elements, elements, and entries of one kernel
};

// Where the stored weight of (source channel c, output o of its group, tap k) lies:
// c * channel + o * output + group * (c's group) + taps[k].
struct Places {
  int64_t channel = 0, output = 0, group = 0;
  std::vector<int64_t> taps;
};

// A contraction with shared weights: source element (n, c, i1, i2, ...) reaches target element (n, o, o1, o2, ...)
// where tap (k1, k2, ...) of the kernel from channel c to channel o is alive, and leads from i to o on every axis.
// A linear layer has rows as its only axis; pooling has one channel and no mask.
struct Window {
  int64_t batch, source_batch, target_batch;  // number, and strides in elements
  int64_t channels;                           // of the source
  int64_t group_in, group_out;                // channels per group
  int64_t source_channel, target_channel;     // strides in elements
  int64_t taps;                               // entries of a kernel
  bool mirrored;  // higher taps lead to lower outputs, as in a convolution
  // One bit per (channel, output, tap), as `pack` makes them; null where every tap is an edge.
  const uint64_t* alive;
  std::vector<Axis> axes;

  int64_t words() const { return (group_out * taps + 63) / 64; }  // of one channel
};

// Element -> node, on both sides; fewer than 2^31 elements each.
struct Ends {
  const int32_t* source;
  int64_t num_source;
  const int32_t* target;
  int64_t num_target;
};

// The largest node of some elements, -1 where there is none.
int32_t largest(const int32_t* node, int64_t size);

// Edges between elements: (rows[e], cols[e]); both null where element e leads to element e.
struct List {
  const int64_t* rows;
  const int64_t* cols;
  int64_t size;
};

// What each edge of a window carries: the stored weight, its position, or a constant.
struct Numbers {
  enum class Kind { constant, single, full, position } kind = Kind::constant;
  const void* data = nullptr;  // float or double
  int64_t first = 0;           // added to positions
  Places places;
};

// Where edges go. `cursor[v]` is where the next edge of node v is written (so that it ends as the start of node
// v + 1); `values` has one number per edge, or is null.
template <typename V>
struct Rows {
  int64_t* cursor;
  int32_t* columns;
  V* values;
  int64_t capacity;
};

// The bits of a window (channels x words, all zero before): a weight is an edge where it is not zero, or where its
// magnitude is above a threshold that is positive.
template <typename T>
void pack(const Window& window, const T* data, const Places& places, T threshold, uint64_t* bits);

// The same from bits that lie as the weights do: one row per output of every group, and in it one bit per (channel of
// the group, tap), each row in words of its own.
void turn(const Window& window, const uint64_t* stored, uint64_t* bits);

// Adds the number of edges of each node to degree[node]. Where every target is a node, how many outputs each (channel,
// tap) leads to says all: `alive`, and the mask is not read.
void count(const Window& window, const Ends& ends, int64_t* degree);
void count(const Window& window, const Ends& ends, const int64_t* alive, int64_t* degree);
void count(const List& list, const Ends& ends, int64_t* degree);

// Writes the edges. `stored` has one number per edge of the list; where it is null every edge gets `constant`.
// Throws std::length_error where the counts do not leave room.
template <typename V>
void fill(const Window& window, const Ends& ends, const Numbers& numbers, V constant, const Rows<V>& rows);
template <typename V>
void fill(const List& list, const Ends& ends, const V* stored, V constant, const Rows<V>& rows);

// Degrees to starts: start[v + 1] becomes the sum of the first v degrees (degree v is read from start[v + 1]), which
// makes `start + 1` the cursor of `fill`. Returns the sum of all.
int64_t starts_from_degrees(int64_t nodes, int64_t* start);

// Sorts every row by column, equal columns by value with NaN last. Returns how many rows were out of order.
template <typename V>
int64_t finish(int64_t nodes, const int64_t* start, int32_t* columns, V* values);

// Rows of the reversed edges: sources of each node, ascending, in `columns_t`.
void transpose(int64_t nodes, const int64_t* start, const int32_t* columns, int64_t* start_t, int32_t* columns_t);

}  // namespace deepstruct::graph

#endif
