"""Private runs beside a naive float64 oracle, one client at a time; going on, several processes, and whole uploads."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import small_runs
import torch
from algorithm_cases import CASES
from small_runs import CLIENTS, NAMES, POPULATION

from flow import ModelOptions, PrivacyOptions, UserError, resume, simulate
from flow.algorithms import algorithm_of
from flow.engine.run import RunState
from flow.engine.task import Task
from flow.privacy.mechanism import BELOW, Mechanism
from flow.privacy.refusals import refusal
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.simulation import loop, private
from flow.simulation.loop import Result
from flow.training.messages import Upload

BASE = dataclasses.replace(small_runs.BASE, rounds=6, cohort=2)
WAYS = {
    "fixed": PrivacyOptions(dp_noise=2.0, dp_clip=0.3),
    "adaptive": PrivacyOptions(dp_noise=2.0, dp_clip=0.3, dp_quantile=0.6, dp_clip_lr=0.5),
    "tree": PrivacyOptions(dp_noise=2.0, dp_clip=0.3, dp_mechanism="tree"),
}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def run(folder: Path | None = None, **changes: Any) -> Result:
    return simulate(dataclasses.replace(BASE, **changes), folder, population=POPULATION, progress=False)


def same(first: Result, other: Result) -> None:
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in first.state.items())


def members(options: PrivacyOptions, round: int) -> list[str]:
    if options.dp_mechanism == "tree":
        number, step = divmod(round - 1, len(NAMES) // BASE.cohort)
        order = oracles.stream(0, number, "cohort", "pass").permutation(len(NAMES))
        return [NAMES[n] for n in order[BASE.cohort * step : BASE.cohort * (step + 1)]]
    chances = oracles.stream(0, round, "cohort", "independent").random(len(NAMES))
    return [name for name, chance in zip(NAMES, chances, strict=True) if chance < BASE.cohort / len(NAMES)]


def prefix_noise(round: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Of the sum over the rounds of the pass so far: the nodes of the binary digits, from the left."""
    steps = len(NAMES) // BASE.cohort
    number, step = (round - 1) // steps, (round - 1) % steps + 1
    total, done = torch.zeros(shape, dtype=torch.float64), 0
    while done < step:
        level = (step - done).bit_length() - 1
        done += 2**level
        total += torch.from_numpy(
            oracles.stream(0, number, "privacy", "node", str(level), str(done), name).standard_normal(shape)
        )
    return total


def oracle(options: PrivacyOptions) -> tuple[oracles.Tensors, list[int], list[float]]:
    """The state after the run, how many took part in each round, and the clip after it."""
    assert options.dp_noise is not None and options.dp_clip is not None
    state = dict(run(rounds=1, privacy=PrivacyOptions(dp_noise=0.0, dp_clip=1e-300)).state)  # as it began
    clip, z, counts, clips = options.dp_clip, options.dp_noise, [], []
    count_noise = max(BASE.cohort / 20, z)
    if options.dp_quantile is not None:
        z = 1 / math.sqrt(1 / z**2 - 1 / (2 * count_noise) ** 2)
    steps = len(NAMES) // BASE.cohort
    for round in range(1, BASE.rounds + 1):
        total = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        below = 0.0
        for id in members(options, round):
            after, _, _ = oracles.fedavg(state, CLIENTS[id], vars(BASE.algorithm), 0, round)
            change = {name: after[name] - state[name] for name in state}
            norm = math.sqrt(math.fsum(float(x) ** 2 for tensor in change.values() for x in tensor.flatten()))
            below += 0.5 if norm <= clip else -0.5
            for name, tensor in change.items():
                total[name] += min(1.0, clip / norm) * tensor
        for name, tensor in state.items():
            shape = tuple(tensor.shape)
            if options.dp_mechanism == "tree":
                noise = prefix_noise(round, name, shape)
                noise -= prefix_noise(round - 1, name, shape) if (round - 1) % steps else 0
            else:
                noise = torch.from_numpy(oracles.stream(0, round, "privacy", "noise", name).standard_normal(shape))
            state[name] = tensor + (total[name] + z * clip * noise) / BASE.cohort
        counts.append(len(members(options, round)))
        if options.dp_quantile is not None and options.dp_clip_lr is not None:
            below += count_noise * float(oracles.stream(0, round, "privacy", "count").standard_normal())
            clip *= math.exp(-options.dp_clip_lr * (below / BASE.cohort + 0.5 - options.dp_quantile))
        clips.append(clip)
    return state, counts, clips


@pytest.mark.parametrize("way", WAYS)
def test_a_private_run_is_the_oracles(way: str) -> None:
    result, (state, counts, clips) = run(privacy=WAYS[way]), oracle(WAYS[way])
    for name, tensor in state.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-9, atol=1e-10)
    assert [row["clients"] for row in result.metrics] == counts
    np.testing.assert_allclose([row["clip"] for row in result.metrics], clips, rtol=1e-12)
    assert len(set(counts)) > 1 or way == "tree"


def test_the_sum_is_divided_by_the_clients_on_average_however_many_come() -> None:
    """And noise is added in a round to which nobody came, which would otherwise tell that nobody did."""
    empty = next(round for round in range(2, 50) if not members(WAYS["fixed"], round))
    results = [run(rounds=rounds, privacy=WAYS["fixed"]) for rounds in (empty - 1, empty)]
    for name, tensor in results[1].state.items():
        noise = torch.from_numpy(oracles.stream(0, empty, "privacy", "noise", name).standard_normal(tuple(tensor.shape)))
        torch.testing.assert_close(tensor - results[0].state[name], 2.0 * 0.3 * noise / 2, rtol=1e-8, atol=1e-12)
    assert results[1].metrics[-1]["clients"] == 0 and results[1].metrics[-1]["loss"] is None


def test_without_noise_and_with_a_clip_that_nothing_reaches_it_is_the_plain_mean() -> None:
    """All clients, of the same size, so that the weights by sequences are those of a private run too."""
    population = oracles.population(sizes=(4, 4, 4, 4))
    config = dataclasses.replace(BASE, cohort=4, rounds=3)
    first = simulate(config, population=population, progress=False)
    other = simulate(
        dataclasses.replace(config, privacy=PrivacyOptions(dp_noise=0.0, dp_clip=1e6)), population=population, progress=False
    )
    for name, tensor in first.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=1e-9, atol=1e-10)
    assert all(row["epsilon"] is None for row in other.metrics)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Upload]:
    """What clients sent, as it left them."""
    sent: list[Upload] = []

    def spy(task: Task, run: RunState, upload: Upload, round: int, original: Any = private.sent) -> Upload:
        sent.append(original(task, run, upload, round))
        return sent[-1]

    monkeypatch.setattr(private, "sent", spy)
    return sent


def possible() -> list[str]:
    return [label for label, options in CASES.items() if not refusal(algorithm_of(options), options)]


@pytest.mark.parametrize("label", possible())
def test_what_a_client_sends_has_the_clip_as_its_norm_at_most(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor together, with the weights all the same, for every algorithm that can be private; in float32."""
    sent, bound = spied(monkeypatch), 0.05
    model = ModelOptions(embedding_dim=3, hidden_size=4)
    result = run(algorithm=CASES[label], rounds=4, model=model, privacy=PrivacyOptions(dp_noise=2.0, dp_clip=bound))
    lengths = []
    for upload in sent:
        assert set(upload.weights) <= {1.0} and not upload.voted and set(upload.tensors) <= set(result.state)
        flat = torch.cat([tensor.double().flatten(1) for tensor in upload.tensors.values()], dim=1)
        lengths += flat.square().sum(1).sqrt().tolist()
    assert lengths and max(lengths) <= bound and max(lengths) > 0.99 * bound
    epsilons = [row["epsilon"] for row in result.metrics]
    assert all(epsilon is not None for epsilon in epsilons) and epsilons == sorted(epsilons)


def test_clipping_comes_after_compression_and_leaves_what_is_remembered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = spied(monkeypatch)
    run(compress="topk:0.1", rounds=3, privacy=PrivacyOptions(dp_noise=2.0, dp_clip=0.05, dp_quantile=0.5))
    for upload in sent:
        tensors = {name: tensor for name, tensor in upload.tensors.items() if name != BELOW}
        flat = torch.cat([tensor.flatten(1) for tensor in tensors.values()], dim=1)
        assert (flat.square().sum(1).sqrt() <= 0.2).all() and ((flat != 0).sum(1) <= math.ceil(0.1 * flat.shape[1])).all()
        assert upload.tensors[BELOW].shape == (len(upload.weights),)


def test_noise_has_the_deviation_that_is_accounted() -> None:
    """The same round with many draws: the difference from the round without noise, over noise, clip and cohort."""
    values = []
    start = run(rounds=1, privacy=PrivacyOptions(dp_noise=0.0, dp_clip=0.3), cohort=7).state
    mechanism = Mechanism(dataclasses.replace(WAYS["fixed"], dp_delta=0.1), 7, 7)
    for seed in range(40):
        nothing = Uploads()
        released = mechanism.released(nothing, start, list(start), mechanism.start(), seed, 1).uploads.each
        values += [7 * (released[name][0] - tensor).flatten() / (2.0 * 0.3) for name, tensor in start.items()]
    flat = torch.cat(values)
    n = len(flat)
    assert abs(float(flat.mean())) < 4 / math.sqrt(n)
    assert abs(float(flat.var()) - 1) < 4 * math.sqrt(2 / n)
    kurtosis = float(((flat - flat.mean()) ** 4).mean() / flat.var() ** 2)
    assert abs(kurtosis - 3) < 4 * math.sqrt(24 / n)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_is_an_unbroken_one_to_the_bit(way: str, tmp_path: Path) -> None:
    whole = run(rounds=7, privacy=WAYS[way], checkpoint_every=2)
    run(tmp_path / "run", rounds=3, privacy=WAYS[way], checkpoint_every=2)
    again = resume(tmp_path / "run", rounds=7, population=POPULATION, progress=False)
    same(whole, again)
    for key in ("epsilon", "clip", "clients"):
        assert [row[key] for row in again.metrics] == [row[key] for row in whole.metrics]
    assert again.run["privacy"] == whole.run["privacy"]
    same(whole, run(rounds=7, privacy=WAYS[way], chunk=1, threads=1))


def test_a_run_with_a_budget_keeps_its_noise_and_may_not_be_lengthened(tmp_path: Path) -> None:
    result = run(tmp_path / "run", privacy=PrivacyOptions(dp_epsilon=2.0, dp_mechanism="tree"), checkpoint_every=2)
    assert 1.999 < result.metrics[-1]["epsilon"] <= 2 and result.run["privacy"]["epsilon"] == result.metrics[-1]["epsilon"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["noise"]["noise"] == result.run["privacy"]["noise"] and config["privacy"]["dp_noise"] is None
    with pytest.raises(UserError, match=r"over rounds=10 costs an epsilon of .*, more than dp_epsilon=2.0"):
        resume(tmp_path / "run", rounds=10, population=POPULATION, progress=False)
    (tmp_path / "run" / "checkpoints" / "round_000006.safetensors").unlink()
    again = resume(tmp_path / "run", population=POPULATION, progress=False)
    same(result, again)
    assert again.metrics[-1]["epsilon"] == result.metrics[-1]["epsilon"]


def test_a_folder_that_does_not_say_its_noise_is_refused(tmp_path: Path) -> None:
    from flow.storage import files

    run(tmp_path / "run", rounds=2, privacy=WAYS["fixed"])
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["noise"], content["sha256"]
    files.write_json(path, files.with_checksum(content))
    with pytest.raises(UserError, match=r"does not say with which noise the private run was started"):
        resume(tmp_path / "run", rounds=3, population=POPULATION, progress=False)


def test_a_servers_optimizer_steps_along_the_noisy_mean() -> None:
    """What the server does with the mean is post-processing: half the rate takes half of the noisy step."""
    start = run(rounds=1, privacy=PrivacyOptions(dp_noise=0.0, dp_clip=1e-300)).state
    whole = run(rounds=1, privacy=WAYS["fixed"]).state
    half = run(rounds=1, privacy=WAYS["fixed"], server=ServerOptions(server_lr=0.5)).state
    for name, tensor in start.items():
        torch.testing.assert_close(half[name] - tensor, (whole[name] - tensor) / 2, rtol=1e-9, atol=1e-12)


def test_two_runs_of_one_seed_give_their_noise_away() -> None:
    """As docs/privacy.md warns: of two multipliers the clipped sum follows exactly, and with seeds of their own it does not."""

    def first(noise: float, seed: int = 0) -> torch.Tensor:
        privacy = PrivacyOptions(dp_noise=noise, dp_clip=0.3)
        state = run(rounds=1, cohort=len(NAMES), seed=seed, privacy=privacy).state
        return torch.cat([tensor.flatten() for _, tensor in sorted(state.items())])

    bare = first(0.0)
    torch.testing.assert_close(2 * first(1.0) - first(2.0), bare, rtol=0, atol=1e-12)
    assert (2 * first(1.0) - first(2.0, seed=1) - bare).abs().max() > 1e-3
