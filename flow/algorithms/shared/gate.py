"""A gate at the output: at every token it mixes the probabilities of several experts, each with a recurrence of its own.

    p(w) = sum_e g_e p_e(w),   g = softmax(A tanh(B f + b) + a)

The features f of a token are those of flow/algorithms/shared/experts.py. The gate is small. It is trained and federated as the
routers of the cell are: on text that the experts have not seen, while the experts stay as they are. A mixture of experts with a
gating network is that of Jacobs et al. (Neural Computation 3, 1991); private and global expert so mixed: Peterson et al. 2019
(arXiv 1912.06733).

On a GPU flow/algorithms/shared/gate_at_once.py computes the same for all clients at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flow.algorithms.shared import gate_at_once
from flow.algorithms.shared.experts import (
    Expert,
    Experts,
    Listener,
    Views,
    contexts,
    features_of,
    hardened,
    of_client,
    width,
)
from flow.algorithms.shared.memory import Ints, Memory
from flow.draws import Draw
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors
from flow.training.adam import optimizer_of
from flow.training.batches import Batch, Data, batches
from flow.training.messages import Answers, View
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd
from flow.training.threads import linear, one_thread

HIDDEN = 16

NO_TOKENS: Ints = np.zeros(0, np.int64)


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


def train(gate: Tensors, experts: Experts, data: Data, sgd: Sgd, draw: Draw) -> Work:
    """Train the gates [K, ..] of K clients in place, by the likelihood of their data; nothing else moves.

    What the experts say is computed once. The batches' order of client c comes from ``draw.stream("shuffle", "gate", c)``.
    """
    tally = Tally(data)
    if gate_at_once.able(experts):
        seen_tokens = gate_at_once.train(gate, experts, data, sgd, draw, tally)
    else:
        seen_tokens = _train_one_by_one(gate, experts, data, sgd, draw, tally)
    own = HIDDEN * (4 * gate["gate/hidden_weight"].shape[-1] + 6 * experts.size)  # the features need no gradient
    looks = sum(per_token(experts.model, network.route) for network in experts.networks)
    work = tally.work(sgd.epochs * sum(data.sizes()), own)
    return work._replace(flops=work.flops + seen_tokens * looks)


def _train_one_by_one(gate: Tensors, experts: Experts, data: Data, sgd: Sgd, draw: Draw, tally: Tally) -> Tensor:
    """One client after the other; counts what it does in `tally`, and returns how many tokens the experts have read, [K]."""
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
    return seen_tokens


def _descend(
    gates: Tensors, client: int, rows: Sequence[Tensor], count: int, sgd: Sgd, order: np.random.Generator
) -> tuple[float, int]:
    """SGD, or Adam, on one client's gate; rows: of every sequence [n, F + E], features and logarithms of probabilities."""
    gate = {name: tensor[client].clone().requires_grad_() for name, tensor in gates.items()}
    optimizer = optimizer_of(gate.values(), sgd)
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
    if gate_at_once.able(experts):
        return gate_at_once.answering(gates, experts, routing)

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
