"""Every way in which a run refuses to start, or to go on."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from run_cases import change, run

from flow import Diverged, ModelOptions, UserError, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.data import DataOptions
from flow.server.options import ServerOptions


def test_an_existing_folder_is_left_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"run'? exists already and is left as it is; give another folder"):
        run(folder=tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (change(cohort=8), r"cohort=8 is more than the 7 clients that may train; lower cohort"),
        (change(cohort=0), "cohort must be at least 1, got 0"),
        (change(rounds=0), "rounds must be at least 1, got 0"),
        (change(seed=-1), "seed must be at least 0, got -1; leave it out for the default, 0"),
        (change(seed=2**63), "seed must be at most 9223372036854775807, got 9223372036854775808; leave it out"),
        (change(seed=True), "seed must be an integer, got True; leave it out for the default, 0"),
        (change(rounds="x"), "rounds must be an integer, got 'x'; leave it out for the default, 80"),
        (change(rounds=2.0), r"rounds must be an integer, got 2\.0"),
        (change(threads=None), "threads must be an integer, got None"),
        (
            change(model=ModelOptions(dtype=cast(Any, "load"))),
            "dtype must be 'float32' or 'float64' or 'bfloat16', got 'load'; leave it out",
        ),
        (
            change(model=ModelOptions(dtype=cast(Any, torch.float64))),
            "dtype must be 'float32' or 'float64' or 'bfloat16', got torch.float64",
        ),
        (
            change(model=ModelOptions(device=cast(Any, 0))),
            "device must be a string, got 0; leave it out for the default, 'cpu'",
        ),
        (change(model=ModelOptions(device="meta")), "device='meta' must be one on which torch can compute here.*'cpu'"),
        (change(model={"device": "cpu"}), "model must be a ModelOptions, got {'device'"),
        (
            change(server=ServerOptions(cast(Any, "sgd"))),
            "server must be 'average' or 'adam' or 'yogi' or 'adagrad', got 'sgd'",
        ),
        (change(data=DataOptions(max_clients=cast(Any, "all"))), "max_clients must be an integer, got 'all'"),
        (change(algorithm="flow"), "one of FlowOptions, LocalOptions, FedAvgOptions, .*, got 'flow'; give one"),
        (
            change(algorithm=FlowOptions(variant=cast(Any, "icml"))),
            "variant must be 'decoupled' or 'neurips' or 'workshop', got 'icml'",
        ),
        (change(algorithm=FlowOptions(lr=cast(Any, "2"))), "lr must be a number, got '2'"),
        (change(algorithm=FlowOptions(lr=10**400)), "lr must be a number that float32 can hold, at most 3.4e.38, got 10+; "),
        (
            change(algorithm=FlowOptions(weight_decay=-1e308)),
            "weight_decay must be a number that float32 can hold, .*got -1e.308; ",
        ),
        (change(algorithm=FlowOptions(epochs=cast(Any, 1.5))), r"epochs must be an integer, got 1\.5"),
        (change(algorithm=FlowOptions(temperature=9e-4)), r"temperature must be .* at least 0\.001, got 0\.0009; 1 is a plain"),
        (FlowOptions(), "config must be a flow.Config, got FlowOptions"),
        (change(chunk=-1), "chunk must be at least 0, got -1"),
        (change(checkpoint_every=0), "checkpoint_every must be at least 1"),
        (change(evaluate_every=-1), "evaluate_every must be at least 0"),
        (change(model=ModelOptions(hidden_size=0)), "hidden_size must be at least 1, got 0"),
        (change(model=ModelOptions(backend="fast")), "backend='fast' must be 'auto'.*'reference'.*'cpu'.*leave it out"),
        (change(model=ModelOptions(device="toaster")), "device='toaster'"),
        (change(algorithm=FlowOptions(lr=-1.0)), "lr must be a finite number above 0, got -1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_configuration_is_refused_before_anything_is_written(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whole_numbers_stand_for_floats_and_are_recorded_as_such() -> None:
    result = run(change(algorithm=FlowOptions(lr=1, clip=0, gamma=0, temperature=1, epochs=1), rounds=1))
    options = result.config.algorithm
    assert [type(value) for value in (options.lr, options.clip, options.gamma, options.temperature)] == [float] * 4
    assert type(options.epochs) is int


def test_the_smallest_temperature_trains() -> None:
    assert np.isfinite(run(change(algorithm=FlowOptions(lr=0.5, temperature=1e-3), rounds=2)).metrics[-1]["loss"])


@pytest.mark.parametrize("name", ["", " "])
def test_a_folder_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"folder='{name}' is empty; give the name of a folder that does not exist yet"):
        run(folder=name)


def test_wrong_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        simulate(change(data=DataOptions(data=str(tmp_path / "nowhere.jsonl"))), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_far_too_large_diverges() -> None:
    config = change(algorithm=FedAvgOptions(lr=1e38, clip=0.0), model=ModelOptions(embedding_dim=3, hidden_size=4))
    with pytest.raises(Diverged, match=r"diverged in round 1: .*smaller lr"):
        run(config)
