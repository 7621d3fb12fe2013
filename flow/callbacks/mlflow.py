"""--log mlflow: a run of MLflow, on a tracking server or in a local store."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flow.callbacks.base import Logger, Memory, shelf
from flow.callbacks.protocol import Data
from flow.callbacks.values import of_config, of_row, of_sides

STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
LARGEST = {"metrics": 1000, "params": 100}
"""How many a tracking server takes at once."""
LOGGED = "train/clients"
"""A metric that every round has."""


class MLflow(Logger):
    """Logs to the store that ``MLFLOW_TRACKING_URI`` or the program names, else to ``mlflow.db`` beside the run's folder.

    The experiment is "flow", unless ``MLFLOW_EXPERIMENT_NAME`` names another one. A run that goes on is the same run of MLflow,
    and rounds that are there already are not logged again. Nothing is sent to MLflow's makers unless
    ``MLFLOW_DISABLE_TELEMETRY`` is set to false.
    """

    name = "mlflow"

    def __init__(self, folder: Path | str | None = None) -> None:
        """folder: for mlflow.db; None: beside the run's folder, and for a comparison in its own folder.

        Raises:
            UserError: MLflow is not installed, or not what a local store needs.
        """
        super().__init__(folder)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow: Any = self.library()
        if not self._elsewhere():
            self.library("sqlalchemy")
        for part in ("mlflow", "alembic"):
            logging.getLogger(part).setLevel(logging.WARNING)  # else a new store tells of its tables

    def run_started(self, run: Data) -> None:
        """Start a run of MLflow, or go on with the one that the run's folder names."""
        self._client: Any = self._mlflow.MlflowClient(tracking_uri=self._uri(run))
        self._memory = Memory(self.name, run)
        self._id = self._memory.content["id"]
        if self._memory.known and self._goes_on():
            self._memory.content["logged"] = self._last(LOGGED)
        else:
            made = self._client.create_run(self._experiment(), run_name=run["name"], tags={"flow.folder": str(run["folder"])})
            self._id = made.info.run_id
            self._memory.keep(id=self._id)
            entity = self._mlflow.entities.Param
            self._send("params", [entity(name, str(value)[:6000]) for name, value in of_config(run).items()])
        rows = self._memory.missing(run["earlier"])
        self._send("metrics", [metric for row in rows for metric in self._metrics(of_row(row), row["round"])])

    def round_done(self, row: Data) -> None:
        """Log the metrics of a round, at its step, in one piece."""
        if self._memory.missing([row]):
            self._send("metrics", self._metrics(of_row(row), row["round"]))

    def evaluation_done(self, evaluation: Data) -> None:
        """Log the final evaluation; those along the run are in the rows of their rounds."""
        values = of_sides(evaluation, "final") if evaluation["final"] else {}
        if values and self._last(next(iter(values))) < evaluation["round"]:
            self._send("metrics", self._metrics(values, evaluation["round"]))

    def run_ended(self, run: Data) -> None:
        """Set the status of MLflow's run."""
        if run["reason"] is not None:
            self._client.set_tag(self._id, "flow.reason", run["reason"][:5000])
        self._client.set_terminated(self._id, STATUS[run["outcome"]])

    def _goes_on(self) -> bool:
        """Set the earlier run of MLflow to running; False where the store has none of its id."""
        try:
            self._client.update_run(self._id, status="RUNNING")
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _elsewhere(self) -> bool:
        """Whether the environment or the program names a store."""
        return bool(os.environ.get("MLFLOW_TRACKING_URI")) or bool(self._mlflow.tracking.is_tracking_uri_set())

    def _uri(self, run: Data) -> str:
        if self._elsewhere():
            return str(self._mlflow.get_tracking_uri())
        folder = self._given or (Path() if run["folder"] is None else shelf(Path(run["folder"])))
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder.absolute() / 'mlflow.db'}"

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "flow")
        known = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if known is None else known.experiment_id)

    def _last(self, metric: str) -> int:
        """The last step at which a metric was logged; 0 where it never was."""
        return max((point.step for point in self._client.get_metric_history(self._id, metric)), default=0)

    def _metrics(self, values: dict[str, float], step: int) -> list[Any]:
        now, entity = int(1000 * time.time()), self._mlflow.entities.Metric
        return [entity(name, value, now, step) for name, value in values.items()]

    def _send(self, kind: str, entities: Iterable[Any]) -> None:
        left = list(entities)
        while left:
            now, left = left[: LARGEST[kind]], left[LARGEST[kind] :]
            self._client.log_batch(self._id, **{kind: now})
