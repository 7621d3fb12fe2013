"""``flow predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from flow.checks import check_number
from flow.cli.command import Command, Form, parsed
from flow.cli.json_output import Json, answering
from flow.cli.own_code import Loaded, loaded
from flow.errors import UserError, one_line
from flow.parallel.processes import Ranks
from flow.personal.model import MOST_ADDED, PersonalModel, Token
from flow.personal.texts import Columns, read_file
from flow.terminal.looks import is_coloured

SHADES = (33, 39, 73, 108, 143, 178, 208)
"""Colours of a terminal with 256, from the global expert (blue) to the local one (orange)."""
Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Predict(Json, Loaded):
    """Say what follows a text by the model of an adapted folder. In a terminal words are coloured by the expert that counted:
    blue for the global one, orange for the client's own. The number beside a word says its share where there are no colours."""

    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = None
    """What is gone on with, or classified."""

    top: int = 5
    """How many of the most likely words."""

    complete: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Go on with the text for N words, at most 10000, or to its end; 0: show what may come next. Without colours a second line
    has every added word with the share of the client's own expert, as WORD:SHARE."""

    score: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Loss and accuracy on the texts of a file (.txt, .jsonl, .csv) in place of a text."""

    client: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """With --score: whose texts of a file of several clients."""

    client_column: str | None = None
    """With --score TABLE, likewise the next three: the columns, see `flow adapt --help`."""

    text_column: str | None = None
    time_column: str | None = None
    label_column: str | None = None


def _predict(arguments: list[str], ranks: Ranks) -> None:
    chosen: Predict = parsed(FORM, arguments)
    with answering("predict", chosen.json) as answer:
        check_number("complete", chosen.complete, 0, MOST_ADDED)
        check_number("top", chosen.top, 1)
        model = loaded(chosen)
        nothing: Answer = {"text": chosen.text, "read": [], "following": [], "completed": None, "added": [], "score": None}
        answer({**nothing, **_answered(model, chosen)})


def _answered(model: PersonalModel, chosen: Predict) -> Answer:
    """Print what was asked for; returns the same for programs."""
    if chosen.score is not None:
        if chosen.text is not None or chosen.complete:
            raise UserError(
                f"score={chosen.score!r} reads texts from a file, and shows no words; leave out the text and --complete"
            )
        columns = Columns(chosen.client_column, chosen.text_column, chosen.time_column, chosen.label_column)
        return _score(model, Path(chosen.score), chosen.client, columns)
    for name in ("client", *Columns._fields):
        if (value := getattr(chosen, name)) is not None:
            raise UserError(f"{name}={value!r} is of a file of texts; give one with --score FILE, or leave it out")
    if chosen.text is None:
        raise UserError(f'text=None: there is nothing to go on with; write `flow predict {chosen.folder} "some words"`')
    coloured = is_coloured(sys.stdout)
    if chosen.complete:
        return _complete(model, chosen.text, chosen.complete, coloured)
    (prediction,) = model.predict(chosen.text, chosen.top)
    read = [] if model.classes else model.trace(chosen.text)
    if coloured and model.routed and not model.classes:
        print(" ".join(_painted(token) for token in read))
    for token in prediction.following:
        share = "" if token.local_weight is None else f"  local {token.local_weight:.2f}"
        word = _painted(token) if coloured else one_line(token.text)
        print(f"{100 * token.probability:6.2f} %  {word}{'' if coloured else share}")
    return {"read": read, "following": prediction.following}


def _complete(model: PersonalModel, text: str, tokens: int, coloured: bool) -> Answer:
    completion = model.complete(text, tokens)
    painted = text + _joined(completion.tokens, completion.text[len(text) :])
    print(painted if coloured else completion.text)
    if not coloured and model.routed:
        print(" ".join(f"{one_line(token.text)}:{token.local_weight:.2f}" for token in completion.tokens))
    return {"completed": completion.text, "added": completion.tokens}


def _score(model: PersonalModel, path: Path, client: str | None, columns: Columns) -> Answer:
    own = read_file(path, client, columns, "score")
    labels = [*own.train_labels, *own.test_labels]
    scores = model.score([*own.train, *own.test], labels if labels or model.classes else None)
    what = "texts" if model.classes else "tokens"
    print(f"{scores.tokens:,} {what}: loss {scores.loss:.4f} nats, accuracy {100 * scores.accuracy:.1f} %")
    measured = {"loss_nats": scores.loss, "accuracy_share": scores.accuracy, "scored": scores.tokens, "unit": what}
    return {"score": {"file": path, **measured}}


def _joined(tokens: Iterable[Token], rest: str) -> str:
    """The words that were added, coloured, with what stands between them."""
    painted = []
    for token in tokens:
        before, written, rest = rest.partition(token.text)
        painted.append(before + (_painted(token) if written else ""))
    return "".join([*painted, rest])


def _painted(token: Token) -> str:
    """A token in the colour of the expert that counted."""
    text = one_line(token.text)
    if token.local_weight is None:
        return text
    shade = SHADES[min(len(SHADES) - 1, int(token.local_weight * len(SHADES)))]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"


FORM = Form(Predict, "flow predict")
USAGE = "  predict FOLDER TEXT what follows a text by an adapted model; --complete N goes on, --score FILE measures\n"
COMMAND = Command("predict", USAGE, _predict, lambda: {"": FORM})
