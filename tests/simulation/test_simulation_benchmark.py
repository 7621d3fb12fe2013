"""The simulation benchmark's plumbing on tiny sizes: processes on pipes, turns, the check of what they computed, its report."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.timing import Effort
from benchmarks.simulation import evaluation, ours, plots, race, tables, workload
from benchmarks.simulation.__main__ import merged
from benchmarks.simulation.race import Arena, Differs, Rival
from benchmarks.simulation.workload import FULL, TINY, TINY_UNEQUAL, UNEQUAL, Plan, Sizes
from flow.algorithms import NAMES
from flow.data import DataOptions
from flow_kernels.training import multiplies_bfloat16

pytestmark = pytest.mark.long

IDLE = Rival("idle", "tests.support.idle_runner", cores=1)
ABSENT = Rival("absent", "tests.support.idle_runner", cores=1, needs=("no_such_framework",))
BROKEN = Rival("broken", "tests.support.no_such_runner", cores=1)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return ours.make_plan(TINY, rounds=2)


def arena(plan: Plan, folder: Path) -> Arena:
    return Arena(folder, plan, rounds=1, effort=Effort(0.0, (1, 1), 0.0), say=lambda line: None)


def test_all_take_turns_and_who_computes_something_else_has_failed(plan: Plan, tmp_path: Path) -> None:
    row = race.race(arena(plan, tmp_path), race.ours(1), [race.loops(1)[0], IDLE, ABSENT, BROKEN], "FedAvg")
    assert set(row["contenders"]) == {"ours", "PyTorch loop"}
    mine, loop = row["contenders"]["ours"], row["contenders"]["PyTorch loop"]
    assert mine["loss"] == pytest.approx(loop["loss"], abs=1e-5)
    assert mine["flops"] == TINY.flops * TINY.cohort * TINY.sequences
    assert loop["ratio"]["median"] > 0 and mine["sequences_per_second"] > 0
    assert set(row["failed"]) == {"idle", "broken"} and "held-out loss" in row["failed"]["idle"]
    assert row["missing"] == {"absent": "not installed: no_such_framework"}

    text = tables.markdown(report(row))
    assert "idle FAILED: held-out loss" in text and "absent: not installed" in text
    page = tables.fill("a\n<!-- fedavg -->\nold\n<!-- /fedavg -->\nb\n<!-- flow -->\n", report(row))
    assert page.startswith("a\n<!-- fedavg -->\n\n| ") and "old" not in page
    assert page.endswith("<!-- /fedavg -->\nb\n<!-- flow -->\n")
    assert [path.name for path in plots.draw(report(row), tmp_path)] == ["simulation-speed.png"]


def test_a_round_of_flow_is_the_hand_written_loop_s(plan: Plan, tmp_path: Path) -> None:
    row = race.race(arena(plan, tmp_path), race.ours(1, "flow"), [race.loops(1, "flow")[0]], "Flow")
    assert not row["failed"]
    assert row["flops"] > TINY.flops * TINY.cohort * TINY.sequences  # three phases over half the data each, two experts


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")
def test_bfloat16_is_compared_with_the_plain_loop_in_float32(plan: Plan, tmp_path: Path) -> None:
    benchmark = arena(plan, tmp_path)
    benchmark.set_reference("fedavg")
    row = race.race(benchmark, race.ours(1, dtype="bfloat16"), [race.in_bfloat16(race.loops(1)[0])], "FedAvg in bfloat16")
    assert set(row["contenders"]) == {"ours", "PyTorch loop, bfloat16"} and not row["failed"]
    losses = [entry["loss"] for entry in row["contenders"].values()]
    expected, _ = benchmark.reference["fedavg"]
    assert all(abs(loss - expected) < 3e-3 * expected for loss in losses)
    single, mixed = (ours.runner(plan, "fedavg", 1, dtype)(1).weights["head.weight"] for dtype in ("float32", "bfloat16"))
    assert 0 < abs(single - mixed).max() < 1e-3
    text = tables.markdown(report(row) | {"parts": {"bfloat16": [row]}})
    assert "the first line is ours in bfloat16" in text and "Flow;" not in text


def test_the_same_loss_from_other_weights_is_no_match(plan: Plan, tmp_path: Path) -> None:
    benchmark, start = arena(plan, tmp_path), plan.start("flow")
    trained = {name: array * 1.01 for name, array in start.items()} | {"gru.router_bias_l0": start["gru.router_bias_l0"] + 1}
    benchmark.check(race.ours(1, "flow"), trained)  # the first is the reference
    benchmark.check(race.loops(1, "flow")[0], dict(trained))
    with pytest.raises(Differs, match="of their way"):  # the global model alone is scored, and has no router
        benchmark.check(race.loops(1, "flow")[0], trained | {"gru.router_bias_l0": start["gru.router_bias_l0"]})
    with pytest.raises(Differs, match="instead of"):
        benchmark.check(race.ours(1, "flow"), {"head.bias": start["head.bias"]})


@pytest.fixture(scope="module")
def unequal() -> Plan:
    return ours.make_plan(TINY_UNEQUAL, rounds=2)


@pytest.mark.parametrize("algorithm", ["fedavg", "flow"])
def test_clients_of_unequal_size_count_by_their_sequences(unequal: Plan, tmp_path: Path, algorithm: str) -> None:
    benchmark = arena(unequal, tmp_path)
    benchmark.set_reference(algorithm)
    rivals = [race.loops(2, algorithm)[1], *(race.scans(2) if algorithm == "fedavg" else [])]
    row = race.race(benchmark, race.ours(2, algorithm), rivals, "unequal")
    assert not row["failed"] and {"ours", "PyTorch loop, 2 processes"} <= set(row["contenders"])
    assert row["sequences"] == unequal.counts("order", 1).sum() and row["sizes"]["spread"] == 1.0
    rows = [row | {"algorithm": name} for name in ("fedavg", "flow")]
    text = tables.markdown(report(row) | {"parts": {"unequal": rows}})
    assert "10,000 words" in text and "\nFedAvg:\n" in text and "\nFlow:\n" in text


def test_a_plan_of_unequal_clients(unequal: Plan, tmp_path: Path) -> None:
    counts = workload.counts(TINY_UNEQUAL)
    assert counts.min() >= 2 and len(set(counts.tolist())) > 2 and unequal.tokens.shape[1] == counts.max()
    for round, cohort in enumerate(unequal.cohorts):
        assert unequal.counts("order", round).tolist() == counts[cohort].tolist()
        assert unequal.shares("fedavg", round) == pytest.approx(counts[cohort] / counts[cohort].sum())
        halves = unequal.counts("support", round) + unequal.counts("query", round)
        assert halves.tolist() == counts[cohort].tolist()
        queries = unequal.counts("query", round)
        assert unequal.shares("flow", round) == pytest.approx(queries / queries.sum())
        for place, number in enumerate(cohort):
            visited = unequal.visit("order", round, place)
            own = unequal.tokens[number, : counts[number]]
            assert sorted(map(tuple, visited.tolist())) == sorted(map(tuple, own.tolist()))
    unequal.save(tmp_path / "plan.npz")
    assert Plan.load(tmp_path / "plan.npz").visit("query", 1, 2).tolist() == unequal.visit("query", 1, 2).tolist()


def test_processes_get_about_the_same_number_of_sequences(plan: Plan, unequal: Plan) -> None:
    assert plan.deal(0, 2) == [[0, 2], [1]]  # equal clients in turn
    counts = unequal.counts("order", 0)
    first, second = unequal.deal(0, 2)
    assert sorted(first + second) == [0, 1, 2]
    largest = int(counts.argmax())
    assert [largest] in (first, second)  # the two others together


def test_the_workload() -> None:
    assert workload.counts(UNEQUAL).mean() == pytest.approx(UNEQUAL.sequences, rel=0.15)
    assert set(workload.counts(FULL).tolist()) == {FULL.sequences}
    assert FULL.flops / 1e6 == pytest.approx(58.4, abs=0.05)
    with pytest.raises(ValueError, match="cohort=7 is more than clients=6"):
        Sizes(clients=6, cohort=7)


def report(row: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": 2, "backends": {"cpu": "available"}}
    versions = {"torch": "2", "jax": "not installed"}
    head: dict[str, Any] = {"date": "today", "minutes": 1, "quick": True, "machine": machine, "versions": versions}
    head["runs"] = {"fedavg": {"date": "today", "minutes": 3.2}}
    content: dict[str, Any] = json.loads(json.dumps(head | {"parts": {"fedavg": [row]}, "missing": {}, "failed": {}}))
    return content


def test_parts_measured_earlier_keep_their_dates() -> None:
    before, now = report({"seconds": 1}), report({"seconds": 2})
    before["parts"] |= {"flow": [{"seconds": 3}], "start": []}
    before["runs"] |= {"flow": {"date": "yesterday", "minutes": 4.4}, "start": {"date": "yesterday", "minutes": 1.0}}
    both = merged(before, now)
    assert both["parts"] == {"fedavg": [{"seconds": 2}], "flow": [{"seconds": 3}], "start": []}
    assert tables.when(both) == "Measured: fedavg on today in 3 minutes; flow on yesterday in 4 minutes; start on yesterday."
    del before["runs"]
    assert merged(before, now)["runs"]["flow"] == {"date": "today", "minutes": None}
    for other in ({"machine": before["machine"] | {"processor": "another"}}, {"quick": False}):
        with pytest.raises(SystemExit, match="another folder as --out"):
            merged(before | other, now)


@pytest.mark.parametrize("name", ["fedavg", "ditto", "pfedhn"])
def test_the_same_clients_work_a_round_and_are_evaluated(name: str) -> None:
    data = DataOptions(data="synthetic", clients=60, sequences=12, sequence_length=4, vocabulary_size=20)
    clients, round, scored, own = evaluation.measure(name, data, 5, 1)
    assert clients == 5 and round > 0 and scored > own >= 0
    assert (own > 0) == (NAMES[name].algorithm.personalize is not None)
