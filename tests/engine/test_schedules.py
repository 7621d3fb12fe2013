"""Learning rates by round: against the schedulers of torch, in whole runs, and in runs that go on."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import POPULATION, SMALL, change, run, timeless
from torch.optim import lr_scheduler

from flow import ModelOptions, SharedOptions, UserError, resume
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedalt import FedAltOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.pfedhn import PFedHNOptions
from flow.comparison.plan import configuration, planned
from flow.config import Config, checked, read_config
from flow.engine.rates import in_round
from flow.engine.task import prepare
from flow.reports.run_page import write_report
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.server.schedules import RATES, Rate, ScheduleOptions, factor, resolve
from flow.training import work
from flow.training.descent import Descent

ROUNDS = 13


def of_torch(main: Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler], warmup: int) -> list[float]:
    """The rates of the rounds by torch, from a rate of 1: one step of the scheduler after every round."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = main(optimizer, ROUNDS - warmup)
    if warmup:
        rising = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        schedule = lr_scheduler.SequentialLR(optimizer, [rising, schedule], milestones=[warmup])
    rates = []
    for _ in range(ROUNDS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("warmup", [0, 1, 4])
@pytest.mark.parametrize(
    ("shape", "more", "main"),
    [
        ("constant", {}, lambda o, n: lr_scheduler.LambdaLR(o, lambda epoch: 1.0)),
        ("cosine", {}, lambda o, n: lr_scheduler.CosineAnnealingLR(o, n)),
        ("cosine", {"final": 0.2}, lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, eta_min=0.2)),
        ("linear", {}, lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, n)),
        ("linear", {"final": 0.3}, lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.3, n)),
        ("step", {"step_every": 3}, lambda o, n: lr_scheduler.StepLR(o, 3)),
        ("step", {"step_every": 2, "step_factor": 0.7}, lambda o, n: lr_scheduler.StepLR(o, 2, 0.7)),
    ],
)
def test_the_factors_are_those_of_torch(shape: str, more: dict[str, Any], main: Any, warmup: int, rate: Rate) -> None:
    given = {"schedule": shape, "warmup": warmup, **more}
    options = resolve(ScheduleOptions(**{f"{rate}_{name}": value for name, value in given.items()}), ROUNDS)
    expected = of_torch(main, warmup)
    assert [factor(options, rate, round) for round in range(1, ROUNDS + 1)] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    other = RATES[1 - RATES.index(rate)]
    assert all(factor(options, other, round) == 1 for round in range(1, ROUNDS + 1)), "the other rate stays"


def test_a_schedule_that_ends_before_the_run_keeps_its_end() -> None:
    options = resolve(ScheduleOptions(lr_schedule="cosine", lr_rounds=4, lr_final=0.1), 9)
    assert [factor(options, "lr", round) for round in range(5, 10)] == [0.1] * 5
    assert resolve(ScheduleOptions(lr_schedule="linear"), 9).lr_rounds == 9


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The rates that reach the clients' work and the server's step."""
    rates: dict[str, list[float]] = {"lr": [], "server_lr": []}
    made, step = Descent, optimizers.step

    def descent(model: Any, parameters: Any, sgd: Any) -> Any:
        rates["lr"].append(sgd.lr)
        return made(model, parameters, sgd)

    def stepped(state: Any, moments: Any, target: Any, options: ServerOptions) -> Any:
        assert options.server_lr is not None
        rates["server_lr"].append(options.server_lr)
        return step(state, moments, target, options)

    monkeypatch.setattr(work, "Descent", descent)
    monkeypatch.setattr(optimizers, "step", stepped)
    return rates


def test_a_run_trains_by_its_rates_and_personalizes_by_constant_ones(seen: dict[str, list[float]]) -> None:
    schedule = ScheduleOptions(lr_schedule="step", lr_step_every=1, lr_step_factor=0.5, server_lr_schedule="linear")
    config = change(
        algorithm=FedAvgFTOptions(lr=0.4, personal_lr=0.3, batch_size=4, epochs=1),
        schedule=schedule,
        server=ServerOptions("adam", server_lr=0.02),
        rounds=4,
        chunk=4,
        threads=1,
        evaluate_every=0,
    )
    result = run(config)
    assert list(dict.fromkeys(seen["lr"])) == [0.4, 0.2, 0.1, 0.05, 0.3], "then every client is fine-tuned"
    assert seen["server_lr"] == pytest.approx([0.02, 0.015, 0.01, 0.005], rel=1e-12)
    assert [row["lr"] for row in result.metrics] == [0.4, 0.2, 0.1, 0.05]
    assert [row["server_lr"] for row in result.metrics] == seen["server_lr"]
    assert result.config.algorithm.lr == 0.4 and result.config.schedule.server_lr_rounds == 4


def test_without_a_schedule_rows_and_configuration_are_those_of_before() -> None:
    config = checked(change(rounds=2))
    assert in_round(config, 2) is config
    row = run(change(rounds=1, evaluate_every=0)).metrics[0]
    assert "lr" not in row and "server_lr" not in row


def test_the_rates_that_follow_the_schedule() -> None:
    """Every algorithm says which these are; all others stay."""
    half = ScheduleOptions(lr_schedule="step", lr_step_every=1, lr_step_factor=0.5)

    def second(options: Any) -> Any:
        return in_round(checked(Config(algorithm=options, schedule=half, rounds=5)), 2).algorithm

    flow = second(FlowOptions(lr=0.4, personal_lr=0.3, router_lr=0.2))
    assert (flow.lr, flow.router_lr, flow.personal_lr) == (0.2, 0.1, 0.3)
    alt = second(FedAltOptions(lr=0.4, personal_lr=0.3))
    assert (alt.lr, alt.private_lr, alt.personal_lr) == (0.2, 0.2, 0.3)
    ditto = second(DittoOptions(lr=0.4, personal_lr=0.3, weight_decay=0.1))
    assert (ditto.lr, ditto.personal_lr, ditto.weight_decay) == (0.2, 0.3, 0.1)
    hyper = second(PFedHNOptions(lr=0.4, hyper_lr=0.3, hyper_decay=0.1))
    assert (hyper.lr, hyper.hyper_lr, hyper.vector_lr, hyper.hyper_decay) == (0.2, 0.3, 0.3, 0.1)


def test_a_run_that_goes_on_has_the_rates_of_an_unbroken_one(tmp_path: Path) -> None:
    schedule = ScheduleOptions(
        lr_schedule="cosine", lr_warmup=1, lr_rounds=4, lr_final=0.1, server_lr_schedule="step", server_lr_step_every=2
    )
    config = change(
        algorithm=FedAvgOptions(lr=0.4, batch_size=4, client_optimizer="sgd"),
        model=ModelOptions(embedding_dim=3, hidden_size=4),
        server=ServerOptions("yogi"),
        schedule=schedule,
        evaluate_every=0,
    )
    whole = run(config, tmp_path / "whole")
    run(dataclasses.replace(config, rounds=3), tmp_path / "broken")
    broken = resume(tmp_path / "broken", rounds=5, population=POPULATION, progress=False)
    assert timeless(broken.metrics) == timeless(whole.metrics)
    assert all(torch.equal(tensor, broken.state[name]) for name, tensor in whole.state.items())
    assert read_config(tmp_path / "whole").schedule == whole.config.schedule
    assert [json.loads(line)["lr"] for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()] == [
        row["lr"] for row in whole.metrics
    ]
    page = write_report(tmp_path / "whole").read_text(encoding="utf-8")
    assert "Learning rate of the clients" in page and "Learning rate of the server" in page


def test_more_rounds_than_a_schedule_that_ends_at_zero_are_refused(tmp_path: Path) -> None:
    run(change(schedule=ScheduleOptions(lr_schedule="cosine"), rounds=2, evaluate_every=0), tmp_path / "run")
    with pytest.raises(
        UserError,
        match=r"lr_schedule='cosine' brings lr to 0 before the last of rounds=3; when a run starts, give lr_final above 0",
    ):
        resume(tmp_path / "run", rounds=3, population=POPULATION, progress=False)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Learning rate of the clients" in page and "Learning rate of the server" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_schedule": "exponential"}, "lr_schedule must be 'constant' or 'cosine' or 'linear' or 'step', got 'exponential'"),
        ({"lr_warmup": -1}, "lr_warmup must be a finite number at least 0, got -1; 0 leaves"),
        ({"lr_warmup": 5}, "lr_warmup=5 must be below rounds=5; lower it, or raise rounds"),
        ({"lr_warmup": 5, "lr_schedule": "cosine"}, "lr_warmup=5 must be below rounds=5; lower it, or raise rounds"),
        ({"lr_schedule": "linear", "lr_rounds": 3, "lr_warmup": 3, "lr_final": 0.5}, "lr_warmup=3 must be below lr_rounds=3"),
        ({"lr_schedule": "linear", "lr_rounds": 0}, "lr_rounds must be a finite number at least 1, got 0"),
        ({"lr_schedule": "linear", "lr_final": 1.5}, "lr_final must be a finite number from 0 to 1, got 1.5"),
        ({"lr_schedule": "cosine", "lr_final": float("nan")}, "lr_final must be a finite number from 0 to 1, got nan"),
        ({"lr_schedule": "step"}, "lr_schedule='step' needs lr_step_every, the rounds between two steps; give it"),
        (
            {"lr_schedule": "step", "lr_step_every": 0},
            "lr_step_every must be a finite number at least 1, got 0; give the rounds between two",
        ),
        ({"lr_schedule": "step", "lr_step_every": 1, "lr_step_factor": 2.0}, "lr_step_factor must be above 0 and at most 1"),
        ({"lr_schedule": "step", "lr_step_every": 1, "lr_step_factor": 1e-300}, "brings lr to 0 before .* raise lr_step_every"),
        (
            {"lr_final": 0.1},
            "lr_final=0.1 is an option of lr_schedule='cosine' or 'linear', got 'constant'; give that one, or leave it",
        ),
        (
            {"lr_schedule": "cosine", "lr_step_factor": 0.5},
            "lr_step_factor=0.5 is an option of lr_schedule='step', got 'cosine'",
        ),
        ({"lr_schedule": "cosine", "lr_rounds": 4}, "give lr_final above 0, or lr_rounds of at least 5"),
        ({"server_lr_schedule": "step"}, "server_lr_schedule='step' needs server_lr_step_every"),
        ({"server_lr_rounds": 3}, "server_lr_rounds=3 is an option of server_lr_schedule='cosine' or 'linear'"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(dataclasses.replace(SMALL, schedule=ScheduleOptions(**options)))


def test_a_schedule_of_a_rate_that_there_is_not_is_refused() -> None:
    hyper = PFedHNOptions(lr=0.5, steps=2, batch_size=4, hyper_width=5)
    server = ScheduleOptions(server_lr_schedule="cosine")
    with pytest.raises(
        UserError, match=r"^server_lr_schedule='cosine' needs uploads to average, and pfedhn has none; leave it out$"
    ):
        prepare(change(algorithm=hyper, schedule=server), POPULATION)
    # A comparison leaves the options of a server out where there are no uploads to average.
    base: Any = dataclasses.replace(Config(), schedule=dataclasses.replace(server, lr_warmup=2))
    plan = planned(["fedavg", "pfedhn"], dataclasses.replace(base, algorithm=SharedOptions()), 1, None, 0, 0)
    assert configuration(plan, "fedavg").schedule == plan.config.schedule
    assert configuration(plan, "pfedhn").schedule == ScheduleOptions(lr_warmup=2)
