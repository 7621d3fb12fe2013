"""Clients that a deadline cuts short: each beside the same client run alone for so many steps."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from algorithm_cases import CASES
from fields import leaves, rows
from harness import Bench, close
from oracles import baselines

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.algorithms import REGISTRY, algorithm_of, perfedavg, privategate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import ALGORITHM, FedAvgOptions
from flow.algorithms.fedprox import FedProxOptions
from flow.algorithms.interface import Algorithm, Stopping
from flow.algorithms.pfedhn import PFedHNOptions
from flow.data import Client
from flow.engine import timing
from flow.engine.task import prepare
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.training import work
from flow.training.batches import batches, trained_after

POPULATION = oracles.population()
CLIENTS = {client.id: client for client in POPULATION.clients}
NAMES = sorted(client.id for client in POPULATION.clients if not client.held_out)
SPEED = {name: 0.5 + n for n, name in enumerate(NAMES)}
MEGABITS = {name: (0.01 * (n + 1), 0.003 * (n + 1)) for n, name in enumerate(NAMES)}
FEDAVG = FedAvgOptions(lr=0.5, epochs=2, batch_size=2)
BASE: Config[Any] = Config(
    algorithm=FEDAVG,
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=4,
    cohort=5,
    evaluate_every=0,
    min_texts=1,
    chunk=2,
    validation_share=0.0,
    late="partial",
)
STOPPING = [name for name, options in CASES.items() if not algorithm_of(options).stopping(options).refusal]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def clock(folder: Path) -> str:
    lines = [f"{name},{SPEED[name]},{MEGABITS[name][0]},{MEGABITS[name][1]}" for name in NAMES]
    (folder / "profiles.csv").write_text("client,speed,download,upload\n" + "\n".join(lines) + "\n")
    return str(folder / "profiles.csv")


def run(folder: Path | None = None, **changes: Any) -> Result:
    return simulate(dataclasses.replace(BASE, **changes), folder, population=POPULATION, progress=False)


def ends(sequences: int, batch_size: int, epochs: int) -> list[int]:
    """After every batch, the sequences trained on so far."""
    sizes = [min(batch_size, sequences - start) for start in range(0, sequences, batch_size)] * epochs
    return list(itertools.accumulate(sizes))


def in_time(name: str, down: int, up: int, deadline: float, passes: int = 1) -> int:
    """The batches after which a client's upload still comes in time, all where it is in time anyway."""
    traffic = down * 8 / (MEGABITS[name][0] * 1e6) + up * 8 / (MEGABITS[name][1] * 1e6)
    return sum(traffic + passes * end / SPEED[name] <= deadline for end in ends(len(CLIENTS[name].train), 2, 2))


@pytest.mark.parametrize("name", STOPPING)
def test_a_client_that_stops_is_that_client_run_for_so_many_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group of clients that stop at different batches, beside each alone whose batches end there."""
    options = CASES[name]
    bench = Bench(options, dtype=torch.float64)
    for round in (1, 2):
        bench.round(bench.able()[:-1], round)
    clients = sorted(bench.able(), key=lambda client: -len(client.train))
    options, stopping = bench.options, bench.algorithm.stopping(bench.options)

    def batches_of(client: Client) -> list[int]:
        own = [min(len(client.train), options.batch_size) * (n + 1) for n in range(stopping.steps)]
        return own or ends(len(client.train), options.batch_size, options.epochs)

    most = tuple(1 + 3 * n % len(batches_of(client)) for n, client in enumerate(clients))
    assert any(own < len(batches_of(client)) for own, client in zip(most, clients, strict=True)) and len(set(most)) > 1
    visit = bench.visit(clients)
    upload = bench.algorithm.local(options, bench.model, visit._replace(data=visit.data._replace(most=most)))
    for k, (client, steps) in enumerate(zip(clients, most, strict=True)):
        with monkeypatch.context() as patched:
            own = dataclasses.replace(options, steps=steps) if stopping.steps else options

            def first(*arguments: Any, until: int = steps) -> Iterator[Any]:
                return itertools.islice(batches(*arguments), until)

            for module in (work, perfedavg, privategate) if not stopping.steps else ():
                patched.setattr(module, "batches", first)
            alone = bench.algorithm.local(own, bench.model, bench.visit([client]))
        assert upload.weights[k] == alone.weights[0]
        close({n: t[k : k + 1] for n, t in upload.tensors.items()}, alone.tensors, client.id)
        close({n: t[k : k + 1] for n, t in (upload.kept or {}).items()}, alone.kept or {}, client.id)
        for ours, theirs in zip(upload.phases, alone.phases, strict=True):
            assert (ours.tokens[k], ours.flops[k]) == (theirs.tokens[0], theirs.flops[0])
            assert float(ours.nats[k]) == pytest.approx(float(theirs.nats[0]), rel=1e-12)
        told = sum((phase.sequences_of_each() or ())[k] for phase in upload.phases)
        assert told == stopping.passes * batches_of(client)[steps - 1]
    assert sum(phase.sequences for phase in upload.phases) == sum(
        sum(phase.sequences_of_each() or ()) for phase in upload.phases
    )


def expected(name: str, deadline: float, rounds: int = 4) -> tuple[oracles.Tensors, list[tuple[int, int]]]:
    """The state after the run, one client at a time, and by round (uploads of clients that stopped early, late clients)."""
    options: Any = {"fedavg": FEDAVG, "fedprox": PROX, "ditto": DITTO}[name]
    passes = 2 if name == "ditto" else 1
    task = prepare(dataclasses.replace(BASE, algorithm=options, late="drop"), POPULATION)
    state, counts = dict(task.algorithm.init(task.config.algorithm, task.model, 0, len(NAMES))), []
    own: dict[str, oracles.Tensors] = {}
    size = sum(tensor.numel() * 8 for tensor in state.values())
    plain, original = vars(task.config.algorithm), oracles.batches
    for round in range(1, rounds + 1):
        uploads, early, late = [], 0, 0
        for n in oracles.stream(0, round, "cohort").choice(len(NAMES), 5, replace=False):
            client = CLIENTS[NAMES[n]]
            steps, whole = in_time(client.id, size, size, deadline, passes), len(ends(len(client.train), 2, 2))
            early, late = early + (0 < steps < whole), late + (not steps)
            with pytest.MonkeyPatch.context() as patched:

                def first(*arguments: Any, until: int = steps or whole) -> Iterator[oracles.Batch]:
                    return itertools.islice(original(*arguments), until)

                for module in (oracles, baselines):
                    patched.setattr(module, "batches", first)
                if name == "ditto":
                    after, own[client.id], weight = baselines.ditto(state, own.get(client.id), client, plain, 0, round)
                elif name == "fedprox":
                    after, weight = baselines.fedprox(state, client, plain, 0, round)
                else:
                    after, weight, _ = oracles.fedavg(state, client, plain, 0, round)
            assert weight == len(client.train), "weighted as if it had done all"
            uploads += [(after, weight)] if steps else []
        state = oracles.weighted_mean(uploads) if uploads else state
        counts.append((early, late))
    return state, counts


PROX = FedProxOptions(lr=0.5, epochs=2, batch_size=2, mu=0.3)
DITTO = DittoOptions(lr=0.5, epochs=2, batch_size=2, lam=0.4)


@pytest.mark.parametrize(
    ("name", "options", "deadline"), [("fedavg", FEDAVG, 4.0), ("fedprox", PROX, 4.0), ("ditto", DITTO, 6.0)]
)
def test_a_run_with_clients_cut_short_is_that_of_the_oracle(name: str, options: Any, deadline: float, tmp_path: Path) -> None:
    result = run(algorithm=options, clock=clock(tmp_path), deadline=deadline)
    state, counts = expected(name, deadline)
    for key, tensor in state.items():
        torch.testing.assert_close(result.state[key], tensor, rtol=1e-10, atol=1e-11)
    assert [(row["partial"], row["late"]) for row in result.metrics] == counts
    assert sum(early for early, _ in counts) > 2 and any(late for _, late in counts)
    assert all(row["clients"] == 5 - row["late"] for row in result.metrics)
    assert all(b["virtual_seconds"] - a["virtual_seconds"] <= deadline for a, b in itertools.pairwise(result.metrics))
    dropped = run(algorithm=options, clock=clock(tmp_path), deadline=deadline, late="drop")
    assert sum(row["late"] for row in dropped.metrics) > sum(late for _, late in counts)
    assert all("partial" not in row for row in dropped.metrics)
    assert sum(row["sequences"] for row in result.metrics) < sum(row["sequences"] for row in dropped.metrics)


@pytest.mark.parametrize("compress", ["topk:0.1", "int4"])
def test_a_smaller_upload_leaves_time_for_more_batches(compress: str, tmp_path: Path) -> None:
    whole = run(rounds=1, clock=clock(tmp_path), deadline=4.0)
    result = run(rounds=1, clock=clock(tmp_path), deadline=4.0, compress=compress)
    down = sum(tensor.numel() * 8 for tensor in result.state.values())
    up = result.metrics[0]["upload_bytes"] // result.metrics[0]["clients"]
    assert up < down / 4
    cohort = [NAMES[n] for n in oracles.stream(0, 1, "cohort").choice(len(NAMES), 5, replace=False)]
    steps = {name: (in_time(name, down, up, 4.0), len(ends(len(CLIENTS[name].train), 2, 2))) for name in cohort}
    assert result.metrics[0]["partial"] == sum(0 < own < all_of_them for own, all_of_them in steps.values())
    assert result.metrics[0]["sequences"] == sum(
        ends(len(CLIENTS[name].train), 2, 2)[(own or all_of_them) - 1] for name, (own, all_of_them) in steps.items()
    )
    assert result.metrics[0]["sequences"] > whole.metrics[0]["sequences"]


def test_where_all_are_in_time_nothing_changes(tmp_path: Path) -> None:
    first, other = (run(clock=clock(tmp_path), deadline=1e6, late=late) for late in ("partial", "drop"))
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in first.state.items())
    for ours, theirs in zip(first.metrics, other.metrics, strict=True):
        assert ours["partial"] == 0 and set(ours) - set(theirs) == {"partial"}
        assert all(ours[key] == value for key, value in theirs.items() if "second" not in key or key == "virtual_seconds")


def test_lost_uploads_are_no_partial_ones(tmp_path: Path) -> None:
    whole = run(clock=clock(tmp_path), deadline=4.0)
    lossy = run(clock=clock(tmp_path), deadline=4.0, dropout=0.5)
    assert sum(row["dropped"] for row in lossy.metrics)
    assert 0 < sum(row["partial"] for row in lossy.metrics) < sum(row["partial"] for row in whole.metrics)


@pytest.mark.parametrize("name", ["fedavg", "ditto", "pfedhn", "float32"])
def test_the_numbers_do_not_depend_on_groups_and_a_run_goes_on_to_them(name: str, tmp_path: Path) -> None:
    options = {"ditto": DITTO, "pfedhn": PFedHNOptions(lr=0.5, steps=4, batch_size=2, hyper_width=5)}.get(name, FEDAVG)
    changes: dict[str, Any] = {"algorithm": options, "clock": clock(tmp_path), "deadline": 5.0, "checkpoint_every": 1}
    if name == "float32":
        changes["model"] = ModelOptions(embedding_dim=3, hidden_size=4)
    whole = run(**changes)
    assert sum(row["partial"] for row in whole.metrics)
    run(tmp_path / "run", **changes, rounds=2)
    again = resume(tmp_path / "run", rounds=4, population=POPULATION, progress=False)
    alone = run(**changes, chunk=1, threads=2)
    for other in (again, alone):
        assert all(torch.equal(tensor, other.state[key]) for key, tensor in whole.state.items())
        for ours, theirs in zip(whole.metrics, other.metrics, strict=True):
            assert all(ours[key] == theirs[key] for key in ("partial", "late", "loss", "sequences", "virtual_seconds"))


def test_rows_have_the_fields_of_the_page(tmp_path: Path) -> None:
    table = rows("metrics.jsonl, on the clock")
    kept = [run(clock=clock(tmp_path), deadline=4.0, rounds=1), run(async_buffer=2, rounds=1, late="drop")]
    plain = {path for path, _ in leaves(run(rounds=1, late="drop").metrics[0])}
    told = set()
    for path, value in (leaf for result in kept for leaf in leaves(result.metrics[0]) if leaf[0] not in plain):
        told |= {row[1] for row in table if row[0].fullmatch(path) and type(value) in row[2]}
        assert any(row[0].fullmatch(path) and type(value) in row[2] for row in table), path
    assert told == {row[1] for row in table}


REFUSED = {
    "fedalt": "has the private part trained before the shared one",
    "fedrep": "has the head trained before the body",
    "fedrecon": "has the local part reconstructed before the rest is trained",
    "flow": "has its parts trained one after the other",
    "fedfomo": "has clients weigh the models that they received",
    "ffgg": "has clients upload one gradient over all of their texts",
    "hypcluster": "has clients choose a model by all of their texts",
    "partialfed": "has clients learn which layers to load",
}


@pytest.mark.parametrize("name", REGISTRY)
def test_what_cannot_stop_after_a_batch_is_refused_with_the_reason(name: str) -> None:
    algorithm = REGISTRY[name]
    config = dataclasses.replace(BASE, algorithm=algorithm.options(), clock="spread", deadline=3.0)
    if name not in REFUSED:
        timing.check(config, algorithm)
        return
    with pytest.raises(UserError) as caught:
        timing.check(config, algorithm)
    start = f"late='partial' has clients stop after some of their batches at deadline=3.0, and {name} {REFUSED[name]}"
    assert str(caught.value).startswith(start) and str(caught.value).endswith("; choose late='drop', or leave deadline out")
    timing.check(dataclasses.replace(config, late="drop"), algorithm)


def test_an_algorithm_of_a_users_own_has_to_say_that_it_can_stop() -> None:
    own: Algorithm[Any] = Algorithm(name="own", about="Own.", options=FedAvgOptions, local=ALGORITHM.local, personalize=None)
    config = dataclasses.replace(BASE, clock="spread", deadline=3.0)
    with pytest.raises(
        UserError, match=r"own does not say whether its local work can stop \(`stopping` of its Algorithm\); ch"
    ):
        timing.check(config, own)
    timing.check(config, dataclasses.replace(own, stopping=lambda options: Stopping()))


def test_the_page_names_who_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "time.md").read_text(encoding="utf-8")
    table = page.split("| refused with `--late partial` | why |\n| --- | --- |\n")[1].split("\n\n")[0]
    told = [name for line in table.splitlines() for name in line.strip("| ").split("|")[0].strip().split(", ")]
    assert sorted(told) == sorted(REFUSED)
    assert sorted(REFUSED) == sorted(n for n, a in REGISTRY.items() if a.stopping(a.options()).refusal)


def test_ends_are_counted_as_in_the_package() -> None:
    for sequences, size, epochs in itertools.product(range(9), (1, 2, 3, 8), (1, 2, 5)):
        assert trained_after(sequences, size, epochs).tolist() == [0, *ends(sequences, size, epochs)]
        assert len(trained_after(sequences, size, epochs)) == 1 + epochs * math.ceil(sequences / size)
