"""Runs with --dtype bfloat16: the same training as in float32, with what is multiplied rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_cases import CASES
from torch import Tensor, nn

import flow
from flow.data import DataOptions
from flow.engine.task import prepare
from flow.errors import UserError
from flow.model.parameters import Tensors
from flow_kernels.training import multiplies_bfloat16

here = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")
RUN: flow.Config[Any] = flow.Config(
    data=DataOptions("synthetic", clients=30, sequences=8, sequence_length=7, vocabulary_size=40),
    model=flow.ModelOptions(embedding_dim=6, hidden_size=9),
    rounds=3,
    cohort=6,
    final_clients=5,
    min_texts=1,
    threads=1,
)
NAMES = ("fedavg", "flow", "flow, both", "ditto", "fedrep", "privategate", "pfedhn", "partialfed", "knnper", "fedrecon")


class Small(nn.Module):
    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(vocabulary_size, 6), nn.LSTM(6, 9, batch_first=True)
        self.head = nn.Linear(9, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.embedding(tokens))[0])
        return scores


def in_format(config: flow.Config[Any], dtype: Any) -> flow.Result:
    return flow.simulate(replace(config, model=replace(config.model, dtype=dtype)), progress=False)


def way(result: flow.Result, start: Tensors) -> Tensor:
    return torch.cat([(result.state[name].double() - tensor.double()).flatten() for name, tensor in start.items()])


@here
@pytest.mark.parametrize("name", [*NAMES, "user's module"])
def test_a_run_goes_the_way_of_float32_and_is_not_the_same(name: str) -> None:
    model = flow.TorchModel(Small, head="head") if name == "user's module" else RUN.model
    config = replace(RUN, algorithm=CASES["ditto" if name == "user's module" else name], model=model)
    task = prepare(config)
    start = task.algorithm.init(task.config.algorithm, task.model, config.seed, len(task.clients))
    mixed, single = in_format(config, "bfloat16"), in_format(config, "float32")
    assert all(tensor.dtype != torch.bfloat16 for tensor in mixed.state.values())
    if "pfedhn" not in name:  # whose state is another model
        first, second = way(mixed, start), way(single, start)
        assert 1e-5 < float((first - second).norm() / second.norm()) < 0.05
    for side in ("seen", "unseen"):
        for kind in ("global", "personal"):
            own, other = (result.evaluation["summary"][side].get(f"{kind}_loss_token") for result in (mixed, single))
            assert (own is None) == (other is None) and (own is None or abs(own - other) < 3e-3 * other), (side, kind)


@here
def test_a_folder_is_opened_in_the_same_format(tmp_path: Path) -> None:
    config = replace(RUN, algorithm=CASES["flow, both"], model=replace(RUN.model, dtype="bfloat16"), checkpoint_every=1)
    whole = flow.simulate(config, tmp_path / "whole", progress=False)
    (tmp_path / "whole" / "evaluation.json").unlink()  # as if stopped before it was scored
    again = flow.resume(tmp_path / "whole", progress=False)
    assert again.config.model.dtype == "bfloat16" and again.evaluation["summary"] == whole.evaluation["summary"]


def test_a_processor_without_such_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.engine.task.multiplies_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"dtype='bfloat16' needs a processor that multiplies bfloat16 \(AVX512_BF16\)"):
        in_format(RUN, "bfloat16")
