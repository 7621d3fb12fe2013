"""What a gate at the output chooses from: the experts of K clients, and what they say of a token.

The features of a token come from the experts' own distributions, and from how often the client used the previous word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flow.algorithms.shared.memory import NONE, Ints, Memory
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors
from flow.training.batches import Batch, Data
from flow.training.fused import Fused, refusal

WORDS, SEQUENCES = (
    math.log(1000),
    math.log(100),
)  # logarithms of counts are divided by these, so that features are of the order of 1


SPREAD = 4.0
"""Features between 0 and 1 have standard deviations near 0.25; times this the gate learns from them at the routers' rate."""


class Expert(NamedTuple):
    """One expert of K clients."""

    parameters: Tensors
    """[K, ..]"""
    route: Route


class Memories(Sequence[Memory]):
    """The memories of K clients, counted on the host when one of them is asked for.

    Args:
        data: the sequences that they hold, whose rows are in the order of time, whatever order a split gave them.
        vocabulary_size, most: see :class:`flow.algorithms.shared.memory.Memory`.
    """

    def __init__(self, data: Data, vocabulary_size: int, most: int) -> None:
        self.data, self.vocabulary_size, self.most = data, vocabulary_size, most

    @cached_property
    def _counted(self) -> tuple[Memory, ...]:
        data = self.data
        tokens, lengths = data.tokens.cpu().numpy(), data.lengths.cpu().numpy()
        if data.labelled:  # what has a label of its own is the text, and no token
            tokens, lengths = tokens[:, :-1], lengths - 1
        ordered = map(np.sort, data.rows)
        return tuple(Memory(tokens[rows], lengths[rows], self.vocabulary_size, self.most) for rows in ordered)

    def __len__(self) -> int:
        return len(self.data.ids)

    @overload
    def __getitem__(self, client: int) -> Memory: ...

    @overload
    def __getitem__(self, client: slice) -> Sequence[Memory]: ...

    def __getitem__(self, client: int | slice) -> Memory | Sequence[Memory]:
        return self._counted[client]


class Experts(NamedTuple):
    """What a gate chooses from."""

    model: Model
    networks: tuple[Expert, ...]
    memories: Sequence[Memory]
    """By client, counts of its words; empty where neither the gate nor a mixture asks for them."""
    recalls: bool
    """Whether the memory is an expert too, the last one."""
    sequences: tuple[int, ...]
    """By client, how many it has."""

    @property
    def size(self) -> int:
        """How many experts there are."""
        return len(self.networks) + self.recalls


class Views(NamedTuple):
    """What the experts of one client say of n tokens."""

    features: Tensor
    """[n, F]; [n, 0] where nobody asks for them."""
    networks: Sequence[Tensor]
    """[n, V] by network: the logarithms of its probabilities."""


def width(networks: int, memory: bool) -> int:
    """How many features a gate over so many networks, and a memory, has."""
    return 2 * networks + 4 * (networks * (networks - 1) // 2) + 2 + 3 * memory


class Listener:
    """Evaluates all experts of K clients on batch after batch."""

    def __init__(self, experts: Experts, routing: str = "soft", features: bool = True) -> None:
        self.experts, self.routing, self.features = experts, routing, features
        self._fused: list[tuple[Expert, Fused | None]] = []
        for network in experts.networks:
            by_kernels = not refusal(experts.model, network.parameters)
            plain = {name: t.contiguous() if by_kernels else t for name, t in network.parameters.items()}
            self._fused.append(
                (network._replace(parameters=plain), Fused(experts.model, network.route) if by_kernels else None)
            )

    def read(self, batch: Batch) -> tuple[list[Tensor], Callable[[int], Views]]:
        """The routing [k, B, T, 2] of every network's GRU, and for a client the views of its valid targets."""
        every = [self._logits(network, fused, batch) for network, fused in self._fused]

        def views(client: int) -> Views:
            networks = [F.log_softmax(logits(client), 1) for _, logits in every]
            if not self.features:
                return Views(networks[0][:, :0], networks)
            own = of_client(self.experts, client, *contexts(batch, client))
            return Views(features_of(networks, [column.to(networks[0]) for column in own]), networks)

        return [q for q, _ in every], views

    def _logits(self, network: Expert, fused: Fused | None, batch: Batch) -> tuple[Tensor, Callable[[int], Tensor]]:
        """The GRU's routing, and a client's logits [n, V], computed when asked for: those of all would take much memory."""
        model, active = self.experts.model, {name: t[: len(batch.lengths)] for name, t in network.parameters.items()}
        if fused is None:
            routing = {"route": network.route, "routing": self.routing}
            out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), routing)
            return out.gru_routing, lambda client: out.logits[client][batch.valid[client]]
        states = fused.states(active, batch, self.routing)
        return states.q, lambda client: fused.logits(active, states, batch, client)


def features_of(networks: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """[n, F]; what lies between 0 and 1 is brought to -2 to 2.

    Every network has two features: its entropy over the largest possible one, and its largest probability. Every pair of
    networks has whether they agree, the probability that each gives the other's choice, and log(1 + J / 2), with J their
    symmetric Kullback-Leibler divergence. What the client adds says :func:`of_client`.

    Args:
        networks: [n, V] by network, the logarithms of its probabilities.
        own: [n] each, what the client adds.
    """
    columns, p = [], [log_p.exp() for log_p in networks]
    entropies = [-torch.linalg.vecdot(probabilities, log_p) for probabilities, log_p in zip(p, networks, strict=True)]
    tops = [probabilities.max(1) for probabilities in p]
    for entropy, top in zip(entropies, tops, strict=True):
        columns += [entropy / math.log(networks[0].shape[1]), top.values]
    for a, b in combinations(range(len(networks)), 2):
        cross = torch.linalg.vecdot(p[a], networks[b]) + torch.linalg.vecdot(p[b], networks[a])
        chosen = [top.indices.unsqueeze(1) for top in (tops[a], tops[b])]
        columns += [
            (chosen[0] == chosen[1]).squeeze(1),
            p[a].gather(1, chosen[1]).squeeze(1),
            p[b].gather(1, chosen[0]).squeeze(1),
            torch.log1p((-(entropies[a] + entropies[b] + cross) / 2).clamp_min(0)),
        ]
    return SPREAD * torch.stack([*(column.to(networks[0]) for column in columns), *own], dim=1) - SPREAD / 2


def of_client(experts: Experts, client: int, second: Ints, first: Ints) -> list[Tensor]:
    """Float64 [n] each: the logarithms of how often a client used the previous word and of its number of sequences. The memory
    has the logarithms of how often it met the contexts, and its largest probability.

    second, first: [n], the last two tokens, the older one first.
    """
    memory = experts.memories[client]
    own = [
        np.log1p(memory.often(first)) / WORDS,
        np.full(len(first), math.log1p(experts.sequences[client]) / SEQUENCES),
    ]
    if experts.recalls:
        votes = memory.after(second, first)
        own += [*(np.log1p(votes.seen) / WORDS), votes.top]
    return [torch.from_numpy(column) for column in own]


def contexts(batch: Batch, client: int) -> tuple[Ints, Ints]:
    """int64 [n] twice: the last two tokens before every valid target, the older one first, NONE where there is none."""
    inputs, valid = batch.inputs[client].cpu().numpy(), batch.valid[client].cpu().numpy()
    before = np.concatenate([np.full((len(inputs), 1), NONE), inputs[:, :-1]], axis=1)
    return before[valid], inputs[valid]


def hardened(scores: Tensor) -> Tensor:
    """[.., E]: 1 for the expert that weighs most, 0 for the others; of equals the first."""
    places = torch.arange(scores.shape[-1], device=scores.device)
    return (places == scores.argmax(-1, keepdim=True)).to(scores)
