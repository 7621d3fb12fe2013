"""``flow report``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from flow.cli.command import Command, Form, named_folder, parsed
from flow.cli.configured import answer_of
from flow.cli.json_output import Json, answering
from flow.errors import UserError
from flow.parallel.processes import Ranks


@dataclass(frozen=True, kw_only=True)
class Report(Json):
    """Write the report of a run again."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The run's folder."""


def _report(arguments: list[str], ranks: Ranks) -> None:
    chosen: Report = parsed(FORM, arguments)
    from flow.reports.run_page import write_report

    with answering("report", chosen.json) as answer:
        try:
            folder = named_folder("folder", chosen.folder)
            report = write_report(folder)
            print(f"report: {report}")
            if chosen.json:
                timed = folder / "run.json"
                run = json.loads(timed.read_text(encoding="utf-8")) if timed.is_file() else None
                evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))  # the report has checked it
                answer(answer_of(folder, report, evaluation, run))
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from error


FORM = Form(Report, "flow report")
COMMAND = Command("report", "  report FOLDER       write the report of a run again\n", _report, lambda: {"": FORM})
