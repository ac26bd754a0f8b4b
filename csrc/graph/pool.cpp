#include "pool.h"

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace deepstruct::sweeps {
namespace {

class Pool {
 public:
  bool try_run(int threads, int64_t tasks, const std::function<void(int64_t)>& body) {
    if (inside_) return false;
    std::unique_lock<std::mutex> one_at_a_time(user_, std::try_to_lock);
    if (!one_at_a_time) return false;
    while (static_cast<int>(workers_.size()) < threads - 1) {
      const int id = static_cast<int>(workers_.size());
      workers_.emplace_back([this, id, round = round_] { work(id, round); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body, tasks_ = tasks, next_ = 0, error_ = nullptr;
      helpers_ = threads - 1, running_ = threads - 1;
      ++round_;
    }
    wake_.notify_all();
    take();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  void take() {
    inside_ = true;
    try {
      for (int64_t i = next_++; i < tasks_; i = next_++) (*body_)(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
      next_ = tasks_;
    }
    inside_ = false;
  }

  void work(int id, int64_t seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen && id < helpers_; });
        seen = round_;
      }
      take();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex user_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t tasks_ = 0, round_ = 0;
  std::atomic<int64_t> next_{0};
  int helpers_ = 0, running_ = 0;
  std::exception_ptr error_;
  static thread_local bool inside_;
};

thread_local bool Pool::inside_ = false;

#if defined(_WIN32)
int process() { return 0; }
#else
int process() { return static_cast<int>(getpid()); }
#endif

// Threads do not survive a fork: a child starts a pool of its own, and leaves its parent's untouched.
Pool& pool() {
  static std::mutex mutex;
  static Pool* current = nullptr;
  static int owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (current == nullptr || owner != process()) {
    current = new Pool;  // never destroyed: at exit its threads may outlive what they would be joined by
    owner = process();
  }
  return *current;
}

struct Block {
  void* memory = nullptr;
  std::size_t bytes = 0;
  void release() {
    ::operator delete(memory, std::align_val_t{64});
    memory = nullptr, bytes = 0;
  }
  ~Block() { release(); }
};

thread_local Block blocks[kScratches];

}  // namespace

void parallel(int threads, int64_t tasks, const std::function<void(int64_t)>& body) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads > 1 && pool().try_run(threads, tasks, body)) return;
  for (int64_t i = 0; i < tasks; ++i) body(i);
}

void* scratch(Scratch purpose, std::size_t bytes) {
  Block& block = blocks[purpose];
  if (block.bytes < bytes) {
    block.release();
    block.memory = ::operator new(bytes, std::align_val_t{64});
    block.bytes = bytes;
  }
  return block.memory;
}

std::size_t scratch_bytes() {
  std::size_t total = 0;
  for (const Block& block : blocks) total += block.bytes;
  return total;
}

void release_scratch() {
  for (Block& block : blocks) block.release();
}

}  // namespace deepstruct::sweeps
