"""``flow prepare``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flow.checks import typed
from flow.cli.command import Command, Form, parsed
from flow.cli.json_output import Json, answering
from flow.data import DataOptions, load, prepared_folder
from flow.errors import UserError, plural
from flow.parallel.processes import Ranks


@dataclass(frozen=True)
class Prepare(Json, DataOptions):
    """Read a data set, cut it, and keep it prepared in the folder FLOW_CACHE of the environment, by default ~/.cache/flow.
    `flow run` with the same options opens it from there, and prepares it itself where it is not there yet."""


def _prepare(arguments: list[str], ranks: Ranks) -> None:
    chosen: Prepare = parsed(FORM, arguments)
    with answering("prepare", chosen.json) as answer:
        options = typed(DataOptions(**{field.name: getattr(chosen, field.name) for field in fields(DataOptions)}))
        population, folder = load(options, progress=True), prepared_folder(options)
        if folder is None:
            raise UserError("FLOW_CACHE='' keeps nothing prepared; give a folder, or leave the variable out")
        count, trainable = len(population.clients), len(population.training)
        print(f"{count} {plural(count, 'client')}, {trainable} of them not held out: {folder}")
        held_out = count - trainable
        answer({"data": population.name, "clients": count, "clients_held_out": held_out, "folder": folder})


FORM = Form(Prepare, "flow prepare")
USAGE = "  prepare             read data and keep them prepared, which `flow run` otherwise does when it first meets them\n"
COMMAND = Command("prepare", USAGE, _prepare, lambda: {"": FORM})
