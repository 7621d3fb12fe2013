"""``flow adapt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from flow.algorithms.registry import named
from flow.cli.command import Command, Form, named_folder, parsed
from flow.cli.json_output import Json, answering
from flow.cli.own_code import OwnModel, references, with_own_model
from flow.config import Config
from flow.errors import UserError, one_line
from flow.evaluation.registry import named_metrics
from flow.parallel.processes import Ranks
from flow.personal.adapting import adapt
from flow.personal.model import PersonalModel


@dataclass(frozen=True, kw_only=True)
class Adapt(Json, OwnModel):
    """Personalize the model of a run for one client, by the run's own algorithm, and write a folder that is private to it. The
    first four fifths of the client's texts adapt the model, the last fifth measures the gain. The run's folder stays as it is.
    An algorithm of a file is named again, as FILE.py:NAME behind the options, a model or a metric of a file by its option."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""

    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """New folder for the adapted model."""

    texts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The texts of a new client: .txt (paragraphs, or lines where it has no blank line), .jsonl, or a table such as .csv. None:
    those of a client of the run, which --client names."""

    client: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """A client of the run, with what it kept. With --texts: whose texts of a file of several clients, or the name of the new
    client."""

    client_column: str | None = None
    """With --texts TABLE: the column that names the client of a row. None: one of a usual name; without one, all rows are the
    client's."""

    text_column: str | None = None
    """With --texts TABLE: the column that holds the text. None: one of a usual name."""

    time_column: str | None = None
    """With --texts TABLE: the column with the time of a row. None: one of a usual name; without one, the order of the rows."""

    label_column: str | None = None
    """With --texts, where the run classifies texts: the column of a table or the field of a .jsonl file with their classes."""

    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The path to which the run's own data file moved."""

    metric: str = ""
    """Metrics of your own that the run counts, FILE.py:NAME, separated by commas."""

    changed_file: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on although a file of the run's algorithm, model or metric was changed."""


def _adapt(arguments: list[str], ranks: Ranks) -> None:
    own = references(arguments)
    chosen: Adapt = parsed(FORM, arguments)
    if len(own) > 1:
        raise UserError(f"a run has one algorithm, got {' and '.join(own)}; name one")
    with answering("adapt", chosen.json) as answer:
        for name in own:
            named(name)
        named_metrics(chosen.metric)
        with_own_model(chosen, Config(), ())  # so that this process knows the factory when it reads config.json
        model = adapt(
            named_folder("run", chosen.run),
            named_folder("out", chosen.out),
            texts=chosen.texts,
            client=chosen.client,
            client_column=chosen.client_column,
            text_column=chosen.text_column,
            time_column=chosen.time_column,
            label_column=chosen.label_column,
            data=chosen.data,
            changed_file=chosen.changed_file,
            progress=True,
        )
        _print(model, Path(chosen.out))
        answer({"folder": Path(chosen.out), "classes": len(model.classes), **_measured(model.report)})


def _print(model: PersonalModel, folder: Path) -> None:
    report = model.report
    client, tokens = one_line(report["client"]), report["tokens"]
    print(f"{report['algorithm']} for {client}, from round {report['round']} of {report['rounds']}")
    if tokens:
        print(f"on the last fifth of its texts, {tokens:,} {'texts' if model.classes else 'tokens'}:")
        for name in ("general", "personal"):
            if (loss := report[f"{name}_loss"]) is not None:
                print(f"  {name:8}  loss {loss:.4f} nats, accuracy {100 * report[f'{name}_accuracy']:.1f} %")
    else:
        print("its last fifth is empty, or has no token that the vocabulary knows, so nothing says what this gained")
    print(one_line(report["private"]))
    print(f"adapted: {folder}")


def _measured(report: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json says, with units in the names."""
    names = ("algorithm", "client", "of_the_run", "round", "rounds", "tokens")
    measures = {
        f"{model}_{name}": report[f"{model}_{field}"]
        for model in ("general", "personal")
        for field, name in (("loss", "loss_nats"), ("accuracy", "accuracy_share"))
    }
    return {**{name: report[name] for name in names}, **measures, "private": report["private"]}


FORM = Form(Adapt, "flow adapt")
USAGE = """\
  adapt RUN           personalize a run's model for one client: --texts FILE of a new one, or --client ID; --out FOLDER
"""
COMMAND = Command("adapt", USAGE, _adapt, lambda: {"": FORM})
