"""What a call of the routed GRU consists of, by name: tensors, options, and what its backward pass is given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from flow_kernels.reference import Expert, Router

EXPERTS = {"mixture": ("global", "local"), "global": ("global",), "local": ("local",)}
"""The experts that a route uses, in the order that every backend keeps."""
PREFIXES = {"global": "", "local": "local_"}
"""What precedes the names of an expert's weights."""


class Weights(NamedTuple):
    """The ten weights of a layer and direction, or their gradients: all with a leading K, or none; None where one is absent."""

    weight_ih: Tensor | None = None
    """[3H, I] of the global expert, gates r, z, n"""
    weight_hh: Tensor | None = None
    """[3H, H]"""
    bias_ih: Tensor | None = None
    """[3H]"""
    bias_hh: Tensor | None = None
    """[3H]"""
    local_weight_ih: Tensor | None = None
    local_weight_hh: Tensor | None = None
    local_bias_ih: Tensor | None = None
    local_bias_hh: Tensor | None = None
    router_weight: Tensor | None = None
    """[2, I + H], columns of x first; row 0 is the global expert"""
    router_bias: Tensor | None = None
    """[2]"""

    def used_by(self, route: str) -> Weights:
        """The same without the weights that a route leaves out."""
        if route == "mixture":
            return self
        if route == "global":
            return Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return Weights(
            local_weight_ih=self.local_weight_ih,
            local_weight_hh=self.local_weight_hh,
            local_bias_ih=self.local_bias_ih,
            local_bias_hh=self.local_bias_hh,
        )

    def expert(self, name: str) -> Expert | None:
        """The weights of the ``"global"`` or the ``"local"`` expert; None where it is absent."""
        weight_ih, weight_hh, *biases = (getattr(self, PREFIXES[name] + field) for field in Expert._fields)
        return None if weight_ih is None or weight_hh is None else Expert(weight_ih, weight_hh, *biases)

    @property
    def router(self) -> Router | None:
        """The weights of the router; None where it is absent."""
        return None if self.router_weight is None else Router(self.router_weight, self.router_bias)


NAMES = ("input", "hx", *Weights._fields)
"""The twelve differentiable tensors, in the order of the registered ops, of csrc/bindings.cpp and of all gradients."""


class Options(NamedTuple):
    """The options that the registered ops take, in their order; :func:`flow_kernels.routed_gru` documents each."""

    route: str = "mixture"
    routing: str = "soft"
    temperature: float = 1.0
    batch_first: bool = False
    reverse: bool = False


class Inputs(NamedTuple):
    """Everything that a result depends on. All tensors have a leading K, or none has."""

    x: Tensor
    """[T, B, I], with ``batch_first`` [B, T, I]; packed rows, which come with offsets, are [N, I]"""
    h0: Tensor
    """[B, H]"""
    weights: Weights
    lengths: Tensor | None
    """int64 [B], each in 1..T; None: every sequence has all T steps"""
    offsets: Tensor | None
    """int64 [T + 1]: where the packed rows of every step begin; None: the rows are padded"""
    options: Options

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The twelve tensors of NAMES."""
        return (self.x, self.h0, *self.weights)

    @property
    def stacked(self) -> bool:
        """Whether the tensors have a leading K."""
        return self.h0.dim() == 3

    @property
    def empty(self) -> bool:
        """Whether there is no sequence, or no client: the outputs have no elements, and the gradients of weights are zero."""
        return self.h0.shape[-2] == 0 or self.h0.shape[0] == 0

    @property
    def steps(self) -> int:
        """T"""
        if self.offsets is not None:
            return len(self.offsets) - 1
        return self.x.shape[-2 if self.options.batch_first else -3]

    def with_clients(self) -> Inputs:
        """The same with a leading K: views with K = 1 where the tensors have none."""
        if self.stacked:
            return self
        weights = Weights(*(None if t is None else t.unsqueeze(0) for t in self.weights))
        lengths = None if self.lengths is None else self.lengths.unsqueeze(0)
        return Inputs(self.x.unsqueeze(0), self.h0.unsqueeze(0), weights, lengths, self.offsets, self.options)


class Saved(NamedTuple):
    """What the backward pass reads of the forward pass."""

    y: Tensor
    q: Tensor
    gates: Tensor
    """In a layout of the backend's own; without elements where they are to be computed again."""


class OutputGradients(NamedTuple):
    """Gradients by output, h_n and q; None stands for zero."""

    dy: Tensor | None
    dh_n: Tensor | None
    dq: Tensor | None


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""y, h_n, q and the gates of :class:`Saved`."""


def contiguous(t: Tensor | None) -> Tensor | None:
    """The tensor itself where it is contiguous, otherwise a copy."""
    return t if t is None or t.is_contiguous() else t.contiguous()
