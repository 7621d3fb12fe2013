// Threads come from OpenMP's pool, which torch's own operators use too, and nothing else does: who takes which task and who
// waits for whom is kept in atomics. A sanitizer sees those, and nothing of what happens inside OpenMP's library.
#pragma once

#include <omp.h>
#include <stdint.h>

#include <atomic>
#include <thread>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace {

// More would gain nothing, and OpenMP ends the process where it cannot start one.
constexpr int kMostThreads = 256;

inline int64_t threads_for(int asked, int64_t tasks) {
  const int64_t most = asked < kMostThreads ? asked : kMostThreads;
  return most < tasks ? most : tasks;
}

// An order that OpenMP's library makes and ThreadSanitizer does not see: all before pass() is before all after reach().
struct Edge {
  char address = 0;
#if defined(__SANITIZE_THREAD__)
  void pass() { __tsan_release(&address); }
  void reach() { __tsan_acquire(&address); }
#else
  void pass() {}
  void reach() {}
#endif
};

// work(thread) on up to `threads` threads at once, numbered from 0; back when all are done. Fewer may come than were asked
// for, down to one inside somebody else's parallel region. Not instrumented itself: what the compiler hands to the threads of
// a parallel region is out of the sanitizer's sight as well. `work` is.
template <class Work>
__attribute__((noinline, no_sanitize("thread"))) void on_threads(int threads, const Work &work) {
  if (threads == 1) return work(0);
  Edge fork, join;  // two, or a thread that is done early would be before one that starts late
  fork.pass();
#pragma omp parallel num_threads(threads)
  {
    fork.reach();
    work(omp_get_thread_num());
    join.pass();
  }
  join.reach();
}

// Until another thread has counted up to `enough`. That thread may share a core with this one, so give way soon.
inline void wait_for(const std::atomic<int64_t> &count, int64_t enough) {
  for (int spins = 0; count.load(std::memory_order_acquire) < enough; ++spins)
    if (spins > 1000) std::this_thread::yield();
}

}  // namespace
