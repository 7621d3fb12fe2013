"""--log trackio: a run of Trackio, in its local store unless the environment asks for another place."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from flow.callbacks.base import Logger, Memory
from flow.callbacks.protocol import Data
from flow.callbacks.values import of_config, of_row, of_sides


class Trackio(Logger):
    """Logs to Trackio's own store, which ``trackio show`` shows; ``TRACKIO_DIR`` and its other variables say where that is.

    The project is "flow", unless ``TRACKIO_PROJECT`` names another one. A run has the name of its folder with a random ending,
    by which it goes on, and rounds that were logged are not logged again. Trackio writes in the background: after a SIGKILL
    the rounds of the last second may be missing.
    """

    name = "trackio"

    def __init__(self) -> None:
        """Load the library.

        Raises:
            UserError: Trackio is not installed.
        """
        super().__init__()
        self._trackio: Any = self.library()

    def run_started(self, run: Data) -> None:
        """Start a run of Trackio, or go on with the one that the run's folder names."""
        self._memory = Memory(self.name, run)
        name = self._memory.content.get("name", f"{run['name']}-{self._memory.content['id'][:6]}")
        with _silence():
            self._run: Any = self._trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "flow"),
                name=name,
                config=of_config(run),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        for row in self._memory.missing(run["earlier"]):
            self._run.log(of_row(row), step=row["round"])
        self._memory.keep(name=name, logged=max(self._memory.content["logged"], run["done"]))

    def round_done(self, row: Data) -> None:
        """Log the metrics of a round, at its step."""
        if self._memory.missing([row]):
            self._run.log(of_row(row), step=row["round"])
            self._memory.keep(logged=row["round"])

    def evaluation_done(self, evaluation: Data) -> None:
        """Log the final evaluation at the last step, once; those along the run are in the rows of their rounds."""
        if evaluation["final"] and self._memory.content.get("final", 0) < evaluation["round"]:
            self._run.log(of_sides(evaluation, "final"), step=evaluation["round"])
            self._memory.keep(final=evaluation["round"])

    def run_ended(self, run: Data) -> None:
        """Write what is left."""
        with _silence():
            self._trackio.finish()


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Keep what Trackio says off the standard output, which may be read by a program."""
    return contextlib.redirect_stdout(io.StringIO())
