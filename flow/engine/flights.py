"""Clients at work in an asynchronous run, between their start and the end of their upload, and their place in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flow.model.parameters import Tensors, tagged, untagged
from flow.parallel.processes import Ranks
from flow.server.uploads import Received
from flow.storage import files
from flow.training.messages import Upload
from flow.training.records import Work

COUNTS = ("weight", "vote", "nats", "tokens", "sequences", "flops", "sent")
"""The columns of "counts"; "sent" is the bytes of the upload."""
COMMON = ("row", "version", "order", "end", "lost", "idle", "received")
"""The columns of "common"; "order" counts among the clients at work alone, "received" is bytes."""


class Cargo(NamedTuple):
    """What one client did and uploads; only the process that trained it has it."""

    tensors: Tensors
    """[1, ..]"""
    voted: tuple[str, ...]
    """The names among them that count by votes, see :class:`flow.training.messages.Upload`."""
    kept: Tensors
    """[1, ..]: the client's next state; empty where it keeps what it had."""
    residual: Tensors
    """[1, ..]: what compression left out; empty without compression."""
    counts: Tensor
    """float64 [7]: in the order of COUNTS."""


class Flight(NamedTuple):
    """One client at work; all processes know of every one."""

    row: int
    """The client's number."""
    version: int
    """Steps that the server had taken when the client started."""
    order: int
    """How many started before it, by which ends at the same time are put in order."""
    end: float
    """Virtual seconds at which its upload has arrived, or would have."""
    lost: bool
    """Whether the upload is lost."""
    idle: bool
    """Whether the client has too few sequences, and leaves once it has the model."""
    received: int
    """Bytes of its download."""
    holder: int
    """The process that has the cargo."""
    cargo: Cargo | None

    def received_upload(self, tensors: Tensors) -> Received:
        """The upload as the server gets it; tensors: [1, ..], those of the cargo as they count now."""
        assert self.cargo is not None
        weight, vote, nats, tokens, sequences, flops, sent = self.cargo.counts.tolist()
        group = torch.tensor([[nats], [tokens], [flops]], dtype=torch.float64)
        work = Work(group[0], group[1], int(sequences), group[2])
        kept, voted = self.cargo.kept or None, self.cargo.voted
        upload = Upload(tensors, [weight], (work,), kept, voted, [vote] if voted else ())
        lost = np.array([self.lost], dtype=np.bool_)
        return Received(
            np.array([self.row]), upload, self.received, lost, sent=(int(sent),), residual=self.cargo.residual or None
        )


def cargoes(group: Received) -> list[Cargo]:
    """By client, copies of what a group did."""
    upload, last = group.upload, group.upload.phases[-1]
    assert group.sent is not None
    flops = torch.stack([work.flops for work in upload.phases]).sum(0)
    each = [work.sequences_of_each() or () for work in upload.phases]
    result = []
    for n in range(len(group.rows)):
        own = slice(n, n + 1)
        numbers = [
            upload.weights[n], upload.votes[n] if upload.voted else 0.0, float(last.nats[n]), float(last.tokens[n]),
            sum(phase[n] for phase in each), float(flops[n]), group.sent[n],
        ]  # fmt: skip
        tensors, kept, residual = (
            {name: tensor[own].clone() for name, tensor in (part or {}).items()}
            for part in (upload.tensors, upload.kept, group.residual)
        )
        result.append(Cargo(tensors, upload.voted, kept, residual, torch.tensor(numbers, dtype=torch.float64)))
    return result


def packed(flights: Sequence[Flight], now: float, bases: Mapping[int, Tensors], ranks: Ranks) -> Tensors:
    """All clients at work as tensors for a checkpoint, the same in every process and for any number; by one exchange.

    Args:
        now: virtual seconds.
        bases: by version, the state of the server from which clients started.
    """
    loaded = [[flight for flight in flights if not flight.idle and flight.holder == rank] for rank in range(ranks.size)]
    own = [flight.cargo for flight in loaded[ranks.rank] if flight.cargo is not None]
    rows: Tensors = {}
    if own:
        rows["counts"] = torch.stack([cargo.counts for cargo in own])
        first = own[0]
        for tag in ("upload", "voted", "kept", "residual"):
            rows |= tagged(tag, {n: torch.cat([_part(cargo, tag)[n] for cargo in own]) for n in _part(first, tag)})
    rows = ranks.gather(rows, [len(part) for part in loaded])
    gathered = [flight for part in loaded for flight in part]
    order = sorted(range(len(gathered)), key=lambda n: gathered[n].order)
    rows = {name: tensor[order] for name, tensor in rows.items()}
    ordered = [gathered[n] for n in order] + [flight for flight in flights if flight.idle]
    place = {order: n for n, order in enumerate(sorted(flight.order for flight in flights))}
    common = [[float(getattr(flight._replace(order=place[flight.order]), name)) for name in COMMON] for flight in ordered]
    table = torch.tensor(common, dtype=torch.float64).reshape(len(ordered), len(COMMON))
    content = {"now": torch.tensor([now], dtype=torch.float64), "common": table, **rows}
    for version, state in bases.items():
        content |= tagged(f"base/{version}", state)
    return content


def _part(cargo: Cargo, tag: str) -> Tensors:
    """The tensors of a cargo by their place in a checkpoint."""
    if tag in ("upload", "voted"):
        return {name: tensor for name, tensor in cargo.tensors.items() if (name in cargo.voted) == (tag == "voted")}
    return cargo.kept if tag == "kept" else cargo.residual


def unpacked(content: Tensors, rank: int, processes: int) -> tuple[list[Flight], float, dict[int, Tensors]]:
    """What :func:`packed` was given: flights, virtual seconds, bases. Cargoes are dealt to the processes in turn."""
    voted, bases = tuple(untagged("voted", content)), {}
    parts = {tag: untagged(tag, content) for tag in ("upload", "voted", "kept", "residual")}
    flights = []
    for n, line in enumerate(content["common"].tolist()):
        row, version, order, end, lost, idle, received = line
        cargo, holder = None, n % processes
        if not idle and holder == rank:
            own = {tag: {name: t[n : n + 1].clone() for name, t in part.items()} for tag, part in parts.items()}
            tensors = own["upload"] | own["voted"]
            cargo = Cargo(tensors, voted, own["kept"], own["residual"], content["counts"][n].cpu())
        flights.append(Flight(int(row), int(version), int(order), end, bool(lost), bool(idle), int(received), holder, cargo))
    for version in sorted({flight.version for flight in flights}):
        bases[version] = untagged(f"base/{version}", content)
    return flights, float(content["now"]), bases


def wrong(content: Tensors, state: Tensors, kept: Tensors, residual: bool, clients: int, round: int) -> str:
    """What keeps tensors of a checkpoint of this round from being what :func:`packed` gave; empty where nothing does.

    Args:
        state: of the server.
        kept: [..], what a client keeps.
        residual: whether uploads are compressed.
        clients: how many may train.
    """
    if "common" not in content or content["common"].dim() != 2:
        return "it has no table of clients at work"
    table = content["common"].cpu()
    whole = torch.zeros(len(table), len(COMMON), dtype=torch.float64)
    if reason := files.unlike({"common": table}, {"common": whole}):
        return reason
    if not bool(table.isfinite().all()) or bool((table < 0).any()):
        return "its table of clients at work has numbers that are none"
    loaded = int((table[:, 5] == 0).sum())
    versions = sorted({int(version) for version in table[:, 1].tolist()})
    expected = {"common": whole, "now": torch.zeros(1, dtype=torch.float64)}
    if loaded:
        expected["counts"] = torch.zeros(loaded, len(COUNTS), dtype=torch.float64)
        uploads = [n for n in content if n.startswith(("upload/", "voted/"))]
        for name in uploads:
            of = state.get(name.partition("/")[2])
            if of is not None:
                expected[name] = of.expand(loaded, *of.shape)
        if any(name.startswith("kept/") for name in content):
            expected |= tagged("kept", {name: tensor.expand(loaded, *tensor.shape) for name, tensor in kept.items()})
        if residual:
            expected |= tagged("residual", {name: tensor.expand(loaded, *tensor.shape) for name, tensor in state.items()})
    for version in versions:
        expected |= tagged(f"base/{version}", state)
    if reason := files.unlike(content, expected):
        return reason
    rows = table[:, 0]
    if bool((rows >= clients).any()) or len(rows.unique()) < len(rows) or bool((table[:, 1] > round).any()):
        return "its clients at work are none of the run's"
    return ""
