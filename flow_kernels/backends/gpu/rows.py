"""Where the rows of a call lie: padded in either order, or packed. All tensors have a leading K."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Where the row of a step of a sequence lies. lengths [K, B] and offsets [T + 1] are int64 or None."""

    clients: int
    steps: int
    batch: int
    count: int
    lengths: Tensor | None
    offsets: Tensor | None
    batch_first: bool
    reverse: bool

    @property
    def strides(self) -> tuple[int, int]:
        """From a step to the next and from a sequence to the next; with offsets the first has no meaning."""
        return (1, self.steps) if self.batch_first else (self.batch, 1)

    def padded(self, t: Tensor) -> Tensor:
        """[K, N, ..] -> [K, T, B, ..], a view."""
        shape = (self.batch, self.steps) if self.batch_first else (self.steps, self.batch)
        t = t.view(len(t), *shape, *t.shape[2:])
        return t.transpose(1, 2) if self.batch_first else t

    def valid(self) -> Tensor | None:
        """[K, N], whether a row lies within its sequence's length; None: all do."""
        if self.lengths is None or self.offsets is not None:
            return None
        time = torch.arange(self.steps, device=self.lengths.device)
        if self.batch_first:
            return (time < self.lengths.unsqueeze(2)).flatten(1)
        return (time.unsqueeze(1) < self.lengths.unsqueeze(1)).flatten(1)


def rows_of(x: Tensor, h0: Tensor, lengths: Tensor | None, offsets: Tensor | None, batch_first: bool, reverse: bool) -> Rows:
    """x [K, T, B, I], [K, B, T, I] or [K, N, I] with offsets; h0 [K, B, H]."""
    k, b = h0.shape[:2]
    if offsets is not None:
        return Rows(k, len(offsets) - 1, b, x.shape[1], lengths, offsets, False, reverse)
    t = x.shape[2 if batch_first else 1]
    return Rows(k, t, b, t * b, lengths, None, batch_first, reverse)


def previous(y: Tensor, h0: Tensor, rows: Rows) -> Tensor:
    """The state before every row, [K, N, H], from y [K, N, H] and h0 [K, B, H]; anything finite in rows past a length."""
    if rows.offsets is not None:
        offsets = rows.offsets
        sizes = offsets.diff()
        step = torch.repeat_interleave(sizes, output_size=rows.count)
        sequence = torch.arange(rows.count, device=y.device) - offsets[step]
        if rows.reverse:
            assert rows.lengths is not None
            first, before = step + 1 == rows.lengths[0][sequence], step + 1
        else:
            first, before = step == 0, step - 1
        row = (offsets[before.clamp_min(0)] + sequence).clamp_max(rows.count - 1)
        return torch.where(first.unsqueeze(-1), h0[:, sequence], y[:, row])
    y = rows.padded(y)
    if not rows.reverse:
        h = torch.cat([h0.unsqueeze(1), y[:, :-1]], 1)
    else:
        h = torch.cat([y[:, 1:], h0.unsqueeze(1)], 1)
        if rows.lengths is not None:
            last = torch.arange(1, rows.steps + 1, device=y.device).view(1, -1, 1) == rows.lengths.unsqueeze(1)
            h = torch.where(last.unsqueeze(-1), h0.unsqueeze(1), h)
    return (h.transpose(1, 2) if rows.batch_first else h).flatten(1, 2)
