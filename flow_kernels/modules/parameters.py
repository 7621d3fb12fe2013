"""Arguments, parameters and their names, autocast and checkpoints of layers and cells."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from flow_kernels.backends import NAMES
from flow_kernels.call import Weights

GLOBAL, LOCAL, ROUTER = Weights._fields[:4], Weights._fields[4:8], Weights._fields[8:]
ROUTED = ("local_", "router_")
"""What the names of parameters begin with that torch.nn.GRU does not have."""


MOST = {"num_layers": 1 << 16}
"""The largest values of sizes; of those that are not named: 2^31 - 1."""


def check_arguments(flags: dict[str, Any], sizes: dict[str, Any]) -> None:
    """Raise what torch.nn.GRU raises unless the flags are bool and the sizes integers > 0; ValueError for a size above MOST."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    for name, value in sizes.items():
        if not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
        _check_at_most(name, value)


def check_sizes_of_cell(sizes: dict[str, Any]) -> None:
    """Raise TypeError or ValueError unless the sizes are integers of 0 up to MOST; torch.nn.GRUCell takes 0 too."""
    for name, value in sizes.items():
        if not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
        _check_at_most(name, value)


def _check_at_most(name: str, value: int) -> None:
    most = MOST.get(name, (1 << 31) - 1)
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}; lower it")


def check_clients_and_backend(num_clients: int | None, backend: str) -> None:
    """Raise ValueError unless these are what every layer and cell allows."""
    if num_clients is not None and (type(num_clients) is not int or num_clients < 1):
        raise ValueError(f"num_clients must be None or an integer >= 1, got {num_clients!r}")
    if backend not in ("auto", *NAMES):
        raise ValueError(f"backend must be one of {', '.join(map(repr, ('auto', *NAMES)))}, got {backend!r}")


def add_parameters(
    module: Any,
    groups: tuple[tuple[str, ...], ...],
    suffixes: list[tuple[str, int]],
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
) -> None:
    """Register the parameters of every (suffix, input size), uninitialised. They come group after group: first those of the
    global expert in the order of torch.nn.GRU, then those of the local expert, then those of the router."""
    h = module.hidden_size
    leading = () if module.num_clients is None else (module.num_clients,)
    for group in groups:
        for suffix, i in suffixes:
            shapes = ((2, i + h), (2,)) if group is ROUTER else ((3 * h, i), (3 * h, h), (3 * h,), (3 * h,))
            for name, shape in zip(group, shapes, strict=True):
                if module.bias or "bias" not in name:
                    tensor = torch.empty((*leading, *shape), device=device, dtype=dtype)
                    module.register_parameter(name + suffix, nn.Parameter(tensor))


def reset_parameters(module: Any) -> None:
    """uniform(-1/sqrt(H), 1/sqrt(H)) for every parameter, client by client."""
    bound = 1 / math.sqrt(module.hidden_size) if module.hidden_size else 0.0
    with torch.no_grad():
        if module.num_clients is None:
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound)
        else:
            for client in range(module.num_clients):
                for parameter in module.parameters():
                    parameter[client].uniform_(-bound, bound)


def get_weights(module: Any, names: tuple[str, ...], dtype: torch.dtype | None = None) -> list[Any]:
    """The tensors of these names, None for a bias that the module lacks, converted to a dtype if there is one. Read anew
    at every forward: a parametrization, pruning or functional_call may have put something else under the name."""
    parameters = module._parameters
    try:
        weights = [parameters[name] for name in names]  # twenty times as fast as attributes of a module
    except KeyError:
        weights = [getattr(module, name) if module.bias or "bias" not in name else None for name in names]
    return weights if dtype is None else [None if weight is None else weight.to(dtype) for weight in weights]


def autocasting(input: Tensor) -> str | None:
    """The input's device type if autocast is on there and the input is floating."""
    device = input.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return device if on and input.is_floating_point() else None


def autocast_dtype(device: str, own: torch.dtype) -> torch.dtype:
    """What a module with parameters of dtype `own` computes in under autocast: bfloat16 if that is autocast's dtype and its
    own is float32, else its own."""
    to = torch.get_autocast_dtype(device)
    return to if to == torch.bfloat16 and own == torch.float32 else own


def spread_to_clients(module: Any, state_dict: dict[str, Any], prefix: str) -> list[str]:
    """Give each of K clients a copy of what state_dict (load_state_dict's own copy) holds for one; say so if it was done."""
    spread = False
    for name, parameter in _own(module).items():
        value = state_dict.get(prefix + name)
        if isinstance(value, Tensor) and module.num_clients is not None and value.shape == parameter.shape[1:]:
            state_dict[prefix + name] = value.detach().expand(parameter.shape).clone()
            spread = True
    if not spread:
        return []
    return [f"the checkpoint holds one model; each of the {module.num_clients} clients starts from a copy of it"]


def complete_checkpoint(module: Any, state_dict: dict[str, Any], prefix: str) -> list[str]:
    """Add to state_dict (load_state_dict's own copy) what a checkpoint of torch.nn.GRU lacks; say so if it was done.

    That is one without any entry of the local expert and the router. The local expert gets a copy of its global one, and the
    router is left as it is. On the meta device the router has no values yet, and load_state_dict reports it as missing. An
    entry of the global expert that is missing or misshapen stays so, and load_state_dict reports it.
    """
    own, given = _own(module), _given(state_dict, prefix)
    if not any(name in own for name in given) or any(name.startswith(ROUTED) for name in given):
        return []
    for name, parameter in own.items():
        source = state_dict.get(prefix + name.removeprefix("local_"))
        if name.startswith("local_") and isinstance(source, Tensor):
            state_dict[prefix + name] = source.detach().clone()
        elif name.startswith("router_") and not parameter.is_meta:  # on "meta" there are no values to leave as they are
            state_dict[prefix + name] = parameter
    return [
        "the checkpoint is one of a plain GRU; the local expert starts as a copy of its weights, the router is left as it was"
    ]


def holds_routing(state_dict: dict[str, Any], prefix: str) -> bool:
    """Whether a checkpoint is one of a routed layer or cell."""
    return any(name.startswith(ROUTED) for name in _given(state_dict, prefix))


def _own(module: Any) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _given(state_dict: dict[str, Any], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]


def describe(module: Any, defaults: dict[str, Any]) -> str:
    """The sizes, then every option that differs from its default."""
    changed = [f"{n}={v}" for n, default in defaults.items() if (v := getattr(module, n)) != default]
    return ", ".join([f"{module.input_size}, {module.hidden_size}", *changed])
