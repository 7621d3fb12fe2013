"""Adapter of the C++ kernels: tensors in, raw addresses out. Everything has been checked when it gets here."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels import op
from flow_kernels.reference import ROUTES, ROUTINGS, Expert, Router

_C: Any
try:
    _C = importlib.import_module("flow_kernels._C")
except ImportError as error:
    _C = None
    _missing = f"the extension flow_kernels._C is not built ({error}); run pip install . in the project's folder"

DTYPES = (torch.float32, torch.float64)
ISAS = ("baseline", "avx2", "avx512")


def _select_isa() -> None:
    name = os.environ.get("FLOW_CPU_ISA", "")
    if _C is None or not name:
        return
    usable = [isa for isa in ISAS if _C.has_isa(isa)]
    if name not in usable:
        raise RuntimeError(
            f"FLOW_CPU_ISA={name!r}: this processor and build have {', '.join(usable)}; set it to one of these or unset it"
        )
    _C.select_isa(name)


_select_isa()


def status() -> str:
    return _missing if _C is None else f"available ({_C.isa()})"


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    if _C is None:
        return _missing
    if device.type != "cpu":
        return f"it runs on the CPU and the input is on {device}"
    if dtype not in DTYPES:
        return f"it takes float32 or float64 and the input is {dtype}"
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype) -> str:
    p = _C.Problem()
    p.K, p.T, p.B, p.I, p.H, p.dtype, p.threads, p.temperature = (
        k,
        t,
        b,
        i,
        h,
        DTYPES.index(dtype),
        torch.get_num_threads(),
        1.0,
    )
    threads, tiles, workspace = p.division(True)
    work = f"{k} client{'s' * (k > 1)} x {tiles} batch tile{'s' * (tiles > 1)} on {threads} thread{'s' * (threads > 1)}"
    return f"{_C.isa()}, {work}, {workspace / 2**20:.1f} MiB of workspace for the backward pass"


def routed_gru(
    x: Tensor,
    h0: Tensor,
    global_expert: Expert | None,
    local_expert: Expert | None,
    router: Router | None,
    lengths: Tensor | None,
    *,
    route: str,
    routing: str,
    temperature: float,
    batch_first: bool,
    offsets: Tensor | None = None,
    reverse: bool = False,
    drop: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    none = Expert(None, None)  # type: ignore[arg-type]
    tensors = (x, h0, *(global_expert or none), *(local_expert or none), *(router or (None, None)))
    return op.routed_gru(tensors, lengths, offsets, drop, route, routing, temperature, batch_first, reverse)


def _check_raw(
    tensors: Sequence[Tensor | None], lengths: Tensor | None, offsets: Tensor | None, options: tuple[Any, ...]
) -> None:
    """What raw addresses rely on. routed_gru has said it better already; an exported program or a direct call of the op
    has nobody else to check."""
    x, h0, *weights = tensors
    route, routing, _, batch_first, _ = options
    if x is None or h0 is None or x.dim() != 4 or h0.dim() != 3 or x.dtype not in DTYPES:
        raise RuntimeError("flow_kernels::routed_gru: x must be [K, T, B, I] and h0 [K, B, H], float32 or float64")
    if route not in ROUTES or routing not in ROUTINGS:
        raise RuntimeError(f"flow_kernels::routed_gru: route {route!r} or routing {routing!r} is unknown")
    k, _, b, i, h = op.sizes(x, h0, offsets, batch_first)
    expert = ((k, 3 * h, i), (k, 3 * h, h), (k, 3 * h), (k, 3 * h))
    shapes = ((k, b, h), *expert, *expert, (k, 2, i + h), (k, 2))
    for n, (tensor, shape) in enumerate(zip((h0, *weights), shapes, strict=True)):
        if tensor is not None and (tensor.shape != shape or tensor.dtype != x.dtype or not tensor.is_cpu):
            raise RuntimeError(
                f"flow_kernels::routed_gru: differentiable tensor {n + 1} is {tensor.dtype} {list(tensor.shape)} on "
                f"{tensor.device}; with x {list(x.shape)} {x.dtype} it must be {list(shape)}"
            )
    if lengths is not None and (lengths.dtype != torch.int64 or lengths.shape != (k, b) or not lengths.is_cpu):
        raise RuntimeError(f"flow_kernels::routed_gru: lengths must be int64 {[k, b]} on the CPU")
    if offsets is not None:
        rows_fit = offsets.dtype == torch.int64 and offsets.is_cpu and len(offsets) > 1 and x.shape[2] == 1
        if not rows_fit or lengths is None or int(offsets[-1]) != x.shape[1]:
            raise ValueError(
                f"routed_gru: batch_sizes must never rise, be at least 1 and sum to the N={x.shape[1]} rows of input; take "
                "it from the PackedSequence that input is the data of"
            )


def _check_like(tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype, name: str) -> None:
    if tensor is not None and (tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype or not tensor.is_cpu):
        raise RuntimeError(
            f"flow_kernels::routed_gru_backward: {name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}"
        )


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _problem(tensors: Sequence[Tensor | None], lengths: Tensor | None, offsets: Tensor | None, options: tuple[Any, ...]) -> Any:
    """A _C.Problem with sizes, options and the addresses of the inputs (contiguous already)."""
    x, h0 = tensors[:2]
    assert x is not None and h0 is not None
    route, routing, temperature, batch_first, reverse = options
    _check_raw(tensors, lengths, offsets, options)
    p = _C.Problem()
    p.K, p.T, p.B, p.I, p.H = op.sizes(x, h0, offsets, batch_first)
    p.dtype = DTYPES.index(x.dtype)
    p.route, p.routing, p.temperature, p.batch_first = (
        ROUTES.index(route),
        ROUTINGS.index(routing),
        temperature,
        batch_first,
    )
    p.threads = torch.get_num_threads()
    p.x, p.h0, p.lengths, p.offsets, p.reverse = x.data_ptr(), h0.data_ptr(), _address(lengths), _address(offsets), reverse
    p.set_expert(0, *map(_address, tensors[2:6]))
    p.set_expert(1, *map(_address, tensors[6:10]))
    p.router_w, p.router_b = map(_address, tensors[10:12])
    return p


class _Kept(threading.local):
    """A thread's last workspace. Fresh memory costs a page fault every 4 KiB, a tenth of a call at H = 256."""

    buffer = torch.empty(0, dtype=torch.uint8)


_kept = _Kept()
_KEEP_BYTES = 64 << 20


def _workspace(size: int) -> Tensor:
    """At least `size` bytes, aligned to 64, for use by one call of this thread."""
    if _kept.buffer.numel() >= size:
        return _kept.buffer
    buffer = torch.empty(size, dtype=torch.uint8)
    if size <= _KEEP_BYTES:
        _kept.buffer = buffer
    return buffer


def _run(p: Any, backward: bool, lengths: Tensor | None) -> None:
    size = p.workspace_size(backward)
    status = 0
    if size >= 0:
        workspace = _workspace(size)  # named, so that it lives until the kernel returns
        p.workspace, p.workspace_bytes = workspace.data_ptr(), size
        status = p.backward() if backward else p.forward()
    elif lengths is not None:
        op.check_lengths(lengths, p.T)
    if size < 0 or status:
        raise RuntimeError(f"flow_kernels._C refused a problem that passed every check (status {status}, workspace {size})")


def _contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors, options, save = _contiguous(args[: op.COUNT + 2]), args[op.COUNT + 2 : -1], args[-1]
    *tensors, lengths, offsets = tensors
    x, h0 = tensors[:2]
    assert x is not None and h0 is not None
    y, h_n, q, gates = op.empty_outputs(x, h0, options[0], save)
    p = _problem(tensors, lengths, offsets, options)
    p.y, p.h_n, p.q, p.gates = y.data_ptr(), h_n.data_ptr(), q.data_ptr(), gates.data_ptr() if save else 0
    _run(p, False, lengths)
    return y, h_n, q, gates


def _backward(*args: Any) -> list[Tensor]:
    inputs, options, wanted = _contiguous(args[: 6 + op.COUNT + 2]), args[6 + op.COUNT + 2 : -1], args[-1]
    dy, dh_n, dq, y, q, gates, *tensors, lengths, offsets = inputs
    p = _problem(tensors, lengths, offsets, options)
    x, h0 = tensors[:2]
    assert x is not None and h0 is not None
    y_like, h_like, q_like, gates_like = op.output_shapes(x, h0, options[0])
    given = {"dy": (dy, y_like), "dh_n": (dh_n, h_like), "dq": (dq, q_like)}
    given |= {"y": (y, y_like), "q": (q, q_like), "gates": (gates, gates_like)}
    for name, (tensor, shape) in given.items():
        _check_like(tensor, shape, x.dtype, name)
    p.dy, p.dh_n, p.dq, p.y, p.q, p.gates = map(_address, (dy, dh_n, dq, y, q, gates))
    grads = [t.new_empty(t.shape) if want and t is not None else None for t, want in zip(tensors, wanted, strict=True)]
    dx, dh0, *weights, drouter_w, drouter_b = map(_address, grads)
    p.dx, p.dh0, p.drouter_w, p.drouter_b = dx, dh0, drouter_w, drouter_b
    p.set_expert_grad(0, *weights[:4])
    p.set_expert_grad(1, *weights[4:])
    _run(p, True, lengths)
    return [g for g in grads if g is not None]


if _C is not None:
    op.register("CPU", _forward, _backward)
