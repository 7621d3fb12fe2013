# mypy: ignore-errors
"""Forward kernels. Both take all K clients at once; layouts are those of flow_kernels/backends/gpu/products.py.

step_forward: one launch a time step, any H. A program computes BH hidden units of BM sequences of one client, for which it
reads the whole state of these sequences. The program that owns a part of the state keeps it in float32 (state). All programs of
the next launch read the state in the dtype of the products, which alternates between two buffers (before, after). Every program
of a client computes the router's logit itself, which costs one product row and saves a launch.

sequence_forward: one launch for the whole sequence, small H. A program owns BM sequences of one client and all of its weights.
"""

import triton
import triton.language as tl

from flow_kernels.backends.gpu.triton.parts import (
    gates_of,
    length_of,
    logit_difference,
    multiply,
    router_difference,
    routing_weights,
    row_of,
)

_SIZES = ["step", "INPUTS", "B", "T", "N", "stride_t", "stride_b", "inverse_temperature"]


@triton.jit
def store_step(y, q, row, u, h, q0, q1, inside, running, writes_q, H: tl.constexpr, PACKED: tl.constexpr):
    """y and q of a step; zeros past a length, where packed rows have nothing. y and q are those of the client."""
    stored = inside
    if PACKED:
        stored = running
    tile = stored[None, :] & (u < H)[:, None]
    h = tl.where(running[None, :], h, 0.0)
    tl.store(y + row[None, :] * H + u[:, None], h.to(y.dtype.element_ty), mask=tile)
    tl.store(q + row * 2, tl.where(running, q0, 0.0).to(q.dtype.element_ty), mask=stored & writes_q)
    tl.store(q + row * 2 + 1, tl.where(running, q1, 0.0).to(q.dtype.element_ty), mask=stored & writes_q)


@triton.jit(do_not_specialize=_SIZES)
def step_forward(
    xg, scores, w_hh0, w_hh1, b_ih0, b_hh0, b_ih1, b_hh1, router_w, router_b, state, before, after, y, q, gates,
    lengths, offsets, step, INPUTS, B, T, N, stride_t, stride_b, inverse_temperature,
    H: tl.constexpr, ROUTE: tl.constexpr, ROUTING: tl.constexpr,
    HAS_BIAS0: tl.constexpr, HAS_BIAS1: tl.constexpr, ROUTER_BIAS: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BH: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """ROW is H rounded up, the distance between rows of w_hh, before and after, which have zeros there."""
    k = tl.program_id(2).to(tl.int64)
    u = tl.program_id(0) * BH + tl.arange(0, BH)
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    length = length_of(lengths, k, b, B, T, HAS_LENGTHS)
    inside, running = b < B, step < length
    row = row_of(step, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
    MIXED: tl.constexpr = ROUTE == "mixture"
    SLOTS: tl.constexpr = 8 if MIXED else 4

    ar0 = tl.zeros((BH, BM), tl.float32)
    az0 = tl.zeros((BH, BM), tl.float32)
    au0 = tl.zeros((BH, BM), tl.float32)
    ar1 = tl.zeros((BH, BM), tl.float32)
    az1 = tl.zeros((BH, BM), tl.float32)
    au1 = tl.zeros((BH, BM), tl.float32)
    h_part = tl.zeros((BM,), tl.float32)
    state, before, after = state + k * B * H, before + k * B * ROW, after + k * B * ROW
    w_hh0 += k * 3 * H * ROW
    if MIXED:
        w_hh1 += k * 3 * H * ROW
    for first in tl.range(0, H, BK, num_stages=STAGES):
        j = first + tl.arange(0, BK)
        h = tl.load(before + b[None, :] * ROW + j[:, None], mask=running[None, :] & (j < ROW)[:, None], other=0.0)
        at, mask = u[:, None] * ROW + j[None, :], (u < H)[:, None] & (j < ROW)[None, :]
        ar0 = multiply(tl.load(w_hh0 + at, mask=mask, other=0.0), h, ar0, PRECISION)
        az0 = multiply(tl.load(w_hh0 + at + H * ROW, mask=mask, other=0.0), h, az0, PRECISION)
        au0 = multiply(tl.load(w_hh0 + at + 2 * H * ROW, mask=mask, other=0.0), h, au0, PRECISION)
        if MIXED:
            ar1 = multiply(tl.load(w_hh1 + at, mask=mask, other=0.0), h, ar1, PRECISION)
            az1 = multiply(tl.load(w_hh1 + at + H * ROW, mask=mask, other=0.0), h, az1, PRECISION)
            au1 = multiply(tl.load(w_hh1 + at + 2 * H * ROW, mask=mask, other=0.0), h, au1, PRECISION)
            h_part += tl.sum(h.to(tl.float32) * router_difference(router_w, k, j, INPUTS, H)[:, None], axis=0)

    tile = running[None, :] & (u < H)[:, None]
    own = b[None, :] * H + u[:, None]
    h = tl.load(state + own, mask=tile, other=0.0)
    rows = k * N
    of_gates = gates + rows * SLOTS * H
    new = gates_of(ar0, az0, au0, xg + rows * 3 * H, b_ih0, b_hh0, of_gates, k, row, u, h, tile, 0, H, HAS_BIAS0, SAVE, SLOTS)
    if MIXED:
        K = tl.num_programs(2)
        other = gates_of(
            ar1, az1, au1, xg + (K * N + rows) * 3 * H, b_ih1, b_hh1, of_gates, k, row, u, h, tile, 4, H, HAS_BIAS1, SAVE, SLOTS
        )
        difference = logit_difference(h_part, scores + rows * 2, router_b, k, row, running, inverse_temperature, ROUTER_BIAS)
        q0, q1 = routing_weights(difference, ROUTING)
        new = q0[None, :] * new + q1[None, :] * other
    else:
        q0 = tl.full((BM,), 1.0 if ROUTE == "global" else 0.0, tl.float32)
        q1 = 1.0 - q0
    tl.store(state + own, new, mask=tile)
    tl.store(after + b[None, :] * ROW + u[:, None], new.to(after.dtype.element_ty), mask=tile)
    store_step(y + rows * H, q + rows * 2, row, u, new, q0, q1, inside, running, tl.program_id(0) == 0, H, PACKED)


@triton.jit(do_not_specialize=_SIZES)
def sequence_forward(
    xg, scores, w_hh0, w_hh1, b_ih0, b_hh0, b_ih1, b_hh1, router_w, router_b, state, y, q, gates,
    lengths, offsets, INPUTS, B, T, N, stride_t, stride_b, inverse_temperature,
    H: tl.constexpr, ROUTE: tl.constexpr, ROUTING: tl.constexpr,
    HAS_BIAS0: tl.constexpr, HAS_BIAS1: tl.constexpr, ROUTER_BIAS: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """BH is H rounded up to a power of two."""
    k = tl.program_id(1).to(tl.int64)
    u, j = tl.arange(0, BH), tl.arange(0, BH)
    b = tl.program_id(0) * BM + tl.arange(0, BM)
    length = length_of(lengths, k, b, B, T, HAS_LENGTHS)
    inside = b < B
    MIXED: tl.constexpr = ROUTE == "mixture"
    SLOTS: tl.constexpr = 8 if MIXED else 4

    w_hh0 += k * 3 * H * H
    at, mask = u[:, None] * H + j[None, :], (u < H)[:, None] & (j < H)[None, :]
    wr0 = tl.load(w_hh0 + at, mask=mask, other=0.0)
    wz0 = tl.load(w_hh0 + at + H * H, mask=mask, other=0.0)
    wu0 = tl.load(w_hh0 + at + 2 * H * H, mask=mask, other=0.0)
    if MIXED:
        w_hh1 += k * 3 * H * H
        wr1 = tl.load(w_hh1 + at, mask=mask, other=0.0)
        wz1 = tl.load(w_hh1 + at + H * H, mask=mask, other=0.0)
        wu1 = tl.load(w_hh1 + at + 2 * H * H, mask=mask, other=0.0)
        v = router_difference(router_w, k, u, INPUTS, H)

    state += k * B * H
    own = b[None, :] * H + u[:, None]
    units = (u < H)[:, None]
    h = tl.load(state + own, mask=inside[None, :] & units, other=0.0)
    rows, nothing = k * N, tl.zeros((BH, BM), tl.float32)
    of_gates = gates + rows * SLOTS * H
    for step in range(0, T):
        running = step < length
        row = row_of(step, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
        tile = running[None, :] & units
        operand = h.to(w_hh0.dtype.element_ty)
        ar = multiply(wr0, operand, nothing, PRECISION)
        az = multiply(wz0, operand, nothing, PRECISION)
        au = multiply(wu0, operand, nothing, PRECISION)
        new = gates_of(ar, az, au, xg + rows * 3 * H, b_ih0, b_hh0, of_gates, k, row, u, h, tile, 0, H, HAS_BIAS0, SAVE, SLOTS)
        if MIXED:
            ar = multiply(wr1, operand, nothing, PRECISION)
            az = multiply(wz1, operand, nothing, PRECISION)
            au = multiply(wu1, operand, nothing, PRECISION)
            of_local = xg + (tl.num_programs(1) * N + rows) * 3 * H
            other = gates_of(ar, az, au, of_local, b_ih1, b_hh1, of_gates, k, row, u, h, tile, 4, H, HAS_BIAS1, SAVE, SLOTS)
            h_part = tl.sum(h * v[:, None], axis=0)
            difference = logit_difference(
                h_part, scores + rows * 2, router_b, k, row, running, inverse_temperature, ROUTER_BIAS
            )
            q0, q1 = routing_weights(difference, ROUTING)
            new = q0[None, :] * new + q1[None, :] * other
        else:
            q0 = tl.full((BM,), 1.0 if ROUTE == "global" else 0.0, tl.float32)
            q1 = 1.0 - q0
        h = tl.where(running[None, :], new, h)
        store_step(y + rows * H, q + rows * 2, row, u, h, q0, q1, inside, running, True, H, PACKED)
    tl.store(state + own, h, mask=inside[None, :] & units)
