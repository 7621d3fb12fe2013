"""A gate at the output: at every token it mixes the probabilities of several experts, each with a recurrence of its own.

    p(w) = sum_e g_e p_e(w),   g = softmax(A tanh(B f + b) + a)

The features f of a token come from the experts' own distributions and from how often the client used the previous word. The
gate is small. It is trained and federated as the routers of the cell are: on text that the experts have not seen, while the
experts stay as they are. A mixture of experts with a gating network is that of Jacobs et al. (Neural Computation 3, 1991);
private and global expert so mixed: Peterson et al. 2019 (arXiv 1912.06733).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flow.algorithms.shared.memory import NONE, Ints, Memory
from flow.draws import Draw
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors
from flow.training.batches import Batch, Data, batches
from flow.training.fused import Fused, refusal
from flow.training.messages import Answers, View
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd
from flow.training.threads import linear, one_thread

HIDDEN = 16
WORDS, SEQUENCES = (
    math.log(1000),
    math.log(100),
)  # logarithms of counts are divided by these, so that features are of the order of 1


NO_TOKENS: Ints = np.zeros(0, np.int64)

SPREAD = 4.0
"""Features between 0 and 1 have standard deviations near 0.25; times this the gate learns from them at the routers' rate."""


class Expert(NamedTuple):
    """One expert of K clients."""

    parameters: Tensors
    """[K, ..]"""
    route: Route


class Experts(NamedTuple):
    """What a gate chooses from."""

    model: Model
    networks: tuple[Expert, ...]
    memories: tuple[Memory, ...]
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


def initial(networks: int, memory: bool, seed: int, like: Tensor) -> Tensors:
    """The gate before any training: every expert weighs the same."""
    size, drawn = width(networks, memory), Draw(seed, 0, "gate").stream()
    bound = 1 / math.sqrt(size)
    return {
        "gate/hidden_weight": torch.from_numpy(drawn.uniform(-bound, bound, (HIDDEN, size))).to(like),
        "gate/hidden_bias": torch.zeros(HIDDEN).to(like),
        "gate/weight": torch.zeros(networks + memory, HIDDEN).to(like),
        "gate/bias": torch.zeros(networks + memory).to(like),
    }


def constant(shares: Sequence[float], clients: int, like: Tensor) -> Tensors:
    """Gates that give every expert the same weight at all tokens; the shares add up to 1."""
    bias = torch.tensor(shares, dtype=torch.float64).log().to(like)
    return {"gate/bias": bias.expand(clients, -1)}


def names_of(tensors: Tensors) -> tuple[str, ...]:
    """The names of a gate's parameters among others."""
    return tuple(name for name in tensors if name.startswith("gate/"))


def remembered(data: Data, vocabulary_size: int, most: int) -> tuple[Memory, ...]:
    """The memory of every client's sequences, whose rows are in the order of time, whatever order a split gave them.

    Of texts with labels it holds the tokens; what has a label of its own is the text, and no token.
    """
    tokens, lengths = data.tokens.cpu().numpy(), data.lengths.cpu().numpy()
    if data.labelled:
        tokens, lengths = tokens[:, :-1], lengths - 1
    return tuple(Memory(tokens[rows], lengths[rows], vocabulary_size, most) for rows in map(np.sort, data.rows))


def scores(gate: Tensors, features: Tensor) -> Tensor:
    """[n, E]: one client's gate before the softmax; features: [n, F]."""
    if "gate/weight" not in gate:
        return gate["gate/bias"].expand(len(features), -1)
    hidden = torch.tanh(linear(features, gate["gate/hidden_weight"], gate["gate/hidden_bias"]))
    return linear(hidden, gate["gate/weight"], gate["gate/bias"])


def weights(gate: Tensors, features: Tensor, routing: str = "soft") -> Tensor:
    """[n, E]: how much each expert counts; hard: 1 for the one that weighs most."""
    values = scores(gate, features)
    return hardened(values) if routing == "hard" else values.softmax(1)


def hardened(scores: Tensor) -> Tensor:
    """[n, E]: 1 for the expert that weighs most, 0 for the others; of equals the first."""
    return F.one_hot(scores.argmax(1), scores.shape[1]).to(scores)


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


def train(gate: Tensors, experts: Experts, data: Data, sgd: Sgd, draw: Draw) -> Work:
    """Train the gates [K, ..] of K clients in place, by the likelihood of their data; nothing else moves.

    What the experts say is computed once. The batches' order of client c comes from ``draw.stream("shuffle", "gate", c)``.
    """
    tally = Tally(data)
    seen_tokens = torch.zeros_like(tally.tokens)
    parts: list[list[Tensor]] = [[] for _ in data.ids]
    listener = Listener(experts)
    with torch.no_grad():
        for batch in batches(data, sgd.batch_size):
            _, views = listener.read(batch)
            seen_tokens[: len(batch.lengths)] += batch.read().sum((1, 2))
            for client in range(len(batch.lengths)):
                if not bool(batch.valid[client].any()):
                    continue
                seen = views(client)
                targets = batch.targets[client][batch.valid[client]].unsqueeze(1)
                chances = [log_p.gather(1, targets).squeeze(1) for log_p in seen.networks]
                if experts.recalls:
                    p = experts.memories[client].chance(*contexts(batch, client), targets.squeeze(1).cpu().numpy())
                    chances.append(torch.from_numpy(p).log().to(chances[0]))
                sizes = batch.valid[client].sum(1).tolist()
                together = torch.cat([seen.features, torch.stack(chances, 1)], 1)
                parts[client] += [rows for rows, size in zip(torch.split(together, sizes), sizes, strict=True) if size]
    for client, (id, rows) in enumerate(zip(data.ids, parts, strict=True)):
        if rows:
            nats, tokens = _descend(gate, client, rows, experts.size, sgd, draw.stream("shuffle", "gate", id))
            tally.nats[client], tally.tokens[client], tally.read[client] = nats, tokens, tokens
    own = HIDDEN * (4 * gate["gate/hidden_weight"].shape[-1] + 6 * experts.size)  # the features need no gradient
    looks = sum(per_token(experts.model, network.route) for network in experts.networks)
    work = tally.work(sgd.epochs * sum(data.sizes()), own)
    return work._replace(flops=work.flops + seen_tokens * looks)


def _descend(
    gates: Tensors, client: int, rows: Sequence[Tensor], count: int, sgd: Sgd, order: np.random.Generator
) -> tuple[float, int]:
    """SGD on one client's gate; rows: of every sequence [n, F + E], features and logarithms of probabilities."""
    gate = {name: tensor[client].clone().requires_grad_() for name, tensor in gates.items()}
    optimizer = torch.optim.SGD(gate.values(), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    nats, tokens = 0.0, 0
    with torch.enable_grad(), one_thread():
        for _ in range(sgd.epochs):
            shuffled = order.permutation(len(rows))
            for start in range(0, len(rows), sgd.batch_size):
                taken = torch.cat([rows[n] for n in shuffled[start : start + sgd.batch_size]])
                features, log_p = taken[:, :-count], taken[:, -count:]
                mixed = torch.logsumexp(scores(gate, features).log_softmax(1) + log_p, 1)
                loss = -mixed.mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                if sgd.clip:
                    gradients = [gradient.grad for gradient in gate.values() if gradient.grad is not None]
                    shrink = float(sgd.clip / torch.nn.utils.get_total_norm(gradients).clamp_min(sgd.clip))
                    for gradient in gradients:
                        gradient *= shrink
                optimizer.step()
                nats, tokens = nats + float(loss.detach()) * len(taken), tokens + len(taken)
    for name, tensor in gate.items():
        gates[name][client] = tensor.detach()
    return nats, tokens


def answering(gates: Tensors, experts: Experts, routing: str) -> Callable[[Batch], Answers]:
    """How K clients predict with their experts mixed by their gates [K, ..]; hard: by the one that weighs most at the token."""

    def share(batch: Batch, client: int, seen: Views) -> Tensor:
        return weights({name: tensor[client] for name, tensor in gates.items()}, seen.features, routing)

    return blending(Listener(experts, routing, features="gate/weight" in gates), share)


def blending(listener: Listener, share_of: Callable[[Batch, int, Views], Tensor]) -> Callable[[Batch], Answers]:
    """How K clients predict with their experts mixed.

    share_of: (batch, client, what the experts say of its n valid targets) -> [n, E], how much each expert counts.
    """
    experts = listener.experts

    @torch.no_grad()
    def answers(batch: Batch) -> Answers:
        routings, views = listener.read(batch)
        shape, like = batch.valid.shape, next(iter(experts.networks[0].parameters.values()))
        tokens, rank = torch.full((2, *shape), -1, device=like.device)
        local_weight, nats, probability = torch.zeros(3, *shape, dtype=like.dtype, device=like.device)
        for client in range(shape[0]):
            valid = batch.valid[client]
            if not bool(valid.any()):
                continue
            seen = views(client)
            share = share_of(batch, client, seen)
            p = mixture(experts, client, seen.networks, share, *contexts(batch, client))
            top = p.max(1)
            own = p.gather(1, batch.targets[client][valid].unsqueeze(1)).squeeze(1)
            tokens[client][valid], probability[client][valid] = top.indices, top.values
            rank[client][valid] = torch.where(own.isnan(), p.shape[1], (p > own.unsqueeze(1)).sum(1))
            nats[client][valid] = -own.clamp(torch.finfo(own.dtype).tiny, 1).log()
            to_local = torch.stack([q[client][valid][:, 1] for q in routings], 1)
            local_weight[client][valid] = (share[:, : len(routings)] * to_local).sum(1)
        return Answers(tokens, local_weight, nats, probability, rank)

    return answers


def mixture(experts: Experts, client: int, networks: Sequence[Tensor], share: Tensor, second: Ints, first: Ints) -> Tensor:
    """[n, V]: the mixture of one client's experts; second, first: [n], the last two tokens, which the memory asks for."""
    p = torch.zeros_like(networks[0])
    for place, log_p in enumerate(networks):
        p.addcmul_(log_p.exp(), share[:, place : place + 1])
    if experts.recalls:
        memory, weight = experts.memories[client], share[:, -1]
        votes = memory.after(second, first)
        back = torch.from_numpy(votes.back).to(weight) * weight
        p += (back * memory.floor).unsqueeze(1)
        words = torch.from_numpy(memory.words).to(p.device)
        p.index_add_(1, words, torch.outer(back, torch.from_numpy(memory.unigram).to(back)))
        rows = torch.from_numpy(votes.rows).to(p.device)
        entries = torch.from_numpy(votes.shares).to(weight) * weight[rows]
        p.index_put_((rows, torch.from_numpy(votes.words).to(p.device)), entries, accumulate=True)
    return p


@dataclass(frozen=True, eq=False)
class Gated:
    """How K clients predict with their experts mixed by their gates; it can be stored and followed token by token."""

    gates: Tensors
    """[K, ..]"""
    experts: Experts

    def __call__(self, routing: str) -> Callable[[Batch], Answers]:
        return answering(self.gates, self.experts, routing)

    @property
    def networks(self) -> Sequence[tuple[Tensors, Route]]:
        """See :class:`flow.training.messages.Mixture`, likewise the others."""
        return self.experts.networks

    @property
    def holds(self) -> str:
        if not self.experts.memories:
            return ""
        return (
            "counts of the single words, pairs and triples of words" if self.experts.recalls else "counts of the single words"
        )

    @property
    def refusal(self) -> str:
        return "it looks n-grams of the client's texts up, which a graph does not hold" if self.experts.recalls else ""

    def stored(self) -> Tensors:
        tensors = {name: gate[0] for name, gate in self.gates.items()}
        tensors["sequences"] = torch.tensor(self.experts.sequences[0])
        for memory in self.experts.memories[:1]:
            arrays = memory.stored(self.experts.recalls)
            tensors |= {f"memory/{name}": torch.from_numpy(array) for name, array in arrays.items()}
        return tensors

    def mixed(self, views: Sequence[View], before: Tensor, token: Tensor, routing: str) -> tuple[Tensor, Tensor]:
        networks, gate = [view.log_p for view in views], {name: tensor[0] for name, tensor in self.gates.items()}
        contexts = (before.numpy(), token.numpy()) if self.experts.recalls else (NO_TOKENS, NO_TOKENS)
        features = networks[0][:, :0]
        if "gate/weight" in gate:
            own = of_client(self.experts, 0, *contexts) if self.experts.recalls else [table[token] for table in self._tables]
            features = features_of(networks, [column.to(networks[0]) for column in own])
        share = weights(gate, features, routing)
        to_local = torch.stack([view.local_weight for view in views], 1)
        return mixture(self.experts, 0, networks, share, *contexts), (share[:, : len(views)] * to_local).sum(1)

    @cached_property
    def _tables(self) -> list[Tensor]:
        """Float64 [V] each: what :func:`of_client` says of every token, where it does not depend on the one before."""
        every = np.arange(self.experts.model.vocabulary_size)
        return of_client(self.experts, 0, every, every)


def restored(model: Model, networks: tuple[Expert, ...], recalls: bool, stored: Tensors) -> Gated:
    """One client's mixture of which :meth:`Gated.stored` gave these tensors.

    Raises:
        KeyError, ValueError: they are none that it gives.
    """
    arrays = {name.removeprefix("memory/"): t.numpy() for name, t in stored.items() if name.startswith("memory/")}
    memories = (Memory.restored(arrays, model.vocabulary_size),) if arrays else ()
    gates = {name: tensor.unsqueeze(0) for name, tensor in stored.items() if name.startswith("gate/")}
    experts = Experts(model, networks, memories, recalls, (int(stored["sequences"]),))
    expected = (len(networks) + recalls,)
    if tuple(gates["gate/bias"].shape[1:]) != expected:
        raise ValueError(f"gate/bias is {list(gates['gate/bias'].shape[1:])} and must be {list(expected)}")
    return Gated(gates, experts)
