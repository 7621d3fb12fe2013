"""What every layer and cell does beside computing: parameters, checkpoints, and a word where torch's tools do not reach."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, NoReturn

from torch import nn

from flow_kernels.checks import check_options
from flow_kernels.modules.parameters import (
    GLOBAL,
    LOCAL,
    ROUTER,
    complete_checkpoint,
    holds_routing,
    reset_parameters,
    spread_to_clients,
)


class Recurrent(nn.Module):
    """The parent of all layers and cells. A subclass has the sizes, ``bias``, ``num_clients`` and ``backend`` as attributes."""

    _groups: ClassVar[tuple[tuple[str, ...], ...]] = (GLOBAL,)
    """The names of its parameters, in the order of torch.nn.GRU"""
    _names: ClassVar[tuple[str, ...]] = GLOBAL
    """The same one after the other: what routed_gru takes as its third argument and so on"""
    _options: ClassVar[dict[str, Any]] = {"num_clients": None, "backend": "auto"}
    """What it takes beside the arguments of torch's class, with the defaults"""

    def reset_parameters(self) -> None:
        """Draw every parameter from uniform(-1/sqrt(H), 1/sqrt(H)): first all of the global expert, in torch's order,
        then the local expert, then the router; with clients, one client after the other."""
        reset_parameters(self)

    def _choices(self, route: str) -> dict[str, Any]:
        """Route, routing and temperature of a call of routed_gru."""
        return {"route": route}

    def _complete(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Add to a checkpoint what it lacks; returns what is to be said of it."""
        if not holds_routing(state_dict, prefix):
            return []
        return [
            "the checkpoint is one of a RoutedGRU or RoutedGRUCell, with two experts and a router; load it into one of these, "
            "or leave out its entries local_... and router_... to load the global expert"
        ]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        notes = [*spread_to_clients(self, state_dict, prefix), *self._complete(state_dict, prefix)]
        super()._load_from_state_dict(state_dict, prefix, *args)
        for note in notes:
            warnings.warn(f"{type(self).__name__}: {note}", stacklevel=4)

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks for first."""
        raise RuntimeError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script; use torch.export.export, with backend='reference' "
            "for a program that runs without flow_kernels, or torch.compile for speed"
        )

    @property
    def qconfig(self) -> Any:
        """What torch.ao.quantization marks a module with. It replaces torch's own modules only: the mark is kept, and a warning
        says that the weights stay as they are."""
        try:
            return self.__dict__["qconfig"]
        except KeyError:
            raise AttributeError("qconfig") from None

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        if "qconfig" not in self.__dict__:
            own = str(next(self.parameters()).dtype).removeprefix("torch.")
            warnings.warn(
                f"{type(self).__name__} is not quantized: torch.ao.quantization replaces torch's own modules only, so its "
                f"weights stay {own}; load one expert into a torch.nn.GRU to quantize that, or convert the layer to bfloat16",
                stacklevel=3,
            )
        self.__dict__["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("qconfig", None)


class Routed(Recurrent):
    """The parent of layers and cells with two experts and a router; has ``temperature`` and ``routing`` as attributes too."""

    _groups = (GLOBAL, LOCAL, ROUTER)
    _names = (*GLOBAL, *LOCAL, *ROUTER)
    _options: ClassVar[dict[str, Any]] = {"temperature": 1.0, "routing": "soft", **Recurrent._options}
    temperature: float
    routing: str

    def _choices(self, route: str) -> dict[str, Any]:
        check_options(route, self.routing, self.temperature)
        return {"route": route, "routing": self.routing, "temperature": self.temperature}

    def _complete(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        return complete_checkpoint(self, state_dict, prefix)
