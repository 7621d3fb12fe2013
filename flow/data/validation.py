"""The check of a population that was made outside of this package, before anything is computed with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from flow.checks import check_text
from flow.data.population import Client, Indexed, Population, Sequences, Survey, Table, Vocabulary
from flow.errors import UserError

_valid: WeakSet[Population] = WeakSet()


def trusted(population: Population) -> Population:
    """The same population, which :func:`validated` passes on unread from now on."""
    _valid.add(population)
    return population


def validated(population: Population) -> Population:
    """The same population, checked the first time that it comes by.

    Its clients are read once, and the table and the fingerprint are taken from the same reading. Of clients that are
    :class:`flow.data.population.Indexed` none is read: their table is checked alone.

    Raises:
        UserError: the population breaks a rule of its classes; the message names client, place, value and rule.
    """
    if not isinstance(population, Population):
        raise UserError(
            f"population must be a flow.data.Population, got {population!r}; leave it out to load config.data, or make one as "
            "docs/data.md shows"
        )
    if population not in _valid:
        _check_frame(population)
        if isinstance(population.clients, Indexed):
            _check_table(population.clients.table, len(population.clients))
        else:
            population.__dict__["survey"] = _surveyed(population)
        trusted(population)
    return population


def _check_frame(population: Population) -> None:
    """Everything but the clients."""
    for name in ("name", "about"):
        _check_string(f"population.{name}", getattr(population, name))
    if not isinstance(population.vocabulary, Vocabulary):
        raise UserError(f"population.vocabulary must be a flow.data.Vocabulary, got {population.vocabulary!r}; make one")
    length = population.sequence_length
    if type(length) is not int or length < 1:
        raise UserError(
            f"population.sequence_length={length!r} must be an integer of at least 1; give the targets per sequence"
        )
    classes = population.classes
    if not isinstance(classes, tuple) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"population.classes={classes!r} must be a tuple of names; write tuple(names), or leave it out")
    if len(classes) == 1 or len(set(classes)) < len(classes):
        raise UserError(
            f"population.classes={classes!r} must be at least two names, each once; give every class a name of its own"
        )
    for number, name in enumerate(classes):
        check_text(f"population.classes[{number}]", name)
    if not isinstance(population.clients, Sequence):
        raise UserError(
            f"population.clients must be a sequence of clients, got a {type(population.clients).__name__}; write tuple(clients)"
        )


def _check_table(table: Table, clients: int) -> None:
    for name, column in table._asdict().items():
        if column.shape != (clients,):
            raise UserError(
                f"population.clients.table.{name} has the shape {list(column.shape)} and must have [{clients}], a value for "
                "every client; make the table anew"
            )


def _surveyed(population: Population) -> Survey:
    survey, previous = Survey(population.scored), None
    for place, client in enumerate(population.clients):
        _check_fields(client, place)
        if previous is not None and client.id <= previous:
            rule = "every client needs an id of its own" if client.id == previous else "clients must be sorted by id"
            raise UserError(
                f"population.clients[{place}].id={client.id!r} follows {previous!r}: {rule}; "
                "give distinct ids and write sorted(clients, key=lambda client: client.id)"
            )
        previous = client.id
        for side in ("train", "test"):
            _check_sequences(client, side, population)
        survey.add(client)
    return survey


def _check_fields(client: Client, place: int) -> None:
    where = f"population.clients[{place}]"
    if not isinstance(client, Client):
        raise UserError(f"{where} must be a flow.data.Client, got {client!r}; make one")
    _check_string(f"{where}.id", client.id)
    if not client.id:
        raise UserError(f"{where}.id='' must not be empty; give every client an id of its own")
    _check_string(f"population: client {client.id!r}, group", client.group)
    if not isinstance(client.held_out, bool | np.bool_):
        raise UserError(f"population: client {client.id!r}, held_out={client.held_out!r} must be True or False; give either")
    if not isinstance(client.texts, int | np.integer) or client.texts < 0:
        raise UserError(
            f"population: client {client.id!r}, texts={client.texts!r} must be an integer of at least 0; give the number of "
            "its texts of both sides"
        )


def _check_string(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise UserError(f"{name}={value!r} must be a string; write str(...)")
    check_text(name, value)


def _check_sequences(client: Client, side: str, population: Population) -> None:
    """One side of a client: types, shapes, token ids and lengths."""
    sequences, where = getattr(client, side), f"population: client {client.id!r}, {side}"
    if not isinstance(sequences, Sequences):
        raise UserError(f"{where} must be a flow.data.Sequences, got {sequences!r}; make one")
    tokens, lengths, steps = sequences.tokens, sequences.lengths, population.sequence_length
    if not _integers(tokens, 2) or tokens.shape[1] != steps + 1:
        raise UserError(
            f"{where}.tokens is {_kind(tokens)} and must be integers [n, {steps + 1}], as sequence_length={steps} says; "
            "cut or pad sequences to that width"
        )
    if not _integers(lengths, 1) or len(lengths) != len(tokens):
        raise UserError(
            f"{where}.lengths is {_kind(lengths)} and must be integers [{len(tokens)}], as there are rows of tokens; "
            "give every sequence its number of targets"
        )
    if sequences.labelled != bool(population.classes):
        has = "has classes" if population.classes else "has no classes"
        raise UserError(
            f"{where}.labelled={sequences.labelled!r}, and the population {has}; give Sequences(tokens, lengths, "
            "labelled=True) with classes, or neither"
        )
    size = len(population.vocabulary)
    if sequences.labelled:
        for (sequence,) in np.argwhere((tokens[:, -1] < 0) | (tokens[:, -1] >= len(population.classes)))[:1]:
            raise UserError(
                f"{where}.tokens, sequence {sequence}: the label {tokens[sequence, -1]} must be from 0 to "
                f"{len(population.classes) - 1}, the number of a class; number the labels by classes"
            )
        tokens = tokens[:, :-1]
    for sequence, position in np.argwhere((tokens < 0) | (tokens >= size))[:1]:
        raise UserError(
            f"{where}.tokens, sequence {sequence}, position {position}: token {tokens[sequence, position]} must be from 0 to "
            f"{size - 1}, an id of the vocabulary; number the words by the vocabulary"
        )
    counted = "count the tokens" if sequences.labelled else "count the targets, which are one fewer than the tokens"
    for (sequence,) in np.argwhere((lengths < 1) | (lengths > steps))[:1]:
        raise UserError(
            f"{where}.lengths, sequence {sequence}: length {lengths[sequence]} must be from 1 to sequence_length={steps}; "
            f"{counted}, and leave out sequences without any"
        )


def _integers(array: npt.NDArray[Any], dimensions: int) -> bool:
    """Whether a value is an array of whole numbers that int64 can hold, with so many dimensions."""
    return (
        isinstance(array, np.ndarray)
        and array.ndim == dimensions
        and array.dtype.kind in "iu"
        and np.can_cast(array.dtype, np.int64)
    )


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
