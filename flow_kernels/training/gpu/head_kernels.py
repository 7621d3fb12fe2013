# mypy: ignore-errors
"""The vocabulary head with its cross-entropy for K clients with weights of their own. Written in Triton's language.

Logits exist as tiles in registers only. Of the N rows of a client those with a target are computed: `order` [K, N] has their
numbers, `counts` [K] how many there are. Features are f [K, N, D], an expert's weights W_e [K, V, D]:

    s = sum over e of q_e (f W_e^T + b_e)        G = softmax(s) - one-hot(target)

forward: for every row and every part of the vocabulary the largest score, the sum of exp(s - largest), the target's score.
rows: these parts joined: the logarithm of the whole sum, the loss, the most likely token.
backward_features: for every row and part of the vocabulary G W_e and G b_e, of scores that are computed again.
features: these parts joined: the gradients by f and by q.
backward_weights: a program owns a tile of tokens and goes through the client's rows: G^T (q_e f) and the sums of G q_e.

Nothing is added up by atomics, so results repeat to the bit.
"""

import triton
import triton.language as tl

from flow_kernels.backends.gpu.triton.parts import multiply


@triton.jit
def prepare(targets, order, counts, bad, N, V, BN: tl.constexpr):
    """One program a client. `bad` [1] takes the largest target that is not below V."""
    k = tl.program_id(0).to(tl.int64)
    total = tl.zeros((), tl.int32)
    for first in range(0, N, BN):
        n = first + tl.arange(0, BN)
        target = tl.load(targets + k * N + n, mask=n < N, other=-1)
        counted = (target >= 0).to(tl.int32)
        place = total + tl.cumsum(counted, 0) - 1
        tl.store(order + k * N + place, n.to(tl.int32), mask=counted > 0)
        total += tl.sum(counted)
        largest = tl.max(target)
        if largest >= V:
            tl.atomic_max(bad, largest)
    tl.store(counts + k, total.to(tl.int64))


@triton.jit
def weighted(x, q):
    """Rows of a tile times their expert's weight, rounded to the tile's format."""
    return (x.to(tl.float32) * q[:, None]).to(x.dtype)


@triton.jit
def load_features(f, r, valid, j, D, ROW):
    """[rows, columns]"""
    return tl.load(f + r[:, None] * ROW + j[None, :], mask=valid[:, None] & (j < D)[None, :], other=0.0)


@triton.jit
def load_weights(w, v, j, V, D, ROW):
    """[tokens, columns]"""
    return tl.load(w + v[:, None] * ROW + j[None, :], mask=(v < V)[:, None] & (j < D)[None, :], other=0.0)


@triton.jit
def rows_of(q, targets, order, k, N, i, count, TWO: tl.constexpr):
    """Of the client's i-th rows with a target: whether they are there, number, target, and the experts' weights."""
    valid = i < count
    r = tl.load(order + k * N + i, mask=valid, other=0)
    target = tl.load(targets + k * N + r, mask=valid, other=-1).to(tl.int32)
    if TWO:
        q0 = tl.load(q + (k * N + r) * 2, mask=valid, other=0.0)
        q1 = tl.load(q + (k * N + r) * 2 + 1, mask=valid, other=0.0)
    else:
        q0 = valid.to(tl.float32)
        q1 = q0
    return valid, r, target, q0, q1


@triton.jit
def biases(b0, b1, v, V, TWO: tl.constexpr):
    bias0 = tl.load(b0 + v, mask=v < V, other=0.0)
    bias1 = bias0
    if TWO:
        bias1 = tl.load(b1 + v, mask=v < V, other=0.0)
    return bias0, bias1


@triton.jit
def scores(
    f, w0, w1, x0, x1, r, valid, q0, q1, v, bias0, bias1, V, D, F_ROW, W_ROW,
    TWO: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """[rows, tokens], -inf past the vocabulary. SINGLE: x0 and x1 are all columns of the weighted features."""
    s = q0[:, None] * bias0[None, :]
    if TWO:
        s += q1[:, None] * bias1[None, :]
    if SINGLE:
        j = tl.arange(0, BK)
        s = multiply(x0, tl.trans(load_weights(w0, v, j, V, D, W_ROW)), s, PRECISION)
        if TWO:
            s = multiply(x1, tl.trans(load_weights(w1, v, j, V, D, W_ROW)), s, PRECISION)
    else:
        for first in range(0, D, BK):
            j = first + tl.arange(0, BK)
            x = load_features(f, r, valid, j, D, F_ROW)
            if TWO:
                s = multiply(weighted(x, q0), tl.trans(load_weights(w0, v, j, V, D, W_ROW)), s, PRECISION)
                s = multiply(weighted(x, q1), tl.trans(load_weights(w1, v, j, V, D, W_ROW)), s, PRECISION)
            else:
                s = multiply(x, tl.trans(load_weights(w0, v, j, V, D, W_ROW)), s, PRECISION)
    return tl.where((v < V)[None, :], s, float("-inf"))


@triton.jit
def all_columns(f, r, valid, q0, q1, D, F_ROW, TWO: tl.constexpr, SINGLE: tl.constexpr, BK: tl.constexpr):
    """The features of some rows weighted by each expert, where they are kept."""
    if SINGLE:
        x = load_features(f, r, valid, tl.arange(0, BK), D, F_ROW)
        if TWO:
            return weighted(x, q0), weighted(x, q1)
        else:
            return x, x
    else:
        return q0, q1


_SIZES = ["N"]


@triton.jit(do_not_specialize=_SIZES)
def forward(
    f, w0, w1, b0, b1, q, targets, order, counts, largest, sums, own, top, best, N, V, D, F_ROW, W_ROW, PER,
    TWO: tl.constexpr, BEST: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: row blocks, parts of PER tokens, clients. Outputs are [K, parts, N]."""
    k = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + k).to(tl.int32)
    if tl.program_id(0) * BM < count:
        i = tl.program_id(0) * BM + tl.arange(0, BM)
        valid, r, target, q0, q1 = rows_of(q, targets, order, k, N, i, count, TWO)
        f, w0, b0 = f + k * N * F_ROW, w0 + k * V * W_ROW, b0 + k * V
        if TWO:
            w1, b1 = w1 + k * V * W_ROW, b1 + k * V
        x0, x1 = all_columns(f, r, valid, q0, q1, D, F_ROW, TWO, SINGLE, BK)
        m = tl.full((BM,), float("-inf"), tl.float32)
        total = tl.zeros((BM,), tl.float32)
        of_target = tl.zeros((BM,), tl.float32)
        first_best = tl.zeros((BM,), tl.int32)
        highest = tl.full((BM,), float("-inf"), tl.float32)
        begin = tl.program_id(1) * PER
        for first in tl.range(begin, tl.minimum(begin + PER, V), BV, num_stages=STAGES):
            v = first + tl.arange(0, BV)
            bias0, bias1 = biases(b0, b1, v, V, TWO)
            s = scores(
                f, w0, w1, x0, x1, r, valid, q0, q1, v, bias0, bias1, V, D, F_ROW, W_ROW, TWO, SINGLE, PRECISION, BK
            )  # fmt: skip
            of_target += tl.sum(tl.where(v[None, :] == target[:, None], s, 0.0), axis=1)
            new = tl.maximum(m, tl.max(s, axis=1))
            total = total * tl.exp(m - new) + tl.sum(tl.exp(s - new[:, None]), axis=1)
            m = new
            if BEST:  # a NaN is larger than any other number
                value, at = tl.max(
                    tl.where(s == s, s, float("inf")), axis=1, return_indices=True, return_indices_tie_break_left=True
                )
                first_best = tl.where(value > highest, first + at, first_best)
                highest = tl.maximum(highest, value)
        place = (k * tl.num_programs(1) + tl.program_id(1)) * N + r
        tl.store(largest + place, m, mask=valid)
        tl.store(sums + place, total, mask=valid)
        tl.store(own + place, of_target, mask=valid)
        if BEST:
            tl.store(top + place, highest, mask=valid)
            tl.store(best + place, first_best, mask=valid)


@triton.jit(do_not_specialize=_SIZES)
def rows(
    order, counts, largest, sums, own, top, best, logarithm, nats, token, row_nats, probability, N, PARTS,
    BEST: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program a client."""
    k = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + k).to(tl.int32)
    lost = tl.zeros((), tl.float64)
    base = k * PARTS * N
    for first in range(0, count, BN):
        i = first + tl.arange(0, BN)
        valid = i < count
        r = tl.load(order + k * N + i, mask=valid, other=0)
        m = tl.full((BN,), float("-inf"), tl.float32)
        for part in range(0, PARTS):
            m = tl.maximum(m, tl.load(largest + base + part * N + r, mask=valid, other=0.0))
        total = tl.zeros((BN,), tl.float32)
        of_target = tl.zeros((BN,), tl.float32)
        first_best = tl.zeros((BN,), tl.int32)
        highest = tl.full((BN,), float("-inf"), tl.float32)
        for part in range(0, PARTS):
            at = base + part * N + r
            shrink = tl.exp(tl.load(largest + at, mask=valid, other=0.0) - m)
            total += tl.load(sums + at, mask=valid, other=1.0) * shrink
            of_target += tl.load(own + at, mask=valid, other=0.0)
            if BEST:
                value = tl.load(top + at, mask=valid, other=0.0)
                first_best = tl.where(value > highest, tl.load(best + at, mask=valid, other=0), first_best)
                highest = tl.maximum(highest, value)
        nat = tl.log(total) + (m - of_target)
        lost += tl.sum(tl.where(valid, nat, 0.0).to(tl.float64))
        tl.store(logarithm + k * N + r, tl.log(total) + m, mask=valid)
        if BEST:
            tl.store(token + k * N + r, first_best.to(tl.int64), mask=valid)
            tl.store(row_nats + k * N + r, nat, mask=valid)
            tl.store(probability + k * N + r, tl.exp(highest - m) / total, mask=valid)
    tl.store(nats + k, lost)


@triton.jit(do_not_specialize=_SIZES)
def backward_features(
    f, w0, w1, b0, b1, q, targets, order, counts, logarithm, gw, gb, N, V, D, F_ROW, W_ROW, PER,
    TWO: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: row blocks x column blocks, parts of PER tokens, clients. gw [K, parts, experts, N, D], gb likewise."""
    k = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + k).to(tl.int32)
    columns = tl.cdiv(D, BD)
    block, column = tl.program_id(0) // columns, tl.program_id(0) % columns
    if block * BM < count:
        i = block * BM + tl.arange(0, BM)
        valid, r, target, q0, q1 = rows_of(q, targets, order, k, N, i, count, TWO)
        f, w0, b0 = f + k * N * F_ROW, w0 + k * V * W_ROW, b0 + k * V
        if TWO:
            w1, b1 = w1 + k * V * W_ROW, b1 + k * V
        x0, x1 = all_columns(f, r, valid, q0, q1, D, F_ROW, TWO, SINGLE, BK)
        all_of_it = tl.load(logarithm + k * N + r, mask=valid, other=0.0)
        d = column * BD + tl.arange(0, BD)
        sum0 = tl.zeros((BM, BD), tl.float32)
        sum1 = tl.zeros((BM, BD), tl.float32)
        bias_sum0 = tl.zeros((BM,), tl.float32)
        bias_sum1 = tl.zeros((BM,), tl.float32)
        begin = tl.program_id(1) * PER
        for first in tl.range(begin, tl.minimum(begin + PER, V), BV, num_stages=STAGES):
            v = first + tl.arange(0, BV)
            bias0, bias1 = biases(b0, b1, v, V, TWO)
            s = scores(
                f, w0, w1, x0, x1, r, valid, q0, q1, v, bias0, bias1, V, D, F_ROW, W_ROW, TWO, SINGLE, PRECISION, BK
            )  # fmt: skip
            g = tl.exp(s - all_of_it[:, None]) - (v[None, :] == target[:, None]).to(tl.float32)
            g = tl.where(valid[:, None], g, 0.0)
            bias_sum0 += tl.sum(g * bias0[None, :], axis=1)
            operand = g.to(w0.dtype.element_ty)
            sum0 = multiply(operand, load_weights(w0, v, d, V, D, W_ROW), sum0, PRECISION)
            if TWO:
                bias_sum1 += tl.sum(g * bias1[None, :], axis=1)
                sum1 = multiply(operand, load_weights(w1, v, d, V, D, W_ROW), sum1, PRECISION)
        EXPERTS: tl.constexpr = 2 if TWO else 1
        part = (k * tl.num_programs(1) + tl.program_id(1)) * EXPERTS * N
        gw, gb = gw + part * D, gb + part
        inside = valid[:, None] & (d < D)[None, :]
        to_columns = column == 0
        tl.store(gw + r[:, None] * D + d[None, :], sum0, mask=inside)
        tl.store(gb + r, bias_sum0, mask=valid & to_columns)
        if TWO:
            tl.store(gw + N * D + r[:, None] * D + d[None, :], sum1, mask=inside)
            tl.store(gb + N + r, bias_sum1, mask=valid & to_columns)


@triton.jit(do_not_specialize=_SIZES)
def features(
    f, q, order, counts, gw, gb, df, dq, N, D, F_ROW, PARTS,
    TWO: tl.constexpr, HAS_DF: tl.constexpr, HAS_DQ: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Grid: row blocks, clients. df [K, N, D] and dq [K, N, 2] of rows with a target."""
    k = tl.program_id(1).to(tl.int64)
    count = tl.load(counts + k).to(tl.int32)
    if tl.program_id(0) * BM < count:
        i = tl.program_id(0) * BM + tl.arange(0, BM)
        valid = i < count
        r = tl.load(order + k * N + i, mask=valid, other=0)
        share = 1.0 / count.to(tl.float32)
        EXPERTS: tl.constexpr = 2 if TWO else 1
        q0 = valid.to(tl.float32)
        q1 = q0
        if TWO:
            q0 = tl.load(q + (k * N + r) * 2, mask=valid, other=0.0)
            q1 = tl.load(q + (k * N + r) * 2 + 1, mask=valid, other=0.0)
        dot0 = tl.zeros((BM,), tl.float32)
        dot1 = tl.zeros((BM,), tl.float32)
        for part in range(0, PARTS):
            at = (k * PARTS + part) * EXPERTS * N + r
            if HAS_DQ:
                dot0 += tl.load(gb + at, mask=valid, other=0.0)
                dot1 += tl.load(gb + at + N, mask=valid, other=0.0)
        for first in range(0, D, BD):
            d = first + tl.arange(0, BD)
            inside = valid[:, None] & (d < D)[None, :]
            sum0 = tl.zeros((BM, BD), tl.float32)
            sum1 = tl.zeros((BM, BD), tl.float32)
            for part in range(0, PARTS):
                here = gw + (k * PARTS + part) * EXPERTS * N * D
                at = r[:, None] * D + d[None, :]
                sum0 += tl.load(here + at, mask=inside, other=0.0)
                if TWO:
                    sum1 += tl.load(here + N * D + at, mask=inside, other=0.0)
            if HAS_DQ:
                x = load_features(f + k * N * F_ROW, r, valid, d, D, F_ROW).to(tl.float32)
                dot0 += tl.sum(sum0 * x, axis=1)
                dot1 += tl.sum(sum1 * x, axis=1)
            if HAS_DF:
                total = sum0
                if TWO:
                    total = q0[:, None] * sum0 + q1[:, None] * sum1
                tl.store(df + (k * N + r[:, None]) * D + d[None, :], share * total, mask=inside)
        if HAS_DQ:
            tl.store(dq + (k * N + r) * 2, share * dot0, mask=valid)
            tl.store(dq + (k * N + r) * 2 + 1, share * dot1, mask=valid)


@triton.jit(do_not_specialize=_SIZES)
def backward_weights(
    f, w0, w1, b0, b1, q, targets, order, counts, logarithm, dw0, db0, dw1, db1, N, V, D, F_ROW, W_ROW,
    TWO: tl.constexpr, DW0: tl.constexpr, DB0: tl.constexpr, DW1: tl.constexpr, DB1: tl.constexpr, SINGLE: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of BV tokens, column blocks, clients."""
    k = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + k).to(tl.int32)
    v = tl.program_id(0) * BV + tl.arange(0, BV)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    f, w0, b0 = f + k * N * F_ROW, w0 + k * V * W_ROW, b0 + k * V
    if TWO:
        w1, b1 = w1 + k * V * W_ROW, b1 + k * V
    bias0, bias1 = biases(b0, b1, v, V, TWO)
    sum0 = tl.zeros((BV, BD), tl.float32)
    sum1 = tl.zeros((BV, BD), tl.float32)
    bias_sum0 = tl.zeros((BV,), tl.float32)
    bias_sum1 = tl.zeros((BV,), tl.float32)
    j = tl.arange(0, BK)
    own0 = bias0
    own1 = bias1
    if SINGLE:
        own0 = load_weights(w0, v, j, V, D, W_ROW)
        if TWO:
            own1 = load_weights(w1, v, j, V, D, W_ROW)
    for first in tl.range(0, count, BM, num_stages=STAGES):
        i = first + tl.arange(0, BM)
        valid, r, target, q0, q1 = rows_of(q, targets, order, k, N, i, count, TWO)
        all_of_it = tl.load(logarithm + k * N + r, mask=valid, other=0.0)
        s = bias0[:, None] * q0[None, :]  # [tokens, rows]
        if TWO:
            s += bias1[:, None] * q1[None, :]
        if SINGLE:
            x = load_features(f, r, valid, j, D, F_ROW)
            if TWO:
                s = multiply(own0, tl.trans(weighted(x, q0)), s, PRECISION)
                s = multiply(own1, tl.trans(weighted(x, q1)), s, PRECISION)
            else:
                s = multiply(own0, tl.trans(x), s, PRECISION)
        else:
            for start in range(0, D, BK):
                c = start + j
                x = load_features(f, r, valid, c, D, F_ROW)
                if TWO:
                    s = multiply(load_weights(w0, v, c, V, D, W_ROW), tl.trans(weighted(x, q0)), s, PRECISION)
                    s = multiply(load_weights(w1, v, c, V, D, W_ROW), tl.trans(weighted(x, q1)), s, PRECISION)
                else:
                    s = multiply(load_weights(w0, v, c, V, D, W_ROW), tl.trans(x), s, PRECISION)
        g = tl.exp(s - all_of_it[None, :]) - (v[:, None] == target[None, :]).to(tl.float32)
        g = tl.where(valid[None, :], g, 0.0)
        if DB0:
            bias_sum0 += tl.sum(g * q0[None, :], axis=1)
        if DB1:
            bias_sum1 += tl.sum(g * q1[None, :], axis=1)
        if DW0 or DW1:
            operand = g.to(f.dtype.element_ty)
            y = load_features(f, r, valid, d, D, F_ROW)
            if TWO:
                if DW0:
                    sum0 = multiply(operand, weighted(y, q0), sum0, PRECISION)
                if DW1:
                    sum1 = multiply(operand, weighted(y, q1), sum1, PRECISION)
            else:
                sum0 = multiply(operand, y, sum0, PRECISION)
    share = 1.0 / tl.maximum(count, 1).to(tl.float32)
    inside = (v < V)[:, None] & (d < D)[None, :]
    at = v[:, None] * D + d[None, :]
    to_columns = (v < V) & (tl.program_id(1) == 0)
    if DW0:
        tl.store(dw0 + k * V * D + at, share * sum0, mask=inside)
    if DW1:
        tl.store(dw1 + k * V * D + at, share * sum1, mask=inside)
    if DB0:
        tl.store(db0 + k * V + v, share * bias_sum0, mask=to_columns)
    if DB1:
        tl.store(db1 + k * V + v, share * bias_sum1, mask=to_columns)
