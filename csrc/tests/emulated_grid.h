// Runs CUDA kernels on the CPU: every thread of a block is a fiber, scheduled in random order between barriers, so
// that a missing barrier shows as a wrong result. Include this before a .cuh file, then call `launch`.
#ifndef DEEPSTRUCT_EMULATED_GRID_H
#define DEEPSTRUCT_EMULATED_GRID_H

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define DEEPSTRUCT_SHARED(name) float* name = emulated::grid().shared.data()
#define threadIdx (emulated::grid().thread_index())
#define blockIdx (emulated::grid().block)
#define __syncthreads() emulated::grid().block_barrier()
#define __shfl_sync(mask, value, lane) emulated::grid().shuffle(value, lane)

namespace emulated {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

class Grid {
 public:
  std::vector<float> shared;
  Index block;

  Index thread_index() const { return {static_cast<unsigned>(current_), 0, 0}; }

  void run(Index blocks, int threads, std::size_t shared_bytes, unsigned seed, const std::function<void()>& kernel) {
    random_.seed(seed);
    kernel_ = &kernel;
    for (block.y = 0; block.y < blocks.y; ++block.y)
      for (block.x = 0; block.x < blocks.x; ++block.x) {
        // What nobody wrote is not a number.
        shared.assign(shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
        run_block(threads);
      }
  }

  void block_barrier() { wait(State::at_block_barrier); }

  template <typename T>
  T shuffle(T value, int lane) {
    const int mine = current_, warp = mine / 32 * 32;
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    std::memcpy(fibers_[mine].word, &value, sizeof(T));
    wait(State::at_warp_barrier);
    T out;
    std::memcpy(&out, fibers_[warp + lane].word, sizeof(T));
    wait(State::at_warp_barrier);  // nobody overwrites what another has still to read
    return out;
  }

 private:
  enum class State { ready, at_block_barrier, at_warp_barrier, done };
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    State state;
    char word[8];
  };

  static void enter();

  void wait(State state) {
    Fiber& fiber = fibers_[current_];
    fiber.state = state;
    swapcontext(&fiber.context, &scheduler_);
  }

  void run_block(int threads) {
    fibers_.resize(threads);
    for (Fiber& fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.stack.resize(64 << 10);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &scheduler_;
      fiber.state = State::ready;
      makecontext(&fiber.context, enter, 0);
    }
    std::vector<int> ready;
    for (;;) {
      ready.clear();
      for (int i = 0; i < threads; ++i)
        if (fibers_[i].state == State::ready) ready.push_back(i);
      if (ready.empty() && !release(threads)) return;
      if (ready.empty()) continue;
      // Everybody who can runs once, in random order, up to a barrier.
      std::shuffle(ready.begin(), ready.end(), random_);
      for (int i : ready) {
        current_ = i;
        swapcontext(&scheduler_, &fibers_[i].context);
      }
    }
  }

  // Lets those pass whose barrier is complete; false when all are done. A barrier that not all reach is an error.
  bool release(int threads) {
    bool released = false;
    for (int warp = 0; warp < threads; warp += 32) {
      const int end = warp + 32 < threads ? warp + 32 : threads;
      int waiting = 0;
      for (int i = warp; i < end; ++i) waiting += fibers_[i].state == State::at_warp_barrier;
      if (waiting == 0) continue;
      if (waiting != end - warp) throw std::logic_error("a shuffle that not all lanes of a warp reach");
      for (int i = warp; i < end; ++i) fibers_[i].state = State::ready;
      released = true;
    }
    if (released) return true;
    int waiting = 0, done = 0;
    for (const Fiber& fiber : fibers_) {
      waiting += fiber.state == State::at_block_barrier;
      done += fiber.state == State::done;
    }
    if (done == threads) return false;
    if (waiting != threads) throw std::logic_error("a barrier that not all threads of a block reach");
    for (Fiber& fiber : fibers_) fiber.state = State::ready;
    return true;
  }

  std::vector<Fiber> fibers_;
  ucontext_t scheduler_{};
  std::mt19937 random_;
  const std::function<void()>* kernel_ = nullptr;
  int current_ = 0;

  friend Grid& grid();
};

inline Grid& grid() {
  static Grid one;
  return one;
}

inline void Grid::enter() {
  Grid& g = grid();
  (*g.kernel_)();
  g.fibers_[g.current_].state = State::done;
}

// launch({x, y}, threads, shared bytes, seed, [&] { kernel(arguments); })
inline void launch(Index blocks, int threads, std::size_t shared_bytes, unsigned seed,
                   const std::function<void()>& kernel) {
  grid().run(blocks, threads, shared_bytes, seed, kernel);
}

}  // namespace emulated

#endif
