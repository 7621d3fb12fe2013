"""The server's side: sums of uploads, single uploads, and its optimisers against Algorithm 2 of Reddi et al. (2021)."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import harness
import numpy as np
import numpy.typing as npt
import pytest
import torch
from comparisons import plain_fixture  # noqa: F401
from harness import TIGHT, Bench, close
from optional import present
from oracles import baselines
from torch import Tensor

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.algorithms import NAMES
from flow.algorithms.dynamic_routing import DynamicRoutingOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.local import LocalOptions
from flow.model.parameters import Tensors
from flow.server import optimizers
from flow.server.optimizers import resolve, step
from flow.server.options import ServerOptions
from flow.server.uploads import Received, Uploads, collect
from flow.training.messages import Upload
from flow.training.records import Work

OPTIMIZERS: tuple[Literal["adam", "yogi", "adagrad"], ...] = ("adam", "yogi", "adagrad")


def goals(rounds: int = 6, seed: int = 0) -> list[Callable[[Tensor], Tensor]]:
    """Targets that depend on the state, of several magnitudes and signs, some of them equal to it."""
    generator = torch.Generator().manual_seed(seed)
    offsets = [torch.randn(3, 4, generator=generator, dtype=torch.float64) * 10.0 ** (-n % 4) for n in range(rounds)]
    for offset in offsets:
        offset[0, 0] = 0

    def goal(offset: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda w: 0.7 * w + offset

    return [goal(offset) for offset in offsets]


def rates_of(options: ServerOptions) -> tuple[float, float, float | None, float]:
    """server_lr, beta1, beta2, tau of resolved options."""
    return present(options.server_lr), present(options.beta1), options.beta2, present(options.tau)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("changes", [{}, {"server_lr": 0.3, "beta1": 0.5, "tau": 0.1}])
def test_the_optimisers_match_the_oracle(name: Any, changes: dict[str, Any]) -> None:
    options = resolve(ServerOptions(name, **changes))
    w, moments = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4), dict[str, Tensor]()
    state = {"w": w, "untouched": torch.ones(2)}
    for target in goals():
        state, moments = step(state, moments, {"w": target(state["w"])}, options)
    expected = baselines.server(name, w, goals(), *rates_of(options))
    torch.testing.assert_close(state["w"], expected, **TIGHT)
    assert torch.equal(state["untouched"], torch.ones(2)) and set(moments) == {"m/w", "v/w"}


def test_defaults_are_the_published_ones() -> None:
    assert resolve(ServerOptions()) == ServerOptions("average", 1.0, 0.0)
    for name in ("adam", "yogi"):
        assert resolve(ServerOptions(name)) == ServerOptions(name, 0.01, 0.9, 0.99, 1e-3)
    assert resolve(ServerOptions("adagrad")) == ServerOptions("adagrad", 0.1, 0.0, None, 1e-3)


def test_average_takes_the_mean_itself_or_momentum_steps_towards_it() -> None:
    w = torch.randn(5, generator=torch.Generator().manual_seed(0))
    target = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state, moments = step({"w": w}, {}, {"w": target}, resolve(ServerOptions()))
    assert torch.equal(state["w"], target.float()) and not moments
    expected, m = w.double(), torch.zeros(5, dtype=torch.float64)
    state = {"w": w.double()}
    for _ in range(3):
        m = 0.9 * m + (target - expected)
        expected = expected + 0.5 * m
        state, moments = step(state, moments, {"w": target}, resolve(ServerOptions(server_lr=0.5, beta1=0.9)))
    torch.testing.assert_close(state["w"], expected, **TIGHT)


def test_the_step_of_an_adaptive_optimiser_is_bounded_by_its_rate() -> None:
    """The published trap, a momentum mistaken for the delta, made steps of any size."""
    for name in OPTIMIZERS:
        state, moments = {"w": torch.zeros(4, dtype=torch.float64)}, dict[str, Tensor]()
        for _ in range(5):
            before = state["w"]
            goal = {"w": before + torch.tensor([1e-6, 1.0, 1e3, -1e6])}
            state, moments = step(state, moments, goal, resolve(ServerOptions(name)))
            moved = (state["w"] - before).abs()
            assert (moved > 0).all() and (moved <= 0.101).all()  # the rate, over sqrt(1 - beta2) where v has a decay
        assert (state["w"] * torch.tensor([1.0, 1, 1, -1]) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ServerOptions("average", beta2=0.9), "beta2=0.9 is an option of adam and yogi, not of server='average'; leave it out"),
        (ServerOptions("adagrad", beta2=0.9), "beta2=0.9 is an option of adam and yogi, not of server='adagrad'"),
        (ServerOptions("average", tau=0.1), "tau=0.1 is an option of adam and yogi and adagrad, not of"),
        (ServerOptions("yogi", beta1=1.0), "beta1 must be below 1, got 1.0"),
        (ServerOptions("yogi", beta2=-0.1), "beta2 must be a finite number from 0 to 1, got -0.1"),
        (ServerOptions("adam", tau=0.0), "tau must be above 0, got 0.0"),
        (ServerOptions("adam", server_lr=0.0), "server_lr must be above 0, got 0.0"),
        (ServerOptions(server_lr=float("nan")), "server_lr must be a finite number at least 0, got nan"),
    ],
)
def test_wrong_options_are_refused(options: ServerOptions, message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        resolve(options)


def received(rows: Sequence[int], tensors: Tensors, weights: Sequence[float]) -> Received:
    k = len(rows)
    work = Work(torch.ones(k, dtype=torch.float64), torch.ones(k, dtype=torch.float64), k, torch.full((k,), 3.0))
    return Received(np.array(rows), Upload(tensors, weights, (work, work)), 7 * k)


def test_uploads_are_summed_or_kept_one_by_one_in_the_order_of_the_clients() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 2, generator=generator), torch.randn(2, 2, generator=generator)
    groups = [received([5, 0, 9], {"w": a}, [1, 2, 3]), received([3, 7], {"w": b}, [4, 5])]
    total, single = collect(iter(groups)), collect(iter(groups), one_by_one=True)
    assert total.rows.tolist() == single.rows.tolist() == [0, 3, 5, 7, 9]
    assert total.weights.tolist() == single.weights.tolist() == [2, 4, 1, 5, 3]
    assert torch.equal(single.each["w"], torch.stack([a[1], b[0], a[0], b[1], a[2]]))
    assert not total.each and not single.total
    expected = (single.each["w"].double() * single.weights.view(-1, 1)).sum(0) / 15
    torch.testing.assert_close(total.mean()["w"], expected, **TIGHT)
    assert (total.clients, total.sequences, total.flops) == (5, 10, 30)
    assert (total.upload_bytes, total.download_bytes) == (5 * 8, 35)
    assert collect(iter(())).clients == 0


def test_tensors_that_count_by_votes_have_a_mean_of_their_own() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, 2, generator=generator), torch.randn(2, 2, generator=generator)
    groups = [
        received(rows, {"w": w, "psi": w + 1, "gate": 2 * w}, weights)
        for rows, w, weights in (([5, 0, 9], a, [1, 2, 3]), ([3, 7], b, [4, 5]))
    ]

    def voting(first: Sequence[float], second: Sequence[float], lost: npt.NDArray[np.bool_] | None = None) -> Uploads:
        votes = [
            group._replace(upload=group.upload._replace(voted=("psi", "gate"), votes=v))
            for group, v in zip(groups, (first, second), strict=True)
        ]
        return collect(iter([votes[0]._replace(lost=lost), votes[1]]))

    whole = torch.cat([a, b]).double()
    weights, votes = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([1.0, 0, 1, 0.5, 0]).double()
    means = voting([1, 0, 1], [0.5, 0]).mean()
    assert set(means) == {"w", "psi", "gate"}
    torch.testing.assert_close(means["w"], (weights @ whole) / 15, **TIGHT)
    torch.testing.assert_close(means["psi"], (votes @ whole) / 2.5 + 1, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(means["gate"], 2 * (votes @ whole) / 2.5, **TIGHT)
    assert set(voting([0, 0, 0], [0, 0]).mean()) == {"w"}, "nobody votes: the server keeps what it has"
    arrived = voting([1, 1, 0], [0, 1], lost=np.array([True, False, True])).mean()
    torch.testing.assert_close(arrived["gate"], a[1].double() + b[1].double(), **TIGHT)
    torch.testing.assert_close(arrived["w"], (2 * a[1].double() + 4 * b[0].double() + 5 * b[1].double()) / 11, **TIGHT)


@pytest.mark.parametrize("options", [FedAvgOptions(), FlowOptions(), DynamicRoutingOptions()])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_algorithm_that_averages_takes_any_server(options: Any, name: Any) -> None:
    bench, plain = Bench(options), Bench(options)
    clients, start = bench.able(), bench.state
    bench.round(clients, 1, ServerOptions(name))
    plain.round(clients, 1)
    rates = rates_of(resolve(ServerOptions(name)))

    def goal(key: str) -> Callable[[Tensor], Tensor]:
        return lambda _: plain.state[key]

    expected = {key: baselines.server(name, tensor, [goal(key)], *rates) for key, tensor in start.items()}
    close(bench.state, expected)


@pytest.mark.parametrize("name", ["fedyogi", "fedadam", "fedadagrad"])
def test_a_run_with_a_server_optimiser_resumes_with_its_moments(name: Any, tmp_path: Path, plain: None) -> None:
    known = NAMES[name]
    assert known.algorithm is NAMES["fedavg"].algorithm and known.server == ServerOptions(name.removeprefix("fed"))
    config = Config(
        algorithm=known.algorithm.options(),
        server=known.server,
        model=ModelOptions(embedding_dim=3, hidden_size=4),
        rounds=4,
        cohort=4,
        evaluate_every=0,
        checkpoint_every=2,
    )
    whole = simulate(config, tmp_path / "run", population=harness.POPULATION, progress=False)
    (tmp_path / "run" / "checkpoints" / "round_000004.safetensors").unlink()
    broken = resume(tmp_path / "run", population=harness.POPULATION, progress=False)
    other = simulate(dataclasses.replace(config, server=ServerOptions()), None, population=harness.POPULATION, progress=False)
    for key, tensor in whole.state.items():
        assert torch.equal(tensor, broken.state[key])
        assert not torch.equal(tensor, other.state[key])


def test_an_algorithm_that_sends_nothing_refuses_a_server_optimiser() -> None:
    config = Config(algorithm=LocalOptions(), server=ServerOptions("yogi"), cohort=2)
    with pytest.raises(UserError, match="server='yogi', aggregator='mean' need uploads to average, and local has none; leave"):
        simulate(config, population=harness.POPULATION, progress=False)


def test_average_is_what_the_loop_calls() -> None:
    """The step of the loop's algorithms is the optimiser of this file, with the options of the run."""
    assert NAMES["flow"].algorithm.server_step is optimizers.average
