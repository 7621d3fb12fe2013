"""Forward and backward of the op: torch's products around the kernels, buffers, and the launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.call import Call, listed, on, prepare
from flow_kernels.backends.gpu.triton import backward as backward_kernels
from flow_kernels.backends.gpu.triton import forward as forward_kernels
from flow_kernels.backends.gpu.triton import graphs, tiles
from flow_kernels.call import EXPERTS, NAMES, Inputs, OutputGradients, Outputs, Saved
from flow_kernels.ops import Family

NARROW = 2**31  # numbers that 32 bits count


def _checked(inputs: Inputs) -> Call:
    """The call, every value that addresses rely on checked and every tensor contiguous."""
    call = prepare(inputs).contiguous()
    call.check_offsets()
    call.check_lengths()
    return call


def _pair(call: Call, name: str) -> list[Tensor | None]:
    """This weight of the global and of the local expert; of one alone, it and None."""
    weights = [getattr(expert, name) for expert in call.experts]
    return weights if len(weights) == 2 else [weights[0], None]


def _sizes(call: Call) -> tuple[int, ...]:
    """I, B, T, N, stride_t, stride_b of the kernels."""
    return (call.x.shape[2], call.rows.batch, call.rows.steps, call.rows.count, *call.rows.strides)


def _layout(call: Call) -> dict[str, Any]:
    return dict(
        H=call.hidden,
        ROUTE=call.options.route,
        HAS_LENGTHS=call.rows.lengths is not None,
        PACKED=call.rows.offsets is not None,
        REVERSE=call.rows.reverse,
        WIDE=call.rows.count * 8 * call.hidden >= NARROW,
    )


def _tile(call: Call, direction: str) -> tuple[str, tiles.Tile]:
    k, b, h = call.h0.shape
    return tiles.choose_tile(direction, tiles.kind_of(call.x.dtype, products.tf32()), k, b, h)


def _widened(t: Tensor, row: int) -> Tensor:
    return t if t.shape[-1] == row else torch.nn.functional.pad(t, (0, row - t.shape[-1]))


def _address(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(a.data_ptr() if isinstance(a, Tensor) else a for a in args)


@torch.no_grad()
def forward(family: Family, inputs: Inputs, save: bool) -> Outputs:
    y, h_n, q, gates = outputs = family.empty_outputs(inputs, save)
    with on(y.device):
        h_n.copy_(_forward(_checked(inputs), y, q, gates if save else None).reshape(h_n.shape))
    return outputs


def _forward(call: Call, y: Tensor, q: Tensor, gates: Tensor | None) -> Tensor:
    """Write y, q and gates; returns the last state [K, B, H] in float32."""
    x, h0 = call.x, call.h0
    k, b, hidden = h0.shape
    router_w, router_b = call.weights.router_weight, call.weights.router_bias
    xg, scores = products.project(call)
    b_ih, b_hh = _pair(call, "bias_ih"), _pair(call, "bias_hh")
    recurrent, rest = _pair(call, "weight_hh"), (b_ih[0], b_hh[0], b_ih[1], b_hh[1], router_w, router_b)
    state = h0.to(torch.float32, copy=True)
    where = (call.rows.lengths, call.rows.offsets)
    constants = _layout(call) | dict(
        ROUTING=call.options.routing,
        HAS_BIAS0=b_ih[0] is not None,
        HAS_BIAS1=b_ih[1] is not None,
        ROUTER_BIAS=router_b is not None,
        SAVE=gates is not None,
    )
    gates = y if gates is None else gates  # an address that nothing is written to
    scan, tile = _tile(call, "forward")
    constants |= dict(BH=tile.units, BM=tile.sequences, PRECISION=tile.precision)
    batches, numbers = -(-b // tile.sequences), (*_sizes(call), 1 / call.options.temperature)
    if scan == "sequence":
        given = (xg, scores, *recurrent, *rest, state, y, q, gates, *where, *numbers)
        forward_kernels.sequence_forward[batches, k](*given, **constants, num_warps=tile.warps)
        return state
    # rows of a whole number of 16 bytes: others are read number by number
    row = -(-hidden // 8) * 8
    recurrent = [None if w is None else _widened(w, row) for w in recurrent]
    constants |= dict(BK=tile.sum, STAGES=tile.stages, ROW=row)
    weights = (xg, scores, *recurrent, *rest)
    grid = (-(-hidden // tile.units), batches, k)
    buffers = (_widened(h0, row), h0.new_zeros((k, b, row)), h0.new_zeros((k, b, row)))

    def launch() -> None:
        for step in range(call.rows.steps):
            before, after = buffers[1 + (step - 1) % 2 if step else 0], buffers[1 + step % 2]
            given = (*weights, state, before, after, y, q, gates, *where, step, *numbers)
            forward_kernels.step_forward[grid](*given, **constants, num_warps=tile.warps)

    key = ("forward", _address((*weights, state, *buffers, y, q, gates, *where, *numbers)), k, tile, *constants.items())
    graphs.run(key, call.rows.steps, x.device, launch)
    return state


@torch.no_grad()
def backward(family: Family, gradients: OutputGradients, saved: Saved, inputs: Inputs, wanted: Sequence[bool]) -> list[Tensor]:
    if not saved.gates.numel():
        saved = saved._replace(gates=forward(family, inputs, True)[3])
    with on(saved.y.device):
        call = _checked(inputs)
        _check_like(call, inputs.x.shape[:-1], dy=gradients.dy, dq=gradients.dq, y=saved.y, q=saved.q, gates=saved.gates)
        n, k = call.rows.count, call.rows.clients
        y, q = (t.contiguous().view(k, n, t.shape[-1]) for t in (saved.y, saved.q))
        dy, dq = (None if t is None else t.contiguous().view(k, n, t.shape[-1]) for t in (gradients.dy, gradients.dq))
        dh_n = None if gradients.dh_n is None else gradients.dh_n.reshape(call.h0.shape)
        da, dlogit, dh0 = _scan(call, dy, dh_n, dq, y, q, saved.gates.contiguous())
        names = {name for name, want in zip(NAMES, wanted, strict=True) if want}
        grads = products.gradients(call, y, da, dlogit, names) | {"hx": dh0.to(call.h0.dtype)}
    return listed(grads, inputs, wanted)


def _check_like(call: Call, rows: torch.Size, **given: Tensor | None) -> None:
    hidden, slots = call.h0.shape[2], 4 * len(EXPERTS[call.options.route])
    last = dict(dy=(hidden,), y=(hidden,), dq=(2,), q=(2,), gates=(slots, hidden))
    for name, tensor in given.items():
        if tensor is not None and (
            tensor.shape != (*rows, *last[name]) or tensor.dtype != call.x.dtype or tensor.device != call.x.device
        ):
            raise RuntimeError(
                f"routed_gru_backward: {name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; it must be "
                f"{call.x.dtype} {[*rows, *last[name]]} on {call.x.device}, as forward returned it"
            )


def _scan(
    call: Call, dy: Tensor | None, dh_n: Tensor | None, dq: Tensor | None, y: Tensor, q: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """da [K, N, E, 4, H], dlogit [K, N] or None, dh0 [K, B, H] in float32."""
    x, h0 = call.x, call.h0
    k, b, hidden = h0.shape
    n, device = call.rows.count, x.device
    experts = len(EXPERTS[call.options.route])
    some = call.rows.lengths is not None and call.rows.offsets is None  # rows past a length: never written, and zero
    da = (torch.zeros if some else torch.empty)((k, n, experts, 4, hidden), dtype=x.dtype, device=device)
    routed = call.routed
    slope = _slope(call, y, q) if routed else None
    ddq = (dq[..., 0].float() - dq[..., 1].float()) if routed and dq is not None else None
    dlogit = torch.zeros((k, n), dtype=torch.float32, device=device) if routed else None
    direct = torch.zeros_like(h0, dtype=torch.float32) if dh_n is None else dh_n.to(torch.float32, copy=True).contiguous()
    dh0 = torch.empty_like(direct)
    router_w = call.weights.router_weight if routed else None
    given = (*_pair(call, "weight_hh"), router_w, gates, y, h0, q, slope, ddq, dy, da, dlogit, direct)
    where, numbers = (call.rows.lengths, call.rows.offsets), _sizes(call)
    constants = _layout(call) | dict(ROUTED=routed, HAS_DY=dy is not None, HAS_DQ=ddq is not None)
    scan, tile = _tile(call, "backward")
    constants |= dict(BH=tile.units, BM=tile.sequences, PRECISION=tile.precision)
    batches = -(-b // tile.sequences)
    if scan == "sequence":
        backward_kernels.sequence_backward[batches, k](*given, dh0, *where, *numbers, **constants, num_warps=tile.warps)
        return da, dlogit, dh0
    parts = -(-hidden // tile.units)
    constants |= dict(BK=tile.sum, STAGES=tile.stages, TILES=tiles.power_of_two(parts, 1))
    partials = torch.empty((2, k, parts, b), dtype=torch.float32, device=device) if routed else None
    given = (*given, partials, dh0, *where)

    def launch() -> None:
        for step in range(call.rows.steps - 1, -2, -1):
            backward_kernels.step_backward[parts, batches, k](*given, step, *numbers, **constants, num_warps=tile.warps)

    key = ("backward", _address((*given, *numbers)), k, tile, *constants.items())
    graphs.run(key, call.rows.steps + 1, device, launch)
    return da, dlogit, dh0


def _slope(call: Call, y: Tensor, q: Tensor) -> Tensor:
    """dq_0 / d(s_0 - s_1) = q_0 q_1 / temperature of the soft q, float32 [K, N]."""
    if call.options.routing == "soft":
        return q[..., 0].float() * q[..., 1].float() / call.options.temperature
    scores = products.scores(call, y)
    difference = (scores[..., 0] - scores[..., 1]) / call.options.temperature
    return torch.sigmoid(difference) * torch.sigmoid(-difference) / call.options.temperature


# What local training calls, with buffers and a backward pass of its own: flow_kernels/training/gpu/gru.py.
scan_forward, scan_backward = _forward, _scan
