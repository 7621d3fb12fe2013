"""Flow's variant "decoupled", one token at a time, with dictionaries in the place of sorted arrays."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Batch, Options, Steps, Tensors, Tokens, batches, clipped, older, run, sgd_phase, stream

ROUTES = {
    "output": ("global", "local"),
    "both": ("global", "local", "mixture"),
    "constant": ("global", "local"),
    "local": ("local",),
}


class Memory:
    """What followed every context of no, one and two tokens in these sequences, [(tokens, length), ..], oldest first."""

    def __init__(self, sequences: Batch, size: int, most: int) -> None:
        events = []
        for tokens, length in sequences:
            for t in range(length):
                context = tuple(int(token) for token in tokens[max(t - 1, 0) : t + 1])
                events.append((context, int(tokens[t + 1])))
        self.size = size
        self.followed: dict[tuple[int, ...], list[int]] = {}
        for context, word in events[-most:]:
            for shorter in {(), context[-1:], context if len(context) == 2 else ()}:
                self.followed.setdefault(shorter, []).append(word)

    def often(self, *words: int) -> int:
        """How often a context occurred, or of one word how often it came next: a target, which a sequence's first is not."""
        return len(self.followed.get(words, []))

    def target(self, word: int) -> int:
        return self.followed.get((), []).count(word)

    def p(self, context: tuple[int, ...], word: int) -> float:
        """Witten-Bell: what was seen, and for the rest what the shorter context says."""
        lower = 1 / self.size if not context else self.p(context[1:], word)
        seen = self.followed.get(context, [])
        return (seen.count(word) + len(set(seen)) * lower) / (len(seen) + len(set(seen))) if seen else lower


def log_p(p: Tensors, tokens: Tokens, length: int, route: str, temperature: float, hard: bool = False) -> tuple[Tensor, Tensor]:
    """[length, V], and the weight of the GRU's local expert [length]."""
    logits, gates = run(p, tokens, length, route, temperature, hard)
    q = gates[0][:, 1] if route == "mixture" else torch.full((length,), float(route == "local"), dtype=torch.float64)
    return torch.log_softmax(logits, 1), q


def features(views: Sequence[Tensor], memory: Memory, sequences: int, recalls: bool, tokens: Tokens, t: int) -> Tensor:
    """Those of the token after place t, 0 to 1 brought to -2 to 2; views: by network the log probabilities [V] there."""
    p = [view.exp() for view in views]
    numbers = []
    for probabilities in p:
        entropy = -sum(float(x) * math.log(float(x)) for x in probabilities)
        numbers += [entropy / math.log(len(probabilities)), float(probabilities.max())]
    for a in range(len(p)):
        for b in range(a + 1, len(p)):
            chosen_a, chosen_b = int(p[a].argmax()), int(p[b].argmax())
            divergence = sum(float((p[a][w] - p[b][w]) * (views[a][w] - views[b][w])) for w in range(len(p[a]))) / 2
            numbers += [float(chosen_a == chosen_b), float(p[a][chosen_b]), float(p[b][chosen_a]), math.log1p(divergence)]
    word = int(tokens[t])
    numbers += [math.log1p(memory.target(word)) / math.log(1000), math.log1p(sequences) / math.log(100)]
    if recalls:
        context = tuple(int(token) for token in tokens[max(t - 1, 0) : t + 1])
        two = memory.often(*context) if len(context) == 2 else 0
        numbers += [math.log1p(memory.often(word)) / math.log(1000), math.log1p(two) / math.log(1000)]
        numbers.append(max(memory.p(context, w) for w in range(memory.size)))
    return torch.tensor([4 * number - 2 for number in numbers], dtype=torch.float64)


def scores(gate: Tensors, x: Tensor) -> Tensor:
    return gate["gate/weight"] @ torch.tanh(gate["gate/hidden_weight"] @ x + gate["gate/hidden_bias"]) + gate["gate/bias"]


class Mixture:
    """The experts of one client, of which a gate chooses at every token."""

    def __init__(self, p: Tensors, known: Batch, options: Options, size: int) -> None:
        """known: the sequences from which its local expert was made."""
        self.p, self.options, self.known = p, options, known
        self.memory, self.size = Memory(known, size, options["memory_tokens"]), size

    def tokens(self, sequence: Tokens, length: int, hard: bool = False) -> Iterator[tuple[Tensor, Tensor, list[float]]]:
        """For every place of a sequence: features, log probabilities [E, V], and the networks' local weights."""
        tau, recalls = self.options["temperature"], self.options["memory"]
        outputs = [log_p(self.p, sequence, length, route, tau, hard) for route in ROUTES[self.options["gate"]]]
        for t in range(length):
            views = [view[t].detach() for view, _ in outputs]
            x = features(views, self.memory, len(self.known), recalls, sequence, t)
            if recalls:
                context = tuple(int(token) for token in sequence[max(t - 1, 0) : t + 1])
                own = [math.log(self.memory.p(context, w)) for w in range(self.size)]
                views.append(torch.tensor(own, dtype=torch.float64))
            yield x, torch.stack(views), [float(q[t]) for _, q in outputs]

    def predictions(self, gate: Tensors, sequence: Tokens, length: int, hard: bool = False) -> list[tuple[Tensor, float]]:
        """[(probabilities [V], local weight)] of every place."""
        predicted = []
        for x, views, local in self.tokens(sequence, length, hard):
            if self.options["gate"] == "constant":
                w = self.options["local_weight"]
                share = torch.tensor([1 - w, w], dtype=torch.float64)
            else:
                share = torch.softmax(scores(gate, x), 0)
            if hard:
                share = torch.nn.functional.one_hot(share.argmax(), len(share)).double()
            predicted.append((share @ views.exp(), sum(float(g) * q for g, q in zip(share, local, strict=False))))
        return predicted

    def loss(self, gate: Tensors, batch: Batch) -> Tensor:
        """Of the gate on a batch, mean over its tokens."""
        places = [place for sequence, length in batch for place in self.tokens(sequence, length)]
        targets = [int(sequence[t + 1]) for sequence, length in batch for t in range(length)]
        loss = torch.zeros(())
        for (x, views, _), target in zip(places, targets, strict=True):
            loss = loss - torch.log(torch.softmax(scores(gate, x), 0) @ views[:, target].exp())
        return loss / len(targets)

    def fit(self, gate: Tensors, batches: Iterable[Batch], options: Options) -> Tensors:
        """SGD on the gate over these batches, [[(tokens, length), ..], ..]; returns it."""
        for batch in batches:
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in gate.items()}
            gradients = clipped(torch.autograd.grad(self.loss(leaves, batch), list(leaves.values())), options["clip"])
            steps = zip(leaves.items(), gradients, strict=True)
            gate = {name: (leaf - options["lr"] * gradient).detach() for (name, leaf), gradient in steps}
        return gate


def decoupled(
    received: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
    phase: Callable[..., Steps] = sgd_phase,
    fit: Callable[..., Tensors] = Mixture.fit,
) -> tuple[Tensors, int, Steps]:
    """What the decoupled variant makes of one client: its parameters, the weight of its upload, and the losses of w_g.

    purpose "train": w_g, psi and the gate as they are uploaded, and no local expert; another: what the client predicts with.
    phase, fit: how the model and the gate are trained.
    """
    local = [name for name in shapes if "local_" in name]
    routers = [name for name in received if "router_" in name]
    gates = [name for name in received if name.startswith("gate/")]
    chooses = [*routers, *gates]
    sequences = range(len(client.train))

    def shuffled(label: str, numbers: Sequence[int], epochs: int) -> Iterator[Batch]:
        generator = stream(seed, round, purpose, "shuffle", label, client.id)
        return batches(client.train, list(numbers), options["batch_size"], epochs, generator)

    def made(label: str, numbers: Sequence[int], through: str = "local", psi: Tensors = received) -> Tensors:
        p = {**psi, **{name: received[name.replace("local_", "")] for name in local}}
        own = {**options, "lr": options["personal_lr"]}
        phase(p, local, shuffled(label, numbers, options["personal_epochs"]), own, through, options["temperature"])
        return p

    def routed(lr: float, epochs: int) -> Tensors:
        if len(client.train) < 2:
            return received
        cut = older(client, options["local_share"])
        p = made("older", sequences[:cut])
        if gates:
            known = [(client.train.tokens[n], int(client.train.lengths[n])) for n in sequences[:cut]]
            mixture = Mixture(p, known, options, shapes["embedding.weight"][0])
            newer = shuffled("gate", sequences[cut:], epochs)
            fitted = fit(mixture, {name: received[name] for name in gates}, newer, {**options, "lr": lr})
        if routers:
            newer, own = shuffled("router", sequences[cut:], epochs), {**options, "lr": lr}
            phase(p, routers, newer, own, "mixture", options["temperature"], options["gamma"])
        return {**p, **fitted} if gates else p

    if purpose != "train":
        psi = routed(options["adapt_lr"], options["adapt_epochs"]) if options["adapt_epochs"] else received
        through = options["through"]
        return made("personal", sequences, through, {**received, **{name: psi[name] for name in chooses}}), len(sequences), []
    world = dict(received)
    own = [name for name in received if name not in chooses]
    losses = phase(world, own, shuffled("global", sequences, options["epochs"]), options, "global")
    due = round % options["router_every"] == 0
    psi = routed(options["router_lr"], options["router_epochs"]) if due else received
    return {**world, **{name: psi[name] for name in chooses}}, len(sequences), losses
