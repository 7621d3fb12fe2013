"""Private gate (Peterson, Kanani, Marathe 2019, arXiv 1912.06733): a private model beside the general one, mixed by a gate.

    p(w) = alpha p_G(w) + (1 - alpha) p_P(w),   alpha = sigmoid(a . x + b)

x is the token that was read. All three are trained together on the client's data; the general model alone is federated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from flow.algorithms.interface import Algorithm, Scope, Tunable, any_batch, needing
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.experts import Expert, Experts, Listener, Views, hardened
from flow.algorithms.shared.finetuning import RATES, FineTuning, check_rate, personal
from flow.algorithms.shared.gate import blending
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors, copy, initial, stack, tagged, untagged
from flow.training.batches import Batch, batches
from flow.training.descent import Descent
from flow.training.messages import Answers, Personal, Upload, View, Visit
from flow.training.records import Tally, Work
from flow.training.sgd import Update
from flow.training.threads import aligned, one_thread

PRIVATE = "private"
GENERAL = "general"
TABLE = f"{PRIVATE}/embedding.weight"
WEIGHT, BIAS = "gate/weight", "gate/bias"


@dataclass(frozen=True)
class PrivateGateOptions(FineTuning):
    """A private model and a gate of every client's own. The paper has no language model."""

    lr: float = 4.0
    """Learning rate of the general model in the rounds; of the gradient it gets its share of every token, about a half."""

    personal_lr: float | None = 0.5
    """Learning rate of the private model, in a round and before a client predicts. None: lr."""

    gate_lr: float = 3.0
    """Learning rate of the gate, in a round and before a client predicts."""

    new_private: Literal["received", "initial"] = "received"
    """Where the private model of a new client starts. "received": at the general model as it comes. "initial": at the initial
    values, the same for all, from which it learns less."""


def check(options: PrivateGateOptions) -> None:
    """Raise UserError for an option out of range."""
    check_rate("gate_lr", options.gate_lr)
    finetuning.check(options, gate_lr=options.gate_lr)


def fresh(options: PrivateGateOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: the private model, and the gate, which weighs both models the same at first."""
    start = received if options.new_private == "received" else stack(initial(model, "global"), clients)
    table = start["embedding.weight"]
    return {**tagged(PRIVATE, start), WEIGHT: table.new_zeros(clients, table.shape[2]), BIAS: table.new_zeros(clients)}


def local(options: PrivateGateOptions, model: Model, visit: Visit) -> Upload:
    """Train all three; uploads the general model, weighted by the number of sequences, and keeps the rest."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    work = train(options, model, parameters, tuple(visit.received), visit, "global")
    own = {name: parameters[name] for name in visit.kept.tensors}
    return Upload({name: parameters[name] for name in visit.received}, visit.data.sizes(), (work,), own)


def personalize(options: PrivateGateOptions, model: Model, visit: Visit) -> Personal:
    """Train the private model and the gate beside the general model as received; prediction with the mixture."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    work = train(replace(options, epochs=personal(options).epochs), model, parameters, (), visit, "personal")
    own = as_local(untagged(PRIVATE, parameters))
    mixed = PrivateGate(model, parameters, own, tuple(visit.received))
    return Personal(own, "local", phases=(work,), answering=mixed, alone="local")


def train(
    options: PrivateGateOptions, model: Model, parameters: Tensors, general: tuple[str, ...], visit: Visit, label: str
) -> Work:
    """On every batch one gradient of the mixture's loss, and a step along it by each part's own rate, in place.

    Every part's gradient is clipped by itself.

    Args:
        parameters: [K, ..]: those received and those kept.
        general: the names of the general model's parameters; empty where it is frozen.
        label: the batches' order of client c comes from ``draw.stream("shuffle", label, c)``.
    """
    data, private = visit.data, tuple(name for name in parameters if name.startswith(PRIVATE))
    parts = ((general, options.lr), (private, personal(options).lr), ((WEIGHT, BIAS), options.gate_lr))
    steps = [(Update(names, "global"), Descent(model, parameters, replace(options, lr=rate))) for names, rate in parts if names]
    tally, trained = Tally(data), tuple(name for update, _ in steps for name in update.names)
    streams = [visit.draw.stream("shuffle", label, id) for id in data.ids]
    for batch in batches(data, options.batch_size, options.epochs, streams):
        loss, gradient = gradients(model, parameters, batch, trained)
        for update, descent in steps:
            descent.apply(batch, update, gradient)
        tally.add_mean(batch, loss)
    cost = sum(per_token(model, "global", names) for names in (general, private)) + 4 * parameters[WEIGHT].shape[1]
    each = data.trained(options.batch_size, options.epochs)
    return tally.work(sum(each), cost, each)


def gradients(model: Model, parameters: Tensors, batch: Batch, names: tuple[str, ...]) -> tuple[Tensor, Tensors]:
    """The mixture's mean loss of k clients, float64 [k], and its gradients [k, ..] by the parameters of these names.

    One client after the other, each without the padding that others need, so that its bits do not depend on them.
    """
    k = len(batch.lengths)
    loss = torch.zeros(k, dtype=torch.float64, device=batch.valid.device)
    sums = {name: torch.zeros_like(parameters[name][:k]) for name in names}
    for client in range(k):
        if not bool(batch.valid[client].any()):
            continue
        own = {name: aligned(tensor[client : client + 1].detach()) for name, tensor in parameters.items()}
        leaves = {name: own[name].requires_grad_() for name in names}
        with one_thread():
            mean = mixture_nats(model, own, alone(batch, client)).mean()
            own_gradients = torch.autograd.grad(mean, list(leaves.values()))
        for name, gradient in zip(leaves, own_gradients, strict=True):
            sums[name][client] = gradient[0]
        loss[client] = mean.detach()
    return loss, sums


def alone(batch: Batch, client: int) -> Batch:
    """One client's part of a batch, cut to its own rows and steps."""
    valid = batch.valid[client]
    rows, steps = int(valid.any(1).sum()), int((batch.lengths[client] * valid.any(1)).max())
    cut = (part[client : client + 1, :rows, :steps] for part in (batch.inputs, batch.targets, batch.valid))
    inputs, targets, valid = cut
    return Batch(batch.rows[client : client + 1, :rows], inputs, targets, batch.lengths[client : client + 1, :rows], valid)


def mixture_nats(model: Model, parameters: Tensors, batch: Batch) -> Tensor:
    """[n]: -log(alpha p_G(w) + (1 - alpha) p_P(w)) at every valid target w of one client."""
    targets, log_probabilities = batch.targets[batch.valid], []
    for network in (parameters, untagged(PRIVATE, parameters)):
        used = {name: tensor for name, tensor in network.items() if "/" not in name}
        out = torch.func.functional_call(model, used, (batch.inputs, batch.lengths), {"route": "global"})
        log_probabilities.append(-F.cross_entropy(out.logits[batch.valid], targets, reduction="none"))
    odds = log_odds(parameters, 0, batch.inputs[batch.valid])
    return -torch.logaddexp(F.logsigmoid(odds) + log_probabilities[0], F.logsigmoid(-odds) + log_probabilities[1])


def log_odds(parameters: Tensors, client: int, tokens: Tensor) -> Tensor:
    """[n]: a . x + b of one client's gate; x is the private embedding of the token that was read, which the gate does not
    train."""
    x = F.embedding(tokens, parameters[TABLE][client].detach())
    return x @ aligned(parameters[WEIGHT][client]) + parameters[BIAS][client]


def shares(parameters: Tensors, client: int, tokens: Tensor, routing: str) -> Tensor:
    """[n, 2]: how much the general and the private model count after each token; hard: 1 for the one that counts more."""
    odds = log_odds(parameters, client, tokens)
    both = torch.stack((odds.sigmoid(), (-odds).sigmoid()), 1)
    return hardened(both) if routing == "hard" else both


def as_local(private: Tensors) -> Tensors:
    """A private model under the names by which the model's local route finds it."""
    return {name.replace("gru.", "gru.local_"): tensor for name, tensor in private.items()}


def answering(
    model: Model, parameters: Tensors, own: Tensors, general: tuple[str, ...], routing: str
) -> Callable[[Batch], Answers]:
    """How K clients predict with both models mixed by their gates; hard: by the one that weighs more, of equals the general."""
    networks = (Expert({name: parameters[name] for name in general}, "global"), Expert(own, "local"))

    def share(batch: Batch, client: int, seen: Views) -> Tensor:
        return shares(parameters, client, batch.inputs[client][batch.valid[client]], routing)

    return blending(Listener(Experts(model, networks, (), False, ()), routing, features=False), share)


@dataclass(frozen=True, eq=False)
class PrivateGate:
    """How K clients predict with both models mixed; it can be stored and followed token by token."""

    model: Model
    parameters: Tensors
    """[K, ..]: those of the general model, the gate, and the private table of embeddings."""
    own: Tensors
    general: tuple[str, ...]

    def __call__(self, routing: str) -> Callable[[Batch], Answers]:
        return answering(self.model, self.parameters, self.own, self.general, routing)

    @property
    def networks(self) -> Sequence[tuple[Tensors, Route]]:
        """See :class:`flow.training.messages.Mixture`, likewise the others."""
        return ({name: self.parameters[name] for name in self.general}, "global"), (self.own, "local")

    @property
    def holds(self) -> str:
        return ""

    @property
    def refusal(self) -> str:
        return ""

    def stored(self) -> Tensors:
        gate = {name: self.parameters[name][0] for name in (WEIGHT, BIAS)}
        return {**tagged(GENERAL, {name: self.parameters[name][0] for name in self.general}), **gate}

    def mixed(self, views: Sequence[View], before: Tensor, token: Tensor, routing: str) -> tuple[Tensor, Tensor]:
        both = shares(self.parameters, 0, token, routing)
        p = sum(both[:, n : n + 1] * view.log_p.exp() for n, view in enumerate(views))
        return torch.as_tensor(p), both[:, 1]


def restored(options: PrivateGateOptions, model: Model, personal: Personal, stored: Tensors) -> Personal:
    """How a client predicts, of its gate and the general model; the private one is what it has of its own."""
    general = {name: tensor.unsqueeze(0) for name, tensor in untagged(GENERAL, stored).items()}
    gate = {name: stored[name].unsqueeze(0) for name in (WEIGHT, BIAS)}
    parameters = {**general, **gate, TABLE: personal.parameters["embedding.weight"]}
    return personal._replace(answering=PrivateGate(model, parameters, personal.parameters, tuple(general)))


ALGORITHM = Algorithm(
    name="privategate",
    about="FedAvg's model beside a private one of every client's, and a gate of its own that mixes both at every token.",
    options=PrivateGateOptions,
    needs=needing("embedding"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    restored=restored,
    resolve=finetuning.resolve,
    check=check,
    tuned=(*RATES, Tunable("gate_lr")),
    scope=lambda options: Scope(client=True, instance=True),
    fresh=fresh,
)
