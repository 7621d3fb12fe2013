"""The options that `flow run` and `flow compare` share, and what an answer says of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from flow.cli.json_output import Json
from flow.cli.own_code import OwnModel
from flow.config import Config, ModelOptions
from flow.presets import Name as Preset

Options = TypeVar("Options")
_OF_FILES = ("run", "sha256")
"""Fields by which a file says what it belongs to."""


@dataclass(frozen=True)
class Configured(Json, OwnModel, Config[Options], Generic[Options]):
    """A configuration, a module of the user's own and a published model's sizes."""

    model: ModelOptions = field(default_factory=ModelOptions)

    async_buffer: Annotated[int, tyro.conf.arg(name="async", metavar="BUFFER")] = 0
    """Asynchronous aggregation: uploads after which the server takes a step, while as many clients as the cohort has are at
    work all the time (FedBuff; Nguyen et al., AISTATS 2022). An upload s steps behind counts 1/sqrt(1 + s). A round is a step
    of the server. Without --clock it takes "spread". At most the cohort; 0: rounds in which the server waits for its cohort.
    (In Python: async_buffer.)"""

    preset: Preset | None = None
    """Sizes of a published model: "stackoverflow" (embedding 96, 670 units, projection 96, 10,000 words), "shakespeare"
    (embedding 8, 2 layers of 256 units) or "reddit" (embedding 256, 2 layers of 256 units, 10 words in a sequence). Other
    options take precedence."""


def answer_of(
    folder: Path, report: Path | None, evaluation: Mapping[str, Any], run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `flow run --json` and `flow report --json` say of a run.

    Args:
        evaluation: the content of evaluation.json.
        run: the content of run.json; None where there is none, as in folders of older builds.
    """
    calibration: Mapping[str, Any] = evaluation.get("calibration") or {}
    return {
        "folder": folder,
        "report": report,
        "rounds": evaluation["round"],
        **{name: evaluation.get(name) for name in ("algorithm", "dataset", "unit")},
        **{name: evaluation.get(name, 0) for name in ("classes", "validation_clients")},  # older builds have none
        "summary": evaluation["summary"],
        "calibration_error_share": {side: own and own["error"] for side, own in calibration.items()},
        "run": None if run is None else {name: value for name, value in run.items() if name not in _OF_FILES},
    }
