"""RoutedGRUCell and GRUCell: one step of a layer, for input that arrives step by step."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from flow_kernels.checks import refuse_odd
from flow_kernels.functional import routed_gru
from flow_kernels.modules.base import Recurrent, Routed
from flow_kernels.modules.parameters import (
    add_parameters,
    autocast_dtype,
    autocasting,
    check_clients_and_backend,
    check_sizes_of_cell,
    describe,
    get_weights,
)


class Layer(Protocol):
    """What :meth:`Cell.from_layer` reads of a layer, beside its parameters and the options of the cell."""

    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    training: bool


class Cell(Recurrent):
    """One step: what RoutedGRUCell and GRUCell share."""

    input_size: int
    hidden_size: int
    bias: bool
    weight_ih: Tensor
    num_clients: int | None
    backend: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        **options: Any,
    ) -> None:
        """options: those of ``type(self)._options``."""
        super().__init__()
        check_sizes_of_cell({"input_size": input_size, "hidden_size": hidden_size})
        check_clients_and_backend(options["num_clients"], options["backend"])
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bool(bias)
        for name, value in options.items():
            setattr(self, name, value)
        self._choices("global")  # checks the options of routing
        add_parameters(self, self._groups, [("", input_size)], device, dtype)
        if not bias:
            for name in self._names:
                if "bias" in name:
                    self.register_parameter(name, None)  # torch.nn.GRUCell has the names, torch.nn.GRU does not
        self.reset_parameters()

    @classmethod
    def from_layer(cls, layer: Layer, layer_index: int = 0, reverse: bool = False) -> Self:
        """A cell with a copy of the parameters of one layer and direction. Stepped through a sequence (backwards, for
        the reverse direction) it gives the layer's numbers. Training one later does not change the other.

        Raises:
            ValueError: the layer has no such layer or direction. TypeError: it is none that this cell is a step of, or
                layer_index is no int.
        """
        if missing := [name for name in ("num_layers", *cls._options) if not hasattr(layer, name)]:
            raise TypeError(
                f"{cls.__name__}.from_layer: layer is a {type(layer).__name__} without {missing[0]!r}; pass a "
                f"flow_kernels.{cls.__name__.removesuffix('Cell')}"
            )
        if not isinstance(layer_index, int):
            raise TypeError(f"layer_index must be an int, got {layer_index!r}; pass 0 for the first layer")
        if not 0 <= layer_index < layer.num_layers:
            raise ValueError(f"layer_index must lie in 0..{layer.num_layers - 1}, got {layer_index}")
        if reverse and not layer.bidirectional:
            raise ValueError("reverse=True needs a layer made with bidirectional=True; this one has one direction")
        suffix = f"_l{layer_index}_reverse" if reverse else f"_l{layer_index}"
        weight = getattr(layer, "weight_ih" + suffix)
        options = {name: getattr(layer, name) for name in cls._options}
        cell = cls(weight.shape[-1], layer.hidden_size, layer.bias, "meta", weight.dtype, **options)
        for name, value in zip(cls._names, get_weights(layer, tuple(name + suffix for name in cls._names)), strict=True):
            if value is not None:
                setattr(cell, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
        return cell.train(layer.training)

    def _call(self, input: Tensor, hx: Tensor | None, choices: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The state and q. choices: what of routed_gru's arguments depends on the kind of cell."""
        try:
            if device := autocasting(input):
                dtype = autocast_dtype(device, self.weight_ih.dtype)
                with torch.autocast(device, enabled=False):
                    return self._step(input.to(dtype), None if hx is None else hx.to(dtype), choices, dtype)
            return self._step(input, hx, choices)
        except Exception:
            refuse_odd(type(self).__name__, {"input": input, "hx": hx})
            raise

    def _step(
        self, input: Tensor, hx: Tensor | None, choices: dict[str, Any], dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        batched = self._check_shapes(input, hx)
        if not batched:
            input, hx = input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)
        _, state, q = routed_gru(
            input.unsqueeze(-3), hx, *get_weights(self, self._names, dtype), backend=self.backend, **choices
        )
        q = q.squeeze(-3)
        return (state, q) if batched else (state.squeeze(0), q.squeeze(0))

    def _check_shapes(self, input: Tensor, hx: Tensor | None) -> bool:
        """Check the shapes of input and hx; return whether the input has a batch."""
        if self.num_clients is not None:
            for tensor, what in ((input, "input"), (hx, "hidden")):
                if tensor is not None and (tensor.dim() != 3 or tensor.shape[0] != self.num_clients):
                    raise ValueError(
                        f"GRUCell: Expected {what} to be 3D with a leading num_clients={self.num_clients}, got "
                        f"{list(tensor.shape)} instead"
                    )
        else:
            for tensor, what in ((input, "input"), (hx, "hidden")):
                if tensor is not None and tensor.dim() not in (1, 2):
                    raise ValueError(f"GRUCell: Expected {what} to be 1D or 2D, got {tensor.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        batched = input.dim() > 1
        if hx is not None:
            if hx.dim() != input.dim():
                raise RuntimeError(f"For {input.dim()}-D input, hx should also be {input.dim()}-D but got {hx.dim()}-D tensor")
            if batched and hx.shape[-2] != input.shape[-2]:
                raise RuntimeError(f"Input batch size {input.shape[-2]} doesn't match hidden0 batch size {hx.shape[-2]}")
            if hx.shape[-1] != self.hidden_size:
                raise RuntimeError(f"hidden0 has inconsistent hidden_size: got {hx.shape[-1]}, expected {self.hidden_size}")
        return batched

    def extra_repr(self) -> str:
        return describe(self, {"bias": True, **self._options})


class RoutedGRUCell(Routed, Cell):
    """One step of :class:`flow_kernels.RoutedGRU`, for input that arrives step by step.

    The arguments, ``forward(input, hx)``, shapes, parameter names and errors are those of ``torch.nn.GRUCell``, whose
    checkpoints load as those of ``torch.nn.GRU`` do in the layer. Parameters: weight_ih [3H, I], weight_hh [3H, H],
    bias_ih [3H], bias_hh [3H]; the same four with ``local_``; router_weight [2, I + H] and router_bias [2]; a leading K
    with ``num_clients=K``.

    Args:
        input_size, hidden_size, bias, device, dtype: as in ``torch.nn.GRUCell``; sizes may be 0.
        temperature, routing, num_clients, backend: as in :class:`flow_kernels.RoutedGRU`.
    """

    temperature: float
    routing: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        temperature: float = 1.0,
        routing: str = "soft",
        num_clients: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            temperature=temperature,
            routing=routing,
            num_clients=num_clients,
            backend=backend,
        )

    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, route: str = "mixture", return_routing: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One step.

        Args:
            input: [B, I] or [I]; with ``num_clients=K`` [K, B, I].
            hx: state before the step, [B, H], [H] or [K, B, H]; None means zeros.
            route: ``"mixture"``, or ``"global"`` / ``"local"`` for one expert alone.
            return_routing: return the routing weights q [B, 2], [2] or [K, B, 2] too.

        Returns:
            the state after the step in the form of hx, or that and q.

        Raises:
            ValueError, RuntimeError: as torch.nn.GRUCell for a wrong shape or dtype; ValueError for a wrong route.
        """
        state, q = self._call(input, hx, self._choices(route))
        return (state, q) if return_routing else state


class GRUCell(Cell):
    """One step of :class:`flow_kernels.GRU`: ``torch.nn.GRUCell`` on the kernels of this package.

    The arguments, ``forward(input, hx)``, shapes, parameters and errors are those of ``torch.nn.GRUCell``, and the state_dict
    goes both ways.

    Args:
        input_size, hidden_size, bias, device, dtype: as in ``torch.nn.GRUCell``; sizes may be 0.
        num_clients, backend: as in :class:`flow_kernels.GRU`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_clients: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, num_clients=num_clients, backend=backend)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input: [B, I] or [I]; with ``num_clients=K`` [K, B, I].
            hx: state before the step, [B, H], [H] or [K, B, H]; None means zeros.

        Returns:
            the state after the step in the form of hx.

        Raises:
            ValueError, RuntimeError: as torch.nn.GRUCell for a wrong shape or dtype; TypeError for what is no tensor.
        """
        return self._call(input, hx, _ONE_EXPERT)[0]


_ONE_EXPERT = {"route": "global"}
