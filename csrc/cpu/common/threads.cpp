// The two kinds of threads behind threads.h. FLOW_OPENMP, a definition that CMake makes of the option of that name, chooses.
#include "threads.h"

#if defined(FLOW_OPENMP)

#include <omp.h>

#if defined(__SANITIZE_THREAD__)  // as GCC says it
#define FLOW_TSAN
#elif defined(__has_feature)  // and clang
#if __has_feature(thread_sanitizer)
#define FLOW_TSAN
#endif
#endif
#if defined(FLOW_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace {

// An order that OpenMP's library makes and ThreadSanitizer does not see: all before pass() is before all after reach().
struct Edge {
  char address = 0;
#if defined(FLOW_TSAN)
  void pass() { __tsan_release(&address); }
  void reach() { __tsan_acquire(&address); }
#else
  void pass() {}
  void reach() {}
#endif
};

}  // namespace

namespace flow {

const char *kind_of_threads() { return "OpenMP"; }

// Not instrumented: what the compiler hands to the threads of a parallel region is out of the sanitizer's sight. `work` is.
__attribute__((noinline, no_sanitize("thread"))) void on_threads(int threads, void (*work)(const void *, int) noexcept,
                                                                 const void *argument) noexcept {
  Edge fork, join;  // two, or a thread that is done early would be before one that starts late
  fork.pass();
#pragma omp parallel num_threads(threads)
  {
    fork.reach();
    work(argument, omp_get_thread_num());
    join.pass();
  }
  join.reach();
}

}  // namespace flow

#else

#include <stdlib.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <dlfcn.h>
#endif

// Where the process has an OpenMP library already, its threads are used: torch brings one, whose threads wait in a loop for
// some milliseconds after each of torch's operators. Threads of another library would share their cores with them meanwhile.
// Otherwise there is a pool.
//
// Every calling thread has a pool of its own, as with OpenMP, so calls of several threads never wait for one another. Its
// workers are started when they are first needed, inherit the processors that the caller may use, and end after the caller.
// They are detached: nobody waits for them, neither at the end of a process nor in a child that has only the forking thread.

namespace {

using Function = void (*)(const void *argument, int thread) noexcept;

// Set in workers, and in a caller while it works: a call from inside is done by the thread that makes it.
thread_local bool is_working = false;

// How often this process is the child of one that had called pthread_atfork. No worker comes along into a child.
std::atomic<unsigned> forks{0};

bool notices_forks() {
#if defined(_WIN32)
  return true;  // there is no fork
#else
  static const bool registered = !pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return registered;
#endif
}

[[maybe_unused]] const bool notices_forks_before_the_first_call = notices_forks();

// As OpenMP has it, of one call. What is no number says nothing.
int thread_limit() {
  const char *text = getenv("OMP_THREAD_LIMIT");
  const long limit = text ? strtol(text, nullptr, 10) : 0;
  return limit > 0 && limit < kMostThreads ? (int)limit : kMostThreads;
}

// GNU's functions of OpenMP, which the libraries of LLVM and Intel have on Linux too; null where the process has none.
struct OpenMP {
  void (*parallel)(void (*work)(void *), void *argument, unsigned threads, unsigned flags) = nullptr;
  int (*thread)() = nullptr;

  OpenMP() {
#if defined(__linux__)
    if (!notices_forks()) return;
    void *const parallel_found = dlsym(RTLD_DEFAULT, "GOMP_parallel"), *const thread_found = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    if (!parallel_found || !thread_found) return;
    parallel = reinterpret_cast<decltype(parallel)>(parallel_found);
    thread = reinterpret_cast<decltype(thread)>(thread_found);
#endif
  }
};

// Looked up at the first call that asks, by when torch is there. A child of a fork has none: GNU's library hangs in it once its
// parent has used threads.
const OpenMP *openmp_of_process() {
  static const OpenMP openmp;
  return openmp.parallel && !forks.load(std::memory_order_relaxed) ? &openmp : nullptr;
}

// Whether it came true soon. A woken thread takes some 50 us to run, but spinning costs others time, who may share this core.
template <class Condition>
bool soon(Condition is_true) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
  do {
    for (int spins = 0; spins < 64; ++spins) {
      if (is_true()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      __asm__ volatile("yield");
#endif
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// What a caller shares with its workers; the last of them deletes it.
class Team {
 public:
  // The caller's: works as number 0, with the workers 1 .. threads - 1.
  void work(Function function, const void *argument, int threads) {
    function_ = function, argument_ = argument;
    busy_.store(threads - 1, std::memory_order_relaxed);
    announce(threads);
    is_working = true;
    function(argument, 0);
    is_working = false;
    const auto done = [&] { return busy_.load() == 0; };
    if (soon(done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_ = true;
    all_done_.wait(lock, done);
    caller_sleeps_ = false;
  }

  // One more worker; false where the system gives no more threads.
  bool start(int number) {
    members_.fetch_add(1, std::memory_order_relaxed);
    try {
      std::thread([this, number, seen = call_.load(std::memory_order_relaxed)] { serve(number, seen); }).detach();
      return true;
    } catch (const std::system_error &) {
    } catch (const std::bad_alloc &) {
    }
    members_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }

  // The caller's last call: workers end, now or when they wake up.
  void leave() {
    announce(0);
    release();
  }

 private:
  // The number of a call, and in the low bits how many threads it has: what a worker must know before it may look at the rest.
  static constexpr int kBits = 16;
  std::atomic<uint64_t> call_{0};
  Function function_ = nullptr;
  const void *argument_ = nullptr;
  std::atomic<int> busy_{0}, asleep_{0}, members_{1};
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable called_, all_done_;

  // Whoever goes to sleep says so, and then looks once more; whoever wakes changes what is looked at, and then asks who
  // sleeps. One of the two sees the other, since these are sequentially consistent.
  void announce(int threads) {
    call_ = ((call_.load(std::memory_order_relaxed) >> kBits) + 1) << kBits | (uint64_t)threads;
    if (asleep_) wake(called_);
  }
  void wake(std::condition_variable &condition) {
    { const std::lock_guard<std::mutex> between_its_look_and_its_sleep(mutex_); }
    condition.notify_all();
  }

  // Ends by itself, and touches nothing but the team: the process may be about to exit.
  void serve(int number, uint64_t seen) {
    is_working = true;
    for (;;) {
      const auto called = [&] { return call_.load() != seen; };
      if (!soon(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++asleep_;
        called_.wait(lock, called);
        --asleep_;
      }
      seen = call_.load();
      const int threads = (int)(seen & ((1 << kBits) - 1));
      if (!threads) return release();
      if (number >= threads) continue;
      function_(argument_, number);
      if (busy_.fetch_sub(1) == 1 && caller_sleeps_) wake(all_done_);
    }
  }

  void release() {
    if (members_.fetch_sub(1) == 1) delete this;
  }
};

// A thread's pool
class Pool {
 public:
  ~Pool() {
    if (is_mine()) team_->leave();
  }

  // Fewer where so many cannot be started
  void work(Function function, const void *argument, int threads) {
    static const int limit = thread_limit();
    if (threads > limit) threads = limit;
    if (threads > 1 && notices_forks() && has_team()) {
      while (workers_ < threads - 1 && team_->start(workers_ + 1)) ++workers_;
      if (threads > workers_ + 1) threads = workers_ + 1;
      if (threads > 1) return team_->work(function, argument, threads);
    }
    is_working = true;
    function(argument, 0);
    is_working = false;
  }

 private:
  Team *team_ = nullptr;
  int workers_ = 0;
  unsigned forks_ = 0;  // when the team was made

  bool is_mine() const { return team_ && forks_ == forks.load(std::memory_order_relaxed); }
  // The team of a parent is left alone: its workers are not here, and one of them may have held the mutex.
  bool has_team() {
    if (is_mine()) return true;
    forks_ = forks.load(std::memory_order_relaxed), workers_ = 0;
    team_ = new (std::nothrow) Team;
    return team_ != nullptr;
  }
};

}  // namespace

namespace flow {

const char *kind_of_threads() { return openmp_of_process() ? "OpenMP of torch" : "thread pool"; }

void on_threads(int threads, void (*work)(const void *, int) noexcept, const void *argument) noexcept {
  if (is_working || threads == 1) return work(argument, 0);
  if (const OpenMP *openmp = openmp_of_process()) {
    struct Call {
      const OpenMP *openmp;
      void (*work)(const void *, int) noexcept;
      const void *argument;
    } call{openmp, work, argument};
    return openmp->parallel(
        [](void *data) {
          const Call &own = *static_cast<const Call *>(data);
          own.work(own.argument, own.openmp->thread());
        },
        &call, (unsigned)threads, 0);
  }
  static thread_local Pool pool;
  pool.work(work, argument, threads);
}

}  // namespace flow

#endif
