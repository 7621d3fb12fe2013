"""A small run, as tests of the loop share it."""

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import oracles
import pytest

from flow import Config, ModelOptions, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.flow import FlowOptions
from flow.data import Population
from flow.simulation.loop import Result

POPULATION = oracles.population()
SMALL: Config[Any] = Config(
    algorithm=FlowOptions(variant="neurips", lr=0.5, epochs=2, gamma=1e-3, batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=5,
    cohort=4,
    evaluate_every=2,
    evaluate_clients=2,
    checkpoint_every=2,
    chunk=3,
    validation_share=0.0,
)
KEPT: Config[Any] = dataclasses.replace(SMALL, algorithm=DittoOptions(batch_size=4), client_memory=0, rounds=6, threads=1)
"""What clients keep is on disk; checkpoints after rounds 2, 4 and 6, of which the last two stay."""


def run(config: Config[Any] = SMALL, folder: Path | str | None = None, population: Population = POPULATION) -> Result:
    return simulate(config, folder, population=population, progress=False)


def change(**options: Any) -> Config[Any]:
    return dataclasses.replace(SMALL, **options)


def timeless(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics]


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A whole run of SMALL; copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run(folder=folder)


@pytest.fixture(name="copied")
def copied_fixture(finished: Result, tmp_path: Path) -> Path:
    assert finished.folder is not None
    return shutil.copytree(finished.folder, tmp_path / "run")
