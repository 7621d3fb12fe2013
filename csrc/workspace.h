// Memory that kernels work in.
#pragma once

#include <stdint.h>

#include <memory>
#include <new>

namespace flow {

struct NoWorkspace : std::bad_alloc {
  const char *what() const noexcept override {
    return "flow_kernels: no memory for the workspace of a kernel; use smaller sizes";
  }
};

// A thread's workspace, kept: fresh memory costs a page fault every 4 KiB, a tenth of a call at H = 256.
class Workspace {
 public:
  void *get(int64_t bytes) {
    if (bytes <= size_) return kept_.get();
    void *fresh = operator new((size_t)bytes, kAlignment, std::nothrow);
    if (!fresh) throw NoWorkspace();
    (bytes <= kKeep ? kept_ : once_).reset(fresh);
    if (bytes <= kKeep) size_ = bytes;
    return fresh;
  }
  void done() { once_.reset(); }

 private:
  static constexpr int64_t kKeep = 64 << 20;
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void *p) const { operator delete(p, kAlignment); }
  };
  std::unique_ptr<void, Free> kept_, once_;
  int64_t size_ = 0;
};

// One for all entry points: no two run at a time on a thread.
inline Workspace &workspace() {
  static thread_local Workspace one;
  return one;
}

}  // namespace flow
