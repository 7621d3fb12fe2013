"""What holds for every algorithm: company, grouping, interruptions and where state is kept change no number."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import oracles
import pytest
import torch
from algorithm_cases import CASES
from harness import Bench, row
from optional import present

from flow import Config, ModelOptions, resume, simulate
from flow.algorithms import NAMES, REGISTRY, algorithm_of
from flow.model.parameters import Tensors
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import run_folder

ALL = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
STATEFUL = [name for name, options in CASES.items() if algorithm_of(options).stateful(options)]
HELD_OUT = [client for client in harness.POPULATION.clients if client.held_out]
Unbroken = Callable[[str, bool], Result]
RUN: Config[Any] = Config(
    model=ModelOptions(embedding_dim=3, hidden_size=4),
    rounds=5,
    cohort=4,
    evaluate_every=2,
    evaluate_clients=2,
    checkpoint_every=2,
    chunk=2,
    validation_share=0.0,
)


@pytest.fixture(name="patched")
def patched_fixture(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Runs write no report: it is tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)
    return monkeypatch


def config_of(name: str, disk: bool) -> Config[Any]:
    return dataclasses.replace(RUN, algorithm=CASES[name], client_memory=0 if disk else 1)


@pytest.fixture(scope="module", name="unbroken")
def unbroken_fixture(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """(name of a case, whether state is kept on disk) -> its whole run, made once."""

    @functools.cache
    def of(name: str, disk: bool) -> Result:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "_write_report", lambda folder: None)
            folder = tmp_path_factory.mktemp("whole") / "run"
            return simulate(config_of(name, disk), folder, population=harness.POPULATION, progress=False)

    return of


def test_every_algorithm_is_among_the_cases() -> None:
    assert {algorithm_of(options).name for options in CASES.values()} == set(REGISTRY)


def test_names_and_lines_for_the_command_line() -> None:
    for name, known in NAMES.items():
        assert name.islower() and known.about.endswith(".") and "\n" not in known.about and len(known.about) < 120
    assert next(iter(NAMES)) == "flow"


@ALL
@pytest.mark.parametrize(("dtype", "groupings"), [(torch.float64, ([9], [2, 3, 2, 2])), (torch.float32, ([5, 4],))], ids=str)
def test_a_client_gets_the_same_numbers_in_any_company(
    options: Any, dtype: torch.dtype, groupings: Sequence[Sequence[int]]
) -> None:
    """After a first round in which everybody took part, so that there is state to keep."""
    tolerance: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    bench = Bench(options, dtype, backend="auto")
    clients = bench.able()
    bench.round(clients, 1)

    def results(sizes: Sequence[int]) -> dict[tuple[str, str], Tensors]:
        by_client = {}
        everybody, start = clients + HELD_OUT, 0
        for size in sizes:
            group, start = everybody[start : start + size], start + size
            for what in ("local", "personalize"):
                some = [c for c in group if not c.held_out] if what == "local" else group
                if not some or getattr(bench.algorithm, what) is None:
                    continue
                made = getattr(bench, what)(some)
                for k, client in enumerate(some):
                    tensors = row(made.tensors if what == "local" else made.parameters, k)
                    if what == "local":
                        tensors |= {"kept/" + name: tensor[k] for name, tensor in (made.kept or {}).items()}
                        tensors["weight"] = torch.tensor(float(made.weights[k]))
                    for phase, work in enumerate(made.phases):
                        tensors[f"flops {phase}"], tensors[f"nats {phase}"] = work.flops[k], work.nats[k].to(dtype)
                    by_client[what, client.id] = tensors
        return by_client

    alone = results([1] * 9)
    assert {("local", c.id) for c in clients} <= set(alone)
    for sizes in groupings:
        together = results(sizes)
        assert together.keys() == alone.keys()
        for key, expected in alone.items():
            assert together[key].keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(together[key][name], tensor, **tolerance, msg=harness.labelled(f"{key} {name}"))


@pytest.mark.parametrize(
    ("name", "disk", "stop"),
    [
        pytest.param(name, disk, stop, id=f"{name}, {'disk' if disk else 'memory'}, round {stop}")
        for name in CASES
        for disk, stop in ((False, 4), (True, 1), (True, 4))
        if not disk or name in STATEFUL
    ],
)
def test_a_run_stopped_anywhere_ends_with_the_numbers_of_an_unbroken_one(
    name: str, disk: bool, stop: int, unbroken: Unbroken, tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    whole = unbroken(name, disk)
    kept = sorted(path.name for path in (present(whole.folder) / "clients").glob("*/*"))
    assert bool(kept) == disk
    with patched.context() as stopping:
        stopping.setattr(run_folder, "append_metrics", stopped_in(stop))
        with pytest.raises(KeyboardInterrupt):
            simulate(config_of(name, disk), tmp_path / "broken", population=harness.POPULATION, progress=False)
    broken = resume(tmp_path / "broken", population=harness.POPULATION, progress=False)
    assert sorted(path.name for path in (tmp_path / "broken" / "clients").glob("*/*")) == kept
    for key, tensor in whole.state.items():
        assert torch.equal(tensor, broken.state[key]), key
    assert json.dumps(broken.evaluation) == json.dumps(whole.evaluation)
    timeless = [[{k: v for k, v in r.items() if "second" not in k} for r in run.metrics] for run in (whole, broken)]
    assert timeless[0] == timeless[1]


def stopped_in(stop: int, append: Callable[..., None] = run_folder.append_metrics) -> Callable[[Path, Mapping[str, Any]], None]:
    """In the middle: the round's row is written, and what its clients keep; the checkpoint is not."""

    def interrupted(folder: Path, row: Mapping[str, Any]) -> None:
        append(folder, row)
        if row["round"] == stop:
            raise KeyboardInterrupt

    return interrupted


@pytest.mark.parametrize("name", STATEFUL)
def test_where_state_is_kept_changes_no_number(name: str, unbroken: Unbroken) -> None:
    memory, disk = unbroken(name, False), unbroken(name, True)
    assert memory.evaluation == disk.evaluation
    sizes = [row["client_state_bytes"] for row in memory.metrics]
    assert sizes == [row["client_state_bytes"] for row in disk.metrics] == sorted(sizes)
    assert sizes[-1] > 0


@ALL
def test_clients_never_seen_are_defined_and_leave_nothing_behind(options: Any) -> None:
    """Held-out clients personalize before any round and after some, and nothing is kept of them."""
    bench = Bench(options)
    if bench.algorithm.personalize is None:
        return
    for round in (1, 2):
        own = bench.personalize(HELD_OUT)
        assert all(tensor.isfinite().all() and len(tensor) == len(HELD_OUT) for tensor in own.parameters.values())
        again = bench.personalize(HELD_OUT)
        assert all(torch.equal(tensor, again.parameters[name]) for name, tensor in own.parameters.items())
        assert not bench.visit(HELD_OUT, "evaluation").kept.known.any()
        assert len(bench.states.rows()) in (0, (round - 1) * len(bench.able()))
        bench.round(bench.able(), round)


@pytest.mark.parametrize("name", CASES)
def test_costs_are_counted_for_every_client(name: str, unbroken: Unbroken) -> None:
    result, algorithm = unbroken(name, False), algorithm_of(CASES[name])
    for client in result.evaluation["clients"]:
        assert client["download_bytes"] >= 0 and client["upload_bytes"] >= 0
        assert client["flops"] >= 0
    for round in result.metrics:
        assert round["flops"] > 0
        assert (round["upload_bytes"] > 0) == (round["download_bytes"] > 0) == (algorithm.name != "local")
    rows = [c for c in result.evaluation["clients"] if c["seen"]]
    assert result.evaluation["summary"]["seen"]["flops"] == pytest.approx(sum(c["flops"] for c in rows) / len(rows))


@pytest.mark.parametrize("key", ["lr", "epochs", "batch_size"])
@ALL
def test_options_of_the_training_out_of_range_are_refused(options: Any, key: str) -> None:
    if not hasattr(options, key):
        return
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"{key} must be .* got {value}"):
            algorithm_of(options).check(dataclasses.replace(options, **{key: value}))


def test_the_oracles_use_no_code_of_the_package_but_the_data_types() -> None:
    import sys
    from pathlib import Path

    for path in Path(oracles.__file__).parent.glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        others = [line for line in lines if line.split()[1].split(".")[0] not in sys.stdlib_module_names]
        known = ("import numpy", "import torch", "from torch import Tensor", "from flow.data import", "from oracles")
        assert all(line.startswith(known) for line in others), path.name
