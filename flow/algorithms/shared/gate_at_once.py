"""The gates at the output of K clients on a GPU, all of them at once: no number is read, and no shape depends on one.

The arithmetic is that of flow/algorithms/shared/gate.py, which goes client by client. What does not count is masked here, where
it is left out there. What a client remembers is looked up by comparing contexts with all that it met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flow.algorithms.shared.experts import SEQUENCES, WORDS, Experts, Memories, features_of, hardened
from flow.algorithms.shared.memory import NONE
from flow.draws import Draw
from flow.model.language_model import linear
from flow.model.parameters import Tensors
from flow.training.batches import Batch, Data, batches, sent
from flow.training.descent import Descent
from flow.training.fused import Fused, HeadInput, by_gpu, pieces
from flow.training.messages import Answers
from flow.training.records import Tally
from flow.training.sgd import Sgd, Update

HIDDEN = HIDDEN_WEIGHT, HIDDEN_BIAS = "gate/hidden_weight", "gate/hidden_bias"
OUTPUT = WEIGHT, BIAS = "gate/weight", "gate/bias"


def able(experts: Experts) -> bool:
    """Whether a GPU's kernels compute all networks, and the texts behind the memories are there: those of a file are not."""
    if experts.memories and not isinstance(experts.memories, Memories):
        return False
    return all(by_gpu(experts.model, network.parameters) for network in experts.networks)


class Met(NamedTuple):
    """What K clients have read: the newest words, each with the two before it."""

    before: Tensor
    """int64 [K, E]; NONE where a sequence begins with `first`."""
    first: Tensor
    """int64 [K, E]"""
    word: Tensor
    """int64 [K, E]"""
    counts: Tensor
    """bool [K, E]: False for places that only fill up."""
    single: Tensor
    """float32 [K, V]: how often each word occurred."""


class Recalled(NamedTuple):
    """The memories of k clients after n contexts, see :mod:`flow.algorithms.shared.memory`."""

    p: Tensor
    """[k, n, V]"""
    seen: tuple[Tensor, Tensor]
    """[k, n] twice: how often the context of one word, and that of two, occurred."""


class Seen(NamedTuple):
    """What the experts of k clients say of n = B * T tokens each."""

    clients: slice
    log_p: list[Tensor]
    """[k, n, V] by network: the logarithms of its probabilities."""
    features: Tensor
    """[k, n, F]; [k, n, 0] where nobody asks for them."""
    recalled: Tensor | None
    """[k, n, V]: the memory's probabilities."""
    local_weight: Tensor
    """[k, n, networks]: weight of the local expert in every network's GRU."""


def met(memories: Memories) -> Met:
    """Collect what K clients have read, on the device of their texts, by a plan of the host."""
    data = memories.data
    ordered, shorter = [np.sort(rows) for rows in data.rows], int(data.labelled)
    plan = np.zeros((3, len(ordered), max(map(len, ordered), default=0)), np.int64)
    plan[0] = len(data.steps) - 1
    for client, rows in enumerate(ordered):
        lengths = data.steps[rows] - shorter
        ends = np.cumsum(lengths)
        too_old = max(int(ends[-1]) - memories.most, 0) if len(rows) else 0
        plan[:, client, : len(rows)] = rows, np.clip(too_old - (ends - lengths), 0, lengths), lengths
    rows_of, begin, end = sent(torch.from_numpy(plan), data.tokens.device)
    tokens = data.tokens[rows_of].long()
    tokens = tokens[..., : tokens.shape[-1] - shorter]
    position = torch.arange(tokens.shape[-1] - 1, device=tokens.device)
    counts = ((position >= begin.unsqueeze(-1)) & (position < end.unsqueeze(-1))).flatten(1)
    before = torch.nn.functional.pad(tokens[..., :-2], (1, 0), value=NONE)
    word = tokens[..., 1:].flatten(1)
    single = torch.zeros(len(ordered), memories.vocabulary_size, device=tokens.device)
    single.scatter_add_(1, torch.where(counts, word, 0), counts.float())
    return Met(before.flatten(1), tokens[..., :-1].flatten(1), word, counts, single)


def recall(own: Met, second: Tensor, first: Tensor) -> Recalled:
    """The distributions after contexts of two words, int64 [k, n] each, the older one first, of the k clients of `own`."""
    kinds, total = (own.single > 0).sum(1, keepdim=True), own.single.sum(1, keepdim=True)
    size = own.single.shape[1]
    p = torch.where(total > 0, (own.single + kinds / size) / (total + kinds).clamp_min(1), 1 / size).unsqueeze(1)
    pair = own.counts.unsqueeze(1) & (own.first.unsqueeze(1) == first.unsqueeze(2))
    triple = pair & (own.before.unsqueeze(1) == second.unsqueeze(2)) & (second != NONE).unsqueeze(2)
    seen = []
    for same in (pair, triple):
        after = torch.zeros(*first.shape, size, device=first.device)
        after.scatter_add_(2, own.word.unsqueeze(1).expand(same.shape), same.float())
        kinds, total = (after > 0).sum(2, keepdim=True), after.sum(2, keepdim=True)
        p = torch.where(total > 0, (after + kinds * p) / (total + kinds).clamp_min(1), p)
        seen.append(total.squeeze(2))
    return Recalled(p, (seen[0], seen[1]))


class Listener:
    """Evaluates all experts of K clients on batch after batch.

    Args:
        features: whether a gate asks for features.
    """

    def __init__(self, experts: Experts, routing: str = "soft", features: bool = True) -> None:
        self.experts, self.routing, self.features = experts, routing, features
        self._networks: list[tuple[Tensors, Fused]] = []
        for network in experts.networks:
            plain = {name: tensor.contiguous() for name, tensor in network.parameters.items()}
            self._networks.append((plain, Fused(experts.model, network.route)))
        first = next(iter(experts.networks[0].parameters.values()))
        known = np.log1p(np.array(experts.sequences, np.float64)) / SEQUENCES
        self._sequences = sent(torch.from_numpy(known).float(), first.device) if features else None
        memories = experts.memories
        self._met = met(memories) if isinstance(memories, Memories) and (features or experts.recalls) else None

    def read(self, batch: Batch) -> Iterator[Seen]:
        """The clients of a batch in groups that memory suffices for."""
        k, b, t = batch.inputs.shape
        active = [{name: tensor[:k] for name, tensor in parameters.items()} for parameters, _ in self._networks]
        states = [fused.states(own, batch, self.routing) for own, (_, fused) in zip(active, self._networks, strict=True)]
        n, size = b * t, self.experts.model.outputs
        held = n * size * (2 * len(states) + 2 + 4 * self.experts.recalls)
        if self.experts.recalls and self._met is not None:
            held += 2 * n * self._met.word.shape[1]
        for clients in pieces(k, held):
            yield self._seen(batch, clients, active, states)

    def _seen(self, batch: Batch, clients: slice, active: Sequence[Tensors], states: Sequence[HeadInput]) -> Seen:
        log_p = [
            fused.scores(own, state, clients).log_softmax(2)
            for own, state, (_, fused) in zip(active, states, self._networks, strict=True)
        ]
        local_weight = torch.stack([state.q[clients].flatten(1, 2)[..., 1] for state in states], 2)
        first, recalled = batch.inputs[clients].flatten(1), None
        own = None if self._met is None else Met(*(part[clients] for part in self._met))
        if self.experts.recalls:
            assert own is not None
            second = torch.nn.functional.pad(batch.inputs[clients][..., :-1], (1, 0), value=NONE).flatten(1)
            recalled = recall(own, second, first)
        p = None if recalled is None else recalled.p
        if not self.features:
            return Seen(clients, log_p, log_p[0][..., :0], p, local_weight)
        assert own is not None and self._sequences is not None
        columns = [torch.log1p(own.single.gather(1, first)) / WORDS, self._sequences[clients].unsqueeze(1).expand(first.shape)]
        if recalled is not None:
            columns += [*(torch.log1p(count) / WORDS for count in recalled.seen), recalled.p.amax(2)]
        features = features_of([network.flatten(0, 1) for network in log_p], [column.flatten() for column in columns])
        return Seen(clients, log_p, features.view(*first.shape, -1), p, local_weight)


def scores(gate: Tensors, features: Tensor) -> Tensor:
    """[k, n, E]: the gates [k, ..] before the softmax; features: [k, n, F]."""
    if WEIGHT not in gate:
        return gate[BIAS].unsqueeze(1).expand(-1, features.shape[1], -1)
    return linear(torch.tanh(linear(features, *(gate[name] for name in HIDDEN))), *(gate[name] for name in OUTPUT))


def train(gate: Tensors, experts: Experts, data: Data, sgd: Sgd, draw: Draw, tally: Tally) -> Tensor:
    """Train the gates [K, ..] in place, as :func:`flow.algorithms.shared.gate.train` says, and count it in `tally`.

    Returns:
        float64 [K]: how many tokens the experts have read.
    """
    table, tokens = read(experts, data, sgd.batch_size)
    if table is None:
        return tokens
    descent, update = Descent(experts.model, gate, sgd), Update(tuple(gate), "global")
    into = {name: torch.empty_like(tensor) for name, tensor in gate.items()}
    streams = [draw.stream("shuffle", "gate", id) for id in data.ids]
    for batch in batches(data, sgd.batch_size, sgd.epochs, streams):
        k, _, steps = batch.valid.shape
        counted, taken = batch.valid.sum((1, 2)), table[batch.rows, :steps].flatten(1, 2)
        own = {name: tensor[:k] for name, tensor in into.items()}
        loss = gradients({name: tensor[:k] for name, tensor in gate.items()}, taken, batch.valid.flatten(1), counted, own)
        descent.apply(batch, update, own)
        tally.nats[:k] += loss.double() * counted
        tally.tokens[:k] += counted
        tally.read[:k] += counted
    return tokens


@torch.no_grad()
def read(experts: Experts, data: Data, batch_size: int) -> tuple[Tensor | None, Tensor]:
    """What the experts say of all targets: [N + 1, T, F + E], features and logarithms of probabilities by the rows of the data,
    None where there are none; and float64 [K], how many tokens they have read."""
    listener, table = Listener(experts), None
    tokens = torch.zeros(len(data.ids), dtype=torch.float64, device=data.tokens.device)
    for batch in batches(data, batch_size):
        _, b, steps = batch.valid.shape
        tokens[: len(batch.lengths)] += batch.read().sum((1, 2))
        for seen in listener.read(batch):
            targets = batch.targets[seen.clients].flatten(1).unsqueeze(2)
            chances = [log_p.gather(2, targets) for log_p in seen.log_p]
            if seen.recalled is not None:
                chances.append(seen.recalled.gather(2, targets).log())
            together = torch.cat([seen.features, *chances], 2)
            if table is None:
                table = together.new_zeros(len(data.lengths), data.tokens.shape[1] - 1, together.shape[2])
            table[batch.rows[seen.clients], :steps] = together.unflatten(1, (b, steps))
    return table, tokens


@torch.no_grad()
def gradients(gate: Tensors, taken: Tensor, valid: Tensor, counted: Tensor, into: Tensors) -> Tensor:
    """The mean losses of k clients' gates, [k], whose gradients are written by hand.

    Args:
        gate: [k, ..]
        taken: [k, n, F + E], features and logarithms of probabilities.
        valid: bool [k, n], the targets that count.
        counted: [k], how many they are.
        into: where the gradients go, by the same names.
    """
    count = gate[WEIGHT].shape[1]
    features, log_p = taken[..., :-count], taken[..., -count:]
    inner = torch.tanh(linear(features, gate[HIDDEN_WEIGHT], gate[HIDDEN_BIAS]))
    log_g = linear(inner, gate[WEIGHT], gate[BIAS]).log_softmax(2)
    joint = log_g + log_p
    mixed = joint.logsumexp(2, keepdim=True)
    share = (valid / counted.clamp_min(1).unsqueeze(1)).unsqueeze(2)
    by_score = (log_g.exp() - (joint - mixed).exp()) * share
    by_inner = torch.bmm(by_score, gate[WEIGHT]) * (1 - inner * inner)
    torch.bmm(by_score.mT, inner, out=into[WEIGHT])
    torch.sum(by_score, 1, out=into[BIAS])
    torch.bmm(by_inner.mT, features, out=into[HIDDEN_WEIGHT])
    torch.sum(by_inner, 1, out=into[HIDDEN_BIAS])
    return -(mixed * share).sum((1, 2))


def answering(gates: Tensors, experts: Experts, routing: str) -> Callable[[Batch], Answers]:
    """How K clients predict with their experts mixed by their gates [K, ..]; hard: by the one that weighs most at the token."""
    listener = Listener(experts, routing, features=WEIGHT in gates)

    @torch.no_grad()
    def answers(batch: Batch) -> Answers:
        shape, device = batch.valid.shape, batch.valid.device
        tokens, rank = torch.full((2, *shape), -1, device=device)
        local_weight, nats, probability = torch.zeros(3, *shape, device=device)
        for seen in listener.read(batch):
            clients, valid = seen.clients, batch.valid[seen.clients]
            values = scores({name: tensor[clients] for name, tensor in gates.items()}, seen.features)
            share = hardened(values) if routing == "hard" else values.softmax(2)
            p = torch.zeros_like(seen.log_p[0])
            for place, log_p in enumerate(seen.log_p):
                p.addcmul_(log_p.exp(), share[..., place : place + 1])
            if seen.recalled is not None:
                p.addcmul_(seen.recalled, share[..., -1:])
            top, own = p.max(2), p.gather(2, batch.targets[clients].flatten(1).unsqueeze(2))
            behind = torch.where(own.squeeze(2).isnan(), p.shape[2], (p > own).sum(2))
            lost = -own.squeeze(2).clamp(torch.finfo(own.dtype).tiny, 1).log()
            weight = (share[..., : len(seen.log_p)] * seen.local_weight).sum(2)
            for into, values, absent in (
                (tokens, top.indices, -1), (rank, behind, -1), (local_weight, weight, 0.0), (nats, lost, 0.0),
                (probability, top.values, 0.0),
            ):  # fmt: skip
                into[clients] = torch.where(valid, values.view(valid.shape), absent)
        return Answers(tokens, local_weight, nats, probability, rank)

    return answers
