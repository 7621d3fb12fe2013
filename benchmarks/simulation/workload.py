"""What everybody in the race computes, as numbers alone: sizes, tokens, first weights, which clients in which round and their
sequences in which order. Needs numpy and nothing else: rivals live in environments of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = dict[str, Array]
Phase = Literal["order", "support", "query"]
GRU = ("gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0")


@dataclass(frozen=True)
class Sizes:
    """Next-word prediction: embedding -> GRU -> linear projection -> vocabulary; every sequence is full."""

    vocabulary: int = 2000
    embedding: int = 96
    hidden: int = 256
    projection: int = 96
    """0: none, the vocabulary's scores come from the GRU's state."""
    clients: int = 200
    sequences: int = 64
    """Of each client, on average where `spread` is above 0."""
    steps: int = 20
    cohort: int = 20
    batch: int = 16
    lr: float = 0.1
    spread: float = 0.0
    """Standard deviation of the logarithm of a client's number of sequences; 0: all clients have as many."""

    @property
    def flops(self) -> int:
        """Of a sequence trained on: the products of its forward pass, and as many twice for the two gradients."""
        out = self.projection or self.hidden
        gru = 2 * 3 * self.hidden * (self.embedding + self.hidden)
        head = 2 * out * self.vocabulary + (2 * self.hidden * self.projection)
        return 3 * self.steps * (gru + head)

    def __post_init__(self) -> None:
        if not self.spread and self.sequences % (2 * self.batch):
            raise ValueError(f"sequences={self.sequences} must be a multiple of 2 * batch={2 * self.batch}: no batch is short")
        if self.cohort > self.clients:
            raise ValueError(f"cohort={self.cohort} is more than clients={self.clients}; lower it")


FULL = Sizes()
QUICK = Sizes(cohort=4)
UNEQUAL = Sizes(vocabulary=10_000, spread=1.0)
TINY = Sizes(60, 8, 12, 6, clients=6, sequences=8, steps=5, cohort=3, batch=2)
TINY_UNEQUAL = replace(TINY, spread=1.0)


@dataclass(frozen=True)
class Plan:
    """A race as it is handed to its runners. R rounds of C clients."""

    sizes: Sizes
    tokens: Array
    """int32 [clients, most sequences of one, steps + 1]; 0 after a client's last sequence."""
    heldout: Array
    """int32 [64, steps + 1]: what the final models are compared on."""
    cohorts: Array
    """int64 [R, C]"""
    order: Array
    """int64 [R, C, most sequences]: a client's sequences in the order in which FedAvg's batches take them, then -1."""
    support: Array
    """int64 [R, C, most sequences / 2]: those that make Flow's local expert, likewise."""
    query: Array
    """int64 [R, C, most sequences / 2]: those that train its router and its global weights, likewise."""
    weights: Weights
    """The server's first state, for FedAvg and for Flow: names of the first have no prefix, those of the second "flow:"."""
    gamma: float
    """Of Flow's regulariser."""

    def start(self, algorithm: str) -> Weights:
        """The first weights of "fedavg" or "flow"."""
        prefix = "flow:" if algorithm == "flow" else ""
        names = [name for name in self.weights if name.startswith("flow:") == bool(prefix)]
        return {name.removeprefix(prefix): self.weights[name] for name in names}

    def visit(self, phase: Phase, round: int, place: int) -> Array:
        """int32 [n, steps + 1]: the sequences that a client of the cohort trains on, in the order of its batches."""
        rows = getattr(self, phase)[round, place]
        visited: Array = self.tokens[self.cohorts[round, place]][rows[rows >= 0]]
        return visited

    def counts(self, phase: Phase, round: int) -> Array:
        """int64 [C]: how many sequences each client of the cohort trains on."""
        counted: Array = (getattr(self, phase)[round] >= 0).sum(-1)
        return counted

    def shares(self, algorithm: str, round: int) -> Array:
        """float64 [C]: what each client of the cohort counts in the mean of its round, by the sequences that train the
        uploaded weights."""
        counts = self.counts("query" if algorithm == "flow" else "order", round)
        shares: Array = counts / counts.sum()
        return shares

    def deal(self, round: int, processes: int) -> list[list[int]]:
        """Places of the cohort for each process: the next largest client goes to the process with the least to do."""
        dealt: list[list[int]] = [[] for _ in range(processes)]
        counts, load = self.counts("order", round), [0] * processes
        for place in np.argsort(-counts, kind="stable").tolist():
            process = load.index(min(load))
            dealt[process].append(place)
            load[process] += int(counts[place])
        return dealt

    def sequences(self, rounds: Sequence[int]) -> float:
        """Of a cohort, on average over these rounds."""
        return sum(int(self.counts("order", round).sum()) for round in rounds) / len(rounds)

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ARRAYS} | {f"w:{n}": w for n, w in self.weights.items()}
        head = json.dumps({"sizes": asdict(self.sizes), "gamma": self.gamma})
        np.savez(path, head=np.frombuffer(head.encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> Plan:
        with np.load(path) as file:
            head = json.loads(file["head"].tobytes())
            weights = {name[2:]: file[name] for name in file.files if name.startswith("w:")}
            arrays = {name: file[name] for name in ARRAYS}
        return cls(sizes=Sizes(**head["sizes"]), weights=weights, gamma=head["gamma"], **arrays)


ARRAYS = ("tokens", "heldout", "cohorts", "order", "support", "query")


def unigram(sizes: Sizes) -> npt.NDArray[np.float64]:
    """Frequencies that fall about as those of words do."""
    p = 1.0 / (np.arange(sizes.vocabulary) + 10.0)
    frequencies: npt.NDArray[np.float64] = p / p.sum()
    return frequencies


def counts(sizes: Sizes) -> Array:
    """int64 [clients]: how many sequences each client has, at least 2; lognormal where they differ."""
    if not sizes.spread:
        return np.full(sizes.clients, sizes.sequences, np.int64)
    middle = math.log(sizes.sequences) - sizes.spread**2 / 2
    drawn = np.random.default_rng(5).lognormal(middle, sizes.spread, sizes.clients)
    return np.maximum(np.rint(drawn), 2).astype(np.int64)


def tokens(sizes: Sizes) -> Array:
    """int32 [clients, most sequences of one, steps + 1], 0 after a client's last sequence: of every ten words three are moved
    by an offset that is the client's own."""
    rng = np.random.default_rng(0)
    own_counts = counts(sizes)
    shape = (sizes.clients, int(own_counts.max()), sizes.steps + 1)
    common = rng.choice(sizes.vocabulary, size=shape, p=unigram(sizes))
    offset = rng.integers(0, sizes.vocabulary, size=(sizes.clients, 1, 1))
    own = rng.random(shape) < 0.3
    words = np.where(own, (common + offset) % sizes.vocabulary, common).astype(np.int32)
    words[np.arange(shape[1]) >= own_counts[:, None]] = 0
    return words


def heldout(sizes: Sizes) -> Array:
    """int32 [64, steps + 1]"""
    rng = np.random.default_rng(99)
    return rng.choice(sizes.vocabulary, size=(64, sizes.steps + 1), p=unigram(sizes)).astype(np.int32)
