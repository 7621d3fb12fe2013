// The routed GRU over a whole sequence: one C ABI for every processor. Knows neither Python nor torch.
//
// Layouts (row-major, contiguous, all of one dtype):
//   x, dx        [K, T, B, I], or [K, B, T, I] with batch_first; y, dy the same with H, q, dq with 2
//                packed: [K, N, I] as in torch's PackedSequence, sequences sorted by length, the rows of step t from
//                offsets[t] to offsets[t + 1]; nothing is stored past a sequence's length
//   h0, h_n      [K, B, H]           lengths [K, B] int64, each in 1..T, or null
//   weights      per expert as torch.nn.GRU: w_ih [K, 3H, I], w_hh [K, 3H, H], b_ih, b_hh [K, 3H]; gates r, z, n
//   router       w [K, 2, I + H] (columns of x first), b [K, 2]
//   gates        [K, rows of x, experts used, 4, hidden rounded up to 16]: what forward saves for backward
// A null pointer means "absent" (biases, lengths, gradients that came in as zero) or "not wanted" (gradients going out).
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// bfloat16 is stored and multiplied; sums are float. Mixed: all tensors are float32, and what is multiplied is rounded to bfloat16
// where the processor has such products; elsewhere it is float32.
enum FlowDtype { FLOW_F32 = 0, FLOW_F64 = 1, FLOW_BF16 = 2, FLOW_MIXED = 3 };
enum FlowRoute { FLOW_MIXTURE = 0, FLOW_GLOBAL = 1, FLOW_LOCAL = 2 };
enum FlowRouting { FLOW_SOFT = 0, FLOW_HARD = 1, FLOW_STRAIGHT_THROUGH = 2 };
enum FlowStatus {
  FLOW_OK = 0,
  FLOW_BAD_SIZE = 1,    // a size below 1, or one whose products overflow
  FLOW_BAD_OPTION = 2,  // dtype, route, routing, temperature or threads out of range
  FLOW_MISSING = 3,     // a tensor that the route needs is null
  FLOW_BAD_LENGTH = 4,  // a length outside 1..T; with ragged outside 0..T, or a 0 before others
  FLOW_SMALL_WORKSPACE = 5,
  FLOW_BAD_ISA = 6,     // unknown instruction set, or one this processor lacks
  FLOW_BAD_OFFSETS = 7,  // offsets that do not fit the lengths, or lengths not sorted
  FLOW_BAD_TARGET = 8  // of a head, or a row of a parameter: beyond the last
};

typedef struct {
  const void *w_ih, *w_hh, *b_ih, *b_hh;
} FlowExpert;

typedef struct {
  void *w_ih, *w_hh, *b_ih, *b_hh;
} FlowExpertGrad;

typedef struct {
  int64_t K, T, B, I, H;
  int32_t dtype, route, routing, batch_first, threads;
  int32_t reverse;  // run through every sequence from its last valid step to its first; rows stay where they are
  // A client's numbers depend on its own sequences alone, to the bit, however many clients, sequences and steps the
  // others have. Lengths are in 0..T. Sequences of length 0 are padding, and come last in a client. Padded rows only.
  int32_t ragged;
  double temperature;

  const void *x, *h0;
  FlowExpert expert[2];  // global, local; the one that the route leaves out is ignored
  const void *router_w, *router_b;
  const int64_t *lengths;
  const int64_t *offsets;  // [T + 1], ascending from 0, for packed rows; null for padded ones

  void *y, *h_n, *q;  // written by forward, read by backward (h_n only written)
  void *gates;        // forward: null when they are not to be saved; backward: null to compute them again

  const void *dy, *dh_n, *dq;
  void *dx, *dh0;
  FlowExpertGrad grad[2];
  void *drouter_w, *drouter_b;

  void *workspace;  // 64-byte aligned, flow_routed_gru_workspace() bytes; contents need not survive the call
  int64_t workspace_bytes;
} FlowRoutedGru;

// What forward or backward would refuse the problem for; FLOW_OK if nothing. Does not look at the workspace.
int flow_routed_gru_check(const FlowRoutedGru *p, int backward);
// Bytes of workspace that forward (backward = 0) or backward (1) needs; -1 for bad sizes or options.
int64_t flow_routed_gru_workspace(const FlowRoutedGru *p, int backward);
// How the work would be divided, from sizes and options alone (no pointer is looked at): threads used, batch tiles a client,
// bytes of workspace.
int flow_routed_gru_division(const FlowRoutedGru *p, int backward, int32_t *threads, int64_t *tiles, int64_t *bytes);
int flow_routed_gru_forward(const FlowRoutedGru *p);
int flow_routed_gru_backward(const FlowRoutedGru *p);

// Instruction sets: "baseline", "avx2", "avx512", "avx512bf16", "avx512amx" (unverified on hardware). The last that the
// processor has is used unless one is selected.
const char *flow_cpu_isa(void);
int flow_cpu_has_isa(const char *name);
int flow_cpu_select_isa(const char *name);  // a call that another thread has begun may end with FLOW_SMALL_WORKSPACE

// What shares the work of a call: "OpenMP", "OpenMP of torch" or "thread pool".
const char *flow_cpu_threads(void);

#ifdef __cplusplus
}
#endif
