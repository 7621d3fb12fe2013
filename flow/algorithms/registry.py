"""The algorithms, each a few plain functions over explicit state; state and uploads are flat dictionaries of tensors.

A new algorithm of flow is a file that ends in an `ALGORITHM`, and a line in REGISTRY; nothing else knows its name. The first
entry is the one that runs where none is named. An algorithm of somebody else's is in a file that the user names or registers,
or in an installed package with an entry point.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from flow import user_code
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
from flow.algorithms.interface import Algorithm, Tunable
from flow.checks import typed
from flow.errors import UserError
from flow.server.options import ServerOptions
from flow.user_code import source_of

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
"""The algorithms of flow itself."""
DEFAULT = next(iter(REGISTRY))
GROUP = "flow.algorithms"
"""The group of entry points by which an installed package brings an algorithm: ``name = "package.module:ALGORITHM"``."""


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
"""Every algorithm of flow itself, and its combinations with a server that have a name of their own."""


class _Registered(NamedTuple):
    """An algorithm that is not of flow itself."""

    algorithm: Algorithm[Any]
    source: tuple[str, str] | None
    """Its file and that file's SHA-256, see :func:`flow.user_code.source_of`."""


_registered: dict[str, _Registered] = {}
_reserved = {"name", "preset", "folder", "resume", "changed_file", "torch_model", "model", "head", "json", "log"}
"""Names that no option of an algorithm may have: config.json or the command line use them."""


def algorithms() -> dict[str, Algorithm[Any]]:
    """All algorithms by name: those of flow, those that installed packages bring, and those that were registered.

    Raises:
        UserError: an entry point cannot be loaded, or is no algorithm as :func:`register` wants it.
    """
    others = {**_brought(), **_registered}
    return {**REGISTRY, **{name: known.algorithm for name, known in others.items()}}


def names() -> dict[str, Name]:
    """What can be named on the command line and in a comparison: all algorithms, and combinations with a server.

    Raises:
        UserError: as :func:`algorithms`.
    """
    return {
        **NAMES,
        **{
            name: Name(algorithm, ServerOptions(), algorithm.about)
            for name, algorithm in algorithms().items()
            if name not in REGISTRY
        },
    }


def register(algorithm: Algorithm[Any]) -> None:
    """Make an algorithm known by its name in this process, everywhere where those of flow are.

    The same object may be registered again. An algorithm from a file, or from a notebook, takes the place of the one that this
    file or notebook registered under the same name before.

    Args:
        algorithm: see docs/own-algorithm.md.

    Raises:
        UserError: it is no :class:`Algorithm`; its name has another form or is that of another algorithm; its options are no
            frozen dataclass, have fields without defaults or of other types than an option can have, lack ``batch_size``, or
            are those of another algorithm.
    """
    where = f"algorithm={getattr(algorithm, 'name', algorithm)!r}"
    known = _registered.get(getattr(algorithm, "name", ""))
    if known is not None and known.algorithm is algorithm:
        return
    _check(algorithm, where)
    others = {name: other for name, other in algorithms().items() if name != algorithm.name}
    if known is not None and _origin(known.algorithm) != _origin(algorithm):
        raise UserError(
            f"{where}: there is another algorithm of the name {algorithm.name!r}, which {_origin(known.algorithm)} registered; "
            "give it another name"
        )
    _check_options(algorithm, where, others)
    if known is None and algorithm.name in {*NAMES, *_brought()}:
        raise UserError(f"{where}: there is another algorithm of the name {algorithm.name!r}; give it another name")
    _registered[algorithm.name] = _Registered(algorithm, _source(algorithm))


def named(text: str, option: str = "algorithm") -> str:
    """The name of an algorithm that is given by it, or as FILE.py:NAME, which loads and registers the algorithm.

    Args:
        text: what the user gave.
        option: what it was given for; messages say it.

    Raises:
        UserError: there is no algorithm of this name; the file cannot be loaded; or the algorithm cannot be registered.
    """
    if user_code.is_reference(text):
        loaded = user_code.load(text, option)
        if not isinstance(loaded.value, Algorithm):
            raise UserError(
                f"{option}={text!r} is a {type(loaded.value).__name__} and not an Algorithm; give the name of the file's "
                "flow.building_blocks.Algorithm"
            )
        register(loaded.value)
        return loaded.value.name
    known = names()
    if text not in known:
        own = f"; write {text}:NAME for an algorithm of a file" if text.endswith(user_code.SUFFIX) else ""
        raise UserError(f"there is no algorithm {text!r}; the algorithms are {', '.join(known)}{own}")
    return text


def code_of(algorithm: Algorithm[Any]) -> tuple[str, str] | None:
    """The file that an algorithm is from and its SHA-256, as they were when it was registered. None: it is of flow or of an
    installed package, or nothing is known of its text."""
    for known in (*_registered.values(), *_brought().values()):
        if known.algorithm is algorithm:
            return known.source
    return None


def reserve(options: Iterable[str]) -> None:
    """Names of options that no algorithm may have for its own, since the configuration has them already."""
    _reserved.update(options)


def algorithm_of(options: object) -> Algorithm[Any]:
    """The algorithm whose options these are, decided by their exact class.

    Raises:
        TypeError: no algorithm has options of this class; the message names those that do.
    """
    everything = algorithms()
    for algorithm in everything.values():
        if type(options) is algorithm.options:
            return algorithm
    known = ", ".join(algorithm.options.__name__ for algorithm in everything.values())
    classes = {algorithm.options for algorithm in everything.values()}
    parent = next((kind.__name__ for kind in type(options).__mro__ if kind in classes), None)
    derived = parent and (
        f"; {type(options).__name__} derives from {parent}, but no registered algorithm has it as its options, and that of "
        f"{parent} does not run in its place"
    )
    raise TypeError(f"algorithm must be an instance of one of {known}, got {options!r}{derived or ''}")


# --- what may be registered -------------------------------------------------------------------------------------------


@cache
def _brought() -> dict[str, _Registered]:
    """The algorithms that installed packages bring."""
    brought: dict[str, _Registered] = {}
    for algorithm, where, remedy in user_code.brought(GROUP, "algorithm"):
        known = {**REGISTRY, **{name: other.algorithm for name, other in brought.items()}}
        try:
            _check(algorithm, "it")
            if algorithm.name in {*NAMES, *known}:
                raise UserError(f"it: there is another algorithm of the name {algorithm.name!r}")
            _check_options(algorithm, "it", known)
        except UserError as error:
            raise UserError(f"{where}, which is refused ({error}); {remedy}") from error
        brought[algorithm.name] = _Registered(algorithm, _source(algorithm))
    return brought


def _source(algorithm: Algorithm[Any]) -> tuple[str, str] | None:
    values = [getattr(algorithm, field.name) for field in fields(algorithm)]
    return source_of(*(value for value in values if callable(value)))


def _origin(algorithm: Algorithm[Any]) -> str:
    """The file that an algorithm's options are written in, or their module where there is none, as in a notebook."""
    return user_code.origin(algorithm.options)


def _check(algorithm: object, where: str) -> None:
    """Raise UserError unless it is an algorithm with a name and functions."""
    if not isinstance(algorithm, Algorithm):
        raise UserError(
            f"{where} must be a flow.building_blocks.Algorithm, got a {type(algorithm).__name__}; register such a one"
        )
    name = algorithm.name
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name):
        raise UserError(
            f"{where}: name must be a lower-case letter, then up to 59 of these, digits and '_', got {name!r}; rename it"
        )
    if not isinstance(algorithm.about, str) or not algorithm.about.strip() or "\n" in algorithm.about:
        raise UserError(f"{where}: about must be one line of text, got {algorithm.about!r}; write one sentence")
    for field in fields(algorithm):
        kind, value = str(field.type), getattr(algorithm, field.name)
        optional = "None" in kind.rpartition("|")[2] or field.name == "tuned"
        if kind.startswith("Callable") and not callable(value) and not (optional and value is None):
            raise UserError(f"{where}: {field.name} must be a function, got {value!r}; give one")


def _check_options(algorithm: Algorithm[Any], where: str, others: dict[str, Algorithm[Any]]) -> None:
    """Raise UserError unless the options can stand on the command line, in config.json and beside those of other algorithms."""
    kind = algorithm.options
    if not (isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise UserError(f"{where}: options must be a frozen dataclass, got {kind!r}; write @dataclass(frozen=True)")
    own = f"{where}: options: {kind.__name__}"
    for name, other in others.items():
        if other.options is kind:
            raise UserError(f"{own} are those of {name}; derive a class of its own, with @dataclass(frozen=True) above it")
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError) as error:
        raise UserError(f"{own} has a type that Python cannot find ({error}); import it at the top of the file") from error
    for field in fields(kind):
        if field.default is MISSING:
            raise UserError(f"{own}.{field.name} has no default; give it one behind '='")
        if field.name in _reserved or field.name.startswith("_") or not field.init:
            rule = "is the name of another option of a run" if field.name in _reserved else "cannot be given by a user"
            raise UserError(f"{own}.{field.name} {rule}; rename it")
        if not _possible(hints[field.name]):
            raise UserError(
                f"{own}.{field.name} has the type {field.type}, and an option is an int, float, bool, str, a Literal of "
                "strings, or one of these or None; give it one of these types"
            )
    if hints.get("batch_size") is not int:
        raise UserError(f"{own} must have batch_size: int, by which memory is estimated; add it, or derive the class from Sgd")
    try:
        options = typed(kind())
        algorithm.check(options)
        tuned = algorithm.tuned(options) if callable(algorithm.tuned) else algorithm.tuned
    except UserError as error:
        raise UserError(f"{own} has a default that is refused ({error}); give another default") from error
    for tunable in tuned:
        if not isinstance(tunable, Tunable) or tunable.option not in hints:
            raise UserError(
                f"{where}: tuned must hold Tunable records of options of {kind.__name__}, got {tunable!r}; correct it"
            )


def _possible(hint: Any) -> bool:
    """Whether the command line and :func:`flow.checks.typed` can take a field of this type."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return len(kinds) == 1 and len(get_args(hint)) == 2 and _possible(kinds[0])
    if get_origin(hint) is Literal:
        return all(isinstance(value, str) for value in get_args(hint))
    return hint in (int, float, bool, str)
