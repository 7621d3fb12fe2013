"""What a configuration becomes before its first round."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import oracles
import pytest
from algorithm_cases import CASES

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms import REGISTRY, algorithm_of
from flow.algorithms.fedavg import ALGORITHM, FedAvgOptions
from flow.engine.task import prepare
from flow.model.language_model import LanguageModel
from flow.training.messages import Upload, Visit


@dataclasses.dataclass(frozen=True)
class MyOptions(FedAvgOptions):
    """Options of somebody's own algorithm, derived from those of another."""

    strength: float = 1.0


CONFIG = Config[Any](
    algorithm=MyOptions(lr=0.5, batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4),
    rounds=1,
    cohort=4,
    min_texts=1,
)


@pytest.mark.parametrize("name", REGISTRY)
def test_options_run_the_algorithm_that_is_registered_for_their_exact_class(name: str) -> None:
    assert algorithm_of(REGISTRY[name].options()) is REGISTRY[name]


def test_derived_options_never_run_the_algorithm_that_they_derive_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"one of FlowOptions, .*got MyOptions\(.*; MyOptions derives from FedAvgOptions, but no registered"
    ):
        simulate(CONFIG, tmp_path / "run", population=oracles.population(), progress=False)
    assert not (tmp_path / "run").exists()
    called = []

    def mine(options: MyOptions, model: LanguageModel, visit: Visit) -> Upload:
        called.append(options.strength)
        return ALGORITHM.local(options, model, visit)

    monkeypatch.setitem(REGISTRY, "mine", dataclasses.replace(ALGORITHM, name="mine", options=MyOptions, local=cast(Any, mine)))
    assert prepare(CONFIG, oracles.population()).algorithm.name == "mine"
    simulate(CONFIG, population=oracles.population(), progress=False)
    assert called == [1.0] * len(called) and called
    assert algorithm_of(FedAvgOptions()).name == "fedavg"


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_resolved_options_are_not_resolved_again_for_another_number_of_rounds(options: object) -> None:
    """A run that goes on with more rounds relies on this."""
    algorithm = algorithm_of(options)
    for given in (options, algorithm.options()):
        resolved = algorithm.resolve(given, 4)
        assert algorithm.resolve(resolved, 60) == resolved
