"""The table of a run that --log csv writes, held against Result.rounds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from callback_cases import StopsAfter
from command_line import here  # noqa: F401
from comparisons import plain_fixture  # noqa: F401
from run_cases import POPULATION, SMALL, change

from flow import Result, resume, simulate
from flow.callbacks import CSV
from flow.cli import run as run_command
from flow.cli.main import main

pytestmark = pytest.mark.usefixtures("plain")
MINE = ("run", "fedavg", "--data", "mine.jsonl.gz", "--folder", "mine", "--hidden-size", "4", "--embedding-dim", "3")
TINY = (*MINE, "--sequence-length", "5", "--vocabulary-size", "12", "--cohort", "3", "--rounds", "4", "--checkpoint-every", "2")


def check_table(result: Result, path: Path) -> None:
    """That a CSV file has every row and column of Result.rounds, to the last bit, and no others."""
    pytest.importorskip("pandas")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    expected = result.rounds.reset_index()
    assert header == list(expected.columns) and len(header) > 50
    cells = [[float(cell or "nan") for cell in row] for row in rows]
    np.testing.assert_array_equal(cells, expected.to_numpy(dtype=np.float64))


def test_the_table_has_the_rows_and_columns_of_the_result(tmp_path: Path) -> None:
    result = simulate(SMALL, tmp_path / "run", population=POPULATION, progress=False, callbacks=["csv"])
    check_table(result, tmp_path / "run" / "logs" / "rounds.csv")


def test_the_table_may_lie_elsewhere_and_a_run_may_have_no_folder(tmp_path: Path) -> None:
    result = simulate(SMALL, population=POPULATION, progress=False, callbacks=[CSV(tmp_path / "tables")])
    check_table(result, tmp_path / "tables" / "flow" / "rounds.csv")


@pytest.mark.parametrize("stopped", [1, 3, 4])
@pytest.mark.parametrize("logged_before", [True, False])
def test_a_run_that_goes_on_has_every_round_once(stopped: int, logged_before: bool, tmp_path: Path) -> None:
    folder, quiet = tmp_path / "run", {"population": POPULATION, "progress": False}
    first = ["csv"] if logged_before else []
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, folder, callbacks=[*first, StopsAfter(stopped)], **quiet)  # type: ignore[arg-type]
    result = resume(folder, callbacks=["csv"], **quiet)  # type: ignore[arg-type]
    check_table(result, folder / "logs" / "rounds.csv")


def test_a_table_of_rounds_without_evaluation(tmp_path: Path) -> None:
    config = change(evaluate_every=0, rounds=2)
    simulate(config, tmp_path / "run", population=POPULATION, progress=False, callbacks=["csv"])
    rows = list(csv.DictReader((tmp_path / "run" / "logs" / "rounds.csv").open()))
    assert [row["round"] for row in rows] == ["1", "2"] and not any("evaluation." in name for name in rows[0])


@pytest.mark.usefixtures("here")
def test_the_option_holds_for_a_run_and_for_its_resumption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, callbacks: tuple[str, ...], **options: object) -> Result:
        return simulate(*arguments, callbacks=[*callbacks, StopsAfter(3)], **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run_command, "simulate", interrupted)
        assert main([*TINY, "--log", "csv", "--log", "csv"]) == 130
    assert "go on with `flow run --resume mine --log csv`\n" in capsys.readouterr().err
    table = Path("mine/logs/rounds.csv")
    assert len(table.read_text().splitlines()) == 4
    assert main(["run", "--resume", "mine", "--log", "csv"]) == 0
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["round", "1", "2", "3", "4"]


@pytest.mark.usefixtures("here")
def test_an_unknown_logger_is_refused_by_the_parser() -> None:
    with pytest.raises(SystemExit):
        main([*TINY, "--log", "excel"])
    assert not Path("mine").exists()
