"""The two ops around the extension: problems filled in, kernels launched."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.call import Call, listed, on, prepare
from flow_kernels.backends.gpu.cuda.shape import batch_tile, cluster_size
from flow_kernels.call import EXPERTS, NAMES, PREFIXES, Inputs, OutputGradients, Outputs, Saved
from flow_kernels.ops import Family
from flow_kernels.reference import ROUTES

DTYPES = (torch.bfloat16, torch.float16)


class Problem(ctypes.Structure):
    """``FlowCluster`` of csrc/cuda/cluster.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "K", "T", "B", "I", "H", "rows", "step_stride", "batch_stride", "dtype", "route", "routing", "reverse", "blocks",
            "tile", "device",
        )),
        ("temperature", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("lengths", "offsets")),
        *((name, ctypes.c_void_p * 2) for name in ("w_hh", "b_ih", "b_hh")),
        *((name, ctypes.c_void_p) for name in (
            "router", "router_bias", "gates_of_x", "scores", "h0", "y", "h_n", "q", "saved",
            "dy", "dh_n", "dq", "slope", "dgates", "dlogit", "dh0",
        )),
    ]  # fmt: skip


def _gates_shape(hidden: int, route: str) -> tuple[int, ...]:
    """n, r, z and u of both experts, a unit of a row after the other."""
    return hidden, 8


family = Family("routed_gru_cuda", _gates_shape)


def _both(call: Call, name: str) -> list[Tensor | None]:
    """This weight of the global and of the local expert; None for one that the route leaves out."""
    return [getattr(call.weights, prefix + name) for prefix in PREFIXES.values()]


class Kernels:
    """The two ops around one extension: flow_kernels._cuda, or in the tests a model of it that runs on the CPU."""

    def __init__(self, extension: Any) -> None:
        self.extension = extension
        self._active: dict[tuple[Any, ...], int] = {}
        if extension.size() != ctypes.sizeof(Problem):
            raise ImportError(
                "flow_kernels._cuda was built from other sources; run pip install . in the project's folder again"
            )

    def forward(self, inputs: Inputs, save: bool) -> Outputs:
        """See :data:`flow_kernels.ops.Forward`."""
        outputs = family.empty_outputs(inputs, save)
        self._forward(prepare(inputs), *outputs)
        return outputs

    def _forward(self, call: Call, y: Tensor, h_n: Tensor, q: Tensor, gates: Tensor) -> None:
        call.check_lengths()
        self.scan_forward(call, y, h_n, q, gates)

    def scan_forward(self, call: Call, y: Tensor, h_n: Tensor, q: Tensor, gates: Tensor) -> None:
        """Write y, h_n, q and, unless it has no elements, gates; lengths must lie in 1..T."""
        gates_of_x, scores = products.project(call)
        self._launch(
            call,
            False,
            router_bias=call.weights.router_bias,
            gates_of_x=gates_of_x,
            scores=scores,
            h0=call.h0,
            y=y,
            h_n=h_n,
            q=q,
            saved=gates if gates.numel() else None,
        )

    def backward(self, gradients: OutputGradients, saved: Saved, inputs: Inputs, wanted: Sequence[bool]) -> list[Tensor]:
        """See :data:`flow_kernels.ops.Backward`."""
        call, gates, (dy, dh_n, dq) = prepare(inputs), saved.gates, gradients
        if not gates.numel():  # computed again by the same kernel: the same bits
            outputs = family.empty_outputs(inputs, True)
            self._forward(call, *outputs)
            gates = outputs[3]
        y, q = (t.reshape(*call.x.shape[:2], -1) for t in (saved.y, saved.q))
        dgates, dlogit, dh0 = self.scan_backward(call, y, q, gates, dy, dh_n, dq)
        names = {name for name, want in zip(NAMES, wanted, strict=True) if want}
        return listed(products.gradients(call, y, dgates, dlogit, names) | {"hx": dh0}, inputs, wanted)

    def scan_backward(
        self, call: Call, y: Tensor, q: Tensor, gates: Tensor, dy: Tensor | None, dh_n: Tensor | None, dq: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients of the gates [K, N, E, 4, H], of the logit difference [K, N] in float32 or None, and of h0."""
        k, n = call.x.shape[:2]
        dgates = call.x.new_empty(k, n, len(EXPERTS[call.options.route]), 4, call.hidden)
        dlogit = torch.empty(k, n, dtype=torch.float32, device=y.device) if call.routed else None
        dh0 = torch.empty_like(call.h0)
        self._launch(
            call,
            True,
            h0=call.h0,
            y=y,
            q=_in_pairs(q),
            saved=gates,
            dy=dy,
            dh_n=dh_n,
            dq=None if dq is None else _in_pairs(dq.contiguous()),
            slope=_slope_of_soft(call, y),
            dgates=dgates,
            dlogit=dlogit,
            dh0=dh0,
        )
        return dgates, dlogit, dh0

    def at_once(self, device: torch.device, dtype: torch.dtype, hidden: int, backward: bool) -> Callable[[int], int]:
        """How many clusters with a tile this GPU runs at once: it is asked once for each tile. Zero: none; less: an error."""
        index = torch.cuda.current_device() if device.index is None else device.index

        def at_once(tile: int) -> int:
            key = index, dtype, hidden, backward, tile
            if key not in self._active:
                problem = Problem(
                    K=1,
                    T=1,
                    B=tile,
                    H=hidden,
                    dtype=DTYPES.index(dtype),
                    blocks=cluster_size(hidden),
                    tile=tile,
                    device=index,
                )
                with on(device):
                    self._active[key] = self.extension.active(ctypes.addressof(problem), backward)
            return self._active[key]  # none, or an error: the launch will say so

        return at_once

    def _launch(self, call: Call, backward: bool, **tensors: Tensor | None) -> None:
        device = call.x.device
        on_gpu = device.type == "cuda"
        rows, hidden = call.rows, call.hidden
        places = {"lengths": rows.lengths, "offsets": rows.offsets, "router": call.weights.router_weight}
        at_once = self.at_once(device, call.x.dtype, hidden, backward) if on_gpu else None
        kept = {name: t.contiguous() for name, t in (tensors | places).items() if t is not None}
        weights = {
            field: [None if w is None else w.contiguous() for w in _both(call, name)]
            for field, name in (("w_hh", "weight_hh"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh"))
        }
        problem = Problem(
            K=rows.clients,
            T=rows.steps,
            B=rows.batch,
            I=call.x.shape[2],
            H=hidden,
            rows=rows.count,
            step_stride=rows.strides[0],
            batch_stride=rows.strides[1],
            dtype=DTYPES.index(call.x.dtype),
            route=ROUTES.index(call.options.route),
            routing=call.options.routing != "soft",
            reverse=call.rows.reverse,
            blocks=cluster_size(hidden),
            tile=batch_tile(rows.clients, rows.batch, hidden, backward, at_once),
            device=device.index or 0,
            temperature=call.options.temperature,
            **{name: t.data_ptr() for name, t in kept.items()},
            **{field: _addresses(pair) for field, pair in weights.items()},
        )
        with on(device):
            # the tensors' memory is reused on this stream only, that is after the kernel
            stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
            run = self.extension.backward if backward else self.extension.forward
            error = run(ctypes.addressof(problem), stream)
        if error:
            raise RuntimeError(
                f"routed_gru: the cluster kernel did not start on {device}: {self.extension.error(error)}; use backend='triton'"
            )


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _in_pairs(t: Tensor) -> Tensor:
    """The contiguous [.., 2] at an address that is a multiple of 4, as the kernel reads both numbers at once."""
    return t if t.data_ptr() % 4 == 0 else t.clone()


def _slope_of_soft(call: Call, y: Tensor) -> Tensor | None:
    """dq_0 / d(s_0 - s_1) of the soft q, float32 [K, N], where q is one-hot and yet a gradient reaches the router. None
    elsewhere: there it is q_0 q_1 / temperature."""
    if not call.routed or call.options.routing == "soft":
        return None
    temperature = call.options.temperature
    soft = torch.softmax(products.scores(call, y) / temperature, -1)
    return soft.prod(-1) / temperature
