"""``flow data``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from flow.algorithms.shared.memory import NONE, Memory
from flow.checks import check_number, typed
from flow.cli.command import Command, Form, named_folder, parsed
from flow.cli.json_output import Json, answering
from flow.data import DataOptions, Population, Sequences, load, opened
from flow.data.corpus import client_hash
from flow.data.description import QUANTILES, Sample, Sizes, Texts, sizes, texts
from flow.errors import UserError, one_line, plural
from flow.parallel.processes import Ranks
from flow.reports.data_page import NAME, write_page

SCORED = 200
"""Clients whose test texts are predicted, and at most so many again to learn from: the first by the crc32 of their ids."""
LEARNT = 2_000_000  # tokens of training texts of which the global n-grams are counted
SHARE = 0.3  # of the client's own n-grams, as the algorithm ngram mixes them
MOST_CHARACTERS = 300  # characters of a text
MOST_CLASSES = 10  # that the line of classes names


@dataclass(frozen=True)
class Data(Json, DataOptions):
    """Describe a data set before anything is trained on it: clients, texts, tokens, unknown words, near-duplicates, and how
    much a client's own n-grams add, or with --label-column the classes. The data are prepared, as `flow prepare` does, with the
    same options."""

    sample: int = 0
    """Show so many texts, each of another client."""

    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the same as a page, data.html, into this folder. None: no page."""


class Headroom(NamedTuple):
    """How well the local test texts of some clients are predicted by n-grams; see :func:`headroom`."""

    general: float
    """Perplexity of the n-grams of other clients' training texts; NaN where there is nothing to score."""
    mixed: float
    """Perplexity where the client's own are mixed in."""
    helped: int
    """Clients with a lower perplexity by the mixture."""
    clients: int


def headroom(population: Population, clients: int = SCORED, learnt: int = LEARNT) -> Headroom:
    """What personalization can win at least: a global trigram model against the same mixed with the client's own counts.

    Both are interpolated trigrams with Witten-Bell smoothing (:mod:`flow.algorithms.shared.memory`). The global one counts
    training texts of clients that are not held out and are not scored. Targets are those that count for accuracy. Texts
    with labels have none, and nothing is scored.

    Args:
        population: all clients.
        clients: how many are scored, at most; as many as are left learn.
        learnt: tokens of which the global model counts n-grams, at most.
    """
    if population.classes:  # n-grams say what token comes next
        return Headroom(float("nan"), float("nan"), 0, 0)
    order = sorted(range(len(population.clients)), key=lambda place: _rank(population, place))
    table = population.table
    scored = [place for place in order if table.scored[place] > 0 and table.train[place] > 0]
    scored = scored[: min(clients, max(1, len(scored) // 2))]
    others, tokens = [], 0
    own = set(scored)
    for place in order:
        if place not in own and not table.held_out[place] and tokens < learnt:
            train = population.clients[place].train
            others.append(Sequences(train.tokens, train.lengths))
            tokens += int(train.lengths.sum())
    if not others or not scored:
        return Headroom(float("nan"), float("nan"), 0, 0)
    size, counted = len(population.vocabulary), population.vocabulary.scored
    general = Memory(
        np.concatenate([train.tokens for train in others]),
        np.concatenate([train.lengths for train in others]).astype(np.int64),
        size,
        learnt,
    )
    bits = np.zeros((2, len(scored)))
    number = 0
    for row, place in enumerate(scored):
        client = population.clients[place]
        personal = Memory(client.train.tokens, client.train.lengths.astype(np.int64), size, learnt)
        test = client.test.tokens.astype(np.int64)
        second = np.concatenate([np.full((len(test), 1), NONE), test[:, :-2]], axis=1)
        valid = counted[test[:, 1:]] & (np.arange(test.shape[1] - 1) < client.test.lengths[:, None])
        context = second[valid], test[:, :-1][valid], test[:, 1:][valid]
        chances = general.chance(*context), personal.chance(*context)
        bits[:, row] = -np.log(chances[0]).sum(), -np.log((1 - SHARE) * chances[0] + SHARE * chances[1]).sum()
        number += int(valid.sum())
    perplexities = np.exp(bits.sum(axis=1) / number)
    return Headroom(float(perplexities[0]), float(perplexities[1]), int((bits[1] < bits[0]).sum()), len(scored))


def _rank(population: Population, place: int) -> tuple[int, int]:
    return client_hash(population.clients[place].id), place


def rows(population: Population, totals: Sizes, room: Headroom, inspected: Texts | None) -> list[tuple[str, str]]:
    """The lines of the table: what, and how much of it."""
    unit = population.vocabulary.unit
    quantiles = ", ".join("max" if share == 1 else f"p{round(100 * share)}" for share in QUANTILES)

    def spread(values: tuple[float, ...]) -> str:
        return " / ".join(f"{value:,.0f}" for value in values) + f" ({quantiles})"

    lines = [
        ("data", f"{population.name}: {population.about}"),
        ("clients", f"{totals.clients:,}, of which {totals.held_out:,} are held out"),
        ("texts", f"{totals.texts:,}"),
        (f"{unit}s", f"{totals.tokens:,}"),
        ("texts of a client", spread(totals.texts_of_client)),
        (f"{unit}s of a client", spread(totals.tokens_of_client)),
        ("vocabulary", f"{len(population.vocabulary):,} ids; {100 * totals.unknown:.2f} % of all {unit}s are not in it"),
    ]
    if inspected is not None and inspected.looked_at:
        share = 100 * inspected.near / inspected.looked_at
        texts_of_clients = _many(inspected.looked_at, "text") + " of " + _many(inspected.clients, "client")
        lines.append(("near-duplicates", f"{share:.1f} % of {texts_of_clients}"))
    if population.classes:
        lines.insert(3, ("classes", _shares(population.classes, totals.texts_of_class)))
    if room.clients:
        lines.append(
            (
                "headroom",
                f"perplexity {room.general:,.1f} by n-grams of other clients, {room.mixed:,.1f} with the client's own mixed "
                f"in; helped: {room.helped:,} of {_many(room.clients, 'client')}",
            )
        )
    return lines


def _shares(classes: tuple[str, ...], counts: tuple[int, ...]) -> str:
    """How many classes there are, and the share of all texts that the most frequent of them have."""
    order = sorted(range(len(classes)), key=lambda number: (-counts[number], number))
    named = [f"{one_line(_shortened(classes[n]))} {100 * counts[n] / sum(counts):.1f} %" for n in order[:MOST_CLASSES]]
    more = [f"{len(order) - MOST_CLASSES:,} more"] if len(order) > MOST_CLASSES else []
    return f"{len(classes):,}: {', '.join([*named, *more])}"


def _many(number: int, noun: str) -> str:
    return f"{number:,} {plural(number, noun)}"


def numbers(population: Population, totals: Sizes, room: Headroom, inspected: Texts | None) -> dict[str, Any]:
    """The same for programs; what was not measured is null."""
    names = ["max" if share == 1 else f"p{round(100 * share)}" for share in QUANTILES]
    classes = zip(population.classes, totals.texts_of_class, strict=True) if population.classes else ()
    looked_at = inspected is not None and inspected.looked_at
    return {
        "data": population.name,
        "about": population.about,
        "unit": population.vocabulary.unit,
        "clients": totals.clients,
        "clients_held_out": totals.held_out,
        "texts": totals.texts,
        "tokens": totals.tokens,
        "texts_of_client": dict(zip(names, totals.texts_of_client, strict=True)),
        "tokens_of_client": dict(zip(names, totals.tokens_of_client, strict=True)),
        "vocabulary_ids": len(population.vocabulary),
        "unknown_share": totals.unknown,
        "classes": [{"name": name, "texts": count} for name, count in classes],
        "near_duplicates": {
            "share": inspected.near / inspected.looked_at,
            "texts": inspected.looked_at,
            "clients": inspected.clients,
        }
        if inspected is not None and looked_at
        else None,
        "headroom": {
            "general_perplexity": room.general,
            "mixed_perplexity": room.mixed,
            "clients_helped": room.helped,
            "clients": room.clients,
        }
        if room.clients
        else None,
    }


def _describe(arguments: list[str], ranks: Ranks) -> None:
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--data", *arguments]
    chosen: Data = parsed(FORM, arguments)
    with answering("data", chosen.json) as answer:
        answer(_described(chosen))


def _described(chosen: Data) -> dict[str, Any]:
    """Print the description and write its page; returns the same for programs."""
    check_number("sample", chosen.sample, 0)
    folder = None if chosen.folder is None else named_folder("folder", chosen.folder)
    options = typed(DataOptions(**{field.name: getattr(chosen, field.name) for field in fields(DataOptions)}))
    population = load(options, progress=True)
    totals = sizes(population, True)
    stream = opened(options)
    ids = [client.id for client in population.clients] if stream is not None else []
    inspected = None if stream is None else texts(stream, ids, chosen.sample, True)
    if chosen.sample and inspected is None:
        raise UserError(f"sample={chosen.sample} shows texts, and data={options.data!r} has none; leave it out")
    room = headroom(population)
    lines = rows(population, totals, room, inspected)
    widest = max(len(name) for name, _ in lines)
    print("\n".join(f"{name.ljust(widest)}  {value}" for name, value in lines))
    samples = inspected.samples if inspected is not None else ()
    for sample in samples:
        text = "\n".join(map(one_line, _shortened(sample.text).splitlines()))
        print(f"\n{_heading(sample)}\n{text}")
    page = None if folder is None else _page(folder, population, lines, samples)
    return {
        **numbers(population, totals, room, inspected),
        "samples": [sample._asdict() | {"text": _shortened(sample.text)} for sample in samples],
        "page": page,
    }


def _page(folder: Path, population: Population, lines: list[tuple[str, str]], samples: Sequence[Sample]) -> Path:
    """Write the page into this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shortened = [(_heading(sample), _shortened(sample.text)) for sample in samples]
        page = write_page(folder / NAME, population.name, lines, shortened)
    except OSError as error:
        raise UserError(f"folder={str(folder)!r}: the page cannot be written there ({error}); name another folder") from error
    print(f"\npage: {page}")
    return page


def _heading(sample: Sample) -> str:
    return one_line(", ".join(name for name in (sample.client, sample.group, sample.label) if name))


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


FORM = Form(Data, "flow data SOURCE")
USAGE = "  data SOURCE         describe a data set before anything is trained on it; `--sample 3` shows texts\n"
COMMAND = Command("data", USAGE, _describe, lambda: {"": FORM})
