"""What RoutedGRU and GRU share: everything around the recurrence.

Parameters, several layers, two directions, dropout, packed and unbatched input live here. The recurrence itself is
:func:`flow_kernels.routed_gru`, called once per layer and direction. Behaviour and error messages are those of torch.nn.GRU
wherever it has them.
"""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flow_kernels.checks import refuse_odd
from flow_kernels.functional import routed_gru
from flow_kernels.modules.base import Recurrent
from flow_kernels.modules.parameters import (
    GLOBAL,
    add_parameters,
    autocast_dtype,
    autocasting,
    check_arguments,
    check_clients_and_backend,
    describe,
    get_weights,
)


class Stack(Recurrent):
    """Layers and directions over whole sequences."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    num_clients: int | None
    backend: str
    recompute: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        **options: Any,
    ) -> None:
        """options: those of ``type(self)._options``."""
        super().__init__()
        if not isinstance(dropout, numbers.Real) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        check_arguments(
            {"bias": bias, "batch_first": batch_first},
            {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers},
        )
        check_clients_and_backend(options["num_clients"], options["backend"])
        self.mode = "GRU"
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = 0  # code that walks over torch's recurrent layers reads it
        for name, value in options.items():
            setattr(self, name, value)
        self.recompute = False
        self._choices("global")  # checks the options of routing
        add_parameters(self, self._groups, self._suffixes(), device, dtype)
        self.reset_parameters()

    def _call(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None,
        choices: dict[str, Any],
        return_routing: bool,
        lengths: Tensor | None,
    ) -> tuple[Tensor | PackedSequence, Tensor, Tensor | None]:
        """Output, h_n and, if asked for, q. choices: what of routed_gru's arguments depends on the kind of layer."""
        try:
            if device := autocasting(input.data if isinstance(input, PackedSequence) else input):
                dtype = autocast_dtype(device, self.all_weights[0][0].dtype)
                with torch.autocast(device, enabled=False):
                    hx = None if hx is None else hx.to(dtype)
                    return self._forward(input.to(dtype), hx, choices, return_routing, lengths, dtype)
            return self._forward(input, hx, choices, return_routing, lengths)
        except Exception:
            given = input.data if isinstance(input, PackedSequence) else input
            refuse_odd(type(self).__name__, {"input": given, "hx": hx, "lengths": lengths})
            raise

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None,
        choices: dict[str, Any],
        return_routing: bool,
        lengths: Tensor | None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor, Tensor | None]:
        """dtype: what the weights are converted to; None: they are used as they are."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, choices, return_routing, lengths, dtype)
        batched = self._check_dims(input, hx, lengths)
        if not batched:
            input, hx = input.unsqueeze(1), None if hx is None else hx.unsqueeze(1)
        batch_first = self.batch_first and batched
        output, h_n, q = self._run(input, hx, lengths, choices, batch_first, return_routing, dtype=dtype)
        if not batched:
            output, h_n, q = output.squeeze(1), h_n.squeeze(1), None if q is None else q.squeeze(2)
        return output, h_n, q

    def _forward_packed(
        self,
        packed: PackedSequence,
        hx: Tensor | None,
        choices: dict[str, Any],
        return_routing: bool,
        lengths: Tensor | None,
        dtype: torch.dtype | None,
    ) -> tuple[PackedSequence, Tensor, Tensor | None]:
        """The rows stay in packed (sorted) order throughout; only hx, h_n and q are put into the user's order."""
        if self.num_clients is not None:
            raise ValueError(
                f"a PackedSequence cannot be the input of a layer with num_clients={self.num_clients}; pass the padded "
                "[K, T, B, I] (batch_first: [K, B, T, I]) and lengths=[K, B]"
            )
        if lengths is not None:
            raise ValueError("lengths and a PackedSequence exclude each other: it has its own lengths; leave lengths out")
        data, batch_sizes, order, inverse = packed
        if data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
        # a shape where there is one: reading a value breaks the graph under torch.compile
        steps, batch = len(batch_sizes), int(batch_sizes[0]) if order is None else len(order)
        if hx is not None:
            self._check_hidden(hx, (len(self._suffixes()), batch, self.hidden_size))
            hx = hx if order is None else hx.index_select(1, order)
        output, h_n, q = self._run(data, hx, None, choices, False, return_routing, batch_sizes, batch, dtype)
        h_n = h_n if inverse is None else h_n.index_select(1, inverse)
        result = PackedSequence(output, batch_sizes, order, inverse)
        if q is None:
            return result, h_n, None
        padded = q.new_zeros(len(q), steps * batch, 2).index_copy(1, packed_rows(batch_sizes, batch, data), q)
        q = padded.view(-1, steps, batch, 2)
        return result, h_n, q if inverse is None else q.index_select(2, inverse)

    def _run(
        self,
        input: Tensor,
        hx: Tensor | None,
        lengths: Tensor | None,
        choices: dict[str, Any],
        batch_first: bool,
        return_routing: bool,
        batch_sizes: Tensor | None = None,
        packed_batch: int = 0,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All layers over [.., T, B, I] (batch_first: [.., B, T, I]), where .. is nothing or K; or over packed [N, I]."""
        suffixes = self._suffixes()
        weights = [get_weights(self, tuple(name + suffix for name in self._names), dtype) for suffix, _ in suffixes]
        if batch_sizes is not None:
            steps, batch = len(batch_sizes), packed_batch
        else:
            steps, batch = (input.shape[-2], input.shape[-3]) if batch_first else (input.shape[-3], input.shape[-2])
        self._check_input(input, weights[0][0])
        clients = () if self.num_clients is None else (self.num_clients,)
        if hx is not None:
            self._check_hidden(hx, (*clients, len(suffixes), batch, self.hidden_size))
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        directions = 2 if self.bidirectional else 1
        if hx is None and batch_sizes is not None:  # how many sequences they hold would have to be read from their values
            hx = input.new_zeros(len(suffixes), batch, self.hidden_size)
        states, mixes = [], []
        x = input
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                n = layer * directions + direction
                y, h_n, q = routed_gru(
                    x,
                    None if hx is None else hx.select(-3, n),
                    *weights[n],
                    lengths=lengths,
                    batch_sizes=batch_sizes,
                    reverse=direction == 1,
                    batch_first=batch_first,
                    recompute=self.recompute,
                    backend=self.backend,
                    **choices,
                )
                outputs.append(y)
                states.append(h_n)
                mixes.append(q)
            x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout)
        time_and_batch = 1 if batch_sizes is not None else 2
        return x, _stack(states, -3), _stack(mixes, -2 - time_and_batch) if return_routing else None

    def _suffixes(self) -> list[tuple[str, int]]:
        """Suffix and input size of every layer and direction, in the order of hx."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [
            (f"_l{n}{direction}", self.input_size if n == 0 else self.hidden_size * len(directions))
            for n in range(self.num_layers)
            for direction in directions
        ]

    def _check_dims(self, input: Tensor, hx: Tensor | None, lengths: Tensor | None) -> bool:
        """Check the number of dimensions of a padded input; return whether it is batched."""
        if self.num_clients is not None:
            if input.dim() != 4:
                raise ValueError(
                    f"GRU: Expected input to be 4D with num_clients={self.num_clients}, [K, T, B, I] (batch_first: "
                    f"[K, B, T, I]), got {input.dim()}D instead"
                )
            if input.shape[0] != self.num_clients:
                raise RuntimeError(
                    f"input.size(0) must be equal to num_clients. Expected {self.num_clients}, got {input.shape[0]}"
                )
            if hx is not None and hx.dim() != 4:
                raise RuntimeError(f"For 4-D input, hx should also be 4-D but got {hx.dim()}-D tensor")
            return True
        if input.dim() not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if hx is not None and hx.dim() != input.dim():
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(f"For {kind} input, hx should also be {input.dim()}-D but got {hx.dim()}-D tensor")
        if lengths is not None and not batched:
            raise ValueError("lengths cannot go with unbatched 2-D input; cut the sequence, or add a batch dimension")
        return batched

    def _check_input(self, input: Tensor, weight: Tensor) -> None:
        """Check dtype and input size."""
        if input.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}")

    def _check_hidden(self, hx: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(hx.shape) != expected:
            raise RuntimeError(f"Expected hidden size {expected}, got {list(hx.shape)}")

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The global expert as ``torch.nn.GRU.all_weights`` gives it: per layer and direction weight_ih, weight_hh and,
        with bias, bias_ih, bias_hh. The local expert and the router are in ``parameters()``."""
        names = GLOBAL if self.bias else GLOBAL[:2]
        return [[getattr(self, name + suffix) for name in names] for suffix, _ in self._suffixes()]

    def flatten_parameters(self) -> None:
        """Do nothing: the kernels read every parameter where it is. Here because code for torch.nn.GRU calls it."""

    def extra_repr(self) -> str:
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        return describe(self, defaults | self._options)


def _stack(tensors: list[Tensor], dim: int) -> Tensor:
    """torch.stack, without a copy where there is one tensor."""
    return tensors[0].unsqueeze(dim) if len(tensors) == 1 else torch.stack(tensors, dim)


def packed_rows(batch_sizes: Tensor, batch: int, data: Tensor) -> Tensor:
    """Where row n of a PackedSequence's data lies in the flattened [T * B] rows of the padded form: int64 [N], sequences in
    packed order, on the data's device."""
    step = torch.repeat_interleave(batch_sizes, output_size=data.shape[0])  # row n belongs to time step step[n]
    first = batch_sizes.cumsum(0) - batch_sizes
    return (torch.arange(data.shape[0]) - first[step] + step * batch).to(data.device)
