// The threads that share the work of one call: OpenMP's, linked or found in the process, which torch's own operators use too, or a
// pool of the extension's own (threads.cpp). None does more than call a function on several threads: who takes which task and who waits for whom is kept
// in atomics. So results do not depend on which it is.
#pragma once

#include <stdint.h>

#include <atomic>
#include <thread>

namespace flow {

// work(argument, thread) on up to `threads` threads at once, numbered from 0, the calling one; back when all are done.
void on_threads(int threads, void (*work)(const void *argument, int thread) noexcept, const void *argument) noexcept;

// "OpenMP", "OpenMP of torch" where it is not linked but found in the process, or "thread pool"
const char *kind_of_threads();

}  // namespace flow

namespace {

// More would gain nothing, and OpenMP ends the process where it cannot start one.
constexpr int kMostThreads = 256;

inline int64_t threads_for(int asked, int64_t tasks) {
  const int64_t most = asked < kMostThreads ? asked : kMostThreads;
  return most < tasks ? most : tasks;
}

// work(thread) on up to `threads` threads at once, numbered from 0; back when all are done. Fewer may come than were asked for,
// down to one inside the work of another call. An exception that left `work` would end the process, so it must be noexcept.
template <class Work>
void on_threads(int threads, const Work &work) {
  static_assert(noexcept(work(0)), "work that threads share must be noexcept");
  if (threads == 1) return work(0);
  flow::on_threads(
      threads, [](const void *argument, int thread) noexcept { (*static_cast<const Work *>(argument))(thread); }, &work);
}

// Until another thread has counted up to `enough`. That thread may share a core with this one, so give way soon.
inline void wait_for(const std::atomic<int64_t> &count, int64_t enough) {
  for (int spins = 0; count.load(std::memory_order_acquire) < enough; ++spins)
    if (spins > 1000) std::this_thread::yield();
}

}  // namespace
