"""RoutedGRUCell: one step of the routed GRU, for input that arrives step by step."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flow_kernels.call import Weights
from flow_kernels.checks import check_options
from flow_kernels.functional import routed_gru
from flow_kernels.modules.parameters import (
    GLOBAL,
    LOCAL,
    ROUTER,
    add_parameters,
    autocast_dtype,
    autocasting,
    check_arguments,
    check_routing_arguments,
    complete_checkpoint,
    describe,
    get_weights,
    names_of_weights,
    reset_parameters,
)


class Layer(Protocol):
    """What :meth:`RoutedGRUCell.from_layer` reads of a :class:`flow_kernels.RoutedGRU`, beside its parameters."""

    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    temperature: float
    routing: str
    num_clients: int | None
    backend: str
    training: bool


class RoutedGRUCell(nn.Module):
    """One step of :class:`flow_kernels.RoutedGRU`, for input that arrives step by step.

    The arguments, ``forward(input, hx)``, shapes, parameter names and errors are those of ``torch.nn.GRUCell``, whose
    checkpoints load as those of ``torch.nn.GRU`` do in the layer. Parameters: weight_ih [3H, I], weight_hh [3H, H],
    bias_ih [3H], bias_hh [3H]; the same four with ``local_``; router_weight [2, I + H] and router_bias [2]; a leading K
    with ``num_clients=K``.

    Args:
        input_size, hidden_size, bias, device, dtype: as in ``torch.nn.GRUCell``.
        temperature, routing, num_clients, backend: as in :class:`flow_kernels.RoutedGRU`.
    """

    input_size: int
    hidden_size: int
    bias: bool
    weight_ih: Tensor
    temperature: float
    routing: str
    num_clients: int | None
    backend: str

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
        super().__init__()
        check_arguments({"bias": bias}, {"input_size": input_size, "hidden_size": hidden_size})
        check_routing_arguments(temperature, routing, num_clients, backend)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.temperature = temperature
        self.routing = routing
        self.num_clients = num_clients
        self.backend = backend
        add_parameters(self, [("", input_size)], device, dtype)
        if not bias:
            for name in (*GLOBAL[2:], *LOCAL[2:], ROUTER[1]):
                self.register_parameter(name, None)  # torch.nn.GRUCell has the names, torch.nn.GRU does not
        self.reset_parameters()

    @classmethod
    def from_layer(cls, layer: Layer, layer_index: int = 0, reverse: bool = False) -> RoutedGRUCell:
        """A cell with a copy of the parameters of one layer and direction. Stepped through a sequence (backwards, for
        the reverse direction) it gives the layer's numbers. Training one later does not change the other.

        Raises:
            ValueError: the layer has no such layer or direction.
        """
        if not 0 <= layer_index < layer.num_layers:
            raise ValueError(f"layer_index must lie in 0..{layer.num_layers - 1}, got {layer_index}")
        if reverse and not layer.bidirectional:
            raise ValueError("reverse=True needs a layer made with bidirectional=True; this one has one direction")
        suffix = f"_l{layer_index}_reverse" if reverse else f"_l{layer_index}"
        weight = getattr(layer, "weight_ih" + suffix)
        cell = cls(
            weight.shape[-1], layer.hidden_size, layer.bias, "meta", weight.dtype,
            temperature=layer.temperature, routing=layer.routing, num_clients=layer.num_clients, backend=layer.backend,
        )  # fmt: skip
        for name, value in zip(Weights._fields, get_weights(layer, names_of_weights(suffix)), strict=True):
            if value is not None:
                setattr(cell, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
        return cell.train(layer.training)

    def reset_parameters(self) -> None:
        """Draw every parameter from uniform(-1/sqrt(H), 1/sqrt(H)), in the order of RoutedGRU.reset_parameters."""
        reset_parameters(self)

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
        check_options(route, self.routing, self.temperature)
        if device := autocasting(input):
            dtype = autocast_dtype(device, self.weight_ih.dtype)
            with torch.autocast(device, enabled=False):
                state, q = self._step(input.to(dtype), None if hx is None else hx.to(dtype), route, dtype)
        else:
            state, q = self._step(input, hx, route)
        return (state, q) if return_routing else state

    def _step(self, input: Tensor, hx: Tensor | None, route: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        batched = self._check_shapes(input, hx)
        if not batched:
            input, hx = input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)
        _, state, q = routed_gru(
            input.unsqueeze(-3), hx, *get_weights(self, Weights._fields, dtype),
            route=route, routing=self.routing, temperature=self.temperature, backend=self.backend,
        )  # fmt: skip
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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        notes = complete_checkpoint(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        for note in notes:
            warnings.warn(f"RoutedGRUCell: {note}", stacklevel=4)

    def extra_repr(self) -> str:
        return describe(self, {"bias": True})
