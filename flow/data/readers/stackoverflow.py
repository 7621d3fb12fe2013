"""What every form of TensorFlow Federated's StackOverflow and Shakespeare has in common: fields, vocabularies and protocols.

Sources: tensorflow_federated/python/simulation/datasets/{stackoverflow,shakespeare}.py; the preparation "tff" is that of
tff.simulation.baselines.stackoverflow (Reddi et al. 2021, arXiv 2003.00295, appendix C); "motley" is that of the benchmark
Motley (Wu et al. 2022, arXiv 2206.09262), personalization_benchmark/cross_device/datasets/stackoverflow.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from flow.data import digests, paths
from flow.data.options import DataOptions
from flow.data.readers import published
from flow.data.streams import TEST, TRAIN, Part
from flow.data.tokens import SPECIALS
from flow.errors import UserError, say

PROTOCOLS = ("tff", "motley")
MOTLEY_MOST = 1024  # examples of a client
WORD_COUNT = "stackoverflow.word_count"
CHARACTERS = "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r"
"""The published alphabet of TensorFlow Federated's Shakespeare, in the order of its ids."""


class Form(NamedTuple):
    """One of the two data sets."""

    name: str
    field: str
    """The feature with the text."""
    date: str
    """The feature with its time; empty: there is none, and the texts stand in their order."""
    tokenizer: str
    sequence_length: int
    licence: str


STACKOVERFLOW = Form("stackoverflow", "tokens", "creation_date", "spaces", 20, "StackOverflow, CC BY-SA 3.0")
SHAKESPEARE = Form("shakespeare-tff", "snippets", "", "characters", 80, "Shakespeare, public domain")
FORMS = (STACKOVERFLOW, SHAKESPEARE)


class Texts(NamedTuple):
    """Some texts of one client in one split."""

    split: str
    client: str
    texts: Sequence[str]
    times: Sequence[float] | None
    place: str
    position: int = 0


def form_of(fields: Collection[str], where: str) -> Form:
    """Which of the data sets has these fields.

    Raises:
        UserError: neither has.
    """
    for form in FORMS:
        if form.field in fields:
            return form
    raise UserError(
        f"{where}: the fields are {', '.join(sorted(fields)) or 'none'}, and there must be 'tokens' (StackOverflow) or "
        "'snippets' (Shakespeare); give one of these two data sets"
    )


def check(options: DataOptions) -> None:
    """Refuse a protocol that is none."""
    if options.protocol is not None and options.protocol not in PROTOCOLS:
        known = " or ".join(map(repr, PROTOCOLS))
        raise UserError(f"protocol={options.protocol!r} must be {known}; give one of these, or leave it out")


def check_protocol(options: DataOptions, form: Form, splits: Collection[str], where: str) -> None:
    """Refuse a protocol that these data cannot follow."""
    if options.protocol is None:
        return
    if form is not STACKOVERFLOW:
        raise UserError(f"protocol={options.protocol!r} is one of StackOverflow, and {where} is {form.licence}; leave it out")
    needed = {TRAIN, TEST} if options.protocol == "tff" else {TRAIN, published.HELD_OUT}
    if needed - set(splits):
        raise UserError(
            f"protocol={options.protocol!r} needs the splits {' and '.join(sorted(needed))}, and {where} has "
            f"{', '.join(sorted(splits)) or 'none'}; give all files of the data set, or leave the protocol out"
        )


def parts(texts: Iterable[Texts], splits: Collection[str]) -> Iterator[Part]:
    """Texts with the splits as published."""
    for own in texts:
        yield Part(own.client, own.texts, own.times, "", *published.place(own.split, splits), own.place, own.position)


def motley(texts: Iterable[Texts]) -> Iterator[Part]:
    """The protocol "motley"; ``texts`` has for every split and client one item, with all texts in the order of the file.

    Of a client the first 1,024 examples count, whose dates are compared in seconds. A client of train has them all to train on.
    One of heldout has them in the order of their dates: the first half, rounded down, to personalize by, the second to be
    tested on. The split test is not part of the protocol.
    """
    for own in texts:
        kept = own.texts[:MOTLEY_MOST]
        times = None if own.times is None else own.times[:MOTLEY_MOST]
        if own.split == TRAIN:
            yield Part(own.client, kept, times, "", False, TRAIN, own.place, own.position)
        elif own.split == published.HELD_OUT:
            order = range(len(kept)) if times is None else sorted(range(len(kept)), key=times.__getitem__)
            half = len(kept) // 2
            for side, chosen in ((TRAIN, order[:half]), (TEST, order[half:])):
                of_side = None if times is None else [times[n] for n in chosen]
                yield Part(own.client, [kept[n] for n in chosen], of_side, "", True, side, own.place, own.position)


_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?: ?UTC|Z)?", re.ASCII)


def not_utf8(field: str, error: UnicodeDecodeError) -> str:
    """What is wrong with a field's bytes."""
    return f"{field!r} must be UTF-8 ({error.reason} at byte {error.start + 1})"


def seconds(text: str) -> float:
    """Unix seconds of a date such as "2010-01-08 09:34:05 UTC"; fractions of seconds do not count, as in Motley.

    Raises:
        ValueError: it is no such date.
    """
    match = _DATE.fullmatch(text)
    if match is not None:
        day, hours, minutes, own = match.groups()
        if hours <= "23" and minutes <= "59" and own <= "60":
            return _midnight(day) + int(hours) * 3600 + int(minutes) * 60 + int(own)
    raise ValueError(f"{text[:40]!r} is no date such as '2010-01-08 09:34:05 UTC'")


@lru_cache(maxsize=1 << 14)
def _midnight(day: str) -> float:
    return (date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()) * 86400.0


def word_count(folder: Path) -> Path | None:
    """The published counts of words beside the data, if they are there."""
    path = folder / WORD_COUNT
    return path if path.is_file() else None


def vocabulary(form: Form, folder: Path, options: DataOptions, where: str) -> tuple[str, ...] | None:
    """The published vocabulary: for Shakespeare the 86 characters, for StackOverflow the first lines of the file of counts.

    Raises:
        UserError: a line of the file is not a word and a number.
    """
    if form is SHAKESPEARE:
        return tuple(CHARACTERS)
    path = word_count(folder)
    if path is None:
        if options.protocol is not None:
            say(
                f"{where}: protocol={options.protocol!r} takes the published vocabulary, and there is no {WORD_COUNT} beside "
                "the data; the words of the training texts are counted instead"
            )
        return None
    words = []
    with paths.readable(path, "data", WORD_COUNT), path.open("rb") as file:
        for number, line in enumerate(islice(file, options.vocabulary_size + len(SPECIALS)), 1):
            word, _, count = line.rstrip(b"\r\n").rpartition(b" ")
            try:
                if not word or not count.isdigit():
                    raise ValueError("a word, a space and a number must stand there")
                words.append(word.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{str(path)!r}, line {number}: {not_utf8('word', error)}; download the file again") from error
            except ValueError as error:
                raise UserError(f"{str(path)!r}, line {number}: {error}; download the file again") from error
    if not words:
        raise UserError(f"{str(path)!r} is empty, and must have a word and its count in every line; download the file again")
    return tuple(words)


def digest(files: Sequence[Path], wanted: str) -> str:
    """Of the data, and of the counts of words beside them."""
    counts = word_count(files[0].parent)
    return digests.of_files([*files, *([counts] if counts else [])], wanted)


def about(form: Form, name: str, splits: Collection[str], options: DataOptions, counted: bool) -> str:
    """One line on the data and their preparation."""
    counting = [split for split in splits if split != TEST] if options.protocol == "motley" else splits
    details = [published.in_words(counting)]
    if options.protocol:
        details.append(f"protocol {options.protocol}")
    if form is STACKOVERFLOW:
        details.append("vocabulary counted" if counted else "published vocabulary")
    return f"{name} ({form.licence}; {', '.join(details)}"
