"""--log tensorboard: event files that TensorBoard shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flow.callbacks.base import Logger
from flow.callbacks.protocol import Data
from flow.callbacks.values import of_config, of_row, of_sides


class TensorBoard(Logger):
    """Writes event files, a scalar for every metric at the step of its round, and the options as hyperparameters.

    A run that goes on adds a file beside the earlier ones, in which the steps after its checkpoint are taken back, so that
    TensorBoard shows every step once. What an earlier process did not log is added.
    """

    name, writes = "tensorboard", True

    def __init__(self, folder: Path | str | None = None) -> None:
        """folder: in which every run gets a folder of its name; None: logs/tensorboard in the run's folder.

        Raises:
            UserError: TensorBoard is not installed.
        """
        super().__init__(folder)
        self.library()

    def run_started(self, run: Data) -> None:
        """Open a new event file."""
        place = self.place(run)
        assert place is not None, "refused when the run started"
        place = place / self.name if self._given is None else place
        writers = self.library("torch.utils.tensorboard")
        earlier: list[Data] = run["earlier"]
        goes_on = any(place.glob("events.out.tfevents.*"))
        # The last row that is there is written again, as results of its step may be taken back with it.
        self._writer: Any = writers.SummaryWriter(str(place), purge_step=run["done"] if goes_on else None)
        if not (goes_on and earlier):
            for summary in writers.summary.hparams(of_config(run), {"train/loss": 0.0, "evaluation/seen/accuracy": 0.0}):
                self._writer.file_writer.add_summary(summary)
        for row in earlier[-1:] if goes_on else earlier:
            self._log(of_row(row), row["round"])
        self._writer.flush()

    def round_done(self, row: Data) -> None:
        """Write the scalars of a round."""
        self._log(of_row(row), row["round"])
        self._writer.flush()

    def evaluation_done(self, evaluation: Data) -> None:
        """Write the scalars of the final evaluation; those along the run are in the rows of their rounds."""
        if evaluation["final"]:
            self._log(of_sides(evaluation, "final"), evaluation["round"])

    def run_ended(self, run: Data) -> None:
        """Close the file."""
        self._writer.close()

    def _log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
