"""The scan of the CUDA C++ kernels for local training: their buffers have 16 bits, and every sequence has a step."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from flow_kernels.backends.gpu import cuda
from flow_kernels.backends.gpu.call import Call


def _present(call: Call) -> Call:
    """The same where a sequence that is not there has one step, which nothing else reads."""
    lengths = call.rows.lengths
    return call if lengths is None else call._replace(rows=dataclasses.replace(call.rows, lengths=lengths.clamp_min(1)))


def _saved(call: Call, gates: Tensor) -> Tensor:
    """[K, N, H, 8] of 16 bits, in the memory of float32 gates."""
    k, n, hidden = call.rows.clients, call.rows.count, call.hidden
    return gates.flatten().view(call.x.dtype)[: k * n * hidden * 8].view(k, n, hidden, 8)


def forward(call: Call, y: Tensor, h_n: Tensor, q: Tensor, gates: Tensor | None) -> None:
    """Write the float32 buffers of :func:`flow_kernels.training.gpu.gru.forward`."""
    narrow_y, narrow_h, narrow_q = (t.new_empty(t.shape, dtype=call.x.dtype) for t in (y, h_n, q))
    saved = call.x.new_empty(0) if gates is None else _saved(call, gates)
    cuda.kernels().scan_forward(_present(call), narrow_y, narrow_h, narrow_q, saved)
    y.copy_(narrow_y)
    h_n.copy_(narrow_h)
    q.copy_(narrow_q)


def backward(
    call: Call, y: Tensor, q: Tensor, gates: Tensor, dy: Tensor, dh_n: Tensor | None, dq: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of the gates [K, N, E, 4, H], of the logit difference [K, N] or None, and of h0."""
    k, n = call.rows.clients, call.rows.count
    narrow_y, narrow_q, narrow_dy = (t.to(call.x.dtype).view(k, n, -1) for t in (y, q, dy))
    narrow_dh, narrow_dq = (None if t is None else t.to(call.x.dtype) for t in (dh_n, dq))
    return cuda.kernels().scan_backward(
        _present(call), narrow_y, narrow_q, _saved(call, gates), narrow_dy, narrow_dh, narrow_dq
    )
