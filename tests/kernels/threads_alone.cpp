// What shares the work of a call (csrc/cpu/common/threads.h), without kernels and without Python. Each argument names a case;
// tests/kernels/test_thread_pool.py compiles this with the thread pool, also under ThreadSanitizer, and with OpenMP.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <chrono>
#include <exception>
#include <vector>

#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <dirent.h>
#include <sched.h>
#endif

#include "../../csrc/cpu/common/threads.h"

namespace {

void expect(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "FAILED %s\n", what), fflush(stderr);
  _Exit(1);
}

void pause(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// How many threads came to one call: each once, with a number of its own. They write without atomics what the caller reads.
int called(int threads) {
  std::vector<int> came(threads, 0);
  on_threads(threads, [&](int me) noexcept { ++came.at(me); });
  int count = 0;
  while (count < threads && came[count] == 1) ++count;
  for (int me = count; me < threads; ++me) expect(came[me] == 0, "numbers without a gap, each called once");
  return count;
}

// Tasks in turn, each waiting for the one before: exact sums, whoever takes which.
void tasks(int threads, int64_t count) {
  std::vector<int64_t> sums(count + 1, 0);
  std::atomic<int64_t> next{0}, done{0};
  on_threads(threads, [&](int) noexcept {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      wait_for(done, i);
      sums[i + 1] = sums[i] + i;
      done.fetch_add(1, std::memory_order_release);
    }
  });
  expect(done == count && sums[count] == count * (count - 1) / 2, "every task once, after the one before");
}

void exact() {
  for (int turn = 0; turn < 2000; ++turn) expect(called(2 + turn % 5) >= 1, "somebody comes");
  for (int turn = 0; turn < 50; ++turn) tasks(1 + turn % 7, 100);
}

void all_come() {
  for (int turn = 0; turn < 300; ++turn) expect(called(1 + turn % 9) == 1 + turn % 9, "as many threads as were asked for");
}

void asleep() {
  for (int turn = 0; turn < 40; ++turn) {
    tasks(3, 9);
    pause(turn % 4);  // longer than workers stay awake
    on_threads(2, [&](int me) noexcept {
      if (me == turn % 2) pause(1);  // longer than a caller stays awake
    });
  }
}

void nested() {
  std::atomic<int> inner{0};
  std::atomic<bool> alone{true};
  on_threads(4, [&](int) noexcept {
    const std::thread::id outer = std::this_thread::get_id();
    on_threads(4, [&](int me) noexcept {
      if (me || std::this_thread::get_id() != outer) alone = false;
      ++inner;
    });
  });
  expect(alone && inner >= 1 && inner <= 4, "a call from inside is done by the thread that makes it");
  tasks(4, 100);
}

void many() {
  for (int turn = 0; turn < 3; ++turn) tasks((int)threads_for(100000, 100000), 500), tasks(2, 50);
}

// Several threads call at once; they come and go, and their workers with them.
void callers() {
  for (int round = 0; round < 5; ++round) {
    std::vector<std::thread> all;
    for (int n = 0; n < 6; ++n) all.emplace_back([n] {
      for (int turn = 0; turn < 40; ++turn) called(2 + n % 3), tasks(3, 10);
    });
    for (std::thread &one : all) one.join();
  }
}

#if defined(__linux__)
int threads_now() {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  while (const dirent *entry = readdir(tasks)) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

void ended() {
  const int before = threads_now();
  callers();
  for (int waited = 0; threads_now() > before && waited < 10000; waited += 10) pause(10);
  expect(threads_now() == before, "workers end after the thread that called them");
}

// Workers run where their caller may run, however many processors there are.
void affinity() {
  cpu_set_t allowed, one;
  expect(!sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
  int last = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed)) last = cpu;
  CPU_ZERO(&one);
  CPU_SET(last, &one);
  expect(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
  std::atomic<int> same{0};
  on_threads(3, [&](int) noexcept {
    cpu_set_t mine;
    if (!sched_getaffinity(0, sizeof mine, &mine) && CPU_EQUAL(&mine, &one)) ++same;
  });
  expect(same == 3, "three threads on the caller's one processor");
}

// No memory for more stacks: fewer threads come, and no exception.
void no_more() {
  expect(called(2) == 2, "two threads before the limit");
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  expect(file && fscanf(file, "%ld", &pages) == 1, "the size of this process");
  fclose(file);
  rlimit stack;
  getrlimit(RLIMIT_STACK, &stack);
  const rlim_t room = stack.rlim_cur == RLIM_INFINITY ? 8 << 20 : stack.rlim_cur;
  const rlim_t size = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + 3 * room;
  const rlimit limit = {size, size};
  expect(!setrlimit(RLIMIT_AS, &limit), "setrlimit");
  const int came = called(64);
  expect(came >= 2 && came < 64, "as many threads as there is memory for");
  tasks(64, 100);
}
#endif

#if !defined(_WIN32)
// A child has the forking thread alone, and a pool again as soon as it calls.
void in_child(bool by_exit) {
  const pid_t child = fork();
  expect(child >= 0, "fork");
  if (!child) {
    alarm(20);
    expect(called(3) == 3, "a child has as many threads as it asks for");
    tasks(3, 30);
    by_exit ? exit(0) : _exit(0);
  }
  int status = 0;
  expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ends well");
}

void forks() {
  in_child(true);  // before the first call
  for (int turn = 0; turn < 20; ++turn) {
    called(2 + turn % 3);
    if (turn % 2) pause(1);  // workers sleep
    in_child(turn % 4 < 2);
  }
  const pid_t child = fork();
  if (!child) in_child(true), called(4), in_child(true), exit(0);  // a child of a child; and one that never called before it ends
  int status = 0;
  expect(waitpid(child, &status, 0) == child && status == 0, "a child with children ends well");
  const pid_t idle = fork();
  if (!idle) alarm(20), exit(0);
  expect(waitpid(idle, &status, 0) == idle && status == 0, "a child that calls nothing ends well");
  tasks(4, 100);
}

// Other threads are in the middle of calls when this one forks.
void forks_among_callers() {
  std::atomic<bool> end{false};
  std::vector<std::thread> all;
  for (int n = 0; n < 2; ++n) all.emplace_back([&] {
    while (!end) tasks(3, 10);
  });
  for (int turn = 0; turn < 10; ++turn) called(3), in_child(false);
  end = true;
  for (std::thread &one : all) one.join();
}
#endif

void limited() { expect(called(4) == 2, "OMP_THREAD_LIMIT=2"); }

// The end of the process, and not of a thread whose caller would wait for ever.
void throws() {
  std::set_terminate([] { _Exit(42); });
  on_threads(2, [](int me) noexcept {
    if (me) (void)std::vector<int>().at(1);
  });
}

#if defined(FLOW_MAY_THROW)
void refused_by_the_compiler() {
  on_threads(2, [](int me) {
    if (me) throw 1;
  });
}
#endif

struct Case {
  const char *name;
  void (*run)();
};
const Case kCases[] = {
    {"exact", exact}, {"all_come", all_come}, {"asleep", asleep}, {"nested", nested}, {"many", many},
    {"callers", callers}, {"limited", limited}, {"throws", throws},
#if defined(__linux__)
    {"ended", ended}, {"affinity", affinity}, {"no_more", no_more},
#endif
#if !defined(_WIN32)
    {"forks", forks}, {"forks_among_callers", forks_among_callers},
#endif
};

}  // namespace

int main(int count, char **names) {
  for (int n = 1; n < count; ++n) {
    bool known = false;
    for (const Case &one : kCases)
      if (!strcmp(one.name, names[n])) one.run(), known = true;
    expect(known, names[n]);
    printf("%s: %s\n", flow::kind_of_threads(), names[n]), fflush(stdout);  // a child would print it again
  }
  return 0;
}
