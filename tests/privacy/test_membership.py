"""A planted client, and an attacker who knows all but whether it took part: noise must hide it as far as epsilon says."""

import dataclasses
import math
from typing import Any

import oracles
import pytest
import torch

from flow import Config, ModelOptions, PrivacyOptions, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.model.parameters import Rows, Tensors
from flow.privacy.mechanism import Mechanism, Released
from flow.server.uploads import Uploads

POPULATION = oracles.population()
CLIENTS = 7
CANARY = 2  # of the clients that may train; it has the most texts
BASE: Config[Any] = Config(
    algorithm=FedAvgOptions(lr=1.0, epochs=3, batch_size=2),
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=1,
    cohort=CLIENTS,
    evaluate_every=0,
    final_clients=1,
    validation_share=0.0,
)
CLIP = 0.05


@dataclasses.dataclass
class World:
    """Runs in which the canary is there or not, each with noise of its own; all else is the same."""

    monkeypatch: pytest.MonkeyPatch

    def state(self, noise: float, member: bool, trial: int) -> Tensors:
        def drawn(own: Mechanism, seed: int, round: int, original: Any = Mechanism.drawn) -> Rows:
            everybody: Rows = original(own, seed, round)
            return everybody if member else everybody[everybody != CANARY]

        def released(own: Mechanism, uploads: Uploads, *others: Any, original: Any = Mechanism.released) -> Released:
            state, names, carried, _, round = others
            result: Released = original(own, uploads, state, names, carried, trial, round)
            return result

        with self.monkeypatch.context() as patch:
            patch.setattr(Mechanism, "drawn", drawn)
            patch.setattr(Mechanism, "released", released)
            config = dataclasses.replace(BASE, privacy=PrivacyOptions(dp_noise=noise, dp_clip=CLIP, dp_delta=1e-3))
            return simulate(config, population=POPULATION, progress=False).state


def flat(tensors: Tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def advantage(with_it: list[float], without: list[float]) -> float:
    """Of guessing by the middle between both: true positives minus false ones, where 1 is what the canary adds."""
    return sum(x > 0.5 for x in with_it) / len(with_it) - sum(x > 0.5 for x in without) / len(without)


def test_the_noise_hides_a_planted_client(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    without, with_it = (flat(world.state(0.0, member, 0)) for member in (False, True))
    canary = with_it - without
    assert float(canary.norm()) * CLIENTS == pytest.approx(CLIP, rel=1e-9), "it is clipped"

    def score(state: Tensors) -> float:
        return float((flat(state) - without) @ canary / canary.square().sum())

    assert score(world.state(0.0, True, 1)) == pytest.approx(1) and score(world.state(0.0, False, 1)) == pytest.approx(0)
    trials = range(15)
    scores = {member: [score(world.state(5.0, member, 2 * n + member)) for n in trials] for member in (True, False)}
    assert advantage([1.0], [0.0]) == 1, "without noise the attacker is always right"
    hidden = advantage(scores[True], scores[False])
    assert hidden <= 2 * 0.0398 + 3 / math.sqrt(2 * len(trials)), "2 Phi(1/10) - 1, and three deviations of chance"
    spread = torch.tensor([*(x - 1 for x in scores[True]), *scores[False]]).std()
    assert 0.6 * 5 < float(spread) < 1.5 * 5, "the noise is five times what the canary adds"


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_the_advantage_is_that_of_the_noise_and_within_epsilon(noise: float) -> None:
    """Many releases of one sum: the best guess of whoever sees one, beside theory and beside the accountant's bound."""
    mechanism = Mechanism(PrivacyOptions(dp_noise=noise, dp_clip=1.0, dp_delta=1e-3), 1, 1)
    state, trials = {"w": torch.zeros(3, dtype=torch.float64)}, 1500
    scores: dict[bool, list[float]] = {True: [], False: []}
    for member, own in scores.items():
        upload = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64) * member
        uploads = Uploads(total={"w": torch.stack([upload, torch.zeros(3), torch.zeros(3)])})
        for trial in range(trials):
            seed = 2 * trial + member
            released = mechanism.released(uploads, state, ["w"], mechanism.start(), seed, 1).uploads.each["w"][0]
            own.append(float(released @ torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)))
    measured = advantage(scores[True], scores[False])
    theory = math.erf(1 / (2 * noise) / math.sqrt(2))
    assert measured == pytest.approx(theory, abs=4 / math.sqrt(2 * trials))
    epsilon = mechanism.epsilon(1)
    assert epsilon is not None
    bound = (math.exp(epsilon) - 1 + 2e-3) / (math.exp(epsilon) + 1)
    assert theory <= bound + 1e-3 and measured <= bound + 4 / math.sqrt(2 * trials)
