"""Forward and backward of the op: torch's products around the kernels, buffers, and the launches."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow_kernels import functional, op
from flow_kernels.backends import products
from flow_kernels.backends.products import FIRST, H0, ROUTER_B, ROUTER_W, Rows, X
from flow_kernels.backends.triton import backward as backward_kernels
from flow_kernels.backends.triton import forward as forward_kernels
from flow_kernels.backends.triton import graphs, tiles

NARROW = 2**31  # numbers that 32 bits count


class Call(NamedTuple):
    """The arguments of the op with a leading K and contiguous, x as [K, N, I]."""

    tensors: list[Tensor | None]
    rows: Rows
    route: str
    routing: str
    temperature: float
    stacked: bool

    @property
    def x(self) -> Tensor:
        x = self.tensors[X]
        assert x is not None
        return x

    @property
    def h0(self) -> Tensor:
        h0 = self.tensors[H0]
        assert h0 is not None
        return h0

    def weights(self, place: int) -> list[Tensor | None]:
        """w_ih, w_hh, b_ih or b_hh (place 0 to 3) of the global and the local expert; of one alone, it and None."""
        found = [self.tensors[first + place] for first in FIRST[self.route]]
        return found if len(found) == 2 else [found[0], None]

    def sizes(self) -> tuple[int, ...]:
        """I, B, T, N, stride_t, stride_b of the kernels."""
        return (self.x.shape[2], self.rows.batch, self.rows.steps, self.rows.count, *self.rows.strides)

    def layout(self) -> dict[str, Any]:
        return dict(
            H=self.h0.shape[2], ROUTE=self.route, HAS_LENGTHS=self.rows.lengths is not None,
            PACKED=self.rows.offsets is not None, REVERSE=self.rows.reverse,
            WIDE=self.rows.count * 8 * self.h0.shape[2] >= NARROW,
        )  # fmt: skip

    def tile(self, direction: str) -> tuple[str, tiles.Tile]:
        k, b, h = self.h0.shape
        return tiles.choose(direction, tiles.kind_of(self.x.dtype, products.tf32()), k, b, h)


def _call(tensors: Sequence[Tensor | None], lengths: Tensor | None, offsets: Tensor | None, *options: Any) -> Call:
    """Checks once more what addresses rely on: an exported program, or a call of the op, has nobody else to do it."""
    route, routing, temperature, batch_first, reverse = options
    x, h0 = tensors[X], tensors[H0]
    assert x is not None and h0 is not None
    stacked = h0.dim() == 3
    functional.check_options(route, routing, temperature)
    functional.check_presence(tuple(tensors[2:]), route)
    if x.dim() != h0.dim() + (offsets is None) or h0.dim() not in (2, 3):
        raise RuntimeError(
            f"routed_gru: input {list(x.shape)} and hx {list(h0.shape)} do not go together; hx must be [B, H] or [K, B, H]"
        )
    if offsets is None:
        steps = x.shape[-2 if batch_first else -3]
        batch = x.shape[-3 if batch_first else -2]
    else:
        steps, batch = len(offsets) - 1, h0.shape[-2]
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.device != x.device:
            raise RuntimeError(
                f"routed_gru: offsets must be int64 [T + 1] on {x.device}, got {offsets.dtype} {list(offsets.shape)} on "
                f"{offsets.device}; pass batch_sizes to flow_kernels.routed_gru"
            )
    clients = tuple(x.shape[:1]) if stacked else ()
    functional.check_tensors(tuple(tensors), lengths, clients, (steps, batch, x.shape[-1], h0.shape[-1]))
    found = [None if t is None else (t if stacked else t.unsqueeze(0)).contiguous() for t in tensors]
    if lengths is not None:
        lengths = (lengths if stacked else lengths.unsqueeze(0)).contiguous()
    x, h0 = found[X], found[H0]
    assert x is not None and h0 is not None  # for the type checker
    rows = products.rows_of(x, h0, lengths, offsets, batch_first, reverse)
    if offsets is not None:
        products.check_offsets_async(rows)
    elif lengths is not None:
        (products.check_lengths_async if lengths.is_cuda else op.check_lengths)(lengths, rows.steps)
    found[X] = x.reshape(rows.clients, rows.count, x.shape[-1])
    return Call(found, rows, route, routing, temperature, stacked)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _widened(t: Tensor, row: int) -> Tensor:
    return t if t.shape[-1] == row else torch.nn.functional.pad(t, (0, row - t.shape[-1]))


def _address(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(a.data_ptr() if isinstance(a, Tensor) else a for a in args)


@torch.no_grad()
def forward(family: op.Family, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors, lengths, offsets = args[: op.COUNT], args[op.COUNT], args[op.COUNT + 1]
    options, save = args[op.COUNT + 2 : -1], args[-1]
    y, h_n, q, gates = outputs = family.empty_outputs(tensors[X], tensors[H0], options[0], save)
    with _on(y.device):
        h_n.copy_(_forward(_call(tensors, lengths, offsets, *options), y, q, gates if save else None).reshape(h_n.shape))
    return outputs


def _forward(call: Call, y: Tensor, q: Tensor, gates: Tensor | None) -> Tensor:
    """Write y, q and gates; returns the last state [K, B, H] in float32."""
    x, h0 = call.x, call.h0
    k, b, hidden = h0.shape
    w_ih0, w_ih1 = call.weights(0)
    router_w, router_b = call.tensors[ROUTER_W], call.tensors[ROUTER_B]
    xg, scores = products.project(
        x, [w for w in (w_ih0, w_ih1) if w is not None], router_w if call.route == "mixture" else None
    )
    b_ih, b_hh = call.weights(2), call.weights(3)
    recurrent, rest = call.weights(1), (b_ih[0], b_hh[0], b_ih[1], b_hh[1], router_w, router_b)
    state = h0.to(torch.float32, copy=True)
    where = (call.rows.lengths, call.rows.offsets)
    constants = call.layout() | dict(
        ROUTING=call.routing,
        HAS_BIAS0=b_ih[0] is not None,
        HAS_BIAS1=b_ih[1] is not None,
        ROUTER_BIAS=router_b is not None,
        SAVE=gates is not None,
    )
    gates = y if gates is None else gates  # an address that nothing is written to
    how, tile = call.tile("forward")
    constants |= dict(BH=tile.units, BM=tile.sequences, PRECISION=tile.precision)
    batches, numbers = -(-b // tile.sequences), (*call.sizes(), 1 / call.temperature)
    if how == "sequence":
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
def backward(family: op.Family, *args: Any) -> list[Tensor]:
    dy, dh_n, dq, y, q, gates = args[:6]
    tensors, (lengths, offsets) = args[6 : 6 + op.COUNT], args[6 + op.COUNT : 6 + op.COUNT + 2]
    options, wanted = args[6 + op.COUNT + 2 : -1], args[-1]
    if not gates.numel():
        gates = forward(family, *tensors, lengths, offsets, *options, True)[3]
    with _on(y.device):
        call = _call(tensors, lengths, offsets, *options)
        _check_like(call, tensors[X].shape[:-1], dy=dy, dq=dq, y=y, q=q, gates=gates)
        n, k = call.rows.count, call.rows.clients
        y, q = (t.contiguous().view(k, n, t.shape[-1]) for t in (y, q))
        dy, dq = (None if t is None else t.contiguous().view(k, n, t.shape[-1]) for t in (dy, dq))
        dh_n = None if dh_n is None else dh_n.reshape(call.h0.shape)
        da, dlogit, dh0 = _scan(call, dy, dh_n, dq, y, q, gates.contiguous())
        found = products.gradients(call.tensors, call.rows, y, da, dlogit, wanted, call.route)
    if wanted[H0]:
        found[H0] = dh0.to(call.h0.dtype)
    return [
        found[place].reshape(t.shape) if place in found else torch.zeros_like(t)
        for place, t in enumerate(tensors)
        if wanted[place]
    ]


def _check_like(call: Call, rows: torch.Size, **given: Tensor | None) -> None:
    hidden, slots = call.h0.shape[2], 4 * len(FIRST[call.route])
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
    experts = len(FIRST[call.route])
    some = call.rows.lengths is not None and call.rows.offsets is None  # rows past a length: never written, and zero
    da = (torch.zeros if some else torch.empty)((k, n, experts, 4, hidden), dtype=x.dtype, device=device)
    routed = call.route == "mixture" and call.routing != "hard"
    slope = _slope(call, y, q) if routed else None
    ddq = (dq[..., 0].float() - dq[..., 1].float()) if routed and dq is not None else None
    dlogit = torch.zeros((k, n), dtype=torch.float32, device=device) if routed else None
    direct = torch.zeros_like(h0, dtype=torch.float32) if dh_n is None else dh_n.to(torch.float32, copy=True).contiguous()
    dh0 = torch.empty_like(direct)
    router_w = call.tensors[ROUTER_W] if routed else None
    given = (*call.weights(1), router_w, gates, y, h0, q, slope, ddq, dy, da, dlogit, direct)
    where, numbers = (call.rows.lengths, call.rows.offsets), call.sizes()
    constants = call.layout() | dict(ROUTED=routed, HAS_DY=dy is not None, HAS_DQ=ddq is not None)
    how, tile = call.tile("backward")
    constants |= dict(BH=tile.units, BM=tile.sequences, PRECISION=tile.precision)
    batches = -(-b // tile.sequences)
    if how == "sequence":
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
    if call.routing == "soft":
        return q[..., 0].float() * q[..., 1].float() / call.temperature
    x, router_w, router_b = call.x, call.tensors[ROUTER_W], call.tensors[ROUTER_B]
    assert router_w is not None
    h = products.previous(y, call.h0, call.rows)
    i = x.shape[-1]
    scores = products.product(x, router_w[..., :i].mT) + products.product(h, router_w[..., i:].mT)
    if router_b is not None:
        scores += router_b.float().unsqueeze(1)
    difference = (scores[..., 0] - scores[..., 1]) / call.temperature
    return torch.sigmoid(difference) * torch.sigmoid(-difference) / call.temperature
