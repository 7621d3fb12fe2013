"""``flow export``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from flow.cli.command import Command, Form, named_folder, parsed
from flow.cli.json_output import Json, answering
from flow.cli.own_code import Loaded, loaded
from flow.parallel.processes import Ranks
from flow.personal.exporting import CARD, Format, export


@dataclass(frozen=True, kw_only=True)
class Export(Json, Loaded):
    """Write the model of an adapted folder for other programs, with a model card."""

    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """New folder for the exported model."""

    format: Format
    """"onnx": one step as an ONNX graph, token and state in, log-probabilities, next state and the local expert's weight out
    (needs the packages onnx and onnxscript). "torch": safetensors for torch.nn.Embedding, GRU and Linear, and the lines of
    Python that load them, where one expert predicts."""


def _export(arguments: list[str], ranks: Ranks) -> None:
    chosen: Export = parsed(FORM, arguments)
    with answering("export", chosen.json) as answer:
        out = named_folder("out", chosen.out)
        folder = export(loaded(chosen), chosen.format, out)
        print(f"exported: {folder}, see {folder / CARD}")
        files = sorted(path.name for path in folder.iterdir())
        answer({"folder": folder, "export_format": chosen.format, "card": folder / CARD, "files": files})


FORM = Form(Export, "flow export")
USAGE = "  export FOLDER       write an adapted model for other programs: --format onnx or torch, --out FOLDER\n"
COMMAND = Command("export", USAGE, _export, lambda: {"": FORM})
