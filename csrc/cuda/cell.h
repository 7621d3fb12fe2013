// One unit of one sequence for one step: the equations of docs/cell.md, in float.
#pragma once

#include "portable.h"

namespace flow::cuda {

// exp of what is never positive: no overflow, and NaN comes through.
FLOW_DEVICE float sigmoid(float x) {
  const float e = exponential(-fabsf(x)), s = divide(1, 1 + e);
  return x >= 0 ? s : e * s;
}
FLOW_DEVICE float tangent(float x) {
  const float e = exponential(-2 * fabsf(x));
  return copysignf(divide(1 - e, 1 + e), x);
}

struct Gates {
  float r, z, n, u;  // u = W_hn h + b_hn
};

FLOW_DEVICE Gates gates(float r, float z, float n_of_x, float u) {
  Gates g;
  g.r = sigmoid(r), g.z = sigmoid(z), g.n = tangent(n_of_x + g.r * u), g.u = u;
  return g;
}
FLOW_DEVICE float output(const Gates &g, float h) { return (1 - g.z) * g.n + g.z * h; }

// Gradients of the arguments of r, z, n and of u, from that of the expert's output.
FLOW_DEVICE Gates gate_gradients(const Gates &g, float h, float de) {
  Gates d;
  d.n = de * (1 - g.z) * (1 - g.n * g.n);
  d.z = de * (h - g.n) * g.z * (1 - g.z);
  d.r = d.n * g.u * g.r * (1 - g.r);
  d.u = d.n * g.r;
  return d;
}

struct Choice {
  float q0, q1;
};

// From the score difference, already over the temperature. A tie goes to global; NaN stays NaN.
FLOW_DEVICE Choice choose(float difference, bool hard) {
  const Choice soft = {sigmoid(difference), sigmoid(-difference)};
  const bool stays = !hard || difference != difference, global = soft.q0 >= soft.q1;
  return {select(stays, soft.q0, global ? 1.0f : 0.0f), select(stays, soft.q1, global ? 0.0f : 1.0f)};
}

}  // namespace flow::cuda
