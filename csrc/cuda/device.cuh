// What a block of a cluster does that plain C++ cannot say: barriers, copies between the blocks' shared memories, tensor cores.
// PTX ISA 8: mbarrier, cp.async.bulk, ldmatrix and mma.sync.
#pragma once

#include <type_traits>

#include "place.h"

namespace flow::cuda {

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// The same place in the shared memory of another block of the cluster.
__device__ __forceinline__ uint32_t at_peer(uint32_t address, int peer) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(peer));
  return there;
}

__device__ __forceinline__ void barrier_init(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool barrier_passed(uint32_t barrier, int parity) {
  uint32_t passed;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed;
}
__device__ __forceinline__ void copy_to_peer(uint32_t to, uint32_t from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void cluster_barrier() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const Fragment &a, uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, Bf16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b0), "r"(b1));
}

// Two 8 x 8 matrices of each n-tile: columns 0-7 and 8-15 of a 16-column step.
template <int N>
__device__ __forceinline__ void load_operand(uint32_t (&b)[N][2], uint32_t address) {
  if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(b[0][0]), "=r"(b[0][1])
                 : "r"(address)
                 : "memory");
  } else {
    FLOW_UNROLL
    for (int n = 0; n < N; n += 2)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(b[n][0]), "=r"(b[n][1]), "=r"(b[n + 1][0]), "=r"(b[n + 1][1])
                   : "r"(address + n * 8 * 16)
                   : "memory");
  }
}

// Cycles after which a wait ends the launch with an error: some twenty seconds. A fault shall not hang the device.
constexpr int64_t kPatience = int64_t{1} << 35;

template <class Registers>
class DeviceBlock {
 public:
  __device__ __forceinline__ explicit DeviceBlock(char *shared) : shared_(shared), lane_((int)threadIdx.x) {}

  // The grid is [tiles][clients][blocks of a cluster].
  __device__ __forceinline__ Place place(const Problem &p) {
    rank_ = (int)blockIdx.x, blocks_ = p.shape.blocks;
    return Place(p, blockIdx.y, blockIdx.z, rank_);
  }
  __device__ __forceinline__ char *shared() const { return shared_; }

  template <class F>
  __device__ __forceinline__ void each(F f) {
    f(lane_, registers_);
  }

  // Both barriers exist and expect the first two exchanges before any block of the cluster sends.
  __device__ __forceinline__ void open(const Shape &, int exchanges, int bytes) {
    exchanges_ = blocks_ > 1 ? exchanges : 0, bytes_ = bytes;
    if (lane_.thread == 0) {
      barrier_init(barrier(0));
      barrier_init(barrier(1));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      if (exchanges_ > 0) barrier_expect(barrier(0), bytes_);
      if (exchanges_ > 1) barrier_expect(barrier(1), bytes_);
    }
    cluster_barrier();
  }

  // Whether the warp is of the second half of its block.
  __device__ __forceinline__ bool second_half() const { return 2 * lane_.thread >= (int)blockDim.x; }

  __device__ __forceinline__ void sync() const { __syncthreads(); }

  // What this block has stored so far may be read by the copies that come after.
  __device__ __forceinline__ void publish() const {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
  }

  // from(peer): offset of what goes there; to: its offset in the peer's shared memory. After publish().
  template <class From>
  __device__ __forceinline__ void send(int n, From from, int to, int bytes) const {
    const int peer = lane_.thread;
    if (peer >= blocks_ || peer == rank_) return;
    copy_to_peer(at_peer(shared_address(shared_) + to, peer), shared_address(shared_) + from(peer), bytes,
                 at_peer(barrier(n), peer));
  }

  // Exchange n has come in. The barrier's phase ends only by this block's own arrival and all bytes, so bytes that come before
  // the arrival do no harm; and none of exchange n + 2 comes before this block has sent its part of n + 1.
  __device__ __forceinline__ void wait(int n) const {
    if (n >= exchanges_) return;
    if (!barrier_passed(barrier(n), parity_of(n))) {
      const int64_t start = clock64();
      while (!barrier_passed(barrier(n), parity_of(n)))
        if (clock64() - start > kPatience) __trap();
    }
    if (lane_.thread == 0 && n + 2 < exchanges_) barrier_expect(barrier(n), bytes_);
    __syncwarp();  // lanes leave the loop one by one
  }

  // Nobody leaves while its shared memory is read or written from elsewhere.
  __device__ __forceinline__ void close() const { cluster_barrier(); }

  // Butterfly sums over lanes that differ in the bits First..Last.
  template <int First, int Last, class F>
  __device__ __forceinline__ void add_across_lanes(F member) {
    FLOW_UNROLL
    for (float &v : member(registers_)) {
      FLOW_UNROLL
      for (int bit = First; bit <= Last; bit *= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    }
  }

  // acc += weights x operand: the warp's M row tiles, all sequences of the tile, `steps` times 16 columns, of which the weights
  // of the first are in registers and those of the others in shared memory.
  template <typename T, int M, int N, bool Swizzled>
  __device__ __forceinline__ void product(int weights, int weights_of_warp, Operand operand, int steps) {
    constexpr int held = Registers::kHeld;
    __syncwarp();  // what follows is for whole warps
    auto &acc = registers_.acc;
    const uint32_t address =
        shared_address(shared_) + operand.at + operand_row(operand.group, N, lane_.lane ^ operand.crossed);
    const auto at = [=](int k) {
      const uint32_t row = address + k * 2 * operand.group;
      return Swizzled ? row ^ swizzle(k) * 16 : row;
    };
    uint32_t b[N][2];
    FLOW_UNROLL
    for (int k = 0; k < held; ++k) {
      if (k >= steps) break;
      load_operand<N>(b, at(k));
      FLOW_UNROLL
      for (int m = 0; m < M; ++m) FLOW_UNROLL
      for (int n = 0; n < N; ++n) multiply<T>(acc[m][n], registers_.held[k][m], b[n][0], b[n][1]);
    }
    const Fragment *a = reinterpret_cast<const Fragment *>(shared_ + weights + lane_.warp * weights_of_warp) + lane_.lane;
#pragma unroll 2
    for (int k = held; k < steps; ++k, a += M * 32) {
      load_operand<N>(b, at(k));
      FLOW_UNROLL
      for (int m = 0; m < M; ++m) {
        const Fragment w = a[m * 32];
        FLOW_UNROLL
        for (int n = 0; n < N; ++n) multiply<T>(acc[m][n], w, b[n][0], b[n][1]);
      }
    }
  }

 private:
  __device__ __forceinline__ uint32_t barrier(int n) const { return shared_address(shared_) + barrier_at(n); }

  char *shared_;
  Lane lane_;
  int rank_ = 0, blocks_ = 1, bytes_ = 0, exchanges_ = 0;
  Registers registers_;
};

}  // namespace flow::cuda
