// What lets a C++ compiler read the kernels too: tests/support/cuda_model.cpp runs their text on the CPU.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define FLOW_BOTH __host__ __device__
#define FLOW_DEVICE __device__ __forceinline__
#define FLOW_UNROLL _Pragma("unroll")
#define FLOW_PRAGMA(text) _Pragma(#text)
#define FLOW_UNROLL_BY(n) FLOW_PRAGMA(unroll n)
#else
#define FLOW_BOTH
#define FLOW_DEVICE inline
#define FLOW_UNROLL
#define FLOW_UNROLL_BY(n)
#endif

namespace flow::cuda {

// A value in shared memory. The model of the tests is told of every access, to count the banks that lanes share.
#ifdef __CUDACC__
template <class V>
FLOW_DEVICE V &in_shared(char *shared, int at) {
  return *reinterpret_cast<V *>(shared + at);
}
#else
inline void (*on_shared_access)(int at, int bytes, const char *function, int line) = nullptr;
template <class V>
V &in_shared(char *shared, int at, const char *function = __builtin_FUNCTION(), int line = __builtin_LINE()) {
  if (on_shared_access) on_shared_access(at, (int)sizeof(V), function, line);
  return *reinterpret_cast<V *>(shared + at);
}
#endif

// Formats of storage and of products; arithmetic is float.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

FLOW_DEVICE float widen(Bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

#ifdef __CUDACC__

FLOW_DEVICE float widen(Fp16 x) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
}
template <typename T>
FLOW_DEVICE T narrow(float x);
template <>
FLOW_DEVICE Bf16 narrow<Bf16>(float x) {
  Bf16 t;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(t.bits) : "f"(x));
  return t;
}
template <>
FLOW_DEVICE Fp16 narrow<Fp16>(float x) {
  Fp16 t;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(t.bits) : "f"(x));
  return t;
}
// Loads and stores stay on their side: mixed, they would need more registers.
FLOW_DEVICE void in_order() { asm volatile("" ::: "memory"); }
FLOW_DEVICE float exponential(float x) { return __expf(x); }
// Both are computed: the compiler shall not branch, which would keep it from mixing the instructions of several sequences.
FLOW_DEVICE float select(bool first, float a, float b) {
  float chosen;
  asm("{\n\t.reg .pred p;\n\tsetp.ne.s32 p, %3, 0;\n\tselp.f32 %0, %1, %2, p;\n\t}"
      : "=f"(chosen)
      : "f"(a), "f"(b), "r"((int)first));
  return chosen;
}
FLOW_DEVICE float divide(float a, float b) { return __fdividef(a, b); }  // within 2 ulp for the b in 1..2 of cell.h

#else

inline float widen(Fp16 x) {
  _Float16 f;
  memcpy(&f, &x.bits, sizeof f);
  return (float)f;
}
template <typename T>
T narrow(float x);
template <>
inline Bf16 narrow<Bf16>(float x) {  // to nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
inline Fp16 narrow<Fp16>(float x) {
  const _Float16 f = (_Float16)x;
  Fp16 t;
  memcpy(&t.bits, &f, sizeof f);
  return t;
}
inline void in_order() {}
inline float exponential(float x) { return expf(x); }
inline float select(bool first, float a, float b) { return first ? a : b; }
inline float divide(float a, float b) { return a / b; }

#endif

}  // namespace flow::cuda
