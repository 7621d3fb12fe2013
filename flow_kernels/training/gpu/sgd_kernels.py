# mypy: ignore-errors
"""SGD over all parameters of K clients in two launches, rows of gradients added up by their number, and sums of uploads.

The tensors of a step stand in a table on the device, COLUMNS numbers each: the addresses of parameter, gradient, anchor,
momentum and rows (0: none), how many numbers a client has in the gradient and in the parameter, the width of a row, and the
number of the tensor's first block. A program has one block of SIZE numbers of one client. Written in Triton's language.
"""

import triton
import triton.language as tl

COLUMNS = tl.constexpr(9)


@triton.jit
def place_of(table, COUNT, block, PAD: tl.constexpr):
    """The number of the table's line of a block."""
    i = tl.arange(0, PAD)
    begin = tl.load(table + i * COLUMNS + 8, mask=i < COUNT, other=0x7FFFFFFFFFFFFFFF)
    return tl.sum((begin <= block).to(tl.int32)) - 1


@triton.jit
def at_of(table, COUNT, block, PAD: tl.constexpr):
    """The table's line of a block."""
    return table + place_of(table, COUNT, block, PAD) * COLUMNS


@triton.jit
def clipped(squares, k, BLOCKS, clip, SIZE: tl.constexpr):
    """What the gradients of a client are multiplied by; every program adds up all squares of its client, in the same order."""
    total = tl.zeros((SIZE,), tl.float64)
    for begins in range(0, BLOCKS, SIZE):
        i = begins + tl.arange(0, SIZE)
        total += tl.load(squares + k * BLOCKS + i, mask=i < BLOCKS, other=0.0).to(tl.float64)
    norm = tl.sqrt(tl.sum(total))
    # a norm that is no number must reach the parameters, where it is noticed
    return tl.where(norm <= clip, 1.0, clip / norm).to(tl.float32)


@triton.jit
def numbers_of(line, k, block, SIZE: tl.constexpr):
    """Where the numbers of a block lie: in the gradient, in the parameter, and which of them there are.

    Of a gradient by rows those count whose row is the first of its number.
    """
    n, width, rows = tl.load(line + 5), tl.load(line + 7), tl.load(line + 4)
    i = (block - tl.load(line + 8)) * SIZE + tl.arange(0, SIZE)
    inside = i < n
    to = k * tl.load(line + 6) + i
    if rows != 0:
        named = tl.load(rows.to(tl.pointer_type(tl.int32)) + k * (n // width) + i // width, mask=inside, other=-1)
        inside = inside & (named >= 0)
        to = k * tl.load(line + 6) + named.to(tl.int64) * width + i % width
    return k * n + i, to, inside


@triton.jit
def norms(table, squares, COUNT, BLOCKS, PAD: tl.constexpr, SIZE: tl.constexpr):
    """Grid: blocks, clients. squares [K, BLOCKS]"""
    block, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    line = at_of(table, COUNT, block, PAD)
    gradient = tl.load(line + 1).to(tl.pointer_type(tl.float32))
    at, _, inside = numbers_of(line, k, block, SIZE)
    g = tl.load(gradient + at, mask=inside, other=0.0)
    tl.store(squares + k * BLOCKS + block, tl.sum(g * g))


@triton.jit
def update(
    table, squares, present, COUNT, BLOCKS, clip, lr, mu, decay, keep,
    CLIP: tl.constexpr, PRESENT: tl.constexpr, PULLED: tl.constexpr, MOMENTUM: tl.constexpr,
    PAD: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Grid: blocks, clients."""
    block, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    scale = 1.0
    if CLIP:
        scale = clipped(squares, k, BLOCKS, clip, SIZE)
    here = True
    if PRESENT:
        here = tl.load(present + k) != 0
    if here:
        line = at_of(table, COUNT, block, PAD)
        parameter = tl.load(line).to(tl.pointer_type(tl.float32))
        gradient = tl.load(line + 1).to(tl.pointer_type(tl.float32))
        at, to, inside = numbers_of(line, k, block, SIZE)
        g = tl.load(gradient + at, mask=inside, other=0.0)
        p = tl.load(parameter + to, mask=inside, other=0.0)
        if PULLED:
            g = g * scale + decay * p
            anchor = tl.load(line + 2)
            if anchor != 0:
                g += mu * (p - tl.load(anchor.to(tl.pointer_type(tl.float32)) + to, mask=inside, other=0.0))
            if MOMENTUM:
                velocity = tl.load(line + 3).to(tl.pointer_type(tl.float32)) + to
                g = keep * tl.load(velocity, mask=inside, other=0.0) + g
                tl.store(velocity, g, mask=inside)
            p -= lr * g
        else:
            p -= g * (lr * scale)
        tl.store(parameter + to, p, mask=inside)


@triton.jit
def links(rows, following, lead, bad, N, V, BN: tl.constexpr):
    """Grid: blocks of BN rows, clients. For every row the next one of the same number, N where there is none or it has no
    number, and whether it is the first of its number. `bad` [1] takes the largest number that is not below V."""
    k = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    own = tl.load(rows + k * N + n, mask=n < N, other=-1)
    largest = tl.max(own)
    if largest >= V:
        tl.atomic_max(bad, largest)
    own = tl.where(own < V, own, -1)
    after = tl.full((BN,), 0, tl.int32) + N
    leads = own >= 0
    for first in range(0, N, BN):
        m = first + tl.arange(0, BN)
        same = (own[:, None] == tl.load(rows + k * N + m, mask=m < N, other=-1)[None, :]) & (own >= 0)[:, None]
        later = same & (m[None, :] > n[:, None])
        after = tl.minimum(after, tl.min(tl.where(later, m[None, :], N), axis=1))
        leads = leads & (tl.max((same & (m[None, :] < n[:, None])).to(tl.int32), axis=1) == 0)
    tl.store(following + k * N + n, after, mask=n < N)
    tl.store(lead + k * N + n, leads.to(tl.int8), mask=n < N)


@triton.jit
def add_rows(rows, following, lead, gradient, summed, named, N, V, WIDTH, DENSE: tl.constexpr, BW: tl.constexpr):
    """Grid: rows, clients. Rows of one number are added up in their order by the first. DENSE: into row `number` of summed
    [K, V, WIDTH]; else into that row of summed [K, N, WIDTH], and named [K, N] gets the number, -1 for all other rows."""
    n, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    leads = tl.load(lead + k * N + n) != 0
    if DENSE:
        if leads:
            to = summed + (k * V + tl.load(rows + k * N + n)) * WIDTH
            _add(following + k * N, gradient + k * N * WIDTH, to, n, N, WIDTH, BW)
    else:
        tl.store(named + k * N + n, tl.where(leads, tl.load(rows + k * N + n), -1).to(tl.int32))
        if leads:
            _add(following + k * N, gradient + k * N * WIDTH, summed + (k * N + n) * WIDTH, n, N, WIDTH, BW)


@triton.jit
def _add(following, gradient, to, n, N, WIDTH, BW: tl.constexpr):
    for first in range(0, WIDTH, BW):
        j = first + tl.arange(0, BW)
        total = tl.load(gradient + n.to(tl.int64) * WIDTH + j, mask=j < WIDTH, other=0.0)
        m = tl.load(following + n)
        while m < N:
            total += tl.load(gradient + m.to(tl.int64) * WIDTH + j, mask=j < WIDTH, other=0.0)
            m = tl.load(following + m)
        tl.store(to + j, total, mask=j < WIDTH)


@triton.jit
def accumulate(upload, weights, total, K, N, FRESH: tl.constexpr, SIZE: tl.constexpr):
    """Grid: blocks of SIZE numbers. total [3, N] += the parts of weights[k] * upload[k], multiples of 2^-12, 2^-45 and 2^-78.

    Compiled without contraction of products and sums, which would change the parts.
    """
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = i < N
    at0 = total + i
    at1 = at0 + N
    at2 = at1 + N
    sum0 = tl.zeros((SIZE,), tl.float64)
    sum1 = tl.zeros((SIZE,), tl.float64)
    sum2 = tl.zeros((SIZE,), tl.float64)
    if not FRESH:
        sum0 = tl.load(at0, mask=inside, other=0.0)
        sum1 = tl.load(at1, mask=inside, other=0.0)
        sum2 = tl.load(at2, mask=inside, other=0.0)
    own = upload + i
    for k in range(0, K):
        value = tl.load(own, mask=inside, other=0.0).to(tl.float64) * tl.load(weights + k)
        first = (value + 1649267441664.0) - 1649267441664.0  # 1.5 * 2^52 * 2^-12
        rest = value - first
        second = (rest + 192.0) - 192.0  # 1.5 * 2^52 * 2^-45
        sum0 += first
        sum1 += second
        sum2 += ((rest - second) + 2.2351741790771484375e-08) - 2.2351741790771484375e-08  # 1.5 * 2^52 * 2^-78
        own += N
    tl.store(at0, sum0, mask=inside)
    tl.store(at1, sum1, mask=inside)
    tl.store(at2, sum2, mask=inside)
