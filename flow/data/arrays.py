"""Arrays of the user's own, checked, for :meth:`flow.data.population.Population.from_arrays`."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.checks import LARGEST_INTEGER, check_text
from flow.data.tokens import OOV, SPECIALS
from flow.errors import UserError

KEYS = (
    "train", "train_lengths", "train_labels", "test", "test_lengths", "test_labels", "group", "held_out", "texts",
)  # fmt: skip
LAST = np.iinfo(np.int32).max
Ints = npt.NDArray[np.int64]


class Side(NamedTuple):
    """The training or the test texts of a client."""

    tokens: npt.NDArray[np.int32]
    """[S, T], padded with 0 at the end; where there are classes one more column, the labels."""
    lengths: npt.NDArray[np.int32]
    """[S]: the tokens of every row."""


class Given(NamedTuple):
    """A client, checked; all have arrays of one width."""

    id: str
    group: str
    held_out: bool
    texts: int
    train: Side
    test: Side


def checked(clients: Mapping[str, Mapping[str, Any]], vocabulary: int, classes: tuple[str, ...]) -> list[Given]:
    """The clients, sorted by id; see :meth:`flow.data.population.Population.from_arrays`.

    Args:
        vocabulary: number of tokens.
        classes: names of the classes; empty for none.
    """
    if not isinstance(clients, Mapping) or not clients:
        raise UserError(
            f"clients={reprlib.repr(clients)} must be a dictionary with at least one client; give {{id: {{'train': ..., "
            "'test': ...}}}}"
        )
    for client_id, given in clients.items():
        _check_client(client_id, given, bool(classes))
    sides = {
        (client_id, side): _side(f"client {client_id!r}, {side}", given, side, vocabulary, classes)
        for client_id, given in clients.items()
        for side in ("train", "test")
    }
    width = max(own[0].shape[1] for own in sides.values())
    built = []
    for client_id in sorted(clients):
        given = clients[client_id]
        train, test = (_padded(*sides[client_id, side], width) for side in ("train", "test"))
        texts = given.get("texts", len(train.lengths) + len(test.lengths))
        built.append(Given(client_id, given.get("group", ""), bool(given.get("held_out", False)), int(texts), train, test))
    return built


def names_of_tokens(given: object) -> tuple[str, ...]:
    """The names of a vocabulary that is given by its size or by its names."""
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if not len(SPECIALS) < given <= LAST:
            raise UserError(
                f"vocabulary={given} must be a number of tokens from {len(SPECIALS) + 1} to {LAST}: the ids 0 to "
                f"{len(SPECIALS) - 1} are {', '.join(SPECIALS)}; number your own tokens from {len(SPECIALS)}"
            )
        return (*SPECIALS, *(f"token {number}" for number in range(len(SPECIALS), int(given))))
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise UserError(f"vocabulary={reprlib.repr(given)} must be a number of tokens, or all their names in the order of ids")
    return tuple(given)


def names_of_classes(given: object) -> tuple[str, ...]:
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if given == 0:
            return ()
        if not 2 <= given <= LAST:
            raise UserError(f"classes={given} must be a number of classes from 2 to {LAST}, or 0 for none")
        return tuple(f"class {number}" for number in range(int(given)))
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise UserError(f"classes={reprlib.repr(given)} must be a number of classes, or all their names in the order of labels")
    if not all(isinstance(name, str) for name in given) or len(given) == 1 or len(set(given)) < len(given):
        raise UserError(f"classes={reprlib.repr(given)} must be at least two names, each once; give every class one of its own")
    for number, name in enumerate(given):
        check_text(f"classes[{number}]", name)
    return tuple(given)


def _check_client(client_id: object, given: object, labelled: bool) -> None:
    if not isinstance(client_id, str):
        raise UserError(f"clients: the id {client_id!r} must be a string; write str(...)")
    if not client_id:
        raise UserError("clients: the id '' must not be empty; give every client an id of its own")
    check_text("clients: the id", client_id)
    if not isinstance(given, Mapping):
        raise UserError(f"client {client_id!r} must be a dictionary, got {reprlib.repr(given)}; give 'train' and 'test'")
    for key in given:
        if key not in KEYS:
            raise UserError(
                f"client {client_id!r}: {key!r} is none of {', '.join(map(repr, KEYS))}; rename it, or leave it out"
            )
    needed = ("train", "test", *(("train_labels", "test_labels") if labelled else ()))
    for key in needed:
        if given.get(key) is None:
            reason = "a class for every sequence, as classes are given" if key.endswith("labels") else "its sequences"
            raise UserError(f"client {client_id!r} has no {key!r}, {reason}; give them")
    for key in ("train_labels", "test_labels"):
        if not labelled and given.get(key) is not None:
            raise UserError(
                f"client {client_id!r} has {key!r}, and there are no classes; give classes, or leave the labels out"
            )
    group, held_out, texts = given.get("group", ""), given.get("held_out", False), given.get("texts", 0)
    if not isinstance(group, str):
        raise UserError(f"client {client_id!r}, group={group!r} must be a string; write str(...)")
    check_text(f"client {client_id!r}, group", group)
    if not isinstance(held_out, bool | np.bool_):
        raise UserError(f"client {client_id!r}, held_out={held_out!r} must be True or False; give either")
    if not isinstance(texts, int | np.integer) or isinstance(texts, bool) or texts < 0:
        raise UserError(
            f"client {client_id!r}, texts={texts!r} must be an integer of at least 0; give the number of its texts "
            "of both sides"
        )


def _side(
    where: str, given: Mapping[str, Any], side: str, vocabulary: int, classes: tuple[str, ...]
) -> tuple[Ints, Ints, Ints | None]:
    """One side of a client, checked: tokens [S, T], lengths [S] and labels [S]."""
    tokens = _array(where, given[side], 2)
    lengths = given.get(f"{side}_lengths")
    if lengths is None:
        used = tokens != 0
        lengths = np.where(used.any(1), tokens.shape[1] - np.argmax(used[:, ::-1], axis=1), 0) if used.size else used.sum(1)
    lengths = _array(f"{where}_lengths", lengths, 1)
    least, what = (1, "a token") if classes else (2, "a token and one that follows it")
    if len(lengths) != len(tokens):
        raise UserError(
            f"{where}_lengths has {len(lengths)} numbers and {side} {len(tokens)} sequences; give every sequence its own"
        )
    for (row,) in np.argwhere((lengths < least) | (lengths > tokens.shape[1]))[:1]:
        raise UserError(
            f"{where}, sequence {row}: the length {lengths[row]} must be from {least} to {tokens.shape[1]}, as a sequence "
            f"needs {what}; count its tokens, or leave it out"
        )
    inside = np.arange(tokens.shape[1]) < lengths[:, None]
    for row, place in np.argwhere(np.where(inside, (tokens < OOV) | (tokens >= vocabulary), tokens != 0))[:1]:
        value = tokens[row, place]
        rule = (
            f"from 1 to {vocabulary - 1}, an id of the vocabulary" if inside[row, place] else "0, behind the sequence's length"
        )
        raise UserError(
            f"{where}, sequence {row}, position {place}: the token {value} must be {rule}; 0 is padding at the end "
            "and nothing else"
        )
    if not classes:
        return tokens, lengths, None
    labels = _array(f"{where}_labels", given[f"{side}_labels"], 1)
    if len(labels) != len(tokens):
        raise UserError(f"{where}_labels has {len(labels)} numbers and {side} {len(tokens)} sequences; give every sequence one")
    for (row,) in np.argwhere((labels < 0) | (labels >= len(classes)))[:1]:
        raise UserError(
            f"{where}_labels, sequence {row}: the label {labels[row]} must be from 0 to {len(classes) - 1}, the number of a "
            "class; number the labels by classes"
        )
    return tokens, lengths, labels


def _array(where: str, value: object, dimensions: int) -> Ints:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise UserError(f"{where} is no array ({error}); pad its rows with 0 to one length, and give their lengths") from error
    shape = "[S, T]" if dimensions == 2 else "[S]"
    if array.size == 0 and array.ndim == dimensions:
        return array.astype(np.int64)
    if array.ndim != dimensions or array.dtype.kind not in "iu":
        raise UserError(f"{where} is {array.dtype} {list(array.shape)} and must be whole numbers {shape}; convert it")
    if array.dtype.kind == "u" and array.size and int(array.max()) > LARGEST_INTEGER:
        raise UserError(f"{where} has the number {array.max()}, and may have at most {LARGEST_INTEGER}; lower it")
    return array.astype(np.int64)


def _padded(tokens: Ints, lengths: Ints, labels: Ints | None, width: int) -> Side:
    """The rows padded to a common width, with their labels behind them."""
    padded = np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))
    if labels is not None:
        padded = np.concatenate([padded, labels[:, None]], axis=1)
    return Side(padded.astype(np.int32), lengths.astype(np.int32))
