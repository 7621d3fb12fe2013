"""What a mapped dimension (vmap) becomes in a call of the ops: more clients, or more sequences.

torch has two vmaps. ``torch.func.vmap`` asks for a rule: the arguments, where each has the mapped dimension, and how long that
is. The older one, on which ``is_grads_batched``, ``torch.autograd.functional.jacobian(vectorize=True)`` and gradcheck still
rest, knows kernels only: :func:`kernel_of_older_vmap` makes one of a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow_kernels.call import NAMES, Options, OutputGradients, Saved, Weights

TENSORS = (*NAMES, "lengths", "offsets")
"""The tensors of the forward op, in its order."""
TENSORS_OF_BACKWARD = (*OutputGradients._fields, *Saved._fields, *TENSORS)
"""Those of the backward op."""
RETURNED = ("y", "h_n", "q", "gates")
"""What the forward op returns."""
FOLDED_BYTES = 2**26
"""How much the backward rule lays side by side for one call, unless one element of the mapped dimension is more."""

_OVER_ROWS = ("dy", "dq", "y", "q", "gates", "input")  # [.., T, B, C], with batch_first [.., B, T, C]

Rule = Callable[[int, Sequence[Any], Sequence[Any]], tuple[list[Tensor], list[int | None]]]
"""length of the mapped dimension, where every argument has it (None: nowhere), arguments -> results, where they have it"""


class _Folding(NamedTuple):
    """A mapped dimension within another: among the clients, or among the sequences of a batch."""

    size: int
    """elements of the mapped dimension"""
    clients: int | None
    """K of the tensors without the mapped dimension; None where they have no leading K"""
    sequences: int | None
    """B, where the mapped dimension goes to the sequences; None: it goes to the clients, or becomes their dimension"""
    batch_first: bool

    def place(self, name: str) -> int:
        """Where the mapped dimension is put in the tensor of this name."""
        if self.sequences is None:
            return 0
        return (self.clients is not None) + (name in _OVER_ROWS and not self.batch_first)

    @property
    def neighbour(self) -> int | None:
        """The size of the dimension that the mapped one is merged with; None: it stays one of its own."""
        return self.clients if self.sequences is None else self.sequences

    def fold(self, name: str, t: Any, dim: int | None) -> Any:
        """The tensor with the mapped dimension in its place, expanded where it has none."""
        if not isinstance(t, Tensor) or (
            self.sequences is not None and name in Weights._fields
        ):  # sequences share their weights
            return t
        if name == "gates" and t.numel() == 0:  # nothing was saved
            return t.new_empty(0)
        place = self.place(name)
        t = t.expand(self.size, *t.shape).movedim(0, place) if dim is None else t.movedim(dim, place)
        return t if self.neighbour is None else t.flatten(place, place + 1)

    def unfold(self, name: str, t: Tensor) -> Tensor:
        """A result of the folded call with the mapped dimension in its place."""
        if self.neighbour is None:
            return t
        place = self.place(name)
        return t.view(*t.shape[:place], self.size, self.neighbour, *t.shape[place + 1 :])


def _clients_and_sequences(names: Sequence[str], dims: Sequence[Any], args: Sequence[Any]) -> tuple[int | None, int]:
    """K (None where there is none) and B of the arguments, whose first ones have these names, without the mapped dimension."""
    if dims[names.index("offsets")] is not None:
        raise RuntimeError("routed_gru: vmap over batch_sizes is not possible; pad the input and pass lengths")
    h0, dim = (of[names.index("hx")] for of in (args, dims))
    shape = list(h0.shape)
    if dim is not None:
        del shape[dim]
    return shape[0] if len(shape) == 3 else None, shape[-2]


def _fold(folding: _Folding, names: Sequence[str], dims: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The arguments, folded up to the offsets; these and what follows stay as they are."""
    end = names.index("offsets")
    folded = [folding.fold(name, t, dim) for name, t, dim in zip(names[:end], args[:end], dims[:end], strict=True)]
    return [*folded, *args[end:]]


def rule_of_forward(op: Any) -> Rule:
    """The rule of a forward op: the mapped dimension goes to the clients."""

    def rule(size: int, dims: Sequence[Any], args: Sequence[Any]) -> tuple[list[Tensor], list[int | None]]:
        folding = _Folding(size, _clients_and_sequences(TENSORS, dims, args)[0], None, False)
        outputs = op(*_fold(folding, TENSORS, dims, args))
        places: list[int | None] = [0, 0, 0, 0 if args[-1] else None]  # what is not saved is empty
        results = [t if place is None else folding.unfold(n, t) for n, t, place in zip(RETURNED, outputs, places, strict=True)]
        return results, places

    return rule


def rule_of_backward(op: Any) -> Rule:
    """The rule of a backward op.

    Where all share their weights and only the gradients of input and hx are wanted, the mapped dimension goes to the
    sequences: the weights are then read once. Otherwise it goes to the clients, each with a copy of what is not mapped. One
    call takes as much of the mapped dimension as keeps these copies within FOLDED_BYTES.
    """
    names, count = TENSORS_OF_BACKWARD, len(TENSORS_OF_BACKWARD)

    def rule(size: int, dims: Sequence[Any], args: Sequence[Any]) -> tuple[list[Tensor], list[int | None]]:
        tensors, wanted = args[:count], args[-1]
        of_weights = [n for n, name in enumerate(names) if name in Weights._fields]
        shared = tensors[-1] is None and not any(wanted[2:]) and all(dims[n] is None for n in of_weights)
        clients, sequences = _clients_and_sequences(names, dims, args)
        whole = _Folding(size, clients, sequences if shared else None, Options(*args[count:-1]).batch_first)
        given = [name for name, want in zip(NAMES, wanted, strict=True) if want and tensors[names.index(name)] is not None]
        places = [whole.place(name) for name in given]

        dims = dims[:count]
        row_bytes = sum(
            t.numel() * t.element_size() // (1 if dim is None else max(size, 1))
            for t, dim in zip(tensors, dims, strict=True)
            if isinstance(t, Tensor)
        )
        step = max(1, FOLDED_BYTES // max(row_bytes, 1))
        parts = []
        for start in range(0, max(size, 1), step):
            folding = whole._replace(size=min(step, size - start))
            part = [t if dim is None else t.narrow(dim, start, folding.size) for t, dim in zip(tensors, dims, strict=True)]
            grads = op(*_fold(folding, names, dims, [*part, *args[count:]]))
            parts.append([folding.unfold(name, g) for name, g in zip(given, grads, strict=True)])
        if len(parts) == 1:
            return parts[0], list(places)
        return [torch.cat(several, place) for several, place in zip(zip(*parts, strict=True), places, strict=True)], list(
            places
        )

    return rule


def kernel_of_older_vmap(rule: Rule) -> Callable[..., list[Tensor]]:
    """A kernel for the dispatch key of the older vmap. It takes the innermost level off the arguments, runs the rule outside of
    that level, and puts the level on the results. Outer levels reach this kernel again while the rule runs."""

    def kernel(*args: Any) -> list[Tensor]:
        level = _leave_level()
        try:
            # what is not mapped at this level comes with a dimension of 1 in front; where all do, one element is mapped
            lifted = [torch._remove_batch_dim(t, level, 1, 0) if isinstance(t, Tensor) else t for t in args]
            size = max(t.shape[0] for t in lifted if isinstance(t, Tensor))
            dims = [0 if isinstance(t, Tensor) and t.shape[0] == size else None for t in lifted]
            inner = [t if dim is not None else given for t, given, dim in zip(lifted, args, dims, strict=True)]
            results, places = rule(size, dims, inner)
            return [t if p is None else torch._add_batch_dim(t, p, level) for t, p in zip(results, places, strict=True)]
        finally:
            torch._C._vmapmode_increment_nesting()

    return kernel


def _leave_level() -> int:
    """Leave the innermost level of the older vmap; returns its number."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    torch._C._vmapmode_decrement_nesting()
    return level
