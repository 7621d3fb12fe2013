// What lets a C++ compiler read the kernels too: tests/support/cuda_model.cpp runs their text on the CPU.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define FLOW_BOTH __host__ __device__
#define FLOW_DEVICE __device__ __forceinline__
#define FLOW_UNROLL _Pragma("unroll")
#else
#define FLOW_BOTH
#define FLOW_DEVICE inline
#define FLOW_UNROLL
#endif

namespace flow::cuda {

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
FLOW_DEVICE float exponential(float x) { return __expf(x); }
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
inline float exponential(float x) { return expf(x); }
inline float divide(float a, float b) { return a / b; }

#endif

}  // namespace flow::cuda
