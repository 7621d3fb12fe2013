# mypy: ignore-errors
"""The router of a vocabulary head for K clients: q = softmax((x W^T + b) / temperature), and its gradients. In Triton."""

import triton
import triton.language as tl

from flow_kernels.backends.gpu.triton.parts import routing_weights

_SIZES = ["N"]


@triton.jit(do_not_specialize=_SIZES)
def forward(
    x, targets, weight, bias, q, N, H, inverse_temperature, HARD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Grid: row blocks, clients. q is zero in rows without a target."""
    k = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BM + tl.arange(0, BM)
    target = tl.load(targets + k * N + n, mask=n < N, other=-1)
    valid = target >= 0
    x, weight = x + k * N * H, weight + k * 2 * H
    difference = tl.zeros((BM,), tl.float32)
    for first in range(0, H, BK):
        j = first + tl.arange(0, BK)
        row = tl.load(weight + j, mask=j < H, other=0.0) - tl.load(weight + H + j, mask=j < H, other=0.0)
        tile = tl.load(x + n[:, None] * H + j[None, :], mask=valid[:, None] & (j < H)[None, :], other=0.0)
        difference += tl.sum(tile * row[None, :], axis=1)
    difference += tl.load(bias + k * 2) - tl.load(bias + k * 2 + 1)
    q0, q1 = routing_weights(difference * inverse_temperature, "hard" if HARD else "soft")
    at = q + (k * N + n) * 2
    tl.store(at, tl.where(valid, q0, 0.0), mask=n < N)
    tl.store(at + 1, tl.where(valid, q1, 0.0), mask=n < N)


@triton.jit
def slopes(targets, q, dq, k, n, N, inverse_temperature):
    """Gradients of both scores of rows n, zero without a target."""
    valid = tl.load(targets + k * N + n, mask=n < N, other=-1) >= 0
    at = (k * N + n) * 2
    q0, q1 = tl.load(q + at, mask=valid, other=0.0), tl.load(q + at + 1, mask=valid, other=0.0)
    dq0, dq1 = tl.load(dq + at, mask=valid, other=0.0), tl.load(dq + at + 1, mask=valid, other=0.0)
    mean = q0 * dq0 + q1 * dq1
    return valid, q0 * (dq0 - mean) * inverse_temperature, q1 * (dq1 - mean) * inverse_temperature


@triton.jit(do_not_specialize=_SIZES)
def backward_rows(
    targets, weight, q, dq, dx, N, H, inverse_temperature, BM: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Grid: row blocks, clients. The gradient by x is added to dx."""
    k = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BM + tl.arange(0, BM)
    valid, d0, d1 = slopes(targets, q, dq, k, n, N, inverse_temperature)
    dx, weight = dx + k * N * H, weight + k * 2 * H
    for first in range(0, H, BK):
        j = first + tl.arange(0, BK)
        w0, w1 = tl.load(weight + j, mask=j < H, other=0.0), tl.load(weight + H + j, mask=j < H, other=0.0)
        inside = valid[:, None] & (j < H)[None, :]
        at = dx + n[:, None] * H + j[None, :]
        old = tl.load(at, mask=inside, other=0.0)
        tl.store(at, old + d0[:, None] * w0[None, :] + d1[:, None] * w1[None, :], mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def backward_weights(
    x, targets, q, dq, dweight, dbias, N, H, inverse_temperature, DW: tl.constexpr, DB: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: column blocks, clients."""
    k = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * BK + tl.arange(0, BK)
    x = x + k * N * H
    sum0 = tl.zeros((BK,), tl.float32)
    sum1 = tl.zeros((BK,), tl.float32)
    bias0 = tl.zeros((), tl.float32)
    bias1 = tl.zeros((), tl.float32)
    for first in range(0, N, BM):
        n = first + tl.arange(0, BM)
        valid, d0, d1 = slopes(targets, q, dq, k, n, N, inverse_temperature)
        if DW:
            tile = tl.load(x + n[:, None] * H + j[None, :], mask=valid[:, None] & (j < H)[None, :], other=0.0)
            sum0 += tl.sum(tile * d0[:, None], axis=0)
            sum1 += tl.sum(tile * d1[:, None], axis=0)
        bias0 += tl.sum(d0)
        bias1 += tl.sum(d1)
    if DW:
        tl.store(dweight + k * 2 * H + j, sum0, mask=j < H)
        tl.store(dweight + k * 2 * H + H + j, sum1, mask=j < H)
    if DB and tl.program_id(0) == 0:
        tl.store(dbias + k * 2, bias0)
        tl.store(dbias + k * 2 + 1, bias1)
