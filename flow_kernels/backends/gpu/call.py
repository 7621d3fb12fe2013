"""One call of a GPU backend: its tensors with clients, its rows, and the checks that addresses rely on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow_kernels import checks
from flow_kernels.backends.gpu.rows import Rows, rows_of
from flow_kernels.call import EXPERTS, NAMES, Inputs, Options, Weights, contiguous
from flow_kernels.reference import Expert


class Call(NamedTuple):
    """The inputs of a call with a leading K, the rows of x in one dimension."""

    x: Tensor
    """[K, N, I]"""
    h0: Tensor
    """[K, B, H], contiguous"""
    weights: Weights
    """Of the route alone."""
    rows: Rows
    options: Options

    @property
    def hidden(self) -> int:
        """H"""
        return self.h0.shape[2]

    @property
    def experts(self) -> list[Expert]:
        """Those of the route, in the order global, local."""
        return [e for e in map(self.weights.expert, EXPERTS[self.options.route]) if e is not None]

    @property
    def routed(self) -> bool:
        """Whether a gradient can reach the router."""
        return self.options.route == "mixture" and self.options.routing != "hard"

    def contiguous(self) -> Call:
        """The same for kernels that read every tensor by its address."""
        weights, lengths = Weights(*map(contiguous, self.weights)), contiguous(self.rows.lengths)
        return self._replace(x=self.x.contiguous(), weights=weights, rows=dataclasses.replace(self.rows, lengths=lengths))

    def check_lengths(self) -> None:
        """Every length of padded rows must lie in 1..T. On the CPU a wrong one raises ValueError. On a GPU the device stops
        with an assertion, so that no call waits for the values to arrive."""
        lengths, steps = self.rows.lengths, self.rows.steps
        if lengths is None or self.rows.offsets is not None:
            return
        if not lengths.is_cuda:
            checks.check_lengths(lengths, steps)
            return
        fine = ((lengths >= 1) & (lengths <= steps)).all()
        torch._assert_async(
            fine, f"routed_gru: every length must lie in 1..T = 1..{steps}; drop empty sequences, cut longer ones"
        )

    def check_offsets(self) -> None:
        """Offsets and lengths of packed rows must describe the N rows of x, or the device stops with an assertion."""
        rows, lengths, offsets = self.rows, self.rows.lengths, self.rows.offsets
        if offsets is None:
            return
        if lengths is None or lengths.shape != (1, rows.batch):
            raise RuntimeError(
                "routed_gru: packed rows come with lengths [B] and offsets [T + 1], without clients; pass batch_sizes"
            )
        sizes = offsets.diff()
        of_sizes = (sizes.unsqueeze(1) > torch.arange(rows.batch, device=sizes.device)).sum(0)
        fine = (of_sizes == lengths[0]).all() & (sizes.diff() <= 0).all() & (sizes >= 1).all()
        fine = fine & (sizes[0] == rows.batch) & (offsets[0] == 0) & (offsets[-1] == rows.count)
        torch._assert_async(
            fine,
            f"routed_gru: batch_sizes must sum to the N={rows.count} rows of input, never rise, and begin with B={rows.batch}",
        )


def prepare(inputs: Inputs) -> Call:
    """The call of these inputs, their shapes, dtypes, devices and options checked: an exported program, or a call of the op,
    comes past the checks of :func:`flow_kernels.routed_gru`."""
    options, offsets = inputs.options, inputs.offsets
    _check_shapes(inputs)
    x, h0, weights, lengths, _, _ = inputs.with_clients()
    rows = rows_of(x, h0, lengths, offsets, options.batch_first, options.reverse)
    x = x if offsets is not None else x.flatten(1, 2)
    return Call(x, h0.contiguous(), weights.used_by(options.route), rows, options)


def _check_shapes(inputs: Inputs) -> None:
    x, h0, weights, lengths, offsets, options = inputs
    checks.check_options(options.route, options.routing, options.temperature)
    checks.check_presence(weights, options.route)
    if x.dim() != h0.dim() + (offsets is None) or h0.dim() not in (2, 3):
        raise RuntimeError(
            f"routed_gru: input {list(x.shape)} and hx {list(h0.shape)} do not go together; hx must be [B, H] or [K, B, H]"
        )
    if offsets is None:
        batch = x.shape[-3 if options.batch_first else -2]
    else:
        batch = h0.shape[-2]
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.device != x.device:
            raise RuntimeError(
                f"routed_gru: offsets must be int64 [T + 1] on {x.device}, got {offsets.dtype} {list(offsets.shape)} on "
                f"{offsets.device}; pass batch_sizes to flow_kernels.routed_gru"
            )
    clients = tuple(x.shape[:1]) if inputs.stacked else ()
    checks.check_tensors(x, h0, weights, lengths, clients, (inputs.steps, batch, x.shape[-1], h0.shape[-1]))


def listed(gradients: Mapping[str, Tensor], inputs: Inputs, wanted: Sequence[bool]) -> list[Tensor]:
    """The wanted gradients in the order of the twelve tensors and in their shapes; zeros where none was computed."""
    return [
        gradients[name].reshape(t.shape) if name in gradients else torch.zeros_like(t)
        for name, t, want in zip(NAMES, inputs.tensors, wanted, strict=True)
        if want and t is not None
    ]


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The device made the current one; nothing on the CPU, where tests run the kernels' models."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
