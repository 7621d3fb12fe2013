"""Which clients an evaluation scores, and why others are left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data.population import scored_targets
from flow.draws import Draw
from flow.model.parameters import Rows

if TYPE_CHECKING:
    from flow.data.population import Client, Population
    from flow.engine.task import Task


class Side(NamedTuple):
    """One of the two groups of clients that are reported apart."""

    label: str
    """The words for its clients wherever they are printed."""
    held_out: bool

    @property
    def title(self) -> str:
        """The label as a heading."""
        return self.label.capitalize()

    @property
    def singular(self) -> str:
        """The words for one of its clients."""
        return self.label.removesuffix("s")


SIDES = {"seen": Side("seen clients", held_out=False), "unseen": Side("unseen clients", held_out=True)}
"""By their keys in JSON and CSV. A round may draw seen clients for training, and never draws unseen ones. Validation clients
are on neither side."""


class Chosen(NamedTuple):
    """The clients of one side that are scored."""

    places: Rows
    """int64 [n]: their places in the population."""
    eligible: int
    """How many could be."""
    skipped: int
    """How many could not."""


def choose_clients(task: Task, most: int, what: str) -> dict[str, Chosen]:
    """At most so many clients of each side, drawn at random, the same ones every time; 0: all that can be scored.

    Those of the final evaluation are the first that can be scored in one random order of all clients, which no seed changes.
    So runs with other seeds and other algorithms score the same clients, and their results can be paired.
    """
    config, table, validation, chosen = task.config, task.population.table, task.population.validation, {}
    able = (table.texts >= config.min_texts) & (table.train >= task.minimum) & (table.scored > 0)
    for name, side in SIDES.items():
        members = (table.held_out == side.held_out) & ~validation
        places = np.flatnonzero(members & able)
        eligible = len(places)
        if most and what == "curve":
            stream = Draw(config.seed, 0, f"{what} {name}").stream()
            places = places[stream.choice(eligible, min(most, eligible), replace=False)]
        elif most and most < eligible:
            order = Draw(0, 0, f"{what} {name}").stream().permutation(len(able))
            places = places[np.argsort(order[places])[:most]]
        chosen[name] = Chosen(places, eligible, int(members.sum()) - eligible)
    return chosen


UNKNOWN, NO_TEXT = "no known token to be tested on", "no text to be tested on"


def obstacle(client: Client, min_texts: int, min_sequences: int, scored: npt.NDArray[np.bool_]) -> str:
    """What a client that cannot be scored lacks first; empty for one that can.

    scored: bool [outputs], see :attr:`flow.data.population.Population.scored`.
    """
    if client.texts < min_texts:
        return f"fewer than min_texts={min_texts} texts"
    if len(client.train.lengths) < min_sequences:
        return f"fewer than the {min_sequences} training sequences needed"
    if not scored_targets(client.test, scored):
        return UNKNOWN
    return ""


def nobody(population: Population, side: str, min_texts: int, min_sequences: int) -> str:
    """Why a side has no accuracy, for the terminal."""
    label, held_out = SIDES[side]
    members = (population.table.held_out == held_out) & ~population.validation
    clients = [population.clients[place] for place in np.flatnonzero(members).tolist()]
    if not clients:
        return f"{label}: no accuracy, the data have none; give more clients, or raise max_clients where it is set"
    scored = population.scored
    counts = Counter(obstacle(client, min_texts, min_sequences, scored) for client in clients)
    named = {UNKNOWN: NO_TEXT} if population.classes else {}
    reasons = ", ".join(f"{count} with {named.get(reason, reason)}" for reason, count in counts.most_common())
    remedy = "lower min_texts, or give clients more text"
    if population.vocabulary.unspaced and counts[UNKNOWN] and not population.classes:
        remedy = f"give --tokenizer characters, as the language has no spaces between words; else {remedy}"
    return f"{label}: no accuracy, none of the {len(clients)} could be scored ({reasons}); {remedy}"
