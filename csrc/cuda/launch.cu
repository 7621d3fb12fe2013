// The C interface of cluster.h.
#include "launch.cuh"

using flow::cuda::Chosen;
using flow::cuda::Launch;
using flow::cuda::Problem;

static Chosen choose(const Problem &p, bool backward) {
  if (!backward) return flow::cuda::choose_forward(p);
  return p.dtype ? flow::cuda::choose_backward_fp16(p) : flow::cuda::choose_backward_bf16(p);
}

static int run(const Problem &p, bool backward, void *stream) {
  const Chosen chosen = choose(p, backward);
  Launch launch(p, chosen, stream);
  if (!launch.error) launch.error = cudaLaunchKernelEx(&launch.config, chosen.kernel, p);
  return launch.error;
}

int64_t flow_cluster_size(void) { return sizeof(FlowCluster); }
int flow_cluster_forward(const FlowCluster *p, void *stream) { return run(Problem(*p), false, stream); }
int flow_cluster_backward(const FlowCluster *p, void *stream) { return run(Problem(*p), true, stream); }

int flow_cluster_active(const FlowCluster *p, int backward) {
  const Problem problem(*p);
  const Chosen chosen = choose(problem, backward != 0);
  Launch launch(problem, chosen, nullptr);
  int clusters = 0;
  if (!launch.error) launch.error = cudaOccupancyMaxActiveClusters(&clusters, chosen.kernel, &launch.config);
  if (launch.error) cudaGetLastError();  // reported here, and not to whoever asks next
  return launch.error ? -launch.error : clusters;
}

const char *flow_cluster_error(int error) { return cudaGetErrorString((cudaError_t)error); }
