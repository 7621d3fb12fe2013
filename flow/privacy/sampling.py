"""Who takes part in a round, as the accountant assumes it."""

from __future__ import annotations

import numpy as np

from flow.draws import Draw
from flow.model.parameters import Rows


def independent(clients: int, chance: float, draw: Draw) -> Rows:
    """Of so many clients those that take part, each with this chance and independently of all others; it may be nobody.

    draw: of the round.
    """
    return np.flatnonzero(draw.stream("independent").random(clients) < chance)


def place_in_pass(round: int, steps: int) -> tuple[int, int]:
    """(which pass, which of its rounds, counted from 1) a round is, counted from 1; a pass has so many rounds."""
    number, step = divmod(round - 1, steps)
    return number, step + 1


def in_turn(clients: int, cohort: int, round: int, seed: int) -> Rows:
    """The clients of a round of shuffled passes: each takes part at most once in a pass.

    A pass has clients // cohort rounds; those that are left over in its order do not take part in it.
    """
    number, step = place_in_pass(round, clients // cohort)
    order = Draw(seed, number, "cohort").stream("pass").permutation(clients)
    return order[(step - 1) * cohort : step * cohort]
