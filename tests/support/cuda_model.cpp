// A model of a Hopper cluster on the CPU. It compiles the kernels' own text (forward.h, backward.h and what they include) and
// runs it with every warp as a fiber, in an order drawn by chance: one warp may run as far ahead as the barriers let it, a copy
// between blocks may read its source and write its target at any time between being issued and being waited for. Memory that
// nobody wrote is NaN. What a lane of the tensor cores holds is taken from the PTX ISA (mma.m16n8k16, ldmatrix).
//
// Reported: a copy of what no fence has published or what was overwritten before the copy had read it, a deadlock, a barrier
// used beyond its count, a copy out of bounds or misaligned, a write past the shared memory that was asked for, a copy still
// under way when a block ends. Faults can be planted, to see that they are noticed.
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "backward.h"
#include "forward.h"

using namespace flow::cuda;

namespace {

enum Fault {
  kNone,
  kTooManyBytes,  // a barrier expects more than comes
  kTooFewBytes,   // ... or one piece less than comes
  kNotArmed,      // a barrier is never told to expect the exchange after next
  kNoWait,        // a block goes on without the peers' pieces
  kWrongParity,   // a wait asks for the phase before
  kNoPublish,     // copies are sent while other warps still write what they read
  kNoFence,       // the copies may not have seen what they read
  kNoSync,        // warps go on without each other
  kWrongBuffer,   // pieces go to the buffer of the exchange before
  kFaults
};
int fault = kNone;
unsigned seed = 0;
std::string failure;

constexpr int kRedZone = 1024;

// Shared memory has 32 banks of 4 bytes. An access of a warp takes as many wavefronts as one bank has words that it asks for.
// One of 8 or 16 bytes a lane is made for a half or a quarter of the lanes at a time.
class Banks {
 public:
  bool counting = false;
  int lane = 0;
  std::map<std::string, std::pair<int, int>> worst;  // of a place in the text: wavefronts, and how many there would have to be

  void access(int at, int bytes, const std::string &text) {
    if (counting) asked_[{text, occurrences_[{text, lane}]++}].push_back({lane, at, bytes});
  }
  // All lanes have been there: those that came to a place for the n-th time did so together.
  void settle() {
    for (const auto &[where, accesses] : asked_) {
      int wavefronts = 0, needed = 0;
      const int lanes = std::min(32, 128 / accesses[0].bytes);
      for (int first = 0; first < 32; first += lanes) {
        std::map<int, std::set<int>> words;
        for (const Access &a : accesses)
          if (a.lane >= first && a.lane < first + lanes)
            for (int word = a.at / 4; word <= (a.at + a.bytes - 1) / 4; ++word) words[word % 32].insert(word);
        size_t most = 0;
        for (const auto &[bank, of_bank] : words) most = std::max(most, of_bank.size());
        wavefronts += (int)most, needed += most > 0;
      }
      std::pair<int, int> &seen = worst[where.first];
      if (wavefronts - needed >= seen.first - seen.second) seen = {wavefronts, needed};
    }
    asked_.clear(), occurrences_.clear();
  }

 private:
  struct Access {
    int lane, at, bytes;
  };
  std::map<std::pair<std::string, int>, std::vector<Access>> asked_;
  std::map<std::pair<std::string, int>, int> occurrences_;
};
Banks banks;

struct Barrier {
  int64_t pending = 1, bytes = 0, phase = 0;
  void settle() {
    if (pending < 0) throw std::runtime_error("a barrier got more arrivals than its count");
    if (pending == 0 && bytes == 0) ++phase, pending = 1;
  }
};

struct BlockState {
  std::vector<char> memory;
  char *shared = nullptr;
  std::vector<char>
      published;  // what copies may read: the shared memory when its writes were last fenced, and what copies wrote
  int bytes = 0, warps = 0, waiting = 0;
  int64_t generation = 0;
  Barrier barriers[2];
};

struct Copy {
  int from_block, from, to_block, to, bytes, barrier;
};

// All blocks of one cluster, their warps and the copies on their way.
class Cluster {
 public:
  std::vector<BlockState> blocks;
  std::vector<Copy> copies;
  int64_t client, tile, arrived = 0, generation = 0;
  std::mt19937 random;

  Cluster(const Shape &s, int warps, int bytes, int64_t client_, int64_t tile_)
      : blocks(s.blocks), client(client_), tile(tile_), random(seed * 977 + (unsigned)(client * 31 + tile)) {
    for (BlockState &b : blocks) {
      b.memory.assign((size_t)bytes + kRedZone + 128, (char)0xff);
      const uintptr_t start = (reinterpret_cast<uintptr_t>(b.memory.data()) + 127) / 128 * 128;
      b.published.assign((size_t)bytes, (char)0xff);
      b.shared = reinterpret_cast<char *>(start), b.bytes = bytes, b.warps = warps;
    }
  }

  void run(const std::function<void(Cluster &, int block, int warp)> &body) {
    struct Fiber {
      ucontext_t context;
      std::vector<char> stack = std::vector<char>(256 << 10);
      std::function<void()> body;
      bool done = false;
    };
    std::vector<std::unique_ptr<Fiber>> fibers;
    for (int b = 0; b < (int)blocks.size(); ++b)
      for (int w = 0; w < blocks[b].warps; ++w) {
        fibers.push_back(std::make_unique<Fiber>());
        Fiber *f = fibers.back().get();
        f->body = [this, &body, b, w, f] {
          try {
            body(*this, b, w);
          } catch (const std::exception &e) {
            if (failure.empty()) failure = e.what();
          }
          f->done = true;
        };
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack.data(), f->context.uc_stack.ss_size = f->stack.size();
        f->context.uc_link = &scheduler_;
        const uintptr_t at = reinterpret_cast<uintptr_t>(f);
        makecontext(&f->context, reinterpret_cast<void (*)()>(+[](unsigned low, unsigned high) {
          reinterpret_cast<Fiber *>((uintptr_t)low | (uintptr_t)high << 32)->body();
        }),
                    2, (unsigned)at, (unsigned)((uint64_t)at >> 32));
      }
    // A block and a warp that are for a while asked last, so that the others run as far ahead as they can.
    size_t left = fibers.size();
    int idle = 0;
    while (left && failure.empty()) {
      const size_t slow = random() % fibers.size();
      for (int turn = 0; turn < 64 && left && failure.empty(); ++turn) {
        if (!copies.empty() && random() % 4 == 0) deliver(random() % copies.size()), idle = 0;
        const size_t n = random() % fibers.size();
        Fiber &f = *fibers[n];
        if (f.done || (n == slow && random() % 8)) continue;
        moved_ = false, current_ = &f.context;
        swapcontext(&scheduler_, &f.context);
        if (f.done) --left, moved_ = true;
        idle = moved_ ? 0 : idle + 1;
        if (idle > 200 * (int)fibers.size()) {
          if (copies.empty()) {
            failure = "deadlock: every warp waits and nothing is on its way";
            return;
          }
          deliver(0), idle = 0;
        }
      }
    }
    if (failure.empty() && !copies.empty()) failure = "a copy was still on its way when its blocks had ended";
    for (const BlockState &b : blocks)
      for (int n = 0; n < kRedZone && failure.empty(); ++n)
        if ((unsigned char)b.shared[b.bytes + n] != 0xff) failure = "a write past the block's shared memory";
  }

  // Let others run until `ready`; without a condition, perhaps once.
  void pause() {
    moved_ = true;
    if (random() % 2) swapcontext(current_, &scheduler_);
  }
  void until(const std::function<bool()> &ready) {
    while (!ready()) {
      ucontext_t *mine = current_;
      moved_ = false;
      swapcontext(mine, &scheduler_);
      if (!failure.empty()) throw std::runtime_error("stopped");
    }
    moved_ = true;
  }

 private:
  void deliver(size_t n) {
    const Copy c = copies[n];
    copies.erase(copies.begin() + (long)n);
    BlockState &to = blocks[c.to_block];
    const BlockState &from = blocks[c.from_block];
    if (memcmp(from.shared + c.from, from.published.data() + c.from, (size_t)c.bytes))
      failure = "a copy read what was not fenced, or was overwritten before it had been read";
    memcpy(to.shared + c.to, from.shared + c.from, (size_t)c.bytes);
    memcpy(to.published.data() + c.to, from.shared + c.from, (size_t)c.bytes);
    Barrier &barrier = to.barriers[c.barrier];
    barrier.bytes -= c.bytes;
    barrier.settle();
  }

  ucontext_t scheduler_, *current_ = nullptr;
  bool moved_ = false;
};

// What device.cuh is to the GPU, for one warp.
template <class Registers>
class Warp {
 public:
  Warp(Cluster &cluster, int block, int warp)
      : cluster_(cluster), block_(cluster.blocks[block]), rank_(block), warp_(warp), registers_(32) {
    memset(static_cast<void *>(registers_.data()), 0xff, 32 * sizeof(Registers));
  }

  Place place(const Problem &p) { return Place(p, cluster_.client, cluster_.tile, rank_); }
  char *shared() { return block_.shared; }

  template <class F>
  void each(F f) {
    cluster_.pause();
    for (int l = 0; l < 32; ++l) banks.lane = l, f(Lane(warp_ * 32 + l), registers_[(size_t)l]);
    banks.settle();
  }
  bool second_half() const { return 2 * warp_ >= block_.warps; }

  void open(const Shape &s, int64_t exchanges, int bytes) {
    exchanges_ = s.blocks > 1 ? exchanges : 0, bytes_ = bytes;
    if (fault == kTooManyBytes) bytes_ += 16;
    if (fault == kTooFewBytes) bytes_ -= bytes / (s.blocks > 1 ? s.blocks - 1 : 1);
    if (warp_ == 0)
      for (int n = 0; n < 2 && n < exchanges_; ++n) expect(n);
    close();
  }

  void sync() {
    if (fault != kNoSync) barrier();
  }
  void publish() {
    if (fault != kNoPublish) barrier(fault != kNoFence);
  }

  template <class From>
  void send(int64_t n, From from, int to, int bytes) {
    if (warp_ != 0) return;
    const int right = to;
    if (fault == kWrongBuffer && n > 0) to = before_;
    before_ = right;
    for (int peer = 0; peer < (int)cluster_.blocks.size(); ++peer) {
      if (peer == rank_) continue;
      const Copy copy = {rank_, from(peer), peer, to, bytes, barrier_of(n)};
      for (int at : {copy.from, copy.to})
        if (at % 16 || at < 0 || at + bytes > block_.bytes) throw std::runtime_error("a copy is misaligned or out of bounds");
      if (bytes % 16 || bytes <= 0) throw std::runtime_error("a copy is not of whole 16 bytes");
      cluster_.copies.push_back(copy);
    }
    cluster_.pause();
  }
  void wait(int64_t n) {
    if (n >= exchanges_ || fault == kNoWait) return;
    const Barrier &barrier = block_.barriers[barrier_of(n)];
    const int parity = parity_of(n) ^ (fault == kWrongParity);
    // A phase of this parity has ended, seen from a barrier that is at most one phase ahead: test_wait.parity
    cluster_.until([&] { return (barrier.phase & 1) != parity; });
    if (warp_ == 0 && n + 2 < exchanges_ && fault != kNotArmed) expect(n);
  }

  void close() {
    const int64_t generation = cluster_.generation;
    int64_t all = 0;
    for (const BlockState &b : cluster_.blocks) all += b.warps;
    if (++cluster_.arrived == all) cluster_.arrived = 0, ++cluster_.generation;
    cluster_.until([&] { return cluster_.generation != generation; });
  }

  template <int First, int Last, class F>
  void add_across_lanes(F member) {
    const size_t count = sizeof(member(registers_[0])) / sizeof(float);
    for (int bit = First; bit <= Last; bit *= 2) {
      std::vector<float> before;
      for (Registers &r : registers_)
        for (float v : member(r)) before.push_back(v);
      for (size_t l = 0; l < 32; ++l)
        for (size_t c = 0; c < count; ++c) member(registers_[l])[c] += before[(l ^ (size_t)bit) * count + c];
    }
  }

  template <typename T, int M, int N, bool Swizzled>
  void product(int weights, int weights_of_warp, Operand operand, int steps) {
    cluster_.pause();
    const char *mine = block_.shared + weights + warp_ * weights_of_warp;
    for (int k = 0; k < steps; ++k)
      for (int n = 0; n < N; ++n) {
        // ldmatrix: matrix j's row i is 16 bytes at the address that lane 8 j + i gives, and column i of B
        float b[16][8];
        for (int half = 0; half < 2; ++half)
          for (int i = 0; i < 8; ++i) {
            const int lane = N == 1 ? half * 8 + i : ((n % 2) * 2 + half) * 8 + i, pair = N == 1 ? 0 : n / 2 * 2;
            int row = operand.at + operand_row(operand.group, N, lane ^ operand.crossed) + k * 2 * operand.group;
            if (Swizzled) row ^= swizzle(k) * 16;
            row += pair * 8 * 16;
            banks.lane = i, banks.access(row, 16, "ldmatrix");  // a matrix is read by itself
            if (i == 7) banks.settle();
            for (int c = 0; c < 8; ++c) b[half * 8 + c][i] = widen(reinterpret_cast<const T *>(block_.shared + row)[c]);
          }
        for (int m = 0; m < M; ++m) {
          float a[16][16];
          for (int l = 0; l < 32; ++l) {
            const Fragment f = k < Registers::kHeld
                                   ? registers_[(size_t)l].held[k][m]
                                   : reinterpret_cast<const Fragment *>(mine)[((k - Registers::kHeld) * M + m) * 32 + l];
            T v[8];
            memcpy(v, &f, sizeof v);
            for (int i = 0; i < 8; ++i) a[l / 4 + (i / 2 % 2) * 8][l % 4 * 2 + i % 2 + (i / 4) * 8] = widen(v[i]);
          }
          for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) {
              float &sum = registers_[(size_t)l].acc[m][n][i];
              for (int c = 0; c < 16; ++c) sum += a[l / 4 + i / 2 * 8][c] * b[c][l % 4 * 2 + i % 2];
            }
        }
      }
  }

 private:
  void expect(int64_t n) {
    Barrier &barrier = block_.barriers[barrier_of(n)];
    barrier.bytes += bytes_, barrier.pending -= 1;
    barrier.settle();
  }
  void barrier(bool fenced = false) {
    const int64_t generation = block_.generation;
    if (++block_.waiting == block_.warps) {
      block_.waiting = 0, ++block_.generation;
      if (fenced) memcpy(block_.published.data(), block_.shared, block_.published.size());
    }
    cluster_.until([&] { return block_.generation != generation; });
  }

  Cluster &cluster_;
  BlockState &block_;
  int rank_, warp_, bytes_ = 0, before_ = 0;
  int64_t exchanges_ = 0;
  std::vector<Registers> registers_;
};

using Body = std::function<void(Cluster &, int, int)>;

int run(const Problem &p, int warps, int bytes, const Body &body) {
  failure.clear();
  const Shape &s = p.shape;
  if (bytes > kShared || s.unit_warps() > kWarps) failure = "more shared memory or warps than a block has";
  for (int64_t client = 0; client < p.K; ++client)
    for (int64_t tile = 0; tile < p.tiles() && failure.empty(); ++tile) {
      Cluster cluster(s, warps, bytes, client, tile);
      cluster.run(body);
    }
  return failure.empty() ? 0 : 1;
}

template <typename T, int N, int S>
int run_forward(const Problem &p) {
  const Shape &s = p.shape;
  const ForwardMemory memory(s, forward_held(N, S));
  return run(p, forward_warps(s), memory.bytes, [&](Cluster &cluster, int block, int warp) {
    Warp<ForwardRegisters<T, N, S>> w(cluster, block, warp);
    forward<T, N, S>(w, p);
  });
}

template <typename T, int N, int M>
int run_backward(const Problem &p) {
  const Shape &s = p.shape;
  const BackwardMemory memory(s, backward_held(M, N));
  return run(p, kWarps, memory.bytes, [&](Cluster &cluster, int block, int warp) {
    Warp<BackwardRegisters<T, N, M>> w(cluster, block, warp);
    backward<T, N, M>(w, p);
  });
}

template <typename T>
int forward_of(const Problem &p) {
  switch (p.shape.n_tiles() * 10 + forward_split(p.shape)) {
    case 11: return run_forward<T, 1, 1>(p);
    case 12: return run_forward<T, 1, 2>(p);
    case 21: return run_forward<T, 2, 1>(p);
    case 22: return run_forward<T, 2, 2>(p);
    default: return run_forward<T, 4, 1>(p);
  }
}

template <typename T, int N>
int backward_with(const Problem &p) {
  switch (backward_rows(p.shape)) {
    case 1: return run_backward<T, N, 1>(p);
    case 2: return run_backward<T, N, 2>(p);
    case 3: return run_backward<T, N, 3>(p);
    default: return run_backward<T, N, 4>(p);
  }
}

template <typename T>
int backward_of(const Problem &p) {
  return p.tile == 8 ? backward_with<T, 1>(p) : backward_with<T, 2>(p);
}

}  // namespace

extern "C" {

int64_t flow_cluster_size(void) { return sizeof(FlowCluster); }
int flow_cluster_forward(const FlowCluster *p, void *) {
  return p->dtype ? forward_of<Fp16>(Problem(*p)) : forward_of<Bf16>(Problem(*p));
}
int flow_cluster_backward(const FlowCluster *p, void *) {
  return p->dtype ? backward_of<Fp16>(Problem(*p)) : backward_of<Bf16>(Problem(*p));
}
const char *flow_cluster_error(int) { return failure.c_str(); }

int flow_model_faults(void) { return kFaults; }
void flow_model_set(int planted, unsigned order) { fault = planted, seed = order; }

// From now on the wavefronts of accesses to shared memory are counted, or no longer.
void flow_model_count(int counting) {
  banks.counting = counting != 0, banks.worst.clear();
  on_shared_access = [](int at, int bytes, const char *function, int line) {
    banks.access(at, bytes, std::string(function) + ":" + std::to_string(line));
  };
}
// A line for each place in the kernels' text: its function and line, the most wavefronts it took and how many were needed.
const char *flow_model_wavefronts(void) {
  static std::string text;
  text.clear();
  for (const auto &[where, seen] : banks.worst)
    text += where + " " + std::to_string(seen.first) + " " + std::to_string(seen.second) + "\n";
  return text.c_str();
}

// Bytes of shared memory that a problem's kernel asks for, and how many a block has.
int flow_model_shared(int hidden, int blocks, int tile, int backward) {
  const Shape s = shape_of(hidden, blocks, tile);
  return backward ? BackwardMemory(s, backward_held(backward_rows(s), s.n_tiles())).bytes
                  : ForwardMemory(s, forward_held(s.n_tiles(), forward_split(s))).bytes;
}
int flow_model_shared_limit(void) { return kShared; }
// Units of a block; -1 if block_of, which multiplies instead of dividing, is wrong somewhere.
int flow_model_units(int hidden, int blocks) {
  const Shape s = shape_of(hidden, blocks, 8);
  for (int unit = 0; unit < backward_rows(s) * kWarps * 16; ++unit)
    if (s.block_of(unit) != unit / s.units) return -1;
  return s.units;
}
}
