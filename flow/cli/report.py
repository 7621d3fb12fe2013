"""``flow report``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from flow.cli.command import Command, named_folder
from flow.errors import UserError
from flow.parallel.processes import Ranks


@dataclass(frozen=True)
class Report:
    """Write the report of a run again."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The run's folder."""


def _report(arguments: list[str], ranks: Ranks) -> None:
    chosen = tyro.cli(Report, prog="flow report", args=arguments)
    from flow.reports.run_page import write_report  # draws with matplotlib, which nothing else here needs

    try:
        print(f"report: {write_report(named_folder('folder', chosen.folder))}")
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


COMMAND = Command("report", "  report FOLDER       write the report of a run again\n", _report)
