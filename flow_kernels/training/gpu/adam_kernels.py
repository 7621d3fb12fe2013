# mypy: ignore-errors
"""Adam over all parameters of K clients in one launch, after that of :func:`.sgd_kernels.norms`.

The table is that of sgd_kernels.py with dense gradients alone; a momentum's address is that of the first moment, and `seconds`
has the addresses of the second ones, in the same order. Written in Triton's language.
"""

import triton
import triton.language as tl

from flow_kernels.training.gpu.sgd_kernels import COLUMNS, clipped, place_of


@triton.jit
def adam(
    table, seconds, squares, present, taken, COUNT, BLOCKS, clip, lr, mu, decay, stay, share1, keep2, share2, log1, log2,
    epsilon, CLIP: tl.constexpr, PRESENT: tl.constexpr, PAD: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Grid: blocks, clients. decay: joins the gradient; stay: what is left of a parameter before the step. share1: 1 - beta1;
    keep2: beta2; share2: 1 - beta2; log1, log2: the logarithms of the betas. taken [K]: steps of the clients, with this one."""
    block, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    scale = 1.0
    if CLIP:
        scale = clipped(squares, k, BLOCKS, clip, SIZE)
    here = True
    if PRESENT:
        here = tl.load(present + k) != 0
    if here:
        t = tl.load(taken + k).to(tl.float64)
        # double before the subtraction: 1 - beta2^t is small
        rate = (lr / (1.0 - tl.exp(t * log1))).to(tl.float32)
        root = (1.0 / tl.sqrt(1.0 - tl.exp(t * log2))).to(tl.float32)
        place = place_of(table, COUNT, block, PAD)
        line = table + place * COLUMNS
        i = (block - tl.load(line + 8)) * SIZE + tl.arange(0, SIZE)
        inside = i < tl.load(line + 6)
        at = k * tl.load(line + 6) + i
        parameter = tl.load(line).to(tl.pointer_type(tl.float32)) + at
        first = tl.load(line + 3).to(tl.pointer_type(tl.float32)) + at
        second = tl.load(seconds + place).to(tl.pointer_type(tl.float32)) + at
        p = tl.load(parameter, mask=inside, other=0.0)
        g = tl.load(tl.load(line + 1).to(tl.pointer_type(tl.float32)) + at, mask=inside, other=0.0) * scale + decay * p
        anchor = tl.load(line + 2)
        if anchor != 0:
            g += mu * (p - tl.load(anchor.to(tl.pointer_type(tl.float32)) + at, mask=inside, other=0.0))
        m = tl.load(first, mask=inside, other=0.0)
        v = tl.load(second, mask=inside, other=0.0)
        m += share1 * (g - m)
        v = keep2 * v + share2 * (g * g)
        tl.store(first, m, mask=inside)
        tl.store(second, v, mask=inside)
        tl.store(parameter, stay * p - rate * m / (tl.sqrt(v) * root + epsilon), mask=inside)
