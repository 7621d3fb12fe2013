"""What the loop needs to know of an algorithm, and what most algorithms answer to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, initial
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.training.batches import Data
from flow.training.messages import ClientState, Download, Members, Personal, Upload, broadcast
from flow.training.sgd import Sgd, check_sgd


class Rate(NamedTuple):
    """An option that a comparison tunes."""

    option: str
    factor: float = 2.0
    """Its first step up or down, see flow/comparison/tuning.py."""


class Scope(NamedTuple):
    """What differs between clients, and between the tokens of one client."""

    client: bool
    """Every client predicts with parameters of its own."""
    instance: bool
    """Which parameters compute is decided anew for every token."""


def unchanged(options: Any, rounds: int) -> Any:
    """The options as they are."""
    return options


def check_training(options: Sgd) -> None:
    """Raise UserError for an option of the SGD out of range."""
    check_sgd(options)


def any_server(options: Any, how: ServerOptions) -> None:
    """Every optimiser and aggregator will do."""


def one_sequence(options: Any) -> int:
    """Whoever has a training sequence takes part."""
    return 1


def single_expert(options: Any) -> dict[str, bool | float]:
    """A plain GRU and head: only the global expert is ever used."""
    return {"routed_head": False, "temperature": 1.0}


def global_model(options: Any, model: LanguageModel, seed: int, clients: int) -> Tensors:
    """Server state: w_g, the initial values of the global expert."""
    return {name: tensor.clone() for name, tensor in initial(model, "global").items()}


def to_all(options: Any, model: LanguageModel, state: Tensors, to: Members, draw: Draw) -> Download:
    """Everybody receives the server state."""
    return broadcast(state, len(to.ids))


def nothing_is_sent(options: Any, model: LanguageModel, state: Tensors, to: Members, draw: Draw) -> Download:
    """Nobody receives anything."""
    return Download({}, [0] * len(to.ids))


def nothing_changes(
    options: Any, state: Tensors, moments: Tensors, uploads: Uploads, how: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """The server keeps what it has."""
    return state, moments


def as_received(options: Any, model: LanguageModel, state: Tensors) -> Personal | None:
    """The server state by the global route."""
    return Personal(broadcast(state, 1).tensors, "global")


def per_client(options: Any) -> Scope:
    """Every client its own model, the same for all of its tokens."""
    return Scope(client=True, instance=False)


@dataclass(frozen=True)
class Algorithm:
    """An algorithm as plain functions. Every one takes the algorithm's own options first.

    Those that run on K clients at once give every client what it would get alone: their randomness comes from
    ``draw.stream(.., client id)``, and nothing is computed across clients.
    """

    name: str
    about: str
    """One line, a whole sentence."""
    options: type[Any]
    """Frozen dataclass of options, all with defaults, among them batch_size."""

    local: Callable[[Any, LanguageModel, Tensors, ClientState, Data, Draw], Upload]
    """(options, model, received, state, data, draw): a round's work of K clients -> what they upload and keep."""

    personalize: Callable[[Any, LanguageModel, Tensors, ClientState, Data, Draw], Personal] | None
    """(options, model, received, state, data, draw) -> what K clients predict with, whether they ever trained or not;
    nothing is kept. None: they predict with the general model."""

    resolve: Callable[[Any, int], Any] = unchanged
    """(options, rounds of the run) -> the options with nothing left open, as a run records them"""
    check: Callable[[Any], None] = check_training
    """Raises UserError for an option out of range."""
    check_server: Callable[[Any, ServerOptions], None] = any_server
    """(options, server options): raises UserError for a server that the algorithm cannot have with these options"""
    minimum_sequences: Callable[[Any], int] = one_sequence
    """Clients with fewer training sequences are skipped and counted."""
    tuned: tuple[Rate, ...] = (Rate("lr"),)
    """What `flow compare --tune` chooses, in this order; last comes the learning rate of an adaptive server optimiser."""
    traits: Callable[[Any], dict[str, Any]] = single_expert
    """options -> keyword arguments of LanguageModel that the algorithm decides"""
    scope: Callable[[Any], Scope] = per_client
    """options -> what the algorithm personalizes"""

    init: Callable[[Any, LanguageModel, int, int], Tensors] = global_model
    """(options, model with its initial parameters, seed, how many clients may train) -> server state"""
    download: Callable[[Any, LanguageModel, Tensors, Members, Draw], Download] = to_all
    """(options, model, server state, K clients, draw) -> what each of them receives; its size is the communication that
    is counted"""
    general: Callable[[Any, LanguageModel, Tensors], Personal | None] = as_received
    """(options, model, server state) -> the one model for everybody, with a leading 1; None where there is none"""
    fresh: Callable[[Any, LanguageModel, Tensors, int], Tensors] | None = None
    """(options, model, received, K) -> the state [K, ..] from which clients start that have none; not changed in place.
    None: clients keep nothing."""

    one_by_one: bool = False
    """Whether the server step needs every single upload instead of their sum."""
    averages: bool = True
    """Whether the server averages uploads: whether server optimisers and aggregators have something to do."""
    server_step: Callable[[Any, Tensors, Tensors, Uploads, ServerOptions, Draw], tuple[Tensors, Tensors]] = optimizers.average
    """(options, server state, moments, uploads, server options, draw) -> (next server state, next moments)"""
