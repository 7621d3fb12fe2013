"""The algorithms, each a few plain functions over explicit state; state and uploads are flat dictionaries of tensors.

A new algorithm is a file with these functions and an entry in REGISTRY; nothing else knows its name. The first entry is
the one that runs where none is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flow.algorithms import fedavg, flow
from flow.cohort import Data, Draw, Personal, Upload
from flow.models import LanguageModel, Tensors
from flow.server import ServerOptions


@dataclass(frozen=True)
class Algorithm:
    """What the loop needs to know of an algorithm. Every function takes the algorithm's own options first."""

    name: str
    options: type[Any]
    """Frozen dataclass of options, all with defaults."""
    resolve: Callable[[Any], Any]
    """options -> the same with nothing left open, as a run records them"""
    check: Callable[[Any], None]
    """Raises UserError for an option out of range."""
    minimum_sequences: Callable[[Any], int]
    """Clients with fewer training sequences are skipped and counted."""
    traits: Callable[[Any], dict[str, Any]]
    """options -> keyword arguments of LanguageModel that the algorithm decides"""
    init: Callable[[Any, Tensors], Tensors]
    """(options, initial parameters of the model) -> server state"""
    download: Callable[[Any, Tensors], Tensors]
    """(options, server state) -> what every client receives; its size is the communication that is counted"""
    local: Callable[[Any, LanguageModel, Tensors, Data, Draw], Upload]
    """(options, model, download, data of K clients, draw) -> uploads of K clients"""
    server_step: Callable[[Any, Tensors, Tensors, ServerOptions], Tensors]
    """(options, server state, weighted mean of the uploads, server options) -> server state"""
    personalize: Callable[[Any, LanguageModel, Tensors, Data, Draw], Personal] | None
    """(options, model, download, data of K clients, draw) -> what they predict with; None: the model as received"""


REGISTRY: dict[str, Algorithm] = {
    "flow": Algorithm(
        name="flow",
        options=flow.FlowOptions,
        resolve=flow.resolve,
        check=flow.check,
        minimum_sequences=flow.minimum_sequences,
        traits=flow.traits,
        init=flow.init,
        download=flow.download,
        local=flow.local,
        server_step=flow.server_step,
        personalize=flow.personalize,
    ),
    "fedavg": Algorithm(
        name="fedavg",
        options=fedavg.FedAvgOptions,
        resolve=lambda options: options,
        check=fedavg.check,
        minimum_sequences=fedavg.minimum_sequences,
        traits=fedavg.traits,
        init=fedavg.init,
        download=fedavg.download,
        local=fedavg.local,
        server_step=fedavg.server_step,
        personalize=None,
    ),
}


DEFAULT = next(iter(REGISTRY))


def algorithm_of(options: object) -> Algorithm:
    """The algorithm whose options these are."""
    for algorithm in REGISTRY.values():
        if isinstance(options, algorithm.options):
            return algorithm
    known = ", ".join(algorithm.options.__name__ for algorithm in REGISTRY.values())
    raise TypeError(f"algorithm must be an instance of one of {known}, got {options!r}")
