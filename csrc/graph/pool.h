// A small pool of threads, and scratch memory that only grows.
#ifndef DEEPSTRUCT_GRAPH_POOL_H
#define DEEPSTRUCT_GRAPH_POOL_H

#include <cstddef>
#include <cstdint>
#include <functional>

namespace deepstruct::sweeps {

// Calls body(i) for every i below `tasks`, on up to `threads` threads, the caller among them. Who runs which task is
// left to chance. A call from inside a body, or while another thread uses the pool, runs on the caller alone.
void parallel(int threads, int64_t tasks, const std::function<void(int64_t)>& body);

enum Scratch { kPlanes, kReduced, kDensePlanes, kCopy, kScratches };

// Memory of this thread, aligned to 64 bytes, valid until the next call for the same purpose.
void* scratch(Scratch purpose, std::size_t bytes);

// What this thread holds, and giving it back.
std::size_t scratch_bytes();
void release_scratch();

}  // namespace deepstruct::sweeps

#endif
