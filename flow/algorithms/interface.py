"""What the loop needs to know of an algorithm, and what most algorithms answer to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from flow.draws import Draw
from flow.model.interface import Model, Part
from flow.model.parameters import Tensors, initial
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.sgd import check_sgd

Options = TypeVar("Options")


class Tunable(NamedTuple):
    """An option that a comparison tunes, see flow/comparison/tuning.py."""

    option: str
    kind: Literal["rate", "weight", "count", "share"] = "rate"
    """ "rate": a learning rate. "weight": how much a term counts, above 0, or 0 without it. "count": an integer of at least 1.
    "share": a number between 0 and 1."""
    factor: float = 2.0
    """The first step multiplies or divides by it; a count is then rounded, and of a share x it is the odds x / (1 - x)."""
    first: float = 0.01
    """What is tried after a weight whose default is 0."""


class Stopping(NamedTuple):
    """Whether a round's local work can end after any of its batches, and how much it has."""

    refusal: str = ""
    """Why it cannot, in words that follow the name of the algorithm; empty where it can."""
    passes: int = 1
    """How often each batch is trained on."""
    steps: int = 0
    """Batches of a client, each drawn anew; 0: those of `epochs` passes over its sequences."""


class Scope(NamedTuple):
    """What differs between clients, and between the tokens of one client."""

    client: bool
    """Every client predicts with parameters of its own."""
    instance: bool
    """Which parameters compute is decided anew for every token."""


def always(options: Any) -> bool:
    """Whatever the options are."""
    return True


def nothing_against_it(options: Any) -> str:
    """Uploads of a step may come from clients that started in different rounds."""
    return ""


def nothing_beyond_it(options: Any) -> str:
    """The server takes the sum of the uploads, and passes on what it makes of it alone."""
    return ""


def whole_state(options: Any, state: Tensors, round: int) -> tuple[str, ...]:
    """Clients upload all parameters of the server's state."""
    return tuple(name for name, tensor in state.items() if tensor.is_floating_point())


def any_batch(options: Any) -> Stopping:
    """Local work is one pass by one update over the batches of all epochs, and is what it is after any of them."""
    return Stopping()


def only_whole(reason: str) -> Callable[[Any], Stopping]:
    """Local work has to be done to its end, whatever the options are."""

    def stopping(options: Any) -> Stopping:
        return Stopping(reason)

    return stopping


not_told = only_whole("does not say whether its local work can stop (`stopping` of its Algorithm)")


def unchanged(options: Any, rounds: int) -> Any:
    """The options as they are."""
    return options


def check_training(options: Any) -> None:
    """Raise UserError for an option of the SGD out of range."""
    check_sgd(options)


def any_server(options: Any, server_options: ServerOptions) -> None:
    """Every optimiser and aggregator will do."""


def one_sequence(options: Any) -> int:
    """Whoever has a training sequence takes part."""
    return 1


def one_model(options: Any) -> dict[str, int]:
    """There is one model, at the server and at a client."""
    return {}


def needing(*parts: Part) -> Callable[[Any], tuple[Part, ...]]:
    """The same parts of a model, whatever the options are."""

    def needs(options: Any) -> tuple[Part, ...]:
        return parts

    return needs


nothing_more = needing()


def single_expert(options: Any) -> dict[str, bool | float]:
    """A plain GRU and head: only the global expert is ever used."""
    return {"routed_head": False, "temperature": 1.0}


def global_model(options: Any, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: w_g, the initial values of the global expert."""
    return {name: tensor.clone() for name, tensor in initial(model, "global").items()}


def to_all(options: Any, model: Model, state: Tensors, to: Members) -> Download:
    """Everybody receives the server state."""
    return broadcast(state, len(to.ids))


def nothing_is_sent(options: Any, model: Model, state: Tensors, to: Members) -> Download:
    """Nobody receives anything."""
    return Download({}, [0] * len(to.ids))


def nothing_changes(
    options: Any, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """The server keeps what it has."""
    return state, moments


def as_received(options: Any, model: Model, state: Tensors) -> Personal | None:
    """The server state by the global route."""
    return Personal(broadcast(state, 1).tensors, "global")


def client_scope(options: Any) -> Scope:
    """Every client its own model, the same for all of its tokens."""
    return Scope(client=True, instance=False)


@dataclass(frozen=True)
class Algorithm(Generic[Options]):
    """An algorithm as plain functions over explicit state. Every one takes the algorithm's own options first.

    Those that run on K clients at once give every client what it would get alone: their randomness comes from
    ``draw.stream(.., client id)``, and nothing is computed across clients.
    """

    name: str
    about: str
    """One line, a whole sentence."""
    options: type[Options]
    """Frozen dataclass of options, all with defaults, among them batch_size."""

    local: Callable[[Options, Model, Visit], Upload]
    """(options, model, visit): a round's work of K clients -> what they upload and keep."""

    personalize: Callable[[Options, Model, Visit], Personal] | None
    """(options, model, visit) -> what K clients predict with, whether they ever trained or not; nothing is kept. None: they
    predict with the general model."""

    restored: Callable[[Options, Model, Personal, Tensors], Personal] | None = None
    """(options, model, what one client predicts with but for its `answering` and `probabilities`, what
    :meth:`flow.training.messages.Mixture.stored` gave) -> what it predicts with. None: its way is one pass of the model."""

    resolve: Callable[[Options, int], Options] = unchanged
    """(options, rounds of the run) -> the options with nothing left open, as a run records them"""
    check: Callable[[Options], None] = check_training
    """Raises UserError for an option out of range."""
    check_server: Callable[[Options, ServerOptions], None] = any_server
    """(options, server options): raises UserError for a server that the algorithm cannot have with these options"""
    minimum_sequences: Callable[[Options], int] = one_sequence
    """Clients with fewer training sequences are skipped and counted."""
    rates: tuple[str, ...] = ("lr",)
    """The learning rates of a round's local work that the option lr_schedule multiplies, the most important first. A rate of
    None is left out."""
    tuned: tuple[Tunable, ...] | Callable[[Options], tuple[Tunable, ...]] = (Tunable("lr"),)
    """What `flow compare --tune` chooses, in this order: the learning rates, then the one or two parameters that decide most.
    The rate of an adaptive server optimiser comes between them."""
    traits: Callable[[Options], dict[str, Any]] = single_expert
    """options -> keyword arguments of :class:`flow.model.language_model.LanguageModel` that the algorithm decides"""
    needs: Callable[[Options], tuple[Part, ...]] = nothing_more
    """options -> what the algorithm needs of a model beside its parameters, see :data:`flow.model.interface.PARTS`; a module of
    the user's own may lack it"""
    models: Callable[[Options], dict[str, int]] = one_model
    """options -> how many models the server keeps, or a client receives, by the name of the option that says so; for the
    estimate of memory"""
    scope: Callable[[Options], Scope] = client_scope
    """options -> what the algorithm personalizes"""

    init: Callable[[Options, Model, int, int], Tensors] = global_model
    """(options, model with its initial parameters, seed, how many clients may train) -> server state"""
    download: Callable[[Options, Model, Tensors, Members], Download] = to_all
    """(options, model, server state, K clients) -> what each of them receives; its size is the communication that is counted"""
    general: Callable[[Options, Model, Tensors], Personal | None] = as_received
    """(options, model, server state) -> the one model for everybody, with a leading 1; None where there is none"""
    fresh: Callable[[Options, Model, Tensors, int], Tensors] | None = None
    """(options, model, received, K) -> the state [K, ..] from which clients start that have none; not changed in place.
    None: clients keep nothing."""
    keeps: Callable[[Options], bool] = always
    """options -> whether clients keep their state from round to round; asked where there is a `fresh`."""

    one_by_one: bool = False
    """Whether the server step needs every single upload instead of their sum."""
    averages: bool = True
    """Whether the server averages uploads: whether server optimisers and aggregators have something to do."""
    in_step: Callable[[Options], str] = nothing_against_it
    """options -> why all uploads of a step must come from clients that started in the same round, in words; empty: they need
    not, and the algorithm can be asynchronous"""
    beyond_the_sum: Callable[[Options], str] = nothing_beyond_it
    """options -> what leaves a client or its uploads that is no sum over clients, as a clause; empty: nothing does, and the
    algorithm can be differentially private"""
    uploaded: Callable[[Options, Tensors, int], tuple[str, ...]] = whole_state
    """(options, server state, round) -> the names of the tensors that clients upload in it, whoever takes part"""
    changes: bool = False
    """Whether clients upload changes of the server's state, such as gradients, under its names, and not the changed state."""
    stopping: Callable[[Options], Stopping] = not_told
    """options -> whether clients that a deadline cuts short can upload what they have after any batch (`--late partial`). Their
    batches then come from :func:`flow.training.batches.batches`, which ends where `most` of the data says so."""
    server_step: Callable[[Options, Tensors, Tensors, Uploads, ServerOptions, Draw], tuple[Tensors, Tensors]] = (
        optimizers.average
    )
    """(options, server state, moments, uploads, server options, draw) -> (next server state, next moments)"""

    @property
    def takes_the_mean(self) -> bool:
        """Whether uploads are parameters of the server's state, of which the server takes the mean and no more.

        Only then can they be compressed as changes, and wait in a buffer.
        """
        return self.averages and not self.one_by_one and self.server_step is optimizers.average

    def stateful(self, options: Options) -> bool:
        """Whether clients keep something from round to round."""
        return self.fresh is not None and self.keeps(options)
