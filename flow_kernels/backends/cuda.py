"""Adapter of the CUDA C++ kernels: the whole recurrence in one launch each way, a thread-block cluster per client and tile of
sequences. For compute capability 9.0 (Hopper), bfloat16 and float16, H up to 512.

The kernels' arithmetic, layouts and exchange are tested on the CPU by a model that runs their source text; none of it has run
on a GPU yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels import op
from flow_kernels.backends import products

_C: Any
try:
    _C = importlib.import_module("flow_kernels._cuda")
except ImportError as error:
    _C = None
    _missing = (
        f"the extension flow_kernels._cuda is not built ({error}); install nvcc 13 and run FLOW_CUDA=1 pip install . in the "
        "project's folder"
    )

DTYPES = (torch.bfloat16, torch.float16)
CAPABILITY = (9, 0)
ROUTES = ("mixture", "global", "local")
MAX_HIDDEN = 512
SMS = 132  # of an H100 or H200; what describe() reckons with, since the device is not asked


def status() -> str:
    if _C is None:
        return _missing
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    capability = torch.cuda.get_device_capability()
    return "available" if capability == CAPABILITY else limit(1, capability)


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    if device.type != "cuda":
        return f"it runs on a GPU and the input is on {device}"
    if _C is None:
        return _missing
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    if dtype not in DTYPES:
        return f"it takes bfloat16 or float16 and the input is {dtype}"
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    if capability != CAPABILITY:
        found = "is not known" if capability is None else f"is {capability[0]}.{capability[1]}"
        return f"it is built for compute capability 9.0 (H100, H200) and that of the device {found}"
    if hidden > MAX_HIDDEN:
        return f"it keeps the recurrent weights in a cluster's shared memory: H at most {MAX_HIDDEN}, got {hidden}"
    return ""


def cluster_size(hidden: int) -> int:
    """Blocks of a cluster: the fewest whose shared memory and registers hold the recurrent weights of both experts."""
    return next(blocks for most, blocks in ((64, 1), (128, 2), (256, 4), (384, 8), (MAX_HIDDEN, 16)) if hidden <= most)


def batch_tile(clients: int, batch: int, hidden: int, backward: bool, at_once: Callable[[int], int] | None = None) -> int:
    """Sequences of a cluster: the smallest tile with which all clusters run at once, otherwise the largest that is of use.

    at_once: how many clusters with a tile the device runs at once; without it, as many as 132 multiprocessors hold blocks.
    """
    tiles = (8, 16) if backward or hidden > 256 else (8, 16, 32)
    for tile in tiles:
        most = at_once(tile) if at_once else SMS // cluster_size(hidden)
        if clients * -(-batch // tile) <= most:
            return tile
    return next((tile for tile in tiles if tile >= batch), tiles[-1])


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype) -> str:
    blocks = cluster_size(h)
    forward, backward = (batch_tile(k, b, h, way) for way in (False, True))
    clusters = k * -(-b // forward)
    return (
        f"{clusters} cluster{'s' * (clusters > 1)} of {blocks} block{'s' * (blocks > 1)} through {t} steps, batch tiles of "
        f"{forward} forward and {backward} backward"
    )


class Problem(ctypes.Structure):
    """``FlowCluster`` of csrc/cuda/cluster.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "K", "T", "B", "H", "rows", "step_stride", "batch_stride", "dtype", "route", "routing", "reverse", "blocks", "tile",
            "device",
        )),
        ("temperature", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (
            "lengths", "offsets", "weights", "bias", "router", "gates_of_x", "scores", "h0", "y", "h_n", "q", "saved",
            "dy", "dh_n", "routed", "dgates", "dlogit", "dh0",
        )),
    ]  # fmt: skip


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _units(hidden: int, blocks: int) -> int:
    """Hidden units of a block (Shape::units of csrc/cuda/shape.h)."""
    return _round_up(hidden, 16) if blocks == 1 else _round_up(-(-hidden // blocks), 8)


def _padded(w_hh: Sequence[Tensor | None], hidden: int, rows: int, columns: int) -> Tensor:
    """Both experts' [K, 3H, H], one of which may be missing, as [K, 2, 3, rows, columns] with zeros around."""
    one = next(w for w in w_hh if w is not None)
    padded = one.new_zeros(one.shape[0], 2, 3, rows, columns)
    for e, w in enumerate(w_hh):
        if w is not None:
            padded[:, e, :, :hidden, :hidden] = w.reshape(-1, 3, hidden, hidden)
    return padded


def packed_forward(w_hh: Sequence[Tensor | None], hidden: int, blocks: int) -> Tensor:
    """The recurrent weights in the order in which the lanes of m16n8k16 hold their A operand.

    [K, block, warp, 16-column step, gate, lane = (unit, pair), half of the columns, expert, column of the pair]: a row tile is
    one gate of a warp's eight units, of the global expert in its rows 0-7 and of the local one in rows 8-15.
    """
    units = _units(hidden, blocks)
    padded = _padded(w_hh, hidden, blocks * units, blocks * units)
    # k, expert, gate, block, warp, unit | step, half, pair, column
    split = padded.view(len(padded), 2, 3, blocks, units // 8, 8, blocks * units // 16, 2, 4, 2)
    return split.permute(0, 3, 4, 6, 2, 5, 8, 7, 1, 9).contiguous()


def packed_backward(w_hh: Sequence[Tensor | None], hidden: int, blocks: int) -> Tensor:
    """The transposed recurrent weights of every block's own units, likewise.

    [K, block, warp of the product, (unit warp, gate), row tile, lane = (row, pair), expert, half of the rows, unit of the
    pair]: rows are the state's columns, 16 a row tile; a 16-column step is one gate of eight units, first global, then local.
    """
    units = _units(hidden, blocks)
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


def packed_router(weight: Tensor | None, bias: Tensor | None, like: Tensor) -> Tensor:
    """[K, H + 1] float32: the difference of the router's rows, the columns of h, then that of its biases."""
    k, _, hidden = like.shape
    packed = torch.zeros(k, hidden + 1, dtype=torch.float32, device=like.device)
    if weight is not None:
        rows = weight[..., -hidden:].float()
        packed[:, :hidden] = rows[:, 0] - rows[:, 1]
    if bias is not None:
        packed[:, hidden] = bias[:, 0].float() - bias[:, 1].float()
    return packed


class Kernels:
    """The two ops around one extension: flow_kernels._cuda, or in the tests a model of it that runs on the CPU."""

    def __init__(self, extension: Any) -> None:
        self.extension = extension
        self._active: dict[tuple[Any, ...], int] = {}
        if extension.size() != ctypes.sizeof(Problem):
            raise ImportError(
                "flow_kernels._cuda was built from other sources; run pip install . in the project's folder again"
            )

    def forward(self, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The op's arguments and outputs (flow_kernels/op.py)."""
        *given, lengths, offsets = args[: op.COUNT + 2]
        options, save = args[op.COUNT + 2 : -1], args[-1]
        outputs = family.empty_outputs(given[0], given[1], options[0], save)
        self._forward(_Call(given, lengths, offsets, *options), *outputs)
        return outputs

    def _forward(self, call: _Call, y: Tensor, h_n: Tensor, q: Tensor, saved: Tensor) -> None:
        call.check()
        weights_ih = [w for w in call.pick(0) if w is not None]
        gates_of_x, scores = products.project(call.x, weights_ih, call.router[0])
        blocks = cluster_size(call.hidden)
        self._launch(
            call, False,
            weights=packed_forward(call.pick(1), call.hidden, blocks), bias=packed_bias(call.pick(2), call.pick(3), call.h0),
            router=packed_router(*call.router, call.h0), gates_of_x=gates_of_x, scores=scores, h0=call.h0,
            y=y, h_n=h_n, q=q, saved=saved if saved.numel() else None,
        )  # fmt: skip

    def backward(self, *args: Any) -> list[Tensor]:
        dy, dh_n, dq, y, q, saved, *given, lengths, offsets = args[: 6 + op.COUNT + 2]
        options, wanted = args[6 + op.COUNT + 2 : -1], args[-1]
        call = _Call(given, lengths, offsets, *options)
        if not saved.numel():  # the gates, computed again by the same kernel: the same bits
            outputs = family.empty_outputs(given[0], given[1], call.route, True)
            self._forward(call, *outputs)
            saved = outputs[3]
        k, n = call.x.shape[:2]
        y, q = y.reshape(k, n, -1), q.reshape(k, n, 2)
        experts = 2 if call.route == "mixture" else 1
        dgates = call.x.new_empty(k, n, experts, 4, call.hidden)
        reached = call.route == "mixture" and call.routing != "hard"
        dlogit = torch.empty(k, n, dtype=torch.float32, device=y.device) if reached else None
        dh0 = torch.empty_like(call.h0)
        blocks = cluster_size(call.hidden)
        self._launch(
            call, True,
            weights=packed_backward(call.pick(1), call.hidden, blocks), router=packed_router(*call.router, call.h0),
            h0=call.h0, y=y, saved=saved, dy=None if dy is None else dy.contiguous(),
            dh_n=None if dh_n is None else dh_n.contiguous(), routed=call.routed(y, q, dq), dgates=dgates, dlogit=dlogit,
            dh0=dh0,
        )  # fmt: skip
        found = products.gradients(call.tensors, call.rows, y, dgates, dlogit, wanted, call.route)
        found[products.H0] = dh0
        return [
            found[place].reshape(t.shape) if place in found else torch.zeros_like(t)
            for place, (t, want) in enumerate(zip(given, wanted, strict=True))
            if want
        ]

    def _at_once(self, call: _Call, backward: bool) -> Callable[[int], int]:
        def at_once(tile: int) -> int:
            key = call.x.device, call.x.dtype, call.hidden, backward, tile
            if key not in self._active:
                problem = Problem(
                    K=1, T=1, B=tile, H=call.hidden, dtype=DTYPES.index(call.x.dtype), blocks=cluster_size(call.hidden),
                    tile=tile, device=call.x.device.index or 0,
                )  # fmt: skip
                self._active[key] = self.extension.active(ctypes.addressof(problem), backward)
            return self._active[key]  # none, or an error: the launch will say so

        return at_once

    def _launch(self, call: _Call, backward: bool, **tensors: Tensor | None) -> None:
        device = call.x.device
        on_gpu = device.type == "cuda"
        rows, hidden = call.rows, call.hidden
        at_once = self._at_once(call, backward) if on_gpu else None
        kept = {name: t.contiguous() for name, t in (tensors | call.places()).items() if t is not None}
        problem = Problem(
            K=rows.clients, T=rows.steps, B=rows.batch, H=hidden, rows=rows.count, step_stride=rows.strides[0],
            batch_stride=rows.strides[1], dtype=DTYPES.index(call.x.dtype), route=ROUTES.index(call.route),
            routing=call.routing != "soft", reverse=call.rows.reverse, blocks=cluster_size(hidden),
            tile=batch_tile(rows.clients, rows.batch, hidden, backward, at_once), device=device.index or 0,
            temperature=call.temperature,
            **{name: t.data_ptr() for name, t in kept.items()},
        )  # fmt: skip
        with torch.cuda.device(device) if on_gpu else contextlib.nullcontext():
            # the tensors' memory is reused on this stream only, that is after the kernel
            stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
            run = self.extension.backward if backward else self.extension.forward
            error = run(ctypes.addressof(problem), stream)
        if error:
            raise RuntimeError(
                f"routed_gru: the cluster kernel did not start on {device}: {self.extension.error(error)}; use backend='triton'"
            )


class _Call:
    """One call's tensors with a leading K, x as [K, N, I], and its options."""

    def __init__(
        self,
        given: Sequence[Tensor | None],
        lengths: Tensor | None,
        offsets: Tensor | None,
        route: str,
        routing: str,
        temperature: float,
        batch_first: bool,
        reverse: bool,
    ) -> None:
        assert given[0] is not None and given[1] is not None
        if given[1].dim() == 2:
            given = [None if t is None else t.unsqueeze(0) for t in given]
            lengths = None if lengths is None else lengths.unsqueeze(0)
        x, h0 = given[:2]
        assert x is not None and h0 is not None
        self.rows = products.rows_of(x, h0, lengths, offsets, batch_first, reverse)
        self.x = x if offsets is not None else x.flatten(1, 2)
        self.h0 = h0.contiguous()
        self.tensors = [self.x, self.h0, *given[2:]]
        self.route, self.routing, self.temperature = route, routing, temperature
        self.hidden = h0.shape[-1]
        mixture = route == "mixture"
        self.router = (self.tensors[products.ROUTER_W], self.tensors[products.ROUTER_B]) if mixture else (None, None)

    def check(self) -> None:
        lengths = self.rows.lengths
        if lengths is not None and self.rows.offsets is None:
            (products.check_lengths_async if lengths.is_cuda else op.check_lengths)(lengths, self.rows.steps)

    def pick(self, which: int) -> list[Tensor | None]:
        """w_ih, w_hh, b_ih or b_hh of the global and of the local expert; None for one that the route leaves out."""
        used = products.FIRST[self.route]
        return [self.tensors[first + which] if first in used else None for first in products.FIRST["mixture"]]

    def places(self) -> dict[str, Tensor | None]:
        return {"lengths": self.rows.lengths, "offsets": self.rows.offsets}

    def routed(self, y: Tensor, q: Tensor, dq: Tensor | None) -> Tensor:
        """[K, N, 4] float32: q, what the soft q's slope is (0: no gradient reaches the router), dq_0 - dq_1."""
        routed = torch.zeros(*q.shape[:2], 4, dtype=torch.float32, device=q.device)
        routed[..., :2] = q
        if self.route != "mixture" or self.routing == "hard":
            return routed
        soft = q.float() if self.routing == "soft" else self._soft(y)
        routed[..., 2] = soft[..., 0] * soft[..., 1] / self.temperature
        if dq is not None:
            dq = dq.reshape(q.shape).float()
            routed[..., 3] = dq[..., 0] - dq[..., 1]
        return routed

    def _soft(self, y: Tensor) -> Tensor:
        weight, bias = self.router
        assert weight is not None
        h = products.previous(y, self.h0, self.rows)
        scores = products.product(self.x, weight[..., : -self.hidden].mT) + products.product(h, weight[..., -self.hidden :].mT)
        if bias is not None:
            scores = scores + bias.float().unsqueeze(1)
        return torch.softmax(scores / self.temperature, -1)


def _saved(x: Tensor, h0: Tensor, route: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], h0.shape[-1], 8))


family = op.Family("routed_gru_cuda", _saved)
if _C is not None:
    _kernels = Kernels(_C)
    family.register("CUDA", _kernels.forward, _kernels.backward)


def routed_gru(
    tensors: Sequence[Tensor | None], lengths: Tensor | None, offsets: Tensor | None, *options: Any, recompute: bool = False
) -> tuple[Tensor, ...]:
    return family.run(tensors, lengths, offsets, *options, recompute=recompute)
