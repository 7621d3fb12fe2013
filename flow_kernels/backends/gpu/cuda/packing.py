"""Weights in the order in which the kernels' lanes hold them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels.backends.gpu.cuda.shape import units as units_of
from flow_kernels.reference import Router


def _padded(w_hh: Sequence[Tensor | None], hidden: int, rows: int, columns: int) -> Tensor:
    """Both experts' [K, 3H, H], one of which may be missing, as [K, 2, 3, rows, columns] with zeros around."""
    known = next(w for w in w_hh if w is not None)
    padded = known.new_zeros(known.shape[0], 2, 3, rows, columns)
    for e, w in enumerate(w_hh):
        if w is not None:
            padded[:, e, :, :hidden, :hidden] = w.reshape(-1, 3, hidden, hidden)
    return padded


def packed_forward(w_hh: Sequence[Tensor | None], hidden: int, blocks: int) -> Tensor:
    """The recurrent weights in the order in which the lanes of m16n8k16 hold their A operand.

    [K, block, warp, 16-column step, gate, lane = (unit, pair), half of the columns, expert, column of the pair]. A row tile is
    one gate of a warp's eight units, of the global expert in its rows 0-7 and of the local one in rows 8-15.
    """
    units = units_of(hidden, blocks)
    padded = _padded(w_hh, hidden, blocks * units, blocks * units)
    # k, expert, gate, block, warp, unit | step, half, pair, column
    split = padded.view(len(padded), 2, 3, blocks, units // 8, 8, blocks * units // 16, 2, 4, 2)
    return split.permute(0, 3, 4, 6, 2, 5, 8, 7, 1, 9).contiguous()


def packed_backward(w_hh: Sequence[Tensor | None], hidden: int, blocks: int) -> Tensor:
    """The transposed recurrent weights of every block's own units, likewise.

    [K, block, warp of the product, (unit warp, gate), row tile, lane = (row, pair), expert, half of the rows, unit of the
    pair]. Rows are the state's columns, 16 a row tile. A 16-column step is one gate of eight units, first global, then local.
    """
    units = units_of(hidden, blocks)
    tiles = -(-blocks * units // 128)
    padded = _padded(w_hh, hidden, blocks * units, 128 * tiles)
    # k, expert, gate, block, unit warp, pair, unit | warp, row tile, half, row
    split = padded.view(len(padded), 2, 3, blocks, units // 8, 4, 2, 8, tiles, 2, 8)
    return split.permute(0, 3, 7, 4, 2, 8, 10, 5, 1, 9, 6).contiguous()


def packed_bias(b_ih: Sequence[Tensor | None], b_hh: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """[K, H, 8] float32: of r, z (both biases), n (that of x), u (that of h), global, then local. like: h0 [K, B, H]."""
    k, _, hidden = like.shape
    packed = torch.zeros(k, hidden, 2, 4, dtype=torch.float32, device=like.device)
    for e, (of_x, of_h) in enumerate(zip(b_ih, b_hh, strict=True)):
        if of_x is not None:
            packed[:, :, e, :3] = of_x.float().reshape(k, 3, hidden).mT
        if of_h is not None:
            h = of_h.float().reshape(k, 3, hidden).mT
            packed[:, :, e, :2] += h[..., :2]
            packed[:, :, e, 3] = h[..., 2]
    return packed.flatten(2)


def packed_router(router: Router | None, like: Tensor) -> Tensor:
    """[K, H + 1] float32: the difference of the router's rows, the columns of h, then that of its biases."""
    k, _, hidden = like.shape
    packed = torch.zeros(k, hidden + 1, dtype=torch.float32, device=like.device)
    if router is None:
        return packed
    rows = router.weight[..., -hidden:].float()
    packed[:, :hidden] = rows[:, 0] - rows[:, 1]
    if router.bias is not None:
        packed[:, hidden] = router.bias[:, 0].float() - router.bias[:, 1].float()
    return packed
