"""Checks of a call's options and tensors, for whoever takes them: the functional form, the layers, the adapters of backends."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flow_kernels.call import EXPERTS, NAMES, PREFIXES, Weights
from flow_kernels.reference import ROUTES, ROUTINGS

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_options(route: str, routing: str, temperature: float) -> None:
    """Raise ValueError unless the three are what docs/cell.md allows."""
    if route not in ROUTES:
        raise ValueError(f"route must be one of {', '.join(map(repr, ROUTES))}, got {route!r}")
    if routing not in ROUTINGS:
        raise ValueError(f"routing must be one of {', '.join(map(repr, ROUTINGS))}, got {routing!r}")
    try:
        fits = 0 < temperature <= sys.float_info.max  # which an integer may exceed
    except (TypeError, RuntimeError):  # what cannot be compared, or is not one value
        raise TypeError(f"temperature must be a number > 0, got {type(temperature).__name__}; pass a float") from None
    if not fits:
        raise ValueError(
            f"temperature must be a finite number > 0, got {temperature!r}; use 1.0 for a plain softmax, or routing='hard' "
            "for the limit of a small temperature"
        )


def check_presence(weights: Weights, route: str) -> None:
    """Raise RuntimeError unless the weights that the route needs are there, and an expert has both biases or none."""
    for name in EXPERTS[route]:
        prefix = PREFIXES[name]
        weight_ih, weight_hh, bias_ih, bias_hh = weights[4:8] if prefix else weights[:4]
        if weight_ih is None or weight_hh is None:
            raise RuntimeError(
                f"routed_gru: {prefix}weight_ih and {prefix}weight_hh are needed by route={route!r}, but one is None; pass both"
            )
        if (bias_ih is None) != (bias_hh is None):
            raise RuntimeError(
                f"routed_gru: {prefix}bias_ih and {prefix}bias_hh come together, but one is None; pass both or neither"
            )
    if route == "mixture" and weights.router_weight is None:
        raise RuntimeError(
            f"routed_gru: router_weight is needed by route={route!r}, but it is None; pass it or route='global' / 'local'"
        )


def check_lengths(lengths: Tensor, steps: int) -> None:
    """Raise ValueError unless every length lies in 1..steps. Reads the values, so backends call it where that is cheap."""
    if lengths.numel() == 0:
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > steps:
        bad = low if low < 1 else high
        raise ValueError(
            f"lengths: every length must lie in 1..T = 1..{steps}, got {bad}; drop empty sequences and cut longer ones"
        )


def check_tensors(
    input: Tensor,
    hx: Tensor,
    weights: Weights,
    lengths: Tensor | None,
    clients: tuple[int, ...],
    sizes: tuple[int, int, int, int],
) -> None:
    """Raise RuntimeError unless shapes, dtypes and devices agree. Short where they do: a step of streaming pays for it.

    Args:
        clients: (K,), or () where no tensor has a leading K.
        sizes: T, B, I, H.
    """
    t, b, i, h = sizes
    dtype, device = input.dtype, input.device
    if t < 1 or (clients and clients[0] < 1):
        what = "T" if t < 1 else "K"
        raise RuntimeError(
            f"routed_gru: {what} must be at least 1, got {what}=0 (input {list(input.shape)}); leave out the call for input "
            "without time steps or clients"
        )
    if dtype not in DTYPES:
        raise RuntimeError(
            f"routed_gru: input has dtype {dtype}; it must be one of {', '.join(str(d) for d in DTYPES)}: convert it"
        )
    expert = ((3 * h, i), (3 * h, h), (3 * h,), (3 * h,))
    expected = ((b, h), *expert, *expert, (2, i + h), (2,))
    for name, tensor, rest in zip(NAMES[1:], (hx, *weights), expected, strict=True):
        if tensor is None:
            continue
        shape = (*clients, *rest)
        if tensor.shape != shape:
            raise RuntimeError(
                f"routed_gru: {name} has shape {list(tensor.shape)}; with input {list(input.shape)} and hidden size {h} "
                f"it must be {list(shape)}"
            )
        if tensor.dtype != dtype or tensor.device != device:
            _refuse_alike(name, tensor, input, dtype)
    if lengths is not None:
        if lengths.dtype != torch.int64 or lengths.shape != (*clients, b):
            raise RuntimeError(
                f"routed_gru: lengths has dtype {lengths.dtype} and shape {list(lengths.shape)}; it must be torch.int64 "
                f"{[*clients, b]}, one length per sequence"
            )
        if lengths.device != device:
            _refuse_alike("lengths", lengths, input, torch.int64)


def _refuse_alike(name: str, tensor: Tensor, input: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise RuntimeError(f"routed_gru: {name} has dtype {tensor.dtype}, input has {input.dtype}; convert one of them")
    raise RuntimeError(f"routed_gru: {name} is on {tensor.device}, input on {input.device}; move one of them")


def refuse_odd(caller: str, arguments: dict[str, Any]) -> None:
    """Raise TypeError for the first argument that is no tensor and ValueError for one that is no dense tensor; None passes, but
    as the input. For after something went wrong: before every call this would take longer than the checks themselves."""
    for name, value in arguments.items():
        if value is None and name != "input":
            continue
        if not isinstance(value, Tensor):
            kind = "None" if value is None else type(value).__name__
            raise TypeError(f"{caller}: {name} must be a torch.Tensor, got {kind}; {_instead_of(name, value)}")
        if value.is_nested:
            raise ValueError(
                f"{caller}: {name} is a nested tensor; it must be a padded one: pass torch.nested.to_padded_tensor({name}, "
                "0.0) and the lengths"
            )
        if value.is_quantized:
            raise ValueError(f"{caller}: {name} has the quantized dtype {value.dtype}; pass {name}.dequantize()")
        if value.layout != torch.strided:
            raise ValueError(f"{caller}: {name} has layout {value.layout}; it must be dense: pass {name}.to_dense()")


def _instead_of(name: str, value: Any) -> str:
    """What to pass instead of a value that is no tensor."""
    if isinstance(value, PackedSequence):
        return "pass its data as input and its batch_sizes to routed_gru, or itself to a layer"
    if type(value).__module__ == "numpy":
        return f"pass torch.from_numpy({name})"
    if name == "hx" and isinstance(value, (tuple, list)):
        return "a GRU has one state: pass h alone, without the cell state of an LSTM"
    if value is None:
        return "pass the sequences"
    return f"make one with torch.as_tensor({name}), in the dtype that is expected"
