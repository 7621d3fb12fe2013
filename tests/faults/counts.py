"""What a campaign of trials came to, and the one table that is printed of all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Counts:
    """The trials of one kind.

    A trial is refused clearly, or accepted: it is without effect or computes the right numbers. Everything else is a fault.
    """

    kind: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    faults: list[str] = field(default_factory=list)
    """What happened and how to bring it about again, one for each fault."""

    def add(self, verdict: str, trial: str) -> None:
        """Count a trial.

        Args:
            verdict: "refused", "accepted", or what was wrong.
            trial: what was done, so that a reader can do it again.
        """
        self.tried += 1
        if verdict == "refused":
            self.refused += 1
        elif verdict == "accepted":
            self.accepted += 1
        else:
            self.faults.append(f"{trial}: {verdict}")
            print(f"{self.kind}: {self.faults[-1]}", file=sys.stderr, flush=True)

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def table(results: Iterable[Counts]) -> str:
    """A line for each kind, with the sums below it."""
    rows = [(c.kind, c.tried, c.refused, c.accepted, len(c.faults)) for c in results]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])) if rows else ("all", 0, 0, 0, 0))
    head = ("kind", "tried", "refused clearly", "accepted", "faults")
    width = max(len(str(row[0])) for row in [head, *rows])
    return "\n".join(
        f"{row[0]:<{width}}  {row[1]:>8}  {row[2]:>15}  {row[3]:>8}  {row[4]:>6}".rstrip() for row in [head, *rows]
    )
