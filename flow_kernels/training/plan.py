"""What an update of local training costs on a GPU, on paper: memory, bytes, operations, launches and a time. Pure functions.

A part takes as long as the largest of three: its bytes by the memory's bandwidth, its operations by the rate of its products,
its launches by the time between two nodes of a CUDA graph. The rates are assumptions; nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from flow_kernels.training.gpu.tiles import head_tile, vocabulary_parts

Group = Literal["embedding", "gru", "projection", "head"]
GROUPS: tuple[Group, ...] = ("embedding", "gru", "projection", "head")


class Device(NamedTuple):
    """A GPU by its rates, in bytes, operations and seconds; the defaults are an H200's."""

    bandwidth: float = 4.8e12
    """As published."""
    half: float = 790e12
    """Large products of 16 bits as torch reaches them; published: 989e12."""
    tf32: float = 395e12
    """Half of that."""
    ieee: float = 60e12
    """float32 without tensor cores; published: 67e12."""
    share: float = 0.4
    """What products of small tiles reach of these rates."""
    node: float = 1.7e-6
    """Between two kernels of a CUDA graph."""
    launch: float = 12e-6
    """Of a launch from Python, without a graph."""
    step: float = 4e-6
    """A step of the recurrence at least: a launch that waits for the one before, loads and multiplies."""
    memory: int = 141_000_000_000

    def rate(self, products: str) -> float:
        """Operations a second of products "half", "tf32" or "ieee"."""
        return self.share * {"half": self.half, "tf32": self.tf32, "ieee": self.ieee}[products]


H200 = Device()


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
    products: Literal["half", "tf32", "ieee"] = "half"
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
