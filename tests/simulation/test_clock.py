"""Rounds on the virtual clock beside times that are added up by hand: who is waited for, who is late, who cannot be reached."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import small_runs
import torch
from small_runs import CLIENTS, NAMES, POPULATION

from flow import UserError, resume, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.pfedhn import PFedHNOptions
from flow.simulation import loop
from flow.simulation.loop import Result

BASE = dataclasses.replace(small_runs.BASE, evaluate_every=2, min_texts=1)
SPEED = {name: 0.5 + n for n, name in enumerate(NAMES)}
MEGABITS = {name: (0.01 * (n + 1), 0.003 * (n + 1)) for n, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def profiles(folder: Path, hours: str = "") -> str:
    rows = [f"{name},{SPEED[name]},{MEGABITS[name][0]},{MEGABITS[name][1]},{hours}" for name in NAMES]
    (folder / "profiles.csv").write_text("client,speed,download,upload,hours\n" + "\n".join(rows) + "\n")
    return str(folder / "profiles.csv")


def run(folder: Path | None = None, **changes: Any) -> Result:
    return simulate(dataclasses.replace(BASE, **changes), folder, population=POPULATION, progress=False)


def cohort(round: int, seed: int = 0) -> list[str]:
    return [NAMES[i] for i in oracles.stream(seed, round, "cohort").choice(len(NAMES), 5, replace=False)]


def seconds(name: str, size: int, sequences: int) -> float:
    """Of one client, by hand: bits over bits a second, sequences over sequences a second."""
    down, up = MEGABITS[name]
    return size * 8 / (down * 1e6) + sequences / SPEED[name] + size * 8 / (up * 1e6)


def same(first: Result, other: Result) -> None:
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in first.state.items())


def test_a_round_takes_as_long_as_its_slowest_client(tmp_path: Path) -> None:
    plain, result = run(), run(tmp_path / "run", clock=profiles(tmp_path))
    same(plain, result)
    size = sum(tensor.numel() * 8 for tensor in result.state.values())
    now, expected = 0.0, []
    for round in range(1, 5):
        now += max(seconds(name, size, 2 * len(CLIENTS[name].train)) for name in cohort(round))
        expected.append(now)
    np.testing.assert_allclose([row["virtual_seconds"] for row in result.metrics], expected, rtol=1e-12)
    assert all(row["available"] == 7 for row in result.metrics)
    assert result.run["virtual_seconds"] == result.metrics[-1]["virtual_seconds"]
    assert not any("virtual" in key for row in plain.metrics for key in row) and "virtual_seconds" not in plain.run


def test_every_phase_and_what_was_really_sent_count(tmp_path: Path) -> None:
    """Ditto trains its own model as long as the general one."""
    result = run(clock=profiles(tmp_path), algorithm=DittoOptions(lr=0.5, epochs=2, batch_size=4), rounds=1, compress="int8")
    down = sum(tensor.numel() * 8 for tensor in result.state.values())
    up = result.metrics[0]["upload_bytes"] / 5
    assert up < down / 4
    expected = max(
        down * 8e-6 / MEGABITS[name][0] + 4 * len(CLIENTS[name].train) / SPEED[name] + up * 8e-6 / MEGABITS[name][1]
        for name in cohort(1)
    )
    np.testing.assert_allclose(result.metrics[0]["virtual_seconds"], expected, rtol=1e-12)


def test_a_deadline_ends_the_round_and_later_uploads_are_not_used(tmp_path: Path) -> None:
    clock, size = profiles(tmp_path), sum(t.numel() * 8 for t in run(rounds=1).state.values())
    takes = {name: seconds(name, size, 2 * len(CLIENTS[name].train)) for name in NAMES}
    deadline = sorted(takes.values())[-3] + 0.01
    result = run(clock=clock, deadline=deadline, evaluate_every=0)
    now = 0.0
    for round, row in enumerate(result.metrics, 1):
        late = [name for name in cohort(round) if takes[name] > deadline]
        now += deadline if late else max(takes[name] for name in cohort(round))
        assert (row["late"], row["clients"], row["dropped"]) == (len(late), 5 - len(late), 0)
        assert row["upload_bytes"] == size * row["clients"]
        assert row["virtual_seconds"] == pytest.approx(now, rel=1e-12)
    assert sum(row["late"] for row in result.metrics)
    nobody = run(clock=clock, deadline=1e-6, rounds=2, evaluate_every=0)
    assert [(row["clients"], row["loss"]) for row in nobody.metrics] == [(0, None)] * 2


def test_a_round_that_waits_for_some_ends_with_the_last_of_them(tmp_path: Path) -> None:
    clock, size = profiles(tmp_path), sum(t.numel() * 8 for t in run(rounds=1).state.values())
    takes = {name: seconds(name, size, 2 * len(CLIENTS[name].train)) for name in NAMES}
    result = run(clock=clock, wait_for=3, evaluate_every=0, rounds=1)
    first = sorted(cohort(1), key=takes.__getitem__)[:3]
    assert result.metrics[0]["virtual_seconds"] == pytest.approx(takes[first[-1]], rel=1e-12)
    assert (result.metrics[0]["clients"], result.metrics[0]["late"]) == (3, 2)
    start = simulate(
        dataclasses.replace(BASE, rounds=1, deadline=1e-9, clock=clock), population=POPULATION, progress=False
    ).state
    uploads = [oracles.fedavg(start, CLIENTS[name], vars(BASE.algorithm), 0, 1)[:2] for name in first]
    for name, tensor in oracles.weighted_mean(uploads).items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-11, atol=1e-12)


def test_lost_uploads_are_waited_for_and_those_that_come_fill_the_round(tmp_path: Path) -> None:
    clock = profiles(tmp_path)
    whole, lossy = run(clock=clock, evaluate_every=0), run(clock=clock, evaluate_every=0, dropout=0.4)
    assert sum(row["dropped"] for row in lossy.metrics)
    assert [row["virtual_seconds"] for row in lossy.metrics] == [row["virtual_seconds"] for row in whole.metrics]
    some = run(clock=clock, evaluate_every=0, dropout=0.4, wait_for=2)
    assert all(row["clients"] <= 2 and row["clients"] + row["dropped"] + row["late"] == 5 for row in some.metrics)


def test_clients_that_cannot_be_reached_are_not_drawn_and_the_server_waits_for_enough(tmp_path: Path) -> None:
    rows = ["client,speed,download,upload,hours"]
    rows += [f"{name},{1e6},1000,1000,{'6-7' if n < 2 else '0-3' if n < 6 else '2-3'}" for n, name in enumerate(NAMES)]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    result = run(clock=str(tmp_path / "p.csv"), evaluate_every=0)
    first = [row["virtual_seconds"] for row in result.metrics]
    assert all(2 * 3600 <= time < 2 * 3600 + 60 for time in first) and all(row["available"] == 5 for row in result.metrics)
    with pytest.raises(
        UserError, match=r"at no hour of the day can cohort=6 of the 7 clients that may train be reached at once"
    ):
        run(clock=str(tmp_path / "p.csv"), cohort=6)


@pytest.mark.parametrize(
    "options", [FedAvgOptions(lr=0.5), FlowOptions(lr=0.5, epochs=1), PFedHNOptions(), DittoOptions(lr=0.5, epochs=1)]
)
def test_a_run_that_goes_on_has_the_times_of_an_unbroken_one(options: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, algorithm=options, clock="nights", rounds=5, deadline=40.0, seed=2, checkpoint_every=1)
    whole = simulate(config, population=POPULATION, progress=False)
    simulate(dataclasses.replace(config, rounds=2), tmp_path / "run", population=POPULATION, progress=False)
    again = resume(tmp_path / "run", rounds=5, population=POPULATION, progress=False)
    same(whole, again)
    assert [row["virtual_seconds"] for row in again.metrics] == [row["virtual_seconds"] for row in whole.metrics]
    other = simulate(dataclasses.replace(config, chunk=1), population=POPULATION, progress=False)
    assert [row["virtual_seconds"] for row in other.metrics] == [row["virtual_seconds"] for row in whole.metrics]


def test_the_time_to_a_target_is_that_of_the_first_evaluation_at_it(tmp_path: Path) -> None:
    result = run(clock="spread", evaluate_every=1, evaluate_clients=7)
    reached = [row["evaluation"]["seen"]["global_client"] for row in result.metrics]
    target = sorted(reached)[2]
    expected = next(row["virtual_seconds"] for row, value in zip(result.metrics, reached, strict=True) if value >= target)
    again = run(clock="spread", evaluate_every=1, evaluate_clients=7, target=target)
    assert again.run["target_seconds"] == expected and result.run["target_seconds"] is None
    assert run(clock="spread", evaluate_every=1, target=1.0).run["target_seconds"] is None


def test_a_run_goes_on_with_its_devices_alone(tmp_path: Path) -> None:
    clock = profiles(tmp_path)
    run(tmp_path / "run", clock=clock, rounds=2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["clock"] == clock
    text = Path(clock).read_text()
    Path(clock).write_text(text.replace(f"{NAMES[0]},0.5,", f"{NAMES[0]},0.25,"))
    with pytest.raises(
        UserError, match=r"gives clients other devices than when the run in .*run was started; put back the file"
    ):
        resume(tmp_path / "run", population=POPULATION, progress=False)
    Path(clock).write_text(text)
    assert len(resume(tmp_path / "run", rounds=3, population=POPULATION, progress=False).metrics) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"deadline": 3.0},
            "deadline=3.0 is measured on the clock, and there is none; add clock='spread', or leave deadline out",
        ),
        ({"wait_for": 3}, "wait_for=3 is measured on the clock"),
        ({"target": 0.3}, "target=0.3 is measured on the clock"),
        ({"clock": "spread", "deadline": -1.0}, "deadline must be a finite number at least 0, got -1.0"),
        ({"clock": "spread", "wait_for": 6}, "wait_for=6 must be at most cohort=5, the clients of a round; lower it"),
        ({"clock": "spread", "target": 40.0}, "target must be a finite number from 0 to 1, got 40.0"),
        ({"clock": "spread", "stragglers": 0.5}, "stragglers=0.5 makes clients slow by chance, and with clock='spread' their"),
        (
            {"clock": "none.csv"},
            "none.csv': there is no such file; give the path of a CSV file of device profiles, or 'spread'",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run(**changes)
    assert message in str(caught.value)
