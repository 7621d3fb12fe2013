"""The uploads of a round as the server gathers them, with what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.model.parameters import Rows, Tensors, nbytes, tagged, untagged
from flow.parallel.processes import Ranks
from flow.training.messages import Upload
from flow_kernels import training

VOTED = "voted/"


class Received(NamedTuple):
    """The upload of one group of clients, as it reached the server."""

    rows: Rows
    upload: Upload
    nbytes: int
    """Bytes these clients received for it."""
    lost: npt.NDArray[np.bool_] | None = None
    """bool [K]: the clients whose upload never came; None: all came."""
    data_seconds: float = 0.0
    """What reading and stacking these clients' data took."""
    training_seconds: float = 0.0
    """What their local work took."""
    sent: tuple[int, ...] | None = None
    """[K]: bytes that every client sent; None: its tensors as they are."""
    residual: Tensors | None = None
    """[K, ..]: what compression left out of every upload, which the client keeps."""
    seconds: npt.NDArray[np.float64] | None = None
    """float64 [K]: virtual time from the start of every client to the end of its upload; None: there is no clock."""
    early: npt.NDArray[np.bool_] | None = None
    """bool [K]: the clients that stopped early, to be in time; None: nobody would."""


@dataclass
class Uploads:
    """Uploads of one round: added up as they come, in float64, so that their order and grouping leave no trace; and one by
    one where that was asked for.

    Of a client whose upload was lost only what it received and computed is counted."""

    total: Tensors = field(default_factory=dict)
    """[3, ..]: the sum of every upload times its weight, see :func:`flow_kernels.training.accumulate_`. A tensor that counts by
    votes stands under "voted/<name>", and the sum of the votes under "voted/"."""
    each: Tensors = field(default_factory=dict)
    """[n, ..], clients in the order of `rows`; empty unless asked for."""
    rows: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [n]: numbers of the clients, ascending."""
    weights: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """float64 [n]"""
    client_nats: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """float64 [n]: sum of the losses over each client's tokens in its last phase."""
    tokens: float = 0.0
    """Of those sums; this and the next four are whole numbers, whose sums no order changes."""
    sequences: int = 0
    flops: float = 0.0
    upload_bytes: int = 0
    download_bytes: int = 0
    finite: bool = True
    """Whether the losses, and all that clients keep, are finite numbers."""
    data_seconds: float = 0.0
    """Sum over all workers, and so are those of training."""
    training_seconds: float = 0.0
    aggregation_seconds: float = 0.0

    @property
    def clients(self) -> int:
        """How many uploaded."""
        return len(self.rows)

    @property
    def nats(self) -> float:
        """The sum of the clients' losses, rounded once, so that their order leaves no trace."""
        return math.fsum(self.client_nats.tolist())

    def mean(self) -> Tensors:
        """The weighted mean, in float64; without the tensors for which nobody votes."""
        weight = float(self.weights.sum())
        means = {n: training.total_of(t).div_(weight) for n, t in self.total.items() if not n.startswith(VOTED)}
        votes = float(training.total_of(self.total[VOTED])) if VOTED in self.total else 0.0
        if votes:
            voted = untagged("voted", self.total)
            means |= {name: training.total_of(tensor).div_(votes) for name, tensor in voted.items() if name}
        return means


SUMS = (
    "tokens", "sequences", "flops", "upload_bytes", "download_bytes", "data_seconds", "training_seconds",
)  # fmt: skip


def collect(received: Iterable[Received], one_by_one: bool = False, buffers: Tensors | None = None) -> Uploads:
    """Add up the uploads of a round; with one_by_one keep every single one instead.

    buffers: what the sums of the round before were kept in, to be used again: fresh memory costs a page fault every 4 KiB.
    """
    buffers = {} if buffers is None else buffers
    uploads, parts, sums, voting = Uploads(), [], Sums(buffers), Sums(buffers)
    for group in received:
        started = time.perf_counter()
        rows, upload, lost, sent = group.rows, group.upload, group.lost, group.sent
        every, last = upload, upload.phases[-1]
        uploads.finite &= all_finite([last.nats, *(upload.kept or {}).values(), *(group.residual or {}).values()])
        operations = torch.stack([work.flops.sum() for work in upload.phases]).sum()
        numbers = torch.cat((last.nats, last.tokens, operations.unsqueeze(0))).cpu()  # a GPU is waited for once
        (nats, tokens), uploads.flops = numbers[:-1].view(2, -1), uploads.flops + float(numbers[-1])
        if lost is not None and lost.any():
            arrived = np.flatnonzero(~lost)
            index = torch.from_numpy(arrived)
            rows, every = rows[arrived], _only(upload, index)
            nats, tokens = nats[index], tokens[index]
            sent = None if sent is None else tuple(sent[n] for n in arrived.tolist())
        weights = torch.tensor(every.weights, dtype=torch.float64)
        device = next(iter(every.tensors.values())).device if every.tensors else weights.device
        if not one_by_one and len(weights):
            sums.add({name: tensor for name, tensor in every.tensors.items() if name not in every.voted}, weights.to(device))
            if every.voted:
                voting.add(_for_votes(every), torch.tensor(every.votes, dtype=torch.float64, device=device))
        parts.append((rows, weights, nats, every.tensors if one_by_one else {}))
        uploads.tokens += float(tokens.sum())
        uploads.sequences += sum(work.sequences for work in upload.phases)
        uploads.upload_bytes += nbytes(every.tensors) if sent is None else sum(sent)
        uploads.download_bytes += group.nbytes
        uploads.data_seconds += group.data_seconds
        uploads.training_seconds += group.training_seconds
        uploads.aggregation_seconds += time.perf_counter() - started
    if parts:
        started = time.perf_counter()
        uploads.total = {**sums.finished(), **voting.finished()}
        rows = np.concatenate([rows for rows, *_ in parts])
        uploads.weights = torch.cat([weights for _, weights, _, _ in parts])
        uploads.client_nats = torch.cat([nats for _, _, nats, _ in parts])
        uploads.each = {name: torch.cat([tensors[name] for *_, tensors in parts]) for name in parts[0][-1]}
        _sort(uploads, rows)
        uploads.aggregation_seconds += time.perf_counter() - started
    return uploads


def _for_votes(upload: Upload) -> Tensors:
    """The tensors that count by votes, and a one of every client, of which the sum is that of the votes."""
    voted = {name: upload.tensors[name] for name in upload.voted}
    first = next(iter(voted.values()))
    return tagged("voted", {**voted, "": torch.ones(len(first), dtype=first.dtype, device=first.device)})


def weighted_mean(each: Tensors, weights: Tensor) -> Tensors:
    """The weighted mean of n uploads [n, ..], in float64; weights: float64 [n]."""
    return weighted_sum(each, weights / weights.sum())


def weighted_sum(each: Tensors, shares: Tensor) -> Tensors:
    """The sum of n tensors [n, ..], each times its share, in float64."""
    return {name: torch.tensordot(shares.to(t.device), t.double(), dims=1) for name, t in each.items()}


class Sums:
    """Uploads added up, many in one pass over the sums, which takes longer than the passes over the uploads.

    buffers: memory to keep the sums in, by name; what it lacks is added.
    """

    PENDING = 32 << 20
    """Bytes of uploads that wait until they are added up together."""

    def __init__(self, buffers: Tensors) -> None:
        self._buffers = buffers
        self._waiting: list[tuple[Tensors, Tensor]] = []
        self._bytes = 0
        self._total: Tensors = {}

    def add(self, tensors: Tensors, weights: Tensor) -> None:
        """Add the uploads [K, ..] of at least one client, each times its weight, float64 [K]."""
        self._waiting.append((tensors, weights))
        self._bytes += nbytes(tensors)
        if self._bytes >= self.PENDING:
            self._pass()

    def finished(self) -> Tensors:
        """The sums [3, ..], see :func:`flow_kernels.training.accumulate_`."""
        if self._waiting:
            self._pass()
        return self._total

    def _pass(self) -> None:
        weights = [weights for _, weights in self._waiting]
        for name, first in self._waiting[0][0].items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty((3, *first.shape[1:]), dtype=torch.float64, device=first.device)
            total, uploads = self._buffers[name], [tensors[name] for tensors, _ in self._waiting]
            fresh = name not in self._total
            if training.refusal(first.dtype, first.device):
                _plain_accumulate_(total.zero_() if fresh else total, uploads, weights)
            else:
                training.accumulate_(total, uploads, weights, fresh=fresh)
            self._total[name] = total
        self._waiting, self._bytes = [], 0


def _plain_accumulate_(total: Tensor, uploads: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """:func:`flow_kernels.training.accumulate_` in plain PyTorch, on any device."""
    for stacked, factors in zip(uploads, weights, strict=True):
        for weight, upload in zip(factors.tolist(), stacked, strict=True):
            total += training.split(weight * upload.double())


def _only(upload: Upload, index: Tensor) -> Upload:
    """The uploads of some of the clients."""
    tensors = {name: tensor[index.to(tensor.device)] for name, tensor in upload.tensors.items()}
    votes = [upload.votes[n] for n in index.tolist()] if upload.voted else ()
    return upload._replace(tensors=tensors, weights=[upload.weights[n] for n in index.tolist()], votes=votes)


def _sort(uploads: Uploads, rows: Rows) -> None:
    """Put clients into the order of their numbers."""
    order = np.argsort(rows)
    index = torch.from_numpy(order)
    uploads.rows, uploads.weights, uploads.client_nats = rows[order], uploads.weights[index], uploads.client_nats[index]
    uploads.each = {name: tensor[index.to(tensor.device)] for name, tensor in uploads.each.items()}


def combine(ranks: Ranks, uploads: Uploads, parts: Sequence[Rows]) -> None:
    """Make of what this process collected what all of them did together, the same in every process.

    One reduction; uploads that are needed one by one take one exchange more.

    Args:
        found: of this process; changed in place.
        parts: by process, the numbers of the clients whose uploads arrived, ascending.
    """
    if ranks.size == 1:
        return
    started, counts = time.perf_counter(), [len(rows) for rows in parts]
    begin = sum(counts[: ranks.rank])
    numbers = torch.zeros(len(SUMS) + 1 + 2 * sum(counts), dtype=torch.float64)
    numbers[: len(SUMS)] = torch.tensor([getattr(uploads, name) for name in SUMS], dtype=torch.float64)
    numbers[len(SUMS)] = not uploads.finite
    own, of_clients = slice(begin, begin + counts[ranks.rank]), numbers[len(SUMS) + 1 :].view(2, -1)
    of_clients[:, own] = torch.stack((uploads.weights, uploads.client_nats))
    numbers, uploads.total = ranks.sum(numbers, uploads.total, all(counts))
    for name, value in zip(SUMS, numbers.tolist(), strict=False):
        setattr(uploads, name, type(getattr(uploads, name))(value))
    uploads.finite, (uploads.weights, uploads.client_nats) = not numbers[len(SUMS)], numbers[len(SUMS) + 1 :].view(2, -1)
    uploads.each = ranks.gather(uploads.each, counts)
    _sort(uploads, np.concatenate(parts))
    uploads.aggregation_seconds += time.perf_counter() - started


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of these tensors is finite; a GPU is waited for once."""
    own = [tensor for tensor in tensors if tensor.numel()]
    if all(tensor.device.type == "cpu" for tensor in own):
        return all(bool(tensor.isfinite().all()) for tensor in own)
    return bool(torch.stack([tensor.isfinite().all() for tensor in own]).all())
