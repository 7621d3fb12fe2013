// From one kernel of a graph to the next that depends on it: what a kernel a time step costs, plainly and with programmatic
// dependent launch; and the launch of the graph itself.
#include "probe.cuh"

__global__ void nothing() {
  asm volatile("griddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;" ::: "memory");  // no-ops in a plain launch
}

static cudaGraphExec_t chain(cudaStream_t stream, int nodes, int blocks, bool programmatic) {
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((unsigned)blocks), config.blockDim = dim3(128), config.stream = stream;
  config.attrs = &attribute, config.numAttrs = programmatic ? 1 : 0;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int n = 0; n < nodes; ++n) CHECK(cudaLaunchKernelEx(&config, nothing));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&runnable, graph, 0));
  CHECK(cudaGraphDestroy(graph));
  return runnable;
}

int main() {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const int sms = multiprocessors(), many = 1000, few = 100;
  for (int programmatic : {0, 1}) {
    const auto run = [&](int nodes) {
      const cudaGraphExec_t graph = chain(stream, nodes, sms, programmatic != 0);
      const float ms = milliseconds(stream, [&] { CHECK(cudaGraphLaunch(graph, stream)); });
      CHECK(cudaGraphExecDestroy(graph));
      return ms;
    };
    printf("{\"probe\": \"graph_launch\", \"programmatic\": %s, \"blocks\": %d, \"ns_a_node\": %.1f, \"ns_one_node\": %.1f}\n",
           programmatic ? "true" : "false", sms, (run(many) - run(few)) * 1e6 / (many - few), run(1) * 1e6);
  }
  CHECK(cudaStreamDestroy(stream));
}
