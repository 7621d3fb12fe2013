# mypy: ignore-errors
"""Backward kernels: a scan from the last step to the first. It stores the gradients of the gates' arguments (da) and of the
router's logit difference (dlogit) of every row, for products after it. The equations are in docs/cell.md.

step_backward: one launch a time step and one for h0, any H. A program owns BH hidden units of BM sequences. First it gathers
the gradient that the following step passes back. It has three parts: the program's share of W_hh^T (dr, dz, du), a product over
the results of all programs in the previous launch; the router's term; and the program's own direct term (direct). Every program
stored one partial sum of the router's term (partials), and all add these up in the same order. Then it computes its own units'
gradients.

sequence_backward: one launch, small H: a program owns BM sequences of one client, and everything above stays in registers.

slope [K, N] is q_0 q_1 / temperature of the soft q, zero past a length; ddq [K, N] is dq_0 - dq_1.
"""

import triton
import triton.language as tl

from flow_kernels.backends.gpu.triton.parts import (
    gate_gradients,
    length_of,
    load_columns,
    multiply,
    router_difference,
    row_of,
    store_gate_gradients,
)

_SIZES = ["step", "INPUTS", "B", "T", "N", "stride_t", "stride_b"]


@triton.jit
def state_before(
    y,
    h0,
    k,
    step,
    b,
    length,
    offsets,
    u,
    B,
    stride_t,
    stride_b,
    mask,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    PACKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Tile of the state that a step starts from: h0 at the first, the output of the step before later. y is the client's."""
    row = row_of(step - 1, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
    first = load_columns(h0 + k * B * H, b, H, u, mask & (step == 0))
    later = load_columns(y, row, H, u, mask & (step > 0))
    return tl.where(step == 0, first, later)


@triton.jit(do_not_specialize=_SIZES)
def step_backward(
    w_hh0, w_hh1, router_w, gates, y, h0, q, slope, ddq, dy, da, dlogit, direct, partials, dh0, lengths, offsets,
    step, INPUTS, B, T, N, stride_t, stride_b,
    H: tl.constexpr, ROUTE: tl.constexpr, ROUTED: tl.constexpr, HAS_DY: tl.constexpr, HAS_DQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BH: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """ROUTED: a gradient reaches the router. TILES: programs over the hidden units, rounded up to a power of two."""
    k = tl.program_id(2).to(tl.int64)
    u = tl.program_id(0) * BH + tl.arange(0, BH)
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    length = length_of(lengths, k, b, B, T, HAS_LENGTHS)
    MIXED: tl.constexpr = ROUTE == "mixture"
    SLOTS: tl.constexpr = 8 if MIXED else 4
    units = (u < H)[:, None]
    rows = k * N

    ran = step + 1 < length
    row = row_of(step + 1, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
    carry = tl.zeros((BH, BM), tl.float32)
    of_da = da + rows * SLOTS * H
    w_hh0 += k * 3 * H * H
    if MIXED:
        w_hh1 += k * 3 * H * H
    for first in tl.range(0, 3 * H, BK, num_stages=STAGES):
        j = first + tl.arange(0, BK)
        d_mask, w_mask = ran[None, :] & (j < 3 * H)[:, None], units & (j < 3 * H)[None, :]
        d_at = row[None, :] * SLOTS * H + H + j[:, None]  # past slot n: r, z, u, in the order of the rows of W_hh
        w_at = j[None, :] * H + u[:, None]
        d = tl.load(of_da + d_at, mask=d_mask, other=0.0)
        carry = multiply(tl.load(w_hh0 + w_at, mask=w_mask, other=0.0), d, carry, PRECISION)
        if MIXED:
            d = tl.load(of_da + d_at + 4 * H, mask=d_mask, other=0.0)
            carry = multiply(tl.load(w_hh1 + w_at, mask=w_mask, other=0.0), d, carry, PRECISION)
    own = b[None, :] * H + u[:, None]
    direct, dh0 = direct + k * B * H, dh0 + k * B * H
    inside = (b < B)[None, :] & units
    carry += tl.load(direct + own, mask=inside, other=0.0)
    parts = tl.num_programs(0)
    part = tl.arange(0, TILES)
    side = tl.num_programs(2) * parts * B
    if ROUTED:
        left = partials + ((step + 1) & 1) * side + k * parts * B + part[:, None] * B + b[None, :]
        total = tl.sum(tl.load(left, mask=(part < parts)[:, None] & ran[None, :], other=0.0), axis=0)
        if HAS_DQ:
            total += tl.load(ddq + rows + row, mask=ran, other=0.0)
        d = total * tl.load(slope + rows + row, mask=ran, other=0.0)
        tl.store(dlogit + rows + row, d, mask=ran & (tl.program_id(0) == 0))
        carry += d[None, :] * router_difference(router_w, k, u, INPUTS, H)[:, None]
    if step < 0:
        tl.store(dh0 + own, carry, mask=inside)
    else:
        running = step < length
        tile = running[None, :] & units
        row = row_of(step, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
        h = state_before(
            y + rows * H, h0, k, step, b, length, offsets, u, B, stride_t, stride_b, tile, H, REVERSE, PACKED, WIDE
        )
        delta = carry
        if HAS_DY:
            delta += load_columns(dy + rows * H, row, H, u, tile)
        of_gates = gates + rows * SLOTS * H
        q0 = tl.load(q + rows * 2 + row * 2, mask=running, other=0.0).to(tl.float32)[None, :]
        q1 = tl.load(q + rows * 2 + row * 2 + 1, mask=running, other=0.0).to(tl.float32)[None, :]
        dE = q0 * delta if MIXED else delta
        dn, dr, dz, du, back, E = gate_gradients(of_gates, row, u, h, dE, tile, 0, H, SLOTS)
        store_gate_gradients(of_da, row, u, dn, dr, dz, du, tile, 0, H, SLOTS)
        if MIXED:
            dn, dr, dz, du, more, E1 = gate_gradients(of_gates, row, u, h, q1 * delta, tile, 4, H, SLOTS)
            store_gate_gradients(of_da, row, u, dn, dr, dz, du, tile, 4, H, SLOTS)
            back += more
            if ROUTED:
                at = partials + (step & 1) * side + (k * parts + tl.program_id(0)) * B + b
                tl.store(at, tl.sum(tl.where(tile, delta * (E - E1), 0.0), axis=0), mask=b < B)
        tl.store(direct + own, tl.where(running[None, :], back, carry), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def sequence_backward(
    w_hh0, w_hh1, router_w, gates, y, h0, q, slope, ddq, dy, da, dlogit, direct, dh0, lengths, offsets,
    INPUTS, B, T, N, stride_t, stride_b,
    H: tl.constexpr, ROUTE: tl.constexpr, ROUTED: tl.constexpr, HAS_DY: tl.constexpr, HAS_DQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """BH is H rounded up to a power of two."""
    k = tl.program_id(1).to(tl.int64)
    u, j = tl.arange(0, BH), tl.arange(0, BH)
    b = tl.program_id(0) * BM + tl.arange(0, BM)
    length = length_of(lengths, k, b, B, T, HAS_LENGTHS)
    MIXED: tl.constexpr = ROUTE == "mixture"
    SLOTS: tl.constexpr = 8 if MIXED else 4
    units = (u < H)[:, None]
    rows = k * N

    # transposed: the rows of a tile are the state's units, its columns those of the gate
    w_hh0 += k * 3 * H * H
    at, mask = j[None, :] * H + u[:, None], units & (j < H)[None, :]
    wr0 = tl.load(w_hh0 + at, mask=mask, other=0.0)
    wz0 = tl.load(w_hh0 + at + H * H, mask=mask, other=0.0)
    wu0 = tl.load(w_hh0 + at + 2 * H * H, mask=mask, other=0.0)
    if MIXED:
        w_hh1 += k * 3 * H * H
        wr1 = tl.load(w_hh1 + at, mask=mask, other=0.0)
        wz1 = tl.load(w_hh1 + at + H * H, mask=mask, other=0.0)
        wu1 = tl.load(w_hh1 + at + 2 * H * H, mask=mask, other=0.0)
    if ROUTED:
        v = router_difference(router_w, k, u, INPUTS, H)[:, None]

    own = b[None, :] * H + u[:, None]
    direct, dh0 = direct + k * B * H, dh0 + k * B * H
    inside = (b < B)[None, :] & units
    carry = tl.load(direct + own, mask=inside, other=0.0)
    of_gates, of_da = gates + rows * SLOTS * H, da + rows * SLOTS * H
    operand = w_hh0.dtype.element_ty
    for back_step in range(0, T):
        step = T - 1 - back_step
        running = step < length
        tile = running[None, :] & units
        row = row_of(step, b, length, offsets, stride_t, stride_b, REVERSE, PACKED, WIDE)
        h = state_before(
            y + rows * H, h0, k, step, b, length, offsets, u, B, stride_t, stride_b, tile, H, REVERSE, PACKED, WIDE
        )
        delta = carry
        if HAS_DY:
            delta += load_columns(dy + rows * H, row, H, u, tile)
        q0 = tl.load(q + rows * 2 + row * 2, mask=running, other=0.0).to(tl.float32)[None, :]
        q1 = tl.load(q + rows * 2 + row * 2 + 1, mask=running, other=0.0).to(tl.float32)[None, :]
        dE = q0 * delta if MIXED else delta
        dn, dr, dz, du, back, E = gate_gradients(of_gates, row, u, h, dE, tile, 0, H, SLOTS)
        store_gate_gradients(of_da, row, u, dn, dr, dz, du, tile, 0, H, SLOTS)
        back = multiply(wr0, dr.to(operand), back, PRECISION)
        back = multiply(wz0, dz.to(operand), back, PRECISION)
        back = multiply(wu0, du.to(operand), back, PRECISION)
        if MIXED:
            dn, dr, dz, du, more, E1 = gate_gradients(of_gates, row, u, h, q1 * delta, tile, 4, H, SLOTS)
            store_gate_gradients(of_da, row, u, dn, dr, dz, du, tile, 4, H, SLOTS)
            back = multiply(wr1, dr.to(operand), back + more, PRECISION)
            back = multiply(wz1, dz.to(operand), back, PRECISION)
            back = multiply(wu1, du.to(operand), back, PRECISION)
            if ROUTED:
                total = tl.sum(tl.where(tile, delta * (E - E1), 0.0), axis=0)
                if HAS_DQ:
                    total += tl.load(ddq + rows + row, mask=running, other=0.0)
                d = total * tl.load(slope + rows + row, mask=running, other=0.0)
                tl.store(dlogit + rows + row, d, mask=running)
                back += d[None, :] * v
        carry = tl.where(running[None, :], back, carry)
    tl.store(dh0 + own, carry, mask=inside)
