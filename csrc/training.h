// What local training needs beside the routed GRU, as a C ABI: a vocabulary head with its cross-entropy, SGD and Adam over the
// parameters of K clients, sums of uploads. Knows neither Python nor torch.
//
// Layouts are row-major and contiguous, of one dtype (FLOW_F32 or FLOW_F64) where nothing else is said; a null pointer means
// "absent" or "not wanted". Every client's numbers are computed in one order, whatever K and the number of threads.
#pragma once

#include "routed_gru.h"

#ifdef __cplusplus
extern "C" {
#endif

// Features f = x, or f = x P^T + p with a projection; logits = sum over the experts e of q_e (f W_e^T + b_e), q = 1 for one
// expert; a client's loss is the mean cross-entropy over its rows with a target. Gradients are of that mean.
typedef struct {
  int64_t K, N, V, I, D;  // clients, rows a client, vocabulary, inputs, features (I without a projection)
  int32_t dtype, threads;  // FLOW_MIXED too

  const void *x;                  // [K, N, I]
  const int64_t *targets;         // [K, N] in 0..V-1; a negative one: the row counts for nothing and its gradients are zero
  const void *proj_w, *proj_b;    // [K, D, I], [K, D]; both or neither
  const void *w[2], *b[2];        // [K, V, D], [K, V]; the second expert may be null
  const void *q;                  // [K, N, 2]; null with one expert

  double *nats;                   // [K] sum of the rows' cross-entropies
  int64_t *counts;                // [K] rows with a target
  int64_t *best;                  // [K, N] the first of the largest logits; -1 where there is no target
  void *row_nats, *probability;   // [K, N] a row's cross-entropy, the probability of its best token; 0 without a target
  void *dx, *dq, *dproj_w, *dproj_b, *dw[2], *db[2];

  void *workspace;  // 64-byte aligned, flow_head_workspace() bytes
  int64_t workspace_bytes;
} FlowHead;

int64_t flow_head_workspace(const FlowHead *p);  // -1 for bad sizes or options
int flow_head(const FlowHead *p);

// q = softmax((W x + b) / temperature) for every row with a target, one-hot argmax with FLOW_HARD (a tie goes to the first);
// zero for the others. Backward, with soft routing: from dq the gradients dw, db, and dx, to which is added.
typedef struct {
  int64_t K, N, H;
  int32_t dtype, threads, routing;
  double temperature;

  const void *x;           // [K, N, H]
  const int64_t *targets;  // [K, N]; negative: the row is not computed
  const void *w, *b;       // [K, 2, H], [K, 2]
  void *q;                 // [K, N, 2]; read by backward

  const void *dq;          // [K, N, 2]
  void *dx, *dw, *db;      // each may be null
} FlowRouter;

int flow_router_forward(const FlowRouter *p);
int flow_router_backward(const FlowRouter *p);

// One parameter tensor of K clients, n numbers each, and its gradient: dense, or rows to be added up where several have the
// same number.
typedef struct {
  int64_t n;
  void *parameter;           // [K, n]
  const void *gradient;      // [K, n]; with rows [K, N, width]
  const void *anchor;        // [K, n]: mu times the distance to it joins the gradient; or null
  void *momentum;            // [K, n]; or null
  int64_t N, width;          // 0 where the gradient is dense
  const int64_t *rows;       // [K, N]: which row of the parameter [n / width, width] it belongs to; negative: to none
} FlowParameter;

// g <- the gradients, scaled down to the norm `clip` over all tensors of a client (0: not); g += decay * parameter + mu *
// (parameter - anchor); with momentum v <- momentum v + g, g <- v; parameter -= lr * g. Clients that are not present stay as
// they are. With rows, parameters that no row names stay as they are; decay, mu and momentum must be 0.
typedef struct {
  int64_t K, count;
  int32_t dtype, threads;
  double lr, clip, mu, decay, momentum;
  const FlowParameter *parameters;
  const uint8_t *present;  // [K] or null
  void *workspace;
  int64_t workspace_bytes;
} FlowSgd;

int64_t flow_sgd_workspace(const FlowSgd *p);
int flow_sgd(const FlowSgd *p);

// What Adam keeps of one parameter tensor; zeros before the first step.
typedef struct {
  void *first, *second;  // [K, n]
  int64_t rows;          // of the parameter, as `touched` counts them
  uint8_t *touched;      // [K, rows]: whether a row ever had a gradient; null where gradients are dense in every step
} FlowMoments;

// g <- the gradients, scaled down to the norm `clip` as above; g += mu * (parameter - anchor), and not decoupled (Adam) also
// decay * parameter; m += (1 - beta1) (g - m); v <- beta2 v + (1 - beta2) g^2; decoupled (AdamW) parameter *= 1 - lr * decay;
// parameter -= lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) in a client's step t. Clients that are not present stay
// as they are. With rows, the others of the parameter have gradients of zero; decay and mu must be 0.
typedef struct {
  int64_t K, count;
  int32_t dtype, threads, decoupled;
  double lr, clip, mu, decay, beta1, beta2, epsilon;
  const FlowParameter *parameters;  // whose momentum is not read
  const FlowMoments *moments;       // one for each of them
  int64_t *steps;                   // [K]: taken before this one; the kernel counts it
  const uint8_t *present;           // [K] or null
  void *workspace;
  int64_t workspace_bytes;
} FlowAdam;

int64_t flow_adam_workspace(const FlowAdam *p);
int flow_adam(const FlowAdam *p);

// total [3][n]: the sum over k of weights[k] * uploads[k][i] joins it, uploads[k] the n numbers of client k, cut into multiples of
// 2^-12, 2^-45 and 2^-78. Sums of these are exact, in whatever order, while they stay below 2^41 in absolute value, for up to
// 2^20 uploads.
// A fresh total may hold anything before; then the sum takes its place.
int flow_accumulate(int64_t K, int64_t n, int32_t dtype, const void *const *uploads, const double *weights, double *total,
                    int32_t fresh);

#ifdef __cplusplus
}
#endif
