"""Any source with labels, dealt out anew: ``dirichlet:ALPHA:CLIENTS:SOURCE``.

As in Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019,
arXiv:1909.06335, section 3): every client draws a distribution q ~ Dir(ALPHA p) over the labels, where p are their shares in
all texts, and the labels of its texts from q. Large ALPHA: clients alike; small: few labels each. Every client gets as many
texts as any other, up to one, and every text is dealt once: a label whose texts are gone is drawn no more. A text's label is
its group, such as a subreddit; texts without one share a label. Where texts have classes and none has a group, the class is the
label.

Memory: 4 bytes for every text, and a number for every label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data import paths
from flow.data.classes import check_most
from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

NAME = "dirichlet"
FORM = f"{NAME}:ALPHA:CLIENTS:SOURCE, such as {NAME}:0.3:100:posts.csv"


class _Asked(NamedTuple):
    alpha: float
    clients: int
    source: str


def deal(counts: npt.NDArray[np.int64], alpha: float, clients: int, stream: np.random.Generator) -> list[npt.NDArray[np.int32]]:
    """The client of every text, for each label in the order of its texts.

    Args:
        counts: int64 [L], how many texts every label has, at least 1; together at least ``clients``.
        alpha: the concentration, above 0.
        clients: N.
        stream: of random numbers.

    Returns:
        L arrays int32 [counts[l]] of numbers from 0 to N - 1.
    """
    total = int(counts.sum())
    shares, left = counts / total, counts.copy()
    draws: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]] = []
    for client in range(clients):
        wanted = total // clients + (client < total % clients)
        distribution = stream.dirichlet(alpha * shares)
        while wanted:
            weights = np.where(left > 0, distribution, 0.0)
            if not (np.isfinite(weights).all() and weights.sum() > 0):  # none of the labels that it likes is left
                weights = left.astype(np.float64)
            drawn = np.minimum(stream.multinomial(wanted, weights / weights.sum()), left)
            labels = np.flatnonzero(drawn)
            draws.append((labels, drawn[labels], client))
            left -= drawn
            wanted -= int(drawn.sum())
    label = np.concatenate([labels for labels, _, _ in draws])
    number = np.concatenate([drawn for _, drawn, _ in draws])
    client_of = np.repeat(np.array([client for _, _, client in draws], np.int32), [len(labels) for labels, _, _ in draws])
    order = np.argsort(label, kind="stable")
    dealt = np.repeat(client_of[order], number[order])
    return [stream.permutation(own) for own in np.split(dealt, np.cumsum(counts)[:-1])]


def _asked(data: str) -> _Asked:
    """The parts of a value of `data`.

    Raises:
        UserError: it has not this form, or a number is out of range.
    """
    parts = data.split(":", 3)
    if len(parts) < 4 or not parts[3]:
        raise UserError(f"data={data!r} must have the form {FORM}")
    try:
        alpha, clients = float(parts[1]), int(parts[2])
    except ValueError as error:
        raise UserError(f"data={data!r} must have two numbers in the form {FORM} ({error}); correct them") from error
    if not 0 < alpha <= 1e9:
        raise UserError(f"data={data!r}: ALPHA={parts[1]} must be above 0 and at most 1e9; give a number such as 0.3")
    if not 1 <= clients < 2**31:
        raise UserError(f"data={data!r}: CLIENTS={parts[2]} must be from 1 to {2**31 - 1}; give a number such as 100")
    return _Asked(alpha, clients, parts[3])


def inner(data: str) -> tuple[str, str]:
    """What stands before the source that is dealt out, and that source; it is empty where the form is another."""
    parts = data.split(":", 3)
    return (":".join(parts[:3]) + ":", parts[3]) if len(parts) == 4 else (data, "")


def _parts(base: Stream, asked: _Asked, seed: int, data: str, label_column: str | None = None) -> Iterator[Part]:
    counts, classes = Counter[str](), Counter[str]()
    for part in base.parts():
        if not part.texts:
            continue
        counts[part.group] += len(part.texts)
        if part.labels is not None and not any(counts):  # no group so far
            classes.update(part.labels)
            check_most(classes, f"data={data!r}", label_column)
    by_class = bool(classes) and not any(counts)
    counts = classes if by_class else counts
    labels = [label for label, count in counts.items() if count]
    total = counts.total()
    if len(set(labels) - {""}) < 2:
        known = f"one, {labels[0]!r}" if labels and labels[0] else "none"
        raise UserError(
            f"data={data!r}: a Dirichlet draw needs texts of at least two groups, and {asked.source!r} has {known}; give a "
            "source with groups, or for a table --group-column NAME or --label-column NAME"
        )
    if asked.clients > total:
        raise UserError(
            f"data={data!r}: CLIENTS={asked.clients} is more than the {total} texts of {asked.source!r}; give at most {total}"
        )
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed])))
    dealt = dict(
        zip(labels, deal(np.array([counts[label] for label in labels]), asked.alpha, asked.clients, stream), strict=True)
    )
    at = dict.fromkeys(labels, 0)
    digits = len(str(asked.clients - 1))
    for part in base.parts():
        for place, text in enumerate(part.texts):
            own = None if part.labels is None else (part.labels[place],)
            label = own[0] if by_class and own else part.group
            if at.get(label, 0) >= counts[label]:  # the source is read twice
                raise paths.changed(data)
            client = dealt[label][at[label]]
            at[label] += 1
            times = None if part.times is None else (part.times[place],)
            name = f"client-{client:0{digits}d}"
            yield Part(name, (text,), times, part.group, place=part.place, position=part.position, labels=own)


def wrapped(data: str, base: Source) -> Source:
    """The source for a value of `data`, of which ``base`` is the source that is dealt out."""

    def content(data: str) -> Content:
        _, rest = inner(data)
        dealt_out = base.content(rest)
        return Content(f"{NAME}-{dealt_out.name}", f"{data.removesuffix(rest)}{dealt_out.digest}")

    def stream(options: DataOptions) -> Stream:
        asked, seed = _asked(options.data), options.data_seed or 0
        opened = base.opened(replace(options, data=asked.source))
        about = f"{opened.about}; dealt out to {asked.clients} clients by Dir({asked.alpha:g} p), data_seed {seed}"
        return opened._replace(
            name=f"{NAME}-{opened.name}", about=about, path=options.data,
            parts=lambda: _parts(opened, asked, seed, options.data, options.label_column),
        )  # fmt: skip

    def check(options: DataOptions) -> None:
        asked = _asked(options.data)
        if options.data_seed is not None and options.data_seed < 0:
            raise UserError(f"data_seed={options.data_seed!r} must be at least 0; leave it out for the default, 0")
        if base.stream is None:
            raise UserError(
                f"data={options.data!r}: {asked.source!r} has no texts to deal out; give a source of texts with groups"
            )
        base.check(replace(options, data=asked.source))

    own = tuple(dict.fromkeys(("data_seed", *base.options)))
    return SOURCE._replace(content=content, stream=stream, check=check, options=own, tokenizer=base.tokenizer)


def _matches(data: str) -> bool:
    return data.startswith(f"{NAME}:")


def _unwrapped(data: str) -> Content:
    _asked(data)
    raise AssertionError("this source is used through wrapped()")


SOURCE = Source(
    NAME,
    _unwrapped,
    matches=_matches,
    inner=inner,
    wrapped=wrapped,
    options=("data_seed",),
    form="dirichlet:ALPHA:CLIENTS:SOURCE",
    tokenizer="words",
)
