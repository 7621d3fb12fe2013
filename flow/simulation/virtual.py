"""Virtual time of a round: how long each client's device takes, when the round ends, and whose upload comes too late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flow.clock.devices import Devices
from flow.config import Config
from flow.engine.participation import Turnout
from flow.errors import UserError
from flow.model.parameters import Rows
from flow.parallel.processes import Ranks
from flow.server.uploads import Received
from flow.training.messages import Upload

Seconds = npt.NDArray[np.float64]


class Closing(NamedTuple):
    """How a round ends."""

    seconds: float
    """From its begin."""
    late: npt.NDArray[np.bool_]
    """bool [n]: the clients whose upload comes after that."""


def of_clients(devices: Devices, rows: Rows, received: Sequence[int], upload: Upload, sent: Sequence[int]) -> Seconds:
    """Virtual seconds of K clients from the begin of the download to the end of the upload, float64 [K].

    Args:
        received: [K], bytes of every download.
        upload: all phases of its work count.
        sent: [K], bytes of every upload.

    Raises:
        UserError: an algorithm of a user's own does not say how many sequences each client trained on.
    """
    phases = [work.sequences_of_each() for work in upload.phases]
    if None in phases:
        raise UserError(
            "the clock needs the sequences of every client, and this algorithm's Work has none; make it by Tally.work, or "
            "leave the clock out"
        )
    sequences = np.array([phase for phase in phases if phase is not None], dtype=np.float64).sum(0)
    return devices.seconds(rows, np.array(received, np.float64), sequences, np.array(sent, np.float64))


def noted(received: Iterable[Received], seconds: dict[int, float], early: dict[int, float] | None = None) -> Iterator[Received]:
    """The same, with the virtual seconds of every client written down by its number.

    early: likewise 1 for clients that stopped early, and 0 for others, where some would.
    """
    for group in received:
        assert group.seconds is not None
        seconds.update(zip(group.rows.tolist(), group.seconds.tolist(), strict=True))
        if early is not None and group.early is not None:
            early.update(zip(group.rows.tolist(), group.early.astype(np.float64).tolist(), strict=True))
        yield group


def shared(ranks: Ranks, who: Turnout, noted: dict[int, float]) -> Seconds:
    """What every process wrote down of its clients, float64 [n] in the order of `who.rows`; by one exchange."""
    parts = who.trained()
    own = torch.tensor([noted[row] for row in parts[ranks.rank].tolist()], dtype=torch.float64)
    gathered = ranks.gather({"noted": own} if len(own) else {}, [len(part) for part in parts])
    if not len(who.rows):
        return np.zeros(0)
    place = {row: n for n, row in enumerate(np.concatenate(parts).tolist())}
    order = torch.tensor([place[row] for row in who.rows.tolist()])
    result: Seconds = gathered["noted"][order].numpy()
    return result


def close(config: Config[Any], who: Turnout, seconds: Seconds, idle: Seconds) -> Closing:
    """When a round ends.

    Args:
        seconds: [n], of those that train; one whose upload is lost is waited for as if it came.
        idle: of those that only received the model.
    """
    last = max(seconds.max(initial=0.0), idle.max(initial=0.0))
    late = np.zeros(len(seconds), dtype=np.bool_)
    if config.deadline:
        late |= seconds > config.deadline
        last = min(last, config.deadline)
    if config.wait_for:
        arriving = np.flatnonzero(~(who.dropped | late))
        if len(arriving) >= config.wait_for:
            order = arriving[np.lexsort((who.rows[arriving], seconds[arriving]))]
            last = seconds[order[config.wait_for - 1]]
            late[order[config.wait_for :]] = True
    return Closing(float(last), late & ~who.dropped)


def without(received: Iterable[Received], who: Turnout) -> Iterator[Received]:
    """The same, where the uploads that are lost or late are marked as such."""
    lost = dict(zip(who.rows.tolist(), who.lost.tolist(), strict=True))
    for group in received:
        yield group._replace(lost=np.array([lost[row] for row in group.rows.tolist()], dtype=np.bool_))


def begin(metrics: Sequence[dict[str, Any]], folder: Path | None) -> float:
    """The virtual seconds at which the next round begins: the end of the last one.

    Raises:
        UserError: the last row does not say.
    """
    if not metrics:
        return 0.0
    if "virtual_seconds" not in metrics[-1]:
        raise UserError(
            f"{folder}: line {len(metrics)} of metrics.jsonl has no 'virtual_seconds', which every round on a clock has; put "
            "back the file, or start a new run in another folder"
        )
    return float(metrics[-1]["virtual_seconds"])
