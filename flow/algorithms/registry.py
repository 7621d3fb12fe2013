"""The algorithms, each a few plain functions over explicit state; state and uploads are flat dictionaries of tensors.

A new algorithm is a file that ends in an `ALGORITHM`, and a line in REGISTRY; nothing else knows its name. The first entry
is the one that runs where none is named.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flow.algorithms import (
    apfl,
    ditto,
    dynamic_routing,
    fedalt,
    fedavg,
    fedavgft,
    fedbabu,
    fedfomo,
    fedper,
    fedprox,
    fedrecon,
    fedrep,
    fedsim,
    ffgg,
    flow,
    hypcluster,
    knnper,
    lgfedavg,
    local,
    ngram,
    partialfed,
    perfedavg,
    pfedhn,
    privategate,
)
from flow.algorithms.interface import Algorithm
from flow.server.options import ServerOptions

__all__ = ["DEFAULT", "NAMES", "REGISTRY", "Algorithm", "Name", "algorithm_of"]

REGISTRY: dict[str, Algorithm[Any]] = {
    algorithm.name: algorithm
    for algorithm in (
        flow.ALGORITHM,
        local.ALGORITHM,
        fedavg.ALGORITHM,
        fedavgft.ALGORITHM,
        fedprox.ALGORITHM,
        ditto.ALGORITHM,
        apfl.ALGORITHM,
        privategate.ALGORITHM,
        lgfedavg.ALGORITHM,
        fedper.ALGORITHM,
        fedrep.ALGORITHM,
        fedsim.ALGORITHM,
        fedalt.ALGORITHM,
        partialfed.ALGORITHM,
        fedbabu.ALGORITHM,
        perfedavg.ALGORITHM,
        fedrecon.ALGORITHM,
        dynamic_routing.ALGORITHM,
        ffgg.ALGORITHM,
        fedfomo.ALGORITHM,
        pfedhn.ALGORITHM,
        pfedhn.PC,
        hypcluster.ALGORITHM,
        knnper.ALGORITHM,
        ngram.ALGORITHM,
    )
}
DEFAULT = next(iter(REGISTRY))


class Name(NamedTuple):
    """What a name on the command line stands for."""

    algorithm: Algorithm[Any]
    server: ServerOptions
    about: str
    """One line."""


NAMES: dict[str, Name] = {name: Name(algorithm, ServerOptions(), algorithm.about) for name, algorithm in REGISTRY.items()} | {
    f"fed{server}": Name(fedavg.ALGORITHM, ServerOptions(server), f"FedAvg with the server optimiser {server.capitalize()}.")
    for server in ("yogi", "adam", "adagrad")
}
"""Every algorithm, and the combinations of one with a server that have a name of their own."""


def algorithm_of(options: object) -> Algorithm[Any]:
    """The algorithm whose options these are, decided by their exact class.

    Raises:
        TypeError: no algorithm has options of this class; the message names those that do.
    """
    for algorithm in REGISTRY.values():
        if type(options) is algorithm.options:
            return algorithm
    known = ", ".join(algorithm.options.__name__ for algorithm in REGISTRY.values())
    parent = next((kind.__name__ for kind in type(options).__mro__ if kind in _classes()), None)
    derived = parent and (
        f"; {type(options).__name__} derives from {parent}, but no algorithm in REGISTRY has it as its options, and that of "
        f"{parent} does not run in its place"
    )
    raise TypeError(f"algorithm must be an instance of one of {known}, got {options!r}{derived or ''}")


def _classes() -> set[type[Any]]:
    return {algorithm.options for algorithm in REGISTRY.values()}
