// The cluster kernels' C interface: one problem, its tensors as device addresses. Knows neither Python nor torch, and is all
// that bindings.cpp sees. flow_kernels/backends/gpu/cuda/launch.py fills the struct (field by field, in this order) and has
// checked it.
//
// Row-major, contiguous. "rows" are the N rows of x of a client: the row of step t of sequence b is t * step_stride + b *
// batch_stride, or offsets[t] + b in packed input. T is the storage type, bfloat16 or float16. E: experts that the route uses.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t K, T, B, I, H, rows, step_stride, batch_stride;
  int64_t dtype;         // 0 bfloat16, 1 float16
  int64_t route;         // 0 mixture, 1 global, 2 local
  int64_t routing;       // 0 soft, otherwise one-hot
  int64_t reverse;       // from a sequence's last valid step to its first
  int64_t blocks, tile;  // blocks of a cluster, sequences of a cluster: see shape.h
  int64_t device;        // CUDA's number
  double temperature;
  const int64_t *lengths;  // [K, B], or null
  const int64_t *offsets;  // [T + 1], or null

  // Of the global and of the local expert, gates r, z, n. Null: the route leaves the expert out, or it has no bias.
  const void *w_hh[2];               // T [K, 3 H, H]
  const void *b_ih[2], *b_hh[2];     // T [K, 3 H]
  const void *router, *router_bias;  // T [K, 2, I + H] and [K, 2], or null
  const float *gates_of_x;  // [E, K, rows, 3 H]: W_ih x, gates r, z, n
  const float *scores;      // [K, rows, 2]: the router's product with x; null unless the route is mixture
  const void *h0;           // T [K, B, H]
  void *y, *h_n, *q;        // T [K, rows, H], [K, B, H], [K, rows, 2]; y and q are read by backward
  void *saved;              // T [K, rows, H, 8]: r, z, n, u of global and local, for backward; null: not wanted (forward only)

  const void *dy, *dh_n, *dq;  // as y, h_n and q; null: zero
  const float *slope;          // [K, rows]: q_0 q_1 / temperature of the soft q where q is one-hot; null: of q itself
  void *dgates;                // T [K, rows, E, 4, H]: gradients of the arguments of n, r, z and of u
  float *dlogit;               // [K, rows]: of the router's score difference; null where no gradient reaches the router
  void *dh0;                   // T [K, B, H]
} FlowCluster;

int64_t flow_cluster_size(void);  // sizeof(FlowCluster)
// 0, or a CUDA error. Both only enqueue work on the stream, which must be of the device.
int flow_cluster_forward(const FlowCluster *p, void *stream);
int flow_cluster_backward(const FlowCluster *p, void *stream);
// Clusters of this shape that the device can run at once; minus a CUDA error.
int flow_cluster_active(const FlowCluster *p, int backward);
const char *flow_cluster_error(int error);

#ifdef __cplusplus
}
#endif
