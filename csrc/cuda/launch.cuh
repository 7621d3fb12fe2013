// From a problem to a launch: the cluster's shape as attributes, an instance of the kernel for the tile and the type.
#pragma once

#include <cuda_runtime.h>

#include "device.cuh"

namespace flow::cuda {

using Kernel = void (*)(Problem);

struct Chosen {
  Kernel kernel;  // null: there is none for this problem
  int bytes, threads;
};

struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};
  cudaError_t error = cudaSuccess;

  Launch(const Problem &p, const Chosen &chosen, void *stream) {
    if (!chosen.kernel || chosen.bytes > kShared || p.H > kMaxHidden || p.blocks > kMaxBlocks || p.K > 65535 ||
        p.tiles() > 65535) {
      error = cudaErrorInvalidConfiguration;
      return;
    }
    // The runtime that is linked in here knows nothing of the device that another one in the process has made current.
    error = cudaSetDevice((int)p.device);
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {(unsigned)p.blocks, 1, 1};
    config.gridDim = dim3((unsigned)p.blocks, (unsigned)p.K, (unsigned)p.tiles()),
    config.blockDim = dim3((unsigned)chosen.threads);
    config.dynamicSmemBytes = (size_t)chosen.bytes, config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute, config.numAttrs = 1;
    const void *kernel = reinterpret_cast<const void *>(chosen.kernel);
    if (!error) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chosen.bytes);
    if (!error && p.blocks > 8) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
};

Chosen choose_forward(const Problem &p);
Chosen choose_backward_bf16(const Problem &p);
Chosen choose_backward_fp16(const Problem &p);

}  // namespace flow::cuda
