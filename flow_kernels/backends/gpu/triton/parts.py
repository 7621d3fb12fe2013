# mypy: ignore-errors
"""What the Triton kernels share: addresses of rows, loads of tiles, gates and their gradients. Written in Triton's language.

Tiles are [units, sequences]. The weights are the left operand of every product, so a batch of 16 fills a tensor core
instruction whose left side must have 64 rows. Everything is float32 but the operands of products.
"""

import triton
import triton.language as tl

# The interpreter multiplies 16-bit numbers in numpy, which would also round sums to them: it is given the same numbers widened.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))  # never of a positive number
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x >= 0, t, -t)


@triton.jit
def length_of(lengths, k, b, B, T, HAS_LENGTHS: tl.constexpr):
    """Steps of sequences b, int32; 0 for sequences that are not there."""
    if HAS_LENGTHS:
        length = tl.load(lengths + k * B + b, mask=b < B, other=0).to(tl.int32)
        return tl.minimum(length, T)
    else:
        return tl.where(b < B, T, 0)


@triton.jit
def row_of(step, b, length, offsets, stride_t, stride_b, REVERSE: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr):
    """The row that sequences b read at their step-th step; past the length, the row of that time step.

    Rows are int32 unless WIDE: 64-bit addresses of every element take registers that the kernels for small H do not have.
    """
    t = step + b * 0
    if REVERSE:
        t = tl.where(step < length, length - 1 - step, t)
    if PACKED:
        row = tl.load(offsets + t, mask=(step >= 0) & (step < length), other=0) + b
        return row if WIDE else row.to(tl.int32)
    else:
        return (t.to(tl.int64) if WIDE else t) * stride_t + b * stride_b


@triton.jit
def load_columns(base, row, width, column, mask):
    """Tile [columns, rows] of a row-major matrix, in float32."""
    return tl.load(base + row[None, :] * width + column[:, None], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_bias(bias, k, gate, u, H: tl.constexpr, HAS_BIAS: tl.constexpr):
    """[units, 1] of a bias [K, 3H]; zero where there is none."""
    if HAS_BIAS:
        return tl.load(bias + k * 3 * H + gate * H + u, mask=u < H, other=0.0).to(tl.float32)[:, None]
    else:
        return tl.zeros_like(u).to(tl.float32)[:, None]


@triton.jit
def gates_of(
    ar, az, au, xg, b_ih, b_hh, gates, k, row, u, h, mask, slot,
    H: tl.constexpr, HAS_BIAS: tl.constexpr, SAVE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """One expert's new state from the recurrent sums ar, az, au, all [units, sequences]; xg and gates are those of client k."""
    r = sigmoid(
        ar
        + load_columns(xg, row, 3 * H, u, mask)
        + load_bias(b_ih, k, 0, u, H, HAS_BIAS)
        + load_bias(b_hh, k, 0, u, H, HAS_BIAS)
    )
    z = sigmoid(
        az
        + load_columns(xg + H, row, 3 * H, u, mask)
        + load_bias(b_ih, k, 1, u, H, HAS_BIAS)
        + load_bias(b_hh, k, 1, u, H, HAS_BIAS)
    )
    au = au + load_bias(b_hh, k, 2, u, H, HAS_BIAS)
    n = tanh(load_columns(xg + 2 * H, row, 3 * H, u, mask) + load_bias(b_ih, k, 2, u, H, HAS_BIAS) + r * au)
    if SAVE:
        at = gates + (row[None, :] * SLOTS + slot) * H + u[:, None]
        store = gates.dtype.element_ty
        tl.store(at, n.to(store), mask=mask)
        tl.store(at + H, r.to(store), mask=mask)
        tl.store(at + 2 * H, z.to(store), mask=mask)
        tl.store(at + 3 * H, au.to(store), mask=mask)
    return (1.0 - z) * n + z * h


@triton.jit
def routing_weights(difference, ROUTING: tl.constexpr):
    """q of the global and of the local expert from the logit difference over the temperature; NaN stays NaN."""
    if ROUTING == "soft":
        return sigmoid(difference), sigmoid(-difference)
    else:
        first = tl.where(difference >= 0, 1.0, difference * 0.0)
        first = tl.where(difference < 0, 0.0, first)
        return first, 1.0 - first


@triton.jit
def router_difference(router_w, k, u, INPUTS, H: tl.constexpr):
    """Row 0 minus row 1 of the router, its columns of h, float32 [units]."""
    at = router_w + k * 2 * (INPUTS + H) + INPUTS + u
    mask = u < H
    return tl.load(at, mask=mask, other=0.0).to(tl.float32) - tl.load(at + INPUTS + H, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def logit_difference(h_part, scores, router_b, k, row, running, inverse_temperature, HAS_BIAS: tl.constexpr):
    """[sequences]; scores are those of client k."""
    d = h_part + tl.load(scores + row * 2, mask=running, other=0.0) - tl.load(scores + row * 2 + 1, mask=running, other=0.0)
    if HAS_BIAS:
        d += tl.load(router_b + k * 2).to(tl.float32) - tl.load(router_b + k * 2 + 1).to(tl.float32)
    return d * inverse_temperature


@triton.jit
def gate_gradients(gates, row, u, h, dE, mask, slot, H: tl.constexpr, SLOTS: tl.constexpr):
    """Of one expert, given dL/dE: gradients of the arguments of n, r, z and of u, what goes straight to h, and E itself."""
    at = gates + (row[None, :] * SLOTS + slot) * H + u[:, None]
    n = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    r = tl.load(at + H, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(at + 2 * H, mask=mask, other=0.0).to(tl.float32)
    candidate = tl.load(at + 3 * H, mask=mask, other=0.0).to(tl.float32)
    dn = dE * (1.0 - z) * (1.0 - n * n)
    dz = dE * (h - n) * z * (1.0 - z)
    dr = dn * candidate * r * (1.0 - r)
    return dn, dr, dz, dn * r, z * dE, (1.0 - z) * n + z * h


@triton.jit
def store_gate_gradients(da, row, u, dn, dr, dz, du, mask, slot, H: tl.constexpr, SLOTS: tl.constexpr):
    at = da + (row[None, :] * SLOTS + slot) * H + u[:, None]
    store = da.dtype.element_ty
    tl.store(at, dn.to(store), mask=mask)
    tl.store(at + H, dr.to(store), mask=mask)
    tl.store(at + 2 * H, dz.to(store), mask=mask)
    tl.store(at + 3 * H, du.to(store), mask=mask)
