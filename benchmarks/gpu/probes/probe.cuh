// Shared by the probes: errors end the program with their text, times are of the fastest of several runs, results are JSON
// lines.
#pragma once

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                   \
  do {                                                                \
    const cudaError_t error_ = (call);                                \
    if (error_ != cudaSuccess) {                                      \
      fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error_)); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

// Milliseconds that `work` (which only enqueues on the stream) takes on the device: the least of five, after one to warm up.
template <class Work>
float milliseconds(cudaStream_t stream, Work work) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  float best = 0;
  for (int n = 0; n < 6; ++n) {
    CHECK(cudaEventRecord(start, stream));
    work();
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (n == 1 || (n > 1 && ms < best)) best = ms;
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return best;
}

inline int multiprocessors() {
  int device, count;
  CHECK(cudaGetDevice(&device));
  CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// A launch of clusters of `blocks` blocks, as many as the device runs at once when `clusters` is 0.
struct ClusterLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};
  int most = 0;  // clusters that run at once; 0: none of this size

  template <class Kernel>
  ClusterLaunch(Kernel kernel, int blocks, int threads, size_t shared, int clusters = 0) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {(unsigned)blocks, 1, 1};
    config.gridDim = dim3((unsigned)blocks), config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared, config.attrs = &attribute, config.numAttrs = 1;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    if (blocks > 8) CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CHECK(cudaOccupancyMaxActiveClusters(&most, kernel, &config));
    const int count = clusters ? clusters : most;
    config.gridDim = dim3((unsigned)blocks, (unsigned)(count ? count : 1));
  }
};
