"""What passes between the server and a node, whatever carries it. Nothing here needs torch: Flower's nodes start a process for
every message, and most messages of secure aggregation are about keys alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
DESCRIBE, TRAIN = "describe", "train"


class Packet(NamedTuple):
    """A question of the server or the answer of a node."""

    fields: dict[str, Any]
    """What JSON can hold."""
    arrays: Arrays
    """Not to be changed in place."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


class Answers(NamedTuple):
    """What came back."""

    packets: dict[int, Packet]
    """By node."""
    refused: dict[int, str]
    """By node, why it gave none, in words."""


class Exchange(Protocol):
    """How the server reaches the nodes."""

    def nodes(self) -> Sequence[int]:
        """The numbers of the nodes that can be reached now, ascending."""

    def ask(self, what: str, questions: Mapping[int, Packet], round: int, timeout: float) -> Answers:
        """Ask nodes, and wait for all answers or for so many seconds.

        Args:
            what: DESCRIBE or TRAIN.
            questions: by node.
            round: from 1; 0 before the first.
        """


Handler = Callable[[Packet], Packet]
"""What a node does with a question. It raises UserError where it refuses."""


def sentence(text: str) -> str:
    """Why a node answered with an error, in one line: the sentence of the exception that Flower wraps, or what Flower says."""
    kind, wrapped, rest = text.partition(">:<'")
    return " ".join((rest.removesuffix("'>") if wrapped and "Error" in kind else text).split())
