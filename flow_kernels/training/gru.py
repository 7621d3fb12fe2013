"""Forward and backward pass of the routed GRU into buffers of the caller, for a backward pass that is written by hand.

Every tensor is contiguous, of one dtype, has a leading K, and lies on one device; sequences come batch first. Buffers may hold
anything before a call and are overwritten. They share memory with no other argument, and their versions count up, as those of
any tensor that is changed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.call import EXPERTS, Options, Weights
from flow_kernels.training.checks import BAD_LENGTH, BAD_OPTION, BAD_SIZE, MISSING, changed, check, gpu_format, on_gpu

RULES = {
    BAD_SIZE: "every size must be at least 1",
    BAD_OPTION: "temperature must be a finite number > 0",
    MISSING: "a weight that the route needs is missing; pass those of every expert that it uses, and the router with both",
    BAD_LENGTH: "lengths: every length must lie in 0..T, and sequences of length 0 come last; cut longer ones",
}


def gates_shape(clients: int, batch: int, steps: int, hidden: int, route: str, *, on_gpu: bool = False) -> tuple[int, ...]:
    """The shape of what :func:`forward` saves for :func:`backward`, on the CPU or on a GPU."""
    if on_gpu:
        return clients, batch, steps, 4 * len(EXPERTS[route]), hidden
    return (clients, batch, steps, *cpu.gates_shape(hidden, route))


def forward(
    x: Tensor,
    h0: Tensor,
    weights: Weights,
    *,
    lengths: Tensor | None,
    route: str,
    routing: str = "soft",
    temperature: float,
    y: Tensor,
    h_n: Tensor,
    q: Tensor,
    gates: Tensor | None = None,
    bfloat16: bool = False,
    backend: str = "auto",
) -> object:
    """Run K layers over their sequences (the equations are in docs/cell.md).

    Args:
        x: [K, B, T, I]
        h0: [K, B, H], the initial states.
        weights: with a leading K; what the route does not use may be None.
        lengths: int64 [K, B], each in 0..T; None: every sequence has all T steps. A sequence of length 0 is not there; in a
            client such sequences come last.
        route, routing, temperature: as for :func:`flow_kernels.routed_gru`.
        y: buffer [K, B, T, H] for the states, zero past a sequence's length.
        h_n: buffer [K, B, H] for the last states.
        q: buffer [K, B, T, 2] for the routing weights.
        gates: buffer of :func:`gates_shape` for the backward pass; None: nothing is saved.
        bfloat16: round what is multiplied to bfloat16, where the processor multiplies those
            (:func:`flow_kernels.training.multiplies_bfloat16`); the tensors are float32, and so are sums, gates and states.
        backend: see :func:`flow_kernels.training.on_gpu`; ``"cuda"`` takes bfloat16 alone.

    Returns:
        What :func:`backward` gets as `kept` on a GPU; None on the CPU.

    Raises:
        RuntimeError: a tensor that does not fit, a length out of range, a missing weight.
    """
    options = Options(route, routing, temperature, batch_first=True)
    if on_gpu(x, backend):
        from flow_kernels.training.gpu import gru as of_gpu

        kept = of_gpu.forward(
            x, h0, weights, lengths=lengths, options=options, y=y, h_n=h_n, q=q, gates=gates, operands=gpu_format(bfloat16),
            backend=backend,
        )  # fmt: skip
        changed((y, h_n, q, gates))
        return kept
    status = cpu._kernels.forward(
        (x, h0, *weights), lengths, None, *options, lengths is not None, bfloat16, torch.get_num_threads(), y, h_n, q, gates
    )
    check(status, RULES)
    changed((y, h_n, q, gates))
    return None


def backward(
    x: Tensor,
    h0: Tensor,
    weights: Weights,
    *,
    lengths: Tensor | None,
    route: str,
    routing: str = "soft",
    temperature: float,
    y: Tensor,
    q: Tensor,
    gates: Tensor | None,
    dy: Tensor,
    dh_n: Tensor | None = None,
    dq: Tensor | None = None,
    dx: Tensor | None = None,
    dh0: Tensor | None = None,
    gradients: Weights,
    bfloat16: bool = False,
    backend: str = "auto",
    kept: object = None,
) -> None:
    """Compute gradients after :func:`forward`, whose arguments and buffers come again.

    Args:
        x, h0, weights, lengths, route, routing, temperature: those of :func:`forward`.
        y, q, gates: what it has written; gates None: they are computed again.
        dy: [K, B, T, H], gradient by y.
        dh_n, dq: gradients by h_n [K, B, H] and q [K, B, T, 2]; None: zero.
        dx, dh0: buffers for the gradients by x and h0; None: not wanted.
        gradients: buffers for the gradients by the weights, None for each that is not wanted.
        bfloat16, backend: as for :func:`forward`.
        kept: what forward returned; on a GPU it is needed, and so are gates.

    Raises:
        RuntimeError: a tensor that does not fit, a length out of range, a missing weight.
    """
    if on_gpu(x, backend):
        from flow_kernels.training.gpu import gru as of_gpu

        if not isinstance(kept, of_gpu.Kept) or gates is None:
            raise RuntimeError(
                "flow_kernels.training: backward on a GPU needs the gates and kept of its forward pass; pass both"
            )
        of_gpu.backward(
            kept, y=y, q=q, gates=gates, dy=dy, dh_n=dh_n, dq=dq, dx=dx, dh0=dh0, gradients=gradients, backend=backend
        )
        changed((dx, dh0, *gradients))
        return
    options = Options(route, routing, temperature, batch_first=True)
    status = cpu._kernels.backward(
        (x, h0, *weights),
        lengths,
        None,
        *options,
        lengths is not None,
        bfloat16,
        torch.get_num_threads(),
        y,
        q,
        gates,
        dy,
        dh_n,
        dq,
        (dx, dh0, *gradients),
    )
    check(status, RULES)
    changed((dx, dh0, *gradients))
