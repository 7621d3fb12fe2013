"""Every logger against its real library: what a run logged is read back, with the library's own reader where it has one.

The run is stopped, and goes on after its last checkpoint, with a round that is logged already.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from callback_cases import StopsAfter
from comparisons import TINY, plain_fixture  # noqa: F401
from optional import present
from run_cases import POPULATION, SMALL

from flow import Result, compare, resume, simulate
from flow.callbacks import WandB
from flow.callbacks.values import of_config, of_row, of_sides
from flow.storage import run_folder

pytestmark = [pytest.mark.loggers, pytest.mark.usefixtures("plain", "quiet")]
Points = dict[str, list[tuple[int, float]]]
"""By metric, the steps in the order in which they are read, with their values."""
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


@pytest.fixture(name="quiet")
def quiet_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that asks the libraries for nothing."""
    for name in (*VARIABLES, *(name for name in os.environ if name.startswith("WANDB_"))):
        monkeypatch.delenv(name, raising=False)


both_stops = pytest.mark.parametrize("stop", [1, 3])
"""Before the first checkpoint, and between two: the run goes on after round 0 and 2."""


def stopped_and_continued(logger: str, folder: Path, stop: int) -> Result:
    """A run of SMALL that was interrupted after it had logged a round, and went on after its last checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, folder, population=POPULATION, progress=False, callbacks=[logger, StopsAfter(stop)])
    return resume(folder, population=POPULATION, progress=False, callbacks=[logger])


def expected_points(result: Result) -> Points:
    """What a logger must have of the rounds, but times."""
    points: Points = {}
    for row in result.metrics:
        for name, value in of_row(row).items():
            if not name.startswith("time/"):
                points.setdefault(name, []).append((row["round"], value))
    return points


def check(points: Points, result: Result, single: bool = False) -> None:
    """That every metric of every round is there once, and nothing else but times and the final evaluation.

    single: whether the logger keeps float32.
    """
    expected = expected_points(result)
    assert len(expected) > 50 and expected["train/loss"][-1][0] == 5
    rounds = {name: steps for name, steps in points.items() if not name.startswith(("final/", "time/"))}
    assert set(rounds) == set(expected)
    for name, steps in expected.items():
        assert [step for step, _ in rounds[name]] == [step for step, _ in steps], name
        values = [value for _, value in steps]
        assert [value for _, value in rounds[name]] == (pytest.approx(values, rel=1e-6) if single else values), name
    assert [step for step, _ in points["time/seconds"]] == [1, 2, 3, 4, 5]


def final(result: Result) -> dict[str, float]:
    values = of_sides(result.evaluation["summary"], "final")
    assert values["final/seen/accuracy"] == result.evaluation["summary"]["seen"]["personal_client"]
    return values


def options(result: Result) -> dict[str, Any]:
    return of_config({"config": run_folder.options(run_folder.read_config(present(result.folder)))})


@both_stops
def test_tensorboards_own_reader_has_every_round_once(tmp_path: Path, stop: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    result = stopped_and_continued("tensorboard", tmp_path / "run", stop)
    place = tmp_path / "run" / "logs" / "tensorboard"
    assert len(list(place.iterdir())) == 2
    read = EventAccumulator(str(place), size_guidance={"scalars": 0})
    read.Reload()
    scalars = {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
    check(scalars, result, single=True)
    for name, value in final(result).items():
        assert scalars[name] == [(5, pytest.approx(value, rel=1e-6))]
    start = HParamsPluginData.FromString(read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    known = start.session_start_info.hparams
    assert set(known) == set(options(result))
    assert known["model.hidden_size"].number_value == 4 and known["algorithm.variant"].string_value == "neurips"


def test_a_finished_run_that_gets_more_rounds_has_the_final_evaluation_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    quiet: dict[str, Any] = {"population": POPULATION, "progress": False}
    simulate(SMALL, tmp_path / "run", **quiet)  # without a logger at first
    for rounds in (5, 6):
        resume(tmp_path / "run", rounds=rounds, callbacks=["tensorboard"], **quiet)
    read = EventAccumulator(str(tmp_path / "run" / "logs" / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in read.Scalars("final/seen/accuracy")] == [6]


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of MLflow: it takes long to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@both_stops
def test_mlflows_own_client_has_every_round_once(tmp_path: Path, store: Path, stop: int) -> None:
    from mlflow import MlflowClient

    shutil.copy(store, tmp_path / "mlflow.db")
    result = stopped_and_continued("mlflow", tmp_path / "run", stop)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([present(client.get_experiment_by_name("flow")).experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.tags["flow.reason"].startswith("KeyboardInterrupt")
    assert run.data.params == {name: str(value) for name, value in options(result).items()}
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check(points, result)
    last = {name: steps for name, steps in points.items() if name.startswith("final/")}
    expected = {name: [(5, value)] for name, value in final(result).items()}
    assert last == expected


def test_a_run_that_mlflows_store_does_not_have_begins_anew_with_all_rounds(tmp_path: Path, store: Path) -> None:
    from mlflow import MlflowClient

    shutil.copy(store, tmp_path / "mlflow.db")
    quiet: dict[str, Any] = {"population": POPULATION, "progress": False, "callbacks": ["mlflow"]}
    simulate(SMALL, tmp_path / "run", **quiet)
    shutil.copy(store, tmp_path / "mlflow.db")  # as if it were lost
    result = resume(tmp_path / "run", rounds=6, **quiet)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([present(client.get_experiment_by_name("flow")).experiment_id])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(row["round"], row["loss"]) for row in result.metrics]
    assert run.info.status == "FINISHED" and run.data.params["rounds"] == "6"


def test_the_runs_of_a_comparison_share_a_store_of_mlflow(tmp_path: Path, store: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "both").mkdir()
    shutil.copy(store, tmp_path / "both.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'both.db'}")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "side by side")
        names = ["fedavg", "local"]
        compare(names, tmp_path / "both", TINY, population=POPULATION, progress=False, callbacks=["mlflow"])
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'both.db'}")
    runs = client.search_runs([present(client.get_experiment_by_name("side by side")).experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["both/fedavg-seed0", "both/local-seed0"]


def records(path: Path) -> Iterator[Any]:
    """The records of a file of Weights & Biases: a log in blocks of 32 KiB, every piece after checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, piece = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        piece += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(piece)
            piece = b""


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    """By file, the oldest first: the id, the name, the configuration, the exit code, and what was logged at which step."""
    runs = []
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        run: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
        for record in records(path):
            if record.HasField("run"):
                run |= {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project}
                run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in record.summary.update:
                run["summary"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
            if record.HasField("history"):
                items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
                run["history"].append(items)
            if record.HasField("exit"):
                run["exit"] = record.exit.exit_code
        runs.append(run)
    return runs


@both_stops
def test_weights_and_biases_has_every_round_once_in_two_files_of_one_run(tmp_path: Path, stop: int) -> None:
    result = stopped_and_continued("wandb", tmp_path / "run", stop)
    first, second = wandb_runs(tmp_path / "run" / "logs" / "wandb")
    assert first["id"] == second["id"] and len(first["id"]) == 12
    assert (first["name"], first["project"], first["exit"], second["exit"]) == ("run", "flow", 1, 0)
    assert first["config"].items() >= options(result).items()
    points: Points = {}
    for row in (*first["history"], *second["history"]):
        for name, value in row.items():
            if not name.startswith("_"):
                points.setdefault(name, []).append((row["_step"], value))
    check(points, result)
    assert second["summary"].items() >= final(result).items()


def test_weights_and_biases_is_offline_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    simulate(SMALL, tmp_path / "run", population=POPULATION, progress=False, callbacks=[WandB(tmp_path / "elsewhere")])
    assert not list(tmp_path.glob("**/*.wandb"))


def test_trackios_own_store_has_every_round_once(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    store = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(store))  # read when trackio is imported
        import trackio
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import TRACKIO_DIR

        assert store == TRACKIO_DIR
        for stop in (1, 3):
            result = stopped_and_continued("trackio", tmp_path / f"run{stop}", stop)
            (run,) = (run for run in trackio.Api().runs("flow") if run.name.startswith(f"run{stop}-"))
            assert len(run.name) == 11 and dict(present(run.config)).items() >= options(result).items()
            points: Points = {}
            for row in SQLiteStorage.get_logs("flow", run.name):
                for name, value in row.items():
                    if name not in ("step", "timestamp"):
                        points.setdefault(name, []).append((row["step"], value))
            check(points, result)
            last = {name: steps for name, steps in points.items() if name.startswith("final/")}
            assert last == {name: [(5, value)] for name, value in final(result).items()}
