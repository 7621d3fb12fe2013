"""The options of Flow, and what its variants make of those that are left open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from flow.algorithms.interface import Scope, Tunable
from flow.algorithms.shared.finetuning import RATES, check_rate
from flow.checks import check_number
from flow.errors import UserError
from flow.training.sgd import Optimizer, Sgd, check_sgd

COLDEST = 0.001  # the router's gradient grows as 1 / temperature, and float32 ends where a far smaller one begins


Gate = Literal["cell", "output", "both", "constant", "local"]


@dataclass(frozen=True)
class FlowOptions:
    """A global expert and a local one made from it on the spot, mixed anew at every token."""

    variant: Literal["decoupled", "neurips", "workshop"] = "decoupled"
    """"decoupled": global weights as FedAvg trains them, on all data; the routers apart, on newer texts, between experts that
    stay as they are. "neurips": GRU and head routed; the data split in two; router and global weights trained in turn through
    the mixture. "workshop": only the GRU routed; all data for both phases; both trained together; the router stays private."""

    lr: float = 2.0
    """Learning rate of the global weights, in the published variants of the router too. (Paper: 0.1, Shakespeare 0.11, over
    1500 rounds and more; with clipping, 2 does in a hundred.)"""

    personal_lr: float | None = None
    """Learning rate of the local expert, which is fine-tuned from the global one, in rounds and before a client predicts. None:
    0.5, in the published variants 1. (Paper: lr.)"""

    epochs: int | None = None
    """Passes over the data of each phase, K1 = K2. None: 3, in the workshop variant 1. (Paper: 3, Shakespeare 5.)"""

    personal_epochs: int | None = None
    """Passes by which the local expert is made. None: twice epochs, in the published variants epochs. It can be set only in the
    decoupled variant."""

    batch_size: int = 8
    """Sequences per SGD step of a client. (Paper: 16 for StackOverflow, 4 for Shakespeare.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step. 0: no clipping."""

    momentum: float = 0.0
    """Heavy-ball momentum; it starts at zero in every phase of every round. (Paper: none.)"""

    weight_decay: float = 0.0
    """weight_decay * parameter joins the gradient, after clipping; with "adamw" a step takes rate * weight_decay of every
    parameter away. (Paper: none.)"""

    client_optimizer: Optimizer = "sgd"
    """Optimiser of all that a client trains. "adam" and "adamw" are those of torch.optim, with moments that start at zero in
    every phase of every round; they need learning rates of at most 0.25, such as 0.01. (Paper: SGD.)"""

    client_beta1: float = 0.9
    """Decay of the first moment of the clients' Adam. (torch: 0.9.)"""

    client_beta2: float = 0.999
    """Decay of the second moment of the clients' Adam. (torch: 0.999.)"""

    client_epsilon: float = 1e-8
    """What the clients' Adam adds to the root of the second moment. (torch: 1e-8.)"""

    gamma: float | None = None
    """Weight of the term that draws the router to the global expert. None: 0.1 in the neurips variant, else 0.
    (Paper: 1e-3, the best of 1e-1 to 1e-4 after 2000 rounds on StackOverflow; in a short run so little leaves
    the global expert behind.)"""

    temperature: float | None = None
    """The router's scores are divided by it; at least 0.001. None: 1, in the workshop variant 0.75."""

    local_share: float | None = None
    """Share of a client's sequences that trains the local expert; the others train the router, in the neurips variant the
    global weights too. Between 0 and 1; the workshop variant uses all for both. None: 0.75, in the neurips variant 0.5.
    (Paper: 0.5, the best of 1/4, 1/2 and 3/4.)"""

    ablation: Literal["none", "instance", "client"] = "none"
    """What is left out of the neurips variant, for comparison (paper, Sec. 5.2). "instance": nothing is made by a client, both
    experts are global and averaged, only the router decides (PI-Flow). "client": no router, every client fine-tunes its local
    expert and predicts with it alone (PC-Flow)."""

    router_lr: float = 1.0
    """Decoupled: learning rate of the routers, and of the gate at the output, in rounds."""

    router_epochs: int = 1
    """Decoupled: passes of the routers and the gate over the newer texts in a round."""

    router_every: int = 1
    """Decoupled: routers and gate are trained in every n-th round, for the first time in round n."""

    router_share: float = 1.0
    """Decoupled: share of a round's clients, drawn at random, that train routers and gate in it. Above 0, at most 1."""

    gate: Gate | None = field(default=None, metadata={"absent": "cell"})
    """Decoupled: where experts are mixed. "cell": in the GRU's cell and in the head, by the routers. "output": a small network
    mixes the probabilities of the global expert alone and of the local one alone; "both": of these two and the routed cell.
    For comparison, "constant": of the two with one weight for all tokens; "local": the local expert alone. None: "both", in the
    published variants "cell"."""

    local_weight: float = 0.5
    """Decoupled, with gate "constant": weight of the local expert's probabilities."""

    memory: bool = False
    """Decoupled, with gate "output", "both" or "local": whether an n-gram model of the client's own texts is one more expert.
    Off by default: what it gains is not routing's."""

    memory_tokens: int = 100_000
    """Decoupled: tokens of its newest texts that a client counts, at most: for the n-grams, and for the gate's features."""

    adapt_epochs: int = 0
    """Decoupled: passes by which a client adapts routers and gate to its newer texts before it predicts; 0: it takes them as
    they are."""

    adapt_lr: float = 0.1
    """Decoupled: learning rate of this adaptation."""

    through: Literal["local", "mixture"] = "local"
    """Decoupled: how the local expert of a prediction is trained on all of a client's texts. "local": alone. "mixture": through
    the routed mixture, with the routers as they are."""


DECOUPLED = (
    "personal_epochs", "router_lr", "router_epochs", "router_every", "router_share", "adapt_epochs", "adapt_lr", "through",
    "gate", "local_weight", "memory", "memory_tokens",
)  # fmt: skip
CHOOSING = ("router_lr", "router_epochs", "router_every", "router_share", "adapt_epochs", "adapt_lr")
REMEMBERING = ("output", "both", "local")


class Settings(NamedTuple):
    """The options with the variant's own values filled in."""

    sgd: Sgd
    """Of the global weights, in the published variants of the routers too."""
    personal: Sgd
    """Of the local expert."""
    gamma: float
    temperature: float
    local_share: float
    split: bool
    """Whether the data are split in two, and router and global weights both uploaded."""


def settings(options: FlowOptions) -> Settings:
    """Fill in what the variant decides where an option is None."""
    epochs, personal_lr, gamma, temperature, share = {
        "decoupled": (3, 0.5, 0.0, 1.0, 0.75), "neurips": (3, 1.0, 0.1, 1.0, 0.5), "workshop": (1, 1.0, 0.0, 0.75, 0.5)
    }[options.variant]  # fmt: skip
    sgd = Sgd(
        options.lr,
        epochs if options.epochs is None else options.epochs,
        options.batch_size,
        options.clip,
        options.momentum,
        options.weight_decay,
        options.client_optimizer,
        options.client_beta1,
        options.client_beta2,
        options.client_epsilon,
    )
    twice = 2 if options.variant == "decoupled" else 1
    return Settings(
        sgd,
        replace(
            sgd,
            lr=personal_lr if options.personal_lr is None else options.personal_lr,
            epochs=twice * sgd.epochs if options.personal_epochs is None else options.personal_epochs,
        ),
        gamma if options.gamma is None else options.gamma,
        temperature if options.temperature is None else options.temperature,
        share if options.local_share is None else options.local_share,
        options.variant != "workshop",
    )


def gate_of(options: FlowOptions) -> Gate:
    """Where the experts are mixed."""
    return options.gate or ("both" if options.variant == "decoupled" else "cell")


def chooses(options: FlowOptions) -> bool:
    """Whether anything is trained that chooses between experts: routers, or a gate at the output."""
    gate = gate_of(options)
    return gate in ("cell", "output", "both") or (gate == "local" and options.memory)


def resolve(options: FlowOptions, rounds: int) -> FlowOptions:
    """The options with nothing left open: what a run records."""
    chosen = settings(options)
    return replace(
        options,
        personal_lr=chosen.personal.lr,
        epochs=chosen.sgd.epochs,
        personal_epochs=chosen.personal.epochs,
        gamma=chosen.gamma,
        temperature=chosen.temperature,
        local_share=chosen.local_share,
        gate=gate_of(options),
    )


def check(options: FlowOptions) -> None:
    """Raise UserError for an option out of range."""
    sgd, personal, gamma, temperature, share, _ = settings(options)
    check_rate("personal_lr", options.personal_lr)
    apart = options.router_lr if options.variant == "decoupled" and chooses(options) else None
    check_sgd(sgd, personal_lr=personal.lr, router_lr=apart, adapt_lr=options.adapt_lr if options.adapt_epochs else None)
    check_number("personal_epochs", personal.epochs, 1)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UserError(f"gamma must be a finite number of at least 0, got {gamma!r}; 0 switches the regulariser off")
    if not (temperature >= COLDEST and math.isfinite(temperature)):
        raise UserError(
            f"temperature must be a finite number of at least {COLDEST}, got {temperature!r}; 1 is a plain softmax, and from "
            "about 0.01 down the router chooses one expert or the other"
        )
    if not 0 < share < 1:
        raise UserError(
            f"local_share must lie between 0 and 1, got {share!r}; for no local expert or for that one alone "
            "choose variant='neurips' with ablation='instance' or ablation='client'"
        )
    if options.variant != "neurips" and options.ablation != "none":
        raise UserError(
            f"ablation={options.ablation!r} is one of variant='neurips', got variant={options.variant!r}; leave one of them out"
        )
    if share != 0.5 and (options.variant == "workshop" or options.ablation != "none"):
        raise UserError(
            f"local_share={share!r} has nothing to divide: with variant={options.variant!r}, "
            f"ablation={options.ablation!r} every phase uses all sequences; leave it out"
        )
    check_rate("router_lr", options.router_lr)
    check_rate("adapt_lr", options.adapt_lr)
    check_number("router_epochs", options.router_epochs, 1)
    check_number("router_every", options.router_every, 1)
    check_number("adapt_epochs", options.adapt_epochs, 0)
    check_number("memory_tokens", options.memory_tokens, 1)
    check_number("local_weight", options.local_weight, 0, 1)
    gate = gate_of(options)
    if options.local_weight != FlowOptions.local_weight and gate != "constant":
        raise UserError(
            f"local_weight={options.local_weight!r} is the weight of gate='constant', got gate={gate!r}; leave one of them out"
        )
    if options.through == "mixture" and gate not in ("cell", "both"):
        raise UserError(
            f"through='mixture' needs a routed cell, got gate={gate!r}; give gate='cell' or 'both', or leave through out"
        )
    for name in CHOOSING:
        if not chooses(options) and getattr(options, name) != getattr(FlowOptions, name):
            raise UserError(
                f"{name}={getattr(options, name)!r} has nothing to train: with gate={gate!r} there are neither routers nor a "
                "gate to train; leave it out"
            )
    if options.memory and gate not in REMEMBERING:
        raise UserError(
            f"memory=True is a source of the gate at the output, got gate={gate!r}; give gate='both', 'output' or "
            "'local', or leave memory out"
        )
    if not 0 < options.router_share <= 1:
        raise UserError(
            f"router_share must be above 0 and at most 1, got {options.router_share!r}; 1 has every client train the routers"
        )
    for known in fields(options):
        own: set[Any] = {known.default, None, {"personal_epochs": sgd.epochs, "gate": "cell"}.get(known.name)}
        if known.name in DECOUPLED and options.variant != "decoupled" and getattr(options, known.name) not in own:
            raise UserError(
                f"{known.name}={getattr(options, known.name)!r} is one of variant='decoupled', "
                f"got variant={options.variant!r}; leave one of them out"
            )


def minimum_sequences(options: FlowOptions) -> int:
    """A client with fewer training sequences is skipped: two parts need two, and the decoupled global weights only one."""
    return 2 if options.variant == "neurips" and options.ablation == "none" else 1


def tuned(options: FlowOptions) -> tuple[Tunable, ...]:
    """What a comparison tunes of each variant."""
    if options.variant == "decoupled":
        by_gate = {
            "constant": (Tunable("local_weight", "share", 3.0),),
            "local": (Tunable("router_lr"),) if options.memory else (),
        }
        return (*RATES, Tunable("personal_epochs", "count"), *by_gate.get(gate_of(options), (Tunable("router_lr"),)))
    if options.ablation == "instance":
        return (Tunable("lr"),)
    return RATES if options.ablation == "client" else (*RATES, Tunable("gamma", "weight", 10**0.5))


def traits(options: FlowOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.model.language_model.LanguageModel` the algorithm decides."""
    return {"routed_head": options.variant != "workshop", "temperature": settings(options).temperature}


def scope(options: FlowOptions) -> Scope:
    """Per client and per instance; an ablation is one of the two, and without routers and a gate all tokens are alike."""
    instance = options.ablation != "client" and chooses(options)
    return Scope(client=options.ablation != "instance", instance=instance)
