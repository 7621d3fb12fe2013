"""The vocabulary head with its cross-entropy on a GPU: buffers, launches, and the projection as products of all clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import on
from flow_kernels.training.gpu import head_kernels as kernels
from flow_kernels.training.gpu.arguments import fitting, kind, rounded, worst
from flow_kernels.training.gpu.grouped import multiply
from flow_kernels.training.gpu.tiles import Launch, head_tile, vocabulary_parts
from flow_kernels.training.records import Head, HeadLoss

ROWS = 128  # that a program takes at once which goes through all of a client's


class Problem(NamedTuple):
    """What all kernels of a call read."""

    f: Tensor
    """[K, N, D] in the format of the products, the rows at a multiple of 16 bytes"""
    w: tuple[Tensor, Tensor]
    """[K, V, D] likewise; of one expert twice the same"""
    b: tuple[Tensor, Tensor]
    """float32 [K, V]"""
    q: Tensor
    """float32 [K, N, 2]; what is never read where there is one expert"""
    targets: Tensor
    order: Tensor
    counts: Tensor
    two: bool
    kind: str

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """K, N, V, D"""
        k, n, d = self.f.shape
        return k, n, self.w[0].shape[1], d

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """N, V, D and the rows' distances, as the kernels take them."""
        _, n, v, d = self.sizes
        return n, v, d, self.f.stride(1), self.w[0].stride(1)

    def tile(self, kernel: str) -> Launch:
        """The tile of one of the kernels."""
        return head_tile(kernel, self.kind, self.sizes[3])

    def constants(self, tile: Launch) -> dict[str, Any]:
        """What the kernels are compiled for."""
        return dict(
            TWO=self.two, SINGLE=tile.single, PRECISION=tile.precision, BM=tile.rows, BV=tile.tokens, BK=tile.sum,
            STAGES=tile.stages, num_warps=tile.warps,
        )  # fmt: skip


@torch.no_grad()
def head_loss(
    x: Tensor,
    targets: Tensor,
    head: Head,
    q: Tensor | None,
    *,
    x_grad: bool,
    q_grad: bool,
    out: Sequence[Tensor | None],
    x_out: Tensor | None,
    best: bool,
    operands: torch.dtype,
) -> HeadLoss:
    """:func:`flow_kernels.training.head_loss`, of operands rounded to this format."""
    _check(x, targets, head, q, out, x_out)
    with on(x.device):
        problem = _problem(x, targets, head, q, operands)
        loss, logarithm = _forward(problem, best)
        if out[2] is not None or out[3] is not None or out[4] is not None or out[5] is not None:
            _weights(problem, logarithm, out)
        below = head.projection_weight is not None and (x_grad or out[0] is not None or out[1] is not None)
        if not (below or x_grad or q_grad):
            return loss
        dx = (torch.empty_like(x) if x_out is None else x_out) if x_grad else None
        dq = torch.zeros_like(q) if q_grad and q is not None else None
        df = None
        if head.projection_weight is None:
            df = None if dx is None else dx.zero_()
        elif below:
            df = x.new_zeros(problem.f.shape)
        _features(problem, logarithm, df, dq)
        if below and df is not None:
            _projection(x, targets, head, df, dx, out, operands)
    return loss._replace(x=dx, q=dq)


def _check(
    x: Tensor, targets: Tensor, head: Head, q: Tensor | None, out: Sequence[Tensor | None], x_out: Tensor | None
) -> None:
    if x.dim() != 3 or head.weight.dim() != 3 or not x.numel():
        raise RuntimeError(
            f"flow_kernels.training: x is {list(x.shape)} and weight {list(head.weight.shape)}; they must be [K, N, I] and "
            "[K, V, D], of at least one number"
        )
    k, n, i = x.shape
    v, d = head.weight.shape[1:]
    if (
        (head.projection_weight is None) != (head.projection_bias is None)
        or (head.local_weight is None) != (q is None)
        or ((head.local_weight is None) != (head.local_bias is None))
    ):
        raise RuntimeError(
            "flow_kernels.training: a tensor is missing: projection_weight goes with projection_bias, local_weight with "
            "local_bias and q; pass them together"
        )
    if head.projection_weight is None and d != i:
        raise RuntimeError(f"flow_kernels.training: without a projection D must equal I, got D={d} and I={i}; pass one")
    shapes = ((k, d, i), (k, d), (k, v, d), (k, v), (k, v, d), (k, v))
    fitting("x", x, (k, n, i), x, torch.float32)
    fitting("targets", targets, (k, n), x, torch.int64)
    fitting("q", q, (k, n, 2), x)
    fitting("the gradient of x", x_out, (k, n, i), x)
    for name, weight, gradient, shape in zip(Head._fields, head, out, shapes, strict=True):
        fitting(name, weight, shape, x)
        fitting(f"the gradient of {name}", gradient, shape, x)
        if gradient is not None and weight is None:
            raise RuntimeError(f"flow_kernels.training: a gradient of {name}, which is None, was asked for; leave it out")


def _problem(x: Tensor, targets: Tensor, head: Head, q: Tensor | None, operands: torch.dtype) -> Problem:
    """What the kernels read."""
    k, n, _ = x.shape
    if head.projection_weight is not None and head.projection_bias is not None:
        x = multiply(x, head.projection_weight.mT, operands=operands).add_(head.projection_bias.unsqueeze(1))
    features = rounded(x, operands)
    weight, bias = rounded(head.weight, operands), head.bias
    other, other_bias, two = weight, bias, False
    if head.local_weight is not None and head.local_bias is not None:
        other, other_bias, two = rounded(head.local_weight, operands), head.local_bias, True
    order, counts = targets.new_empty((k, n), dtype=torch.int32), targets.new_empty(k)
    kernels.prepare[(k,)](targets, order, counts, worst(x.device), n, weight.shape[1], BN=ROWS)
    used = bias if q is None else q
    return Problem(features, (weight, other), (bias, other_bias), used, targets, order, counts, two, kind(operands))


def _forward(p: Problem, best: bool) -> tuple[HeadLoss, Tensor]:
    """The loss, and the logarithm [K, N] of the sum of every row's exponentials."""
    (k, n, v, _), tile = p.sizes, p.tile("forward")
    blocks = -(-n // tile.rows)
    parts, each = vocabulary_parts(k, blocks, v, tile.tokens)
    of_parts = p.targets.new_empty((4, k, parts, n), dtype=torch.float32)
    best_of_parts = p.targets.new_empty((k, parts, n) if best else 1, dtype=torch.int32)
    given = (*of_parts[:3], of_parts[3], best_of_parts)
    kernels.forward[blocks, parts, k](
        p.f, *p.w, *p.b, p.q, p.targets, p.order, p.counts, *given, *p.numbers, each, BEST=best, **p.constants(tile)
    )
    logarithm = of_parts.new_empty(k, n)
    nats = of_parts.new_empty(k, dtype=torch.float64)
    token = torch.full_like(p.targets, -1) if best else None
    row_nats, probability = (of_parts.new_zeros(k, n) if best else None for _ in range(2))
    kernels.rows[(k,)](
        p.order, p.counts, *given, logarithm, nats, *((token, row_nats, probability) if best else (logarithm,) * 3), n, parts,
        BEST=best, BN=ROWS,
    )  # fmt: skip
    return HeadLoss(nats, p.counts, token, probability, row_nats, None, None), logarithm


def _features(p: Problem, logarithm: Tensor, df: Tensor | None, dq: Tensor | None) -> None:
    """Gradients by the features and by q, of rows with a target."""
    (k, n, v, d), tile = p.sizes, p.tile("features")
    blocks, experts = -(-n // tile.rows), 1 + p.two
    programs = blocks * -(-d // tile.columns)
    parts, each = vocabulary_parts(k, programs, v, tile.tokens)
    gw = logarithm.new_empty((k, parts, experts, n, d))
    gb = logarithm.new_empty((k, parts, experts, n))
    kernels.backward_features[programs, parts, k](
        p.f, *p.w, *p.b, p.q, p.targets, p.order, p.counts, logarithm, gw, gb, *p.numbers, each, BD=tile.columns,
        **p.constants(tile),
    )  # fmt: skip
    rows = 32
    kernels.features[-(-n // rows), k](
        p.f, p.q, p.order, p.counts, gw, gb, logarithm if df is None else df, logarithm if dq is None else dq, n, d,
        p.f.stride(1), parts, TWO=p.two, HAS_DF=df is not None, HAS_DQ=dq is not None, BM=rows, BD=min(tile.columns, 64),
    )  # fmt: skip


def _weights(p: Problem, logarithm: Tensor, out: Sequence[Tensor | None]) -> None:
    """Gradients by weights and biases, into the last four of `out`."""
    (k, _, v, d), tile = p.sizes, p.tile("weights")
    wanted = out[2:]
    columns = -(-d // tile.columns) if wanted[0] is not None or wanted[2] is not None else 1
    flags = {name: t is not None for name, t in zip(("DW0", "DB0", "DW1", "DB1"), wanted, strict=True)}
    kernels.backward_weights[-(-v // tile.tokens), columns, k](
        p.f, *p.w, *p.b, p.q, p.targets, p.order, p.counts, logarithm,
        *(logarithm if t is None else t for t in wanted), *p.numbers, BD=tile.columns, **flags, **p.constants(tile),
    )  # fmt: skip


def _projection(
    x: Tensor, targets: Tensor, head: Head, df: Tensor, dx: Tensor | None, out: Sequence[Tensor | None],
    operands: torch.dtype,
) -> None:  # fmt: skip
    """What lies below a projection; df is zero in rows without a target, whose inputs may be anything."""
    assert head.projection_weight is not None
    if out[0] is not None:
        multiply(df.mT, torch.where((targets >= 0).unsqueeze(-1), x, 0), out[0], operands=operands)
    if out[1] is not None:
        torch.sum(df, 1, out=out[1])
    if dx is not None:
        multiply(df, head.projection_weight, dx, operands=operands)
