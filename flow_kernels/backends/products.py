"""What the GPU backends leave to torch: the batched products around the recurrence, before it and after it.

All tensors have a leading K. N is the number of rows of x per client: T * B in either order, or those of packed input. E is
the number of experts that the route uses, in the order global, local. 16-bit operands are accumulated in float32 and come out
in float32; float32 ones follow torch's own TF32 setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

X, H0, ROUTER_W, ROUTER_B = 0, 1, 10, 11  # places in the twelve tensors of flow_kernels/op.py
FIRST = {"mixture": (2, 6), "global": (2,), "local": (6,)}  # w_ih, w_hh, b_ih, b_hh of an expert begin there


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


def check_lengths_async(lengths: Tensor, steps: int) -> None:
    """Every length must lie in 1..steps, or the device stops with an assertion: nothing waits for the values to arrive."""
    fine = ((lengths >= 1) & (lengths <= steps)).all()
    torch._assert_async(fine, f"routed_gru: every length must lie in 1..T = 1..{steps}; drop empty sequences, cut longer ones")


def check_offsets_async(rows: Rows) -> None:
    """The same for packed rows: offsets and lengths must describe the N rows that there are."""
    lengths, offsets = rows.lengths, rows.offsets
    if lengths is None or offsets is None or lengths.shape != (1, rows.batch):
        raise RuntimeError(
            "routed_gru: packed rows come with lengths [B] and offsets [T + 1], without clients; pass batch_sizes"
        )
    sizes = offsets.diff()
    of_sizes = (sizes.unsqueeze(1) > torch.arange(rows.batch, device=sizes.device)).sum(0)
    fine = (of_sizes == lengths[0]).all() & (sizes.diff() <= 0).all() & (sizes >= 1).all()
    fine = fine & (sizes[0] == rows.batch) & (offsets[0] == 0) & (offsets[-1] == rows.count)
    torch._assert_async(
        fine, f"routed_gru: batch_sizes must sum to the N={rows.count} rows of input, never rise, and begin with B={rows.batch}"
    )


def tf32() -> bool:
    """Whether torch's own products may round float32 to TF32 on a GPU, however that was asked for."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def product(a: Tensor, b: Tensor) -> Tensor:
    """[K, m, k] x [K, k, n] -> float32 [K, m, n]"""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def project(x: Tensor, weights_ih: Sequence[Tensor], router_w: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x [K, N, I] -> x-parts of the gates [E, K, N, 3H] (r, z, n; no bias) and of the router's scores [K, N, 2], float32."""
    k, n, i = x.shape
    xg = torch.empty((len(weights_ih), k, n, weights_ih[0].shape[1]), dtype=torch.float32, device=x.device)
    for e, w in enumerate(weights_ih):
        if x.dtype == torch.float32:
            torch.bmm(x, w.mT, out=xg[e])
        else:
            xg[e] = product(x, w.mT)
    return xg, None if router_w is None else product(x, router_w[..., :i].mT)


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


def gradients(
    tensors: Sequence[Tensor | None],
    rows: Rows,
    y: Tensor,
    da: Tensor,
    dlogit: Tensor | None,
    wanted: Sequence[bool],
    route: str,
) -> dict[int, Tensor]:
    """The wanted gradients but that of h0, by place in the twelve tensors.

    tensors: with x as [K, N, I]; y: [K, N, H]
    da: [K, N, E, 4, H], gradients of the arguments of n, r, z and of the recurrent candidate u, zero in rows past a length
    dlogit: float32 [K, N], gradient of the logit difference s_0 - s_1 before the temperature, zero past a length; None if
        there is no router or no gradient reaches it
    """
    x, h0, router_w = tensors[X], tensors[H0], tensors[ROUTER_W]
    assert x is not None and h0 is not None
    i, hidden = x.shape[-1], h0.shape[-1]
    found: dict[int, Tensor] = {}
    experts = FIRST[route]
    n_, rz, rzu = (slice(0, hidden), slice(hidden, 3 * hidden), slice(hidden, 4 * hidden))
    flat = [da[:, :, e].flatten(2) for e in range(len(experts))]  # [K, N, 4H], a view
    reads_x = any(wanted[first] for first in experts) or (wanted[ROUTER_W] and dlogit is not None)
    reads_h = any(wanted[first + 1] for first in experts) or (wanted[ROUTER_W] and dlogit is not None)
    valid = rows.valid() if reads_x else None
    clean = x if valid is None else x.masked_fill(~valid.unsqueeze(-1), 0)  # zero times what was never to be read
    h = previous(y, h0, rows) if reads_h else y

    for d, first in zip(flat, experts, strict=True):
        w_ih, w_hh = tensors[first], tensors[first + 1]
        assert w_ih is not None and w_hh is not None
        if wanted[first]:
            grad = torch.empty_like(w_ih, memory_format=torch.contiguous_format)
            grad[:, 2 * hidden :] = product(d[..., n_].mT, clean)
            grad[:, : 2 * hidden] = product(d[..., rz].mT, clean)
            found[first] = grad
        if wanted[first + 1]:
            found[first + 1] = product(d[..., rzu].mT, h).to(w_hh.dtype)
        if wanted[first + 2] or wanted[first + 3]:
            sums = d.sum(1, dtype=torch.float32).to(x.dtype)
            if wanted[first + 2]:
                found[first + 2] = torch.cat([sums[:, rz], sums[:, n_]], 1)
            if wanted[first + 3]:
                found[first + 3] = sums[:, rzu].clone()
    if wanted[X]:
        dx: Tensor | None = None
        for d, first in zip(flat, experts, strict=True):
            w_ih = tensors[first]
            assert w_ih is not None
            part = product(d[..., n_], w_ih[:, 2 * hidden :]) + product(d[..., rz], w_ih[:, : 2 * hidden])
            dx = part if dx is None else dx.add_(part)
        assert dx is not None
        if dlogit is not None and router_w is not None:
            of_x = router_w[..., :i].float()
            dx.addcmul_(dlogit.unsqueeze(-1), (of_x[:, :1] - of_x[:, 1:]))
        found[X] = dx.to(x.dtype)
    if route == "mixture" and router_w is not None:
        _router_gradients(found, tensors, clean, h, dlogit, wanted)
    return found


def _router_gradients(
    found: dict[int, Tensor],
    tensors: Sequence[Tensor | None],
    x: Tensor,
    h: Tensor,
    dlogit: Tensor | None,
    wanted: Sequence[bool],
) -> None:
    """Row 0 of the router receives +d, row 1 -d."""
    weight, bias = tensors[ROUTER_W], tensors[ROUTER_B]
    assert weight is not None
    if wanted[ROUTER_W]:
        if dlogit is None:
            found[ROUTER_W] = torch.zeros_like(weight)
        else:
            d = dlogit.to(x.dtype).unsqueeze(1)
            row = torch.cat([product(d, x), product(d, h)], -1)  # [K, 1, I + H]
            found[ROUTER_W] = torch.cat([row, -row], 1).to(weight.dtype)
    if wanted[ROUTER_B] and bias is not None:
        total = torch.zeros_like(bias[:, :1], dtype=torch.float32) if dlogit is None else dlogit.sum(1, keepdim=True)
        found[ROUTER_B] = torch.cat([total, -total], 1).to(bias.dtype)
