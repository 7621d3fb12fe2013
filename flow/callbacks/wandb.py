"""--log wandb: a run of Weights & Biases, on the disk unless the environment asks for more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flow.callbacks.base import Logger, Memory
from flow.callbacks.protocol import Data
from flow.callbacks.values import of_config, of_row, of_sides


class WandB(Logger):
    """Logs to the disk, for ``wandb sync``, or as ``WANDB_MODE`` says. Other variables of Weights & Biases hold too.

    The project is "flow", unless ``WANDB_PROJECT`` names another one. A run that goes on has the id of the earlier one, and
    rounds that were logged are not logged again. No code, console output or machine statistics are kept. Offline, nothing
    is sent to its makers unless ``WANDB_ERROR_REPORTING`` is set to true.
    """

    name = "wandb"

    def __init__(self, folder: Path | str | None = None) -> None:
        """folder: in which every run gets a folder of its name, and wandb/ in that; None: logs/ in the run's folder.

        Raises:
            UserError: wandb is not installed.
        """
        super().__init__(folder)
        if os.environ.get("WANDB_MODE", "offline") == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else its makers are told of errors also offline
        self._wandb: Any = self.library()

    def run_started(self, run: Data) -> None:
        """Start a run of Weights & Biases, or go on with the one that the run's folder names."""
        place = self.place(run)
        self._memory = Memory(self.name, run)
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        quiet = {"x_disable_stats": True, "x_disable_machine_info": True, "disable_git": True, "disable_code": True}
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flow"),
            name=os.environ.get("WANDB_NAME", run["name"]),
            id=self._memory.content["id"],
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=os.environ.get("WANDB_DIR", place),
            config=of_config(run),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(console="off", silent=True, **quiet),
        )
        for row in self._memory.missing(run["earlier"]):
            self._run.log(of_row(row), step=row["round"])
        self._memory.keep(logged=max(self._memory.content["logged"], run["done"]))

    def round_done(self, row: Data) -> None:
        """Log the metrics of a round, at its step."""
        if self._memory.missing([row]):
            self._run.log(of_row(row), step=row["round"])
            self._memory.keep(logged=row["round"])

    def evaluation_done(self, evaluation: Data) -> None:
        """Put the final evaluation into the summary; those along the run are in the rows of their rounds."""
        if evaluation["final"]:
            self._run.summary.update(of_sides(evaluation, "final"))

    def run_ended(self, run: Data) -> None:
        """Write what is left, and say how the run ended."""
        self._run.finish(exit_code=0 if run["outcome"] == "finished" else 1)
