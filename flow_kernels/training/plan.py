"""What an update of local training costs on a GPU, on paper: memory, bytes, operations, launches and a time. Pure functions.

A part takes as long as the largest of three: its bytes by the memory's bandwidth, its operations by the rate of its products,
its launches by the time between two nodes of a CUDA graph. The rates are assumptions; nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, NamedTuple

from flow_kernels.training.gpu.paper import H200, Device
from flow_kernels.training.gpu.tiles import head_tile, vocabulary_parts

Group = Literal["embedding", "gru", "projection", "head"]
GROUPS: tuple[Group, ...] = ("embedding", "gru", "projection", "head")
Products = Literal["half", "tf32", "ieee"]
PRODUCTS: dict[str, Products] = {"bfloat16": "half", "TF32": "tf32", "IEEE float32": "ieee"}


class Part(NamedTuple):
    """A part of an update: what it moves, computes and launches, and the steps that wait for each other."""

    name: str
    nbytes: float
    operations: float
    launches: int
    steps: int = 0

    def seconds(self, device: Device, products: str) -> float:
        """As a part of a CUDA graph."""
        return max(
            self.nbytes / device.bandwidth, self.operations / device.rate(products), self.launches * device.node,
            self.steps * device.step,
        )  # fmt: skip


@dataclass(frozen=True)
class UpdateSizes:
    """An update of K clients by one route."""

    clients: int
    batch: int
    steps: int
    inputs: int
    """Size of the embedding."""
    hidden: int
    vocabulary: int
    projection: int | None = None
    layers: int = 1
    experts: int = 1
    """2 by the mixture."""
    head_experts: int = 1
    outputs: int | None = None
    """Rows of the head; None: the vocabulary."""
    trained: frozenset[Group] = frozenset(GROUPS)
    """Empty where the routers alone are trained."""
    trained_experts: int | None = None
    """How many of the experts are trained; None: all."""
    products: Products = "half"
    filled: float = 1.0
    """Share of the rows that have a target."""

    @property
    def features(self) -> int:
        """D of the head."""
        return self.projection or self.hidden

    @property
    def rows(self) -> int:
        """N of a client."""
        return self.batch * self.steps

    @property
    def scores(self) -> int:
        """Rows of the head."""
        return self.outputs or self.vocabulary

    def parameters(self, experts: int, head_experts: int) -> dict[Group, int]:
        """Numbers of one client by group; routers left out."""
        h = self.hidden
        gru = sum(3 * h * (i + h) + 6 * h for i in (self.inputs, *[h] * (self.layers - 1)))
        projection = 0 if self.projection is None else self.projection * (h + 1)
        head = head_experts * self.scores * (self.features + 1)
        return {"embedding": self.vocabulary * self.inputs, "gru": experts * gru, "projection": projection, "head": head}

    def trained_numbers(self) -> dict[Group, int]:
        """Numbers of one client that the update changes, by group; of the embedding the rows that are looked up, at most."""
        experts = self.experts if self.trained_experts is None else self.trained_experts
        own = self.parameters(experts, min(experts, self.head_experts))
        own["embedding"] = min(own["embedding"], self.rows * self.inputs)
        return {group: own[group] if group in self.trained else 0 for group in GROUPS}


def parts(s: UpdateSizes) -> list[Part]:
    """An update in the order in which it is computed."""
    k, n, h = s.clients, s.rows, s.hidden
    wide = 2 if s.products == "half" else 4
    below = bool(s.trained & {"embedding", "gru"})
    own = s.parameters(s.experts, s.head_experts)
    moved = s.trained_numbers()
    listed = [Part("embedding", 2 * 4 * k * n * s.inputs, 0, 4)]
    products = scan = 0.0
    for i in (s.inputs, *[h] * (s.layers - 1)):
        products += 2 * k * n * s.experts * 3 * h * i
        scan += 2 * k * n * s.experts * 3 * h * h
    rounded = (4 + 2) * k * own["gru"] if wide == 2 else 0
    of_steps = s.layers * s.steps * k * s.experts * 3 * h * h * wide  # the recurrent weights, once a step
    of_gates = s.layers * k * n * s.experts * 4 * h * 4
    listed.append(Part("gru: products before", rounded + wide * k * own["gru"] + of_gates, products, 14 * s.layers))
    listed.append(Part("gru: scan forward", of_steps + 2 * of_gates, scan, s.layers * s.steps, s.layers * s.steps))
    listed += _of_head(s, wide)
    if below:
        listed.append(Part("gru: scan backward", of_steps + 2 * of_gates, scan, s.layers * (s.steps + 1), s.layers * s.steps))
        of_weights = products + scan if moved["gru"] else 0.0
        listed.append(
            Part(
                "gru: products after",
                4 * k * moved["gru"] + 2 * of_gates,
                of_weights + products,
                (16 * s.experts + 8) * s.layers,
            )
        )
    changed = k * sum(moved.values())
    listed.append(Part("sgd", (4 + 12) * changed, 0, 2 + 2 * ("embedding" in s.trained)))
    listed.append(Part("counts", 0, 0, 20))
    return listed


def _of_head(s: UpdateSizes, wide: int) -> list[Part]:
    """Projection, router, loss and gradients."""
    k, n, h, d, v = s.clients, s.rows, s.hidden, s.features, s.scores
    listed, below = [], bool(s.trained - {"head"})
    if s.head_experts == 2:
        listed.append(Part("router of the head", 3 * 4 * k * n * h, 0, 3))
    if s.projection is not None:
        once = 2 * k * n * h * d
        back = once * (bool(s.trained & {"embedding", "gru"}) + ("projection" in s.trained))
        listed.append(Part("projection", 4 * k * (3 * n * h + 2 * d * h), once + back, 4 + 8 * below))
    weights = k * s.head_experts * v * d
    scores = 2 * k * n * s.filled * s.head_experts * v * d
    listed.append(Part("head: loss", wide * weights + (6 * weights if wide == 2 else 0), scores, 3 + 2 * s.head_experts))
    needs_features = below or s.head_experts == 2
    if needs_features:
        tile = head_tile("features", s.products, d)
        blocks = -(-d // tile.columns)
        cut, _ = vocabulary_parts(k, blocks * -(-n // tile.rows), v, tile.tokens)
        gradients = 2 * 4 * cut * s.head_experts * k * n * d
        listed.append(Part("head: gradients of features", wide * weights + gradients, scores * (1 + blocks), 3))
    if "head" in s.trained:
        blocks = -(-d // head_tile("weights", s.products, d).columns)
        trained = k * s.trained_numbers()["head"]
        share = trained / max(weights, 1)
        listed.append(Part("head: gradients of weights", wide * weights + 4 * trained, scores * (blocks + share), 1))
    return listed


def seconds(s: UpdateSizes, device: Device = H200, graph: bool = True) -> float:
    """An update's time: as a CUDA graph, or launched from Python, where launches may take longer than the kernels."""
    own = parts(s)
    on_device = sum(part.seconds(device, s.products) for part in own)
    return on_device if graph else max(on_device, sum(part.launches for part in own) * device.launch)


def update_memory(s: UpdateSizes, *, copies: int = 2, momentum: bool = False, anchor: bool = False) -> dict[str, int]:
    """Bytes that training K clients by such updates takes at most, by what for.

    Args:
        copies: of all parameters of every client, such as those that it trains and those that it received.
        momentum, anchor: whether SGD has these beside what is trained.
    """
    k, n, h, d, v = s.clients, s.rows, s.hidden, s.features, s.scores
    every = sum(s.parameters(2 if s.experts == 2 else 1, s.head_experts).values())
    moved = s.trained_numbers()
    dense = dict(moved)
    if "embedding" in s.trained:
        dense["embedding"] = s.vocabulary * s.inputs if momentum or anchor else s.rows * s.inputs * 2
    half = s.products == "half"
    own = s.parameters(s.experts, s.head_experts)
    tile = head_tile("features", s.products, d)
    cut, _ = vocabulary_parts(k, -(-d // tile.columns) * -(-n // tile.rows), v, tile.tokens)
    # x, xg, gates and their gradients, states and their gradients
    of_layers = sum(2 * i + 3 * h * s.experts + 4 * h * s.experts * 2 + 3 * h for i in (s.inputs, *[h] * (s.layers - 1)))
    return {
        "parameters": 4 * k * every * copies,
        "gradients": 4 * k * sum(dense.values()),
        "momentum and anchor": 4 * k * sum(dense.values()) * (momentum + anchor),
        "rounded weights": 2 * k * (own["gru"] + own["head"] + own["projection"]) if half else 0,
        "activations": 4 * k * n * (of_layers + 4 * d),
        "head": 4 * k * n * (4 + s.head_experts * (d + 1)) * cut,
    }


def explain_update(s: UpdateSizes, device: Device = H200) -> str:
    """What an update costs on a GPU, as a table to print: its parts, their sum, and the memory. Nothing was measured."""
    lines = [f"{'part':<28}{'MB':>9}{'GFLOP':>9}{'launches':>10}{'us':>9}"]
    own = parts(s)
    for part in own:
        lines.append(
            f"{part.name:<28}{part.nbytes / 1e6:>9.1f}{part.operations / 1e9:>9.2f}{part.launches:>10}"
            f"{1e6 * part.seconds(device, s.products):>9.1f}"
        )
    launches = sum(part.launches for part in own)
    lines.append(
        f"{'in all':<28}{sum(p.nbytes for p in own) / 1e6:>9.1f}{sum(p.operations for p in own) / 1e9:>9.2f}{launches:>10}"
        f"{1e6 * seconds(s, device):>9.1f}"
    )
    held = sum(update_memory(s).values()) / 1e9
    lines.append(f"launched from Python at least {1e6 * launches * device.launch:.0f} us; memory {held:.2f} GB")
    return "\n".join(lines)


class Phase(NamedTuple):
    """A part of a round's work."""

    name: str
    sizes: UpdateSizes
    updates: int


GATED = 3
"""Networks whose predictions the gate at the output mixes: the global expert, the local one, and the routed cell."""
GATE_OPERATIONS = 229
"""Of a batch that the gate is trained on, for all clients together; counted by tests/gpu/test_rounds_interpreter.py."""
GATE_PASSES = 12
"""How often the gate reads or writes a network's scores."""
EVALUATED, EVERY, ANSWERED = 40, 20, 8
"""Clients that are evaluated, every how many rounds, and how many of their sequences the gate answers at a time."""


def flow_round(update: UpdateSizes, sequences: int, epochs: int = 3) -> list[Phase]:
    """The updates of a round of Flow's default variant (docs/algorithms.md), but for those of the gate at the output.

    Args:
        update: one of all global weights.
        sequences: of a client: three quarters make the local expert, in twice the epochs; the others train the routers once.
    """
    older = 3 * sequences // 4
    local = replace(update, trained=frozenset[Group]({"gru", "head"}))
    routers = replace(update, experts=2, head_experts=2, trained=frozenset[Group]())
    return [
        Phase("global weights", update, epochs * ceil(sequences / update.batch)),
        Phase("local expert", local, 2 * epochs * ceil(older / update.batch)),
        Phase("routers", routers, ceil((sequences - older) / update.batch)),
    ]


def gate_seconds(update: UpdateSizes, device: Device = H200) -> float:
    """A batch of the gate at the output: operations of torch's, launched one by one, over the scores of all its networks."""
    scores = 4 * update.clients * update.rows * update.scores
    return max(GATE_OPERATIONS * device.launch, GATED * GATE_PASSES * scores / device.bandwidth)


def evaluation_seconds(update: UpdateSizes, sequences: int, epochs: int, device: Device, graph: bool) -> float:
    """An evaluation: every client makes its local expert of all its sequences, and the gate answers twice, with soft and with
    hard routing, on a quarter as many."""
    many = replace(flow_round(update, sequences, epochs)[1].sizes, clients=EVALUATED)
    made = 2 * epochs * ceil(sequences / update.batch) * seconds(many, device, graph)
    return made + 2 * ceil(sequences / 4 / ANSWERED) * gate_seconds(replace(many, batch=ANSWERED), device)


def explain_run(update: UpdateSizes, *, rounds: int, sequences: int, epochs: int = 3, device: Device = H200) -> str:
    """How long a run of Flow's default variant takes on a GPU, as a table to print. Nothing was measured.

    Args:
        update: an update of the global weights of a round's clients.
        sequences: of every client.
    """
    phases, minutes = flow_round(update, sequences, epochs), rounds / 60
    counts = ", ".join(f"{phase.updates} of the {phase.name}" for phase in phases)
    lines = [f"a round of {update.clients} clients with {sequences} sequences, {epochs} epochs: updates {counts}"]
    lines.append(f"{'products':<14}{'a round, as graphs':>20}{'from Python':>14}{f'{rounds} rounds':>16}{'from Python':>14}")
    of_round: dict[Products, tuple[float, float]] = {}
    for name, products in PRODUCTS.items():
        own = [phase._replace(sizes=replace(phase.sizes, products=products)) for phase in phases]
        graphs, python = (sum(p.updates * seconds(p.sizes, device, graph) for p in own) for graph in (True, False))
        of_round[products] = graphs, python
        lines.append(
            f"{name:<14}{1000 * graphs:>17.0f} ms{1000 * python:>11.0f} ms{minutes * graphs:>12.1f} min"
            f"{minutes * python:>10.1f} min"
        )
    gate = phases[-1].updates * gate_seconds(update, device)
    scored = [evaluation_seconds(update, sequences, epochs, device, graph) for graph in (True, False)]
    whole = [minutes * (own + gate + each / EVERY) for own, each in zip(of_round[update.products], scored, strict=True)]
    chosen = next(name for name, products in PRODUCTS.items() if products == update.products)
    lines += [
        f"gate at the output: {1000 * gate:.0f} ms a round, {minutes * gate:.1f} min",
        f"an evaluation of {EVALUATED} clients every {EVERY} rounds: {scored[0]:.1f} s, {minutes * scored[0] / EVERY:.1f} min",
        f"in all, {chosen}: {whole[0]:.1f} min as graphs, {whole[1]:.1f} min from Python",
    ]
    return "\n".join(lines)
