"""Classification of texts, beside loops that train one client after the other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

import flow
from flow.algorithms import REGISTRY
from flow.errors import UserError
from flow.training.fused import Fused

EPOCHS, LR, CLIP, ROUNDS, LAM = 3, 0.7, 1.5, 2, 0.3
CLASSES, VOCABULARY = 3, 23
SIZES = (5, 1, 11, 2, 8, 3, 4, 6, 9)


def arrays(rng: np.random.Generator, count: int, width: int = 7, clear: float = 0.9) -> dict[str, Any]:
    """Texts whose words mostly belong to their label, as tweets of a mood have words of it."""
    lengths = rng.integers(1, width + 1, count)
    labels = rng.integers(0, CLASSES, count)
    tokens = rng.integers(4, VOCABULARY, (count, width))
    own = 4 + labels[:, None] + CLASSES * rng.integers(0, 6, (count, width))
    tokens = np.where(rng.random((count, width)) < clear, own, tokens)
    tokens[np.arange(width) >= lengths[:, None]] = 0
    return {"tokens": tokens, "lengths": lengths, "labels": labels}


def clients(sizes: tuple[int, ...] = SIZES, held_out: int = 2, tests: int = 4, seed: int = 5) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made: dict[str, dict[str, Any]] = {}
    for number, size in enumerate(sizes):
        sides = {"train": arrays(rng, size), "test": arrays(rng, tests)}
        made[f"client {number}"] = {"held_out": number >= len(sizes) - held_out, "group": "g"}
        for side, own in sides.items():
            made[f"client {number}"] |= {side: own["tokens"]} | {f"{side}_{key}": own[key] for key in ("lengths", "labels")}
    return made


def population(**options: Any) -> flow.Population:
    return flow.Population.from_arrays(clients(**options), vocabulary=VOCABULARY, classes=("sad", "neutral", "glad"))


# --- modules of the user's own ----------------------------------------------------------------------------------------


class Bag(nn.Module):
    """The mean of the vectors of all words."""

    def __init__(self, vocabulary_size: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 5)
        self.head = nn.Linear(5, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        words = (tokens != 0).unsqueeze(-1).to(self.head.weight)
        scores: Tensor = self.head((self.embedding(tokens) * words).sum(-2) / words.sum(-2).clamp_min(1))
        return scores


class Counted(Bag):
    """The same by the lengths that forward is given."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        words = (torch.arange(tokens.shape[-1]) < lengths.unsqueeze(-1)).unsqueeze(-1).to(self.head.weight)
        scores: Tensor = self.head((self.embedding(tokens) * words).sum(-2) / lengths.unsqueeze(-1))
        return scores


class Last(nn.Module):
    """Scores after every token, of which the last count; torch cannot compute clients of it side by side."""

    def __init__(self, vocabulary_size: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 4)
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.gru(self.embedding(tokens))[0])
        return scores


Factory = Callable[[int, int], nn.Module]
FACTORIES: dict[str, Factory] = {"bag of words": Bag, "by lengths": Counted, "after every token": Last}


def config(model: Any, algorithm: str, **options: Any) -> flow.Config[Any]:
    kind = REGISTRY[algorithm].options
    given = {"lr": LR, "epochs": EPOCHS, "clip": CLIP, "batch_size": 64, **options}
    return flow.Config(
        algorithm=kind(**given), model=model, rounds=ROUNDS, cohort=7, evaluate_every=0, min_texts=0, validation_share=0.0,
        seed=4, threads=1,
    )  # fmt: skip


class Naive:
    """One text at a time, without any padding."""

    def __init__(self, values: dict[str, Tensor], scores: Callable[[dict[str, Tensor], Tensor], Tensor]) -> None:
        self.start, self.scores = values, scores

    def losses(self, values: dict[str, Tensor], given: dict[str, Any], side: str) -> list[Tensor]:
        losses = []
        for text, length, label in zip(given[side], given[f"{side}_lengths"], given[f"{side}_labels"], strict=True):
            log_p = self.scores(values, torch.from_numpy(text[:length])).log_softmax(0)
            losses.append(-log_p[int(label)])
        return losses

    def descend(
        self, values: dict[str, Tensor], given: dict[str, Any], steps: int, anchor: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        for _ in range(steps):
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in values.items()}
            grads = torch.autograd.grad(torch.stack(self.losses(leaves, given, "train")).mean(), list(leaves.values()))
            norm = float(torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros((), dtype=torch.float64))))
            moved = {}
            for (name, tensor), gradient in zip(values.items(), grads, strict=True):
                step = gradient * min(1.0, CLIP / norm)
                if anchor is not None:
                    step = step + LAM * (tensor - anchor[name])
                moved[name] = tensor - LR * step
            values = moved
        return values

    def rounds(self, given: dict[str, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """FedAvg's model, and Ditto's personal ones."""
        training = {name: own for name, own in given.items() if not own["held_out"]}
        state, personal = self.start, dict.fromkeys(training, self.start)
        for _ in range(ROUNDS):
            personal = {name: self.descend(personal[name], own, EPOCHS, state) for name, own in training.items()}
            trained = [(self.descend(state, own, EPOCHS), len(own["train"])) for own in training.values()]
            total = sum(count for _, count in trained)
            state = {name: sum((values[name] * count for values, count in trained), torch.zeros(())) / total for name in state}
        return state, personal


def module_scores(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def scores(values: dict[str, Tensor], text: Tensor) -> Tensor:
        given = (text[None], torch.tensor([len(text)])) if isinstance(module, Counted) else (text[None],)
        out: Tensor = torch.func.functional_call(module, values, given)[0]
        return out if out.dim() == 1 else out[-1]

    return scores


def gru_scores(values: dict[str, Tensor], text: Tensor) -> Tensor:
    h = torch.zeros(values["gru.weight_hh_l0"].shape[1], dtype=torch.float64)
    for token in text.tolist():
        h = oracles.expert(values, values["embedding.weight"][token], h, False)
    return values["head.weight"] @ h + values["head.bias"]


def compare(result: flow.Result, state: dict[str, Tensor], plain: Callable[[str], str]) -> None:
    assert {plain(name) for name in result.state} == state.keys()
    for name, tensor in result.state.items():
        torch.testing.assert_close(tensor, state[plain(name)], rtol=1e-9, atol=1e-9)


def check_scores(
    rows: list[dict[str, Any]], own: Naive, given: dict[str, Any], values: Callable[[str], Any], model: str
) -> None:
    assert len(rows) == len(given)
    for row in rows:
        client = given[row["id"]]
        assert row["tokens"] == len(client["test"])  # every label counts, also those below 4
        nats = float(torch.stack(own.losses(values(row["id"]), client, "test")).sum())
        assert row[f"{model}_nats"] == pytest.approx(nats, rel=1e-5, abs=1e-5)
        right = 0
        for text, length, label in zip(client["test"], client["test_lengths"], client["test_labels"], strict=True):
            right += int(own.scores(values(row["id"]), torch.from_numpy(text[:length])).argmax()) == label
        assert row[f"{model}_correct"] == right


def user_naive(name: str) -> Naive:
    torch.manual_seed(4)
    module = FACTORIES[name](VOCABULARY, CLASSES).double()
    values = {key: tensor.detach().clone() for key, tensor in module.named_parameters()}
    return Naive(values, module_scores(copy.deepcopy(module)))


@pytest.mark.parametrize("name", FACTORIES)
def test_modules_of_the_users_own_are_trained_as_by_a_loop_over_clients(name: str) -> None:
    given, own = clients(), user_naive(name)
    state, personal = own.rounds(given)
    model = flow.TorchModel(FACTORIES[name], head="head", dtype="float64")
    result = flow.simulate(config(model, "fedavg"), population=population(), progress=False)
    compare(result, state, lambda key: key.partition(".model/")[2].replace("/", "."))
    check_scores(result.evaluation["clients"], own, given, lambda client: state, "global")
    ditto = flow.simulate(
        config(model, "ditto", lam=LAM, personal_lr=LR, personal_epochs=2), population=population(), progress=False
    )
    assert all(torch.equal(tensor, ditto.state[key]) for key, tensor in result.state.items())
    adapted = {key: own.descend(personal.get(key, state), client, 2, state) for key, client in given.items()}
    check_scores(ditto.evaluation["clients"], own, given, adapted.__getitem__, "personal")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_built_in_classifier_is_trained_as_by_a_loop_over_clients(backend: str) -> None:
    """By the kernels, with the backward pass written by hand, and by autograd."""
    given, model = clients(), flow.ModelOptions(5, 6, dtype="float64", backend=backend)
    settings = config(model, "fedavg")
    still = replace(settings, algorithm=replace(settings.algorithm, lr=1e-300))  # whose steps are too short to move a number
    own = Naive(flow.simulate(still, population=population(), progress=False).state, gru_scores)
    assert own.start["head.weight"].shape == (CLASSES, 6) and own.start["embedding.weight"].shape == (VOCABULARY, 5)
    state, personal = own.rounds(given)
    result = flow.simulate(settings, population=population(), progress=False)
    compare(result, state, str)
    check_scores(result.evaluation["clients"], own, given, lambda client: state, "global")
    ditto = flow.simulate(
        config(model, "ditto", lam=LAM, personal_lr=LR, personal_epochs=2), population=population(), progress=False
    )
    adapted = {key: own.descend(personal.get(key, state), client, 2, state) for key, client in given.items()}
    check_scores(ditto.evaluation["clients"], own, given, adapted.__getitem__, "personal")


@pytest.mark.parametrize("algorithm", [name for name in REGISTRY if name != "ngram"])
def test_every_algorithm_classifies_alike_by_kernels_and_by_autograd(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = REGISTRY[algorithm].options
    options: dict[str, Any] = {"batch_size": 3}
    if "lr" in kind.__dataclass_fields__:
        options["lr"] = 0.3
    results: list[flow.Result] = []
    used: list[Any] = []
    fused = Fused.gradients

    def counted(*given: Any, **more: Any) -> Any:
        used.append(given)
        return fused(*given, **more)

    monkeypatch.setattr(Fused, "gradients", counted)
    for backend in ("cpu", "reference"):
        used.clear()
        settings = flow.Config(
            algorithm=kind(**options), model=flow.ModelOptions(5, 6, dtype="float64", backend=backend),
            rounds=1, cohort=5, evaluate_every=0, min_texts=0, validation_share=0.0, threads=1,
        )  # fmt: skip
        results.append(flow.simulate(settings, population=population(), progress=False))
        assert backend == "cpu" or not used
    for name, tensor in results[0].state.items():
        torch.testing.assert_close(tensor, results[1].state[name], rtol=1e-7, atol=1e-8)
    for first, second in zip(results[0].evaluation["clients"], results[1].evaluation["clients"], strict=True):
        assert first["tokens"] == 4
        for key, value in first.items():
            if key.endswith("_nats") and value is not None:
                assert 0 < value < 100 and second[key] == pytest.approx(value, rel=1e-4)


def test_a_classifier_learns() -> None:
    many = population(sizes=(20,) * 12, tests=20)
    for model in (flow.ModelOptions(8, 16), flow.TorchModel(Bag)):
        settings = replace(config(model, "fedavgft", batch_size=8, lr=1.0), rounds=8, cohort=8)
        side = flow.simulate(settings, population=many, progress=False).evaluation["summary"]["unseen"]
        assert side["tokens"] == 40 and side["personal_token"] > 0.75 > 2 * (1 / CLASSES)


def test_the_operations_of_a_text_are_those_of_its_tokens() -> None:
    given = clients()
    result = flow.simulate(config(flow.ModelOptions(5, 6), "fedavg"), population=population(), progress=False)
    tokens = sum(int(own["train_lengths"].sum()) for own in given.values() if not own["held_out"])
    forward = 6 * 6 * (5 + 6) + 2 * 6 * CLASSES  # the embedding is looked up
    assert result.metrics[0]["flops"] == EPOCHS * tokens * 3 * forward


# --- what is refused --------------------------------------------------------------------------------------------------


class Mean(Bag):
    """It takes padding for words."""

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embedding(tokens).mean(-2))
        return scores


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (flow.TorchModel(Mean), "change with the padding after it, token 0"),
        (flow.TorchModel(lambda vocabulary_size: Bag(vocabulary_size, CLASSES)), r"NAME\(vocabulary_size, classes\)"),
        (flow.TorchModel(lambda vocabulary_size, classes: Bag(vocabulary_size, classes + 1)), r"\[2, 3\] or \[2, 5, 3\]"),
    ],
)
def test_modules_that_cannot_classify_are_refused(model: flow.TorchModel, message: str) -> None:
    with pytest.raises(UserError, match=message):
        flow.simulate(config(model, "fedavg"), population=population(), progress=False)


@pytest.mark.parametrize("algorithm", [REGISTRY["ngram"].options(), REGISTRY["flow"].options(memory=True)])
def test_what_predicts_by_n_grams_is_refused(algorithm: Any) -> None:
    settings = replace(config(flow.ModelOptions(5, 6), "fedavg"), algorithm=algorithm)
    with pytest.raises(UserError, match="predicts by n-grams, which say what token comes next"):
        flow.simulate(settings, population=population(), progress=False)


def test_a_run_of_a_classifier_is_resumed_and_reported(tmp_path: Path) -> None:
    settings = config(flow.ModelOptions(5, 6), "flow", lr=0.3, epochs=1)
    whole = flow.simulate(replace(settings, rounds=3), tmp_path / "whole", population=population(), progress=False)
    flow.simulate(settings, tmp_path / "run", population=population(), progress=False)
    result = flow.resume(tmp_path / "run", rounds=3, population=population(), progress=False)
    assert all(torch.equal(tensor, whole.state[name]) for name, tensor in result.state.items())
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {name for text in evaluation["texts"] for name in text["tokens"]} <= {"sad", "neutral", "glad"}
    other = flow.Population.from_arrays(
        {name: {**own, "train_labels": 2 - own["train_labels"]} for name, own in clients().items()},
        vocabulary=VOCABULARY, classes=("sad", "neutral", "glad"),
    )  # fmt: skip
    with pytest.raises(UserError):
        flow.resume(tmp_path / "run", rounds=4, population=other, progress=False)
