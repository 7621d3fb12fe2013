"""Who takes part in a round, how far each gets, and which process trains whom.

All of it follows from (seed, round, client id): it is the same in every process, and when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.checks import check_number
from flow.config import Config
from flow.data import Client
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Rows
from flow.parallel.processes import Shard, shard
from flow.training.batches import groups


class Turnout(NamedTuple):
    """What becomes of a round's cohort."""

    able: list[Client]
    """Those that have enough to train on."""
    idle: list[Client]
    """The others."""
    rows: Rows
    """int64 [n]: numbers of those that are able, see :class:`flow.training.messages.Members`."""
    dropped: npt.NDArray[np.bool_]
    """bool [n]: their upload is lost."""
    late: npt.NDArray[np.bool_]
    """bool [n]: slow, and their upload too late to count."""
    epochs: tuple[int, ...] | None
    """[n]: how many epochs each does; None: as many as the algorithm's options say."""
    shard: Shard
    """Places in `able`, by process."""

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        """bool [n]: nothing of them reaches the server."""
        return self.dropped | self.late

    def trained(self) -> list[Rows]:
        """By process, the numbers of the clients that it trains."""
        return [self.rows[list(own)] for own in self.shard.places]

    def arrived(self) -> list[Rows]:
        """By process, the numbers of those among them whose upload arrives, ascending."""
        return [np.sort(self.rows[[place for place in own if not self.lost[place]]]) for own in self.shard.places]


class Group(NamedTuple):
    """Clients that work side by side."""

    clients: list[Client]
    options: Any
    """The algorithm's; with fewer epochs for clients that are slow."""
    lost: npt.NDArray[np.bool_]


def check(config: Config[Any]) -> None:
    """Raise UserError for options of this file out of range."""
    for name in ("dropout", "stragglers"):
        check_number(name, getattr(config, name), 0, 1)
    if config.late == "partial" and not (config.stragglers or config.deadline):
        raise UserError(
            "late='partial' is about slow clients, and there are none; give stragglers or deadline, or leave late out"
        )
    if config.stragglers and config.late == "partial" and not hasattr(config.algorithm, "epochs"):
        raise UserError(
            "late='partial' has slow clients do fewer epochs, and this algorithm counts its work in none; choose 'drop', "
            "or leave stragglers out"
        )


def turnout(config: Config[Any], cohort: Sequence[Client], minimum: int, rows: Rows, round: int, processes: int = 1) -> Turnout:
    """What becomes of a cohort in this round.

    Args:
        cohort: as it was drawn.
        minimum: fewer training sequences are too few to take part.
        rows: numbers of the cohort's clients.
        processes: among which those who take part are dealt.
    """
    can_train = np.array([len(client.train) >= minimum for client in cohort], dtype=np.bool_)
    able = [client for client, trains in zip(cohort, can_train.tolist(), strict=True) if trains]
    idle = [client for client, trains in zip(cohort, can_train.tolist(), strict=True) if not trains]
    dropped, slow = np.zeros(len(able), np.bool_), np.zeros(len(able), np.bool_)
    epochs = None
    if config.dropout or config.stragglers:
        draw = Draw(config.seed, round, "participation")
        chances = np.array([draw.stream(client.id).random(3) for client in able]).reshape(len(able), 3)
        dropped, slow = chances[:, 0] < config.dropout, chances[:, 1] < config.stragglers
        if config.stragglers and config.late == "partial":
            whole = config.algorithm.epochs
            some = 1 + (chances[:, 2] * whole).astype(np.int64)
            epochs = tuple(np.where(slow, some, whole).tolist())
            slow = np.zeros_like(slow)
    costs = [(len(client.train) + 1) * (epochs[n] if epochs else 1) for n, client in enumerate(able)]
    return Turnout(able, idle, rows[can_train], dropped, slow & ~dropped, epochs, shard(costs, processes))


def grouped(config: Config[Any], who: Turnout, rank: int, chunk: int, workers: int) -> Iterator[Group]:
    """The groups of one process's share; the sequences of the next are read while those before are at work."""
    own = who.shard.places[rank]
    lost = {who.able[place].id: bool(who.lost[place]) for place in own}
    kinds = sorted({who.epochs[place] for place in own}, reverse=True) if who.epochs else [None]
    for epochs in kinds:
        clients = [who.able[place] for place in own if who.epochs is None or who.epochs[place] == epochs]
        options = config.algorithm if epochs is None else replace(config.algorithm, epochs=epochs)
        for group in groups(clients, chunk, workers):
            yield Group(group, options, np.array([lost[client.id] for client in group], dtype=np.bool_))
