"""Runs on texts, and clients adapted from them, as tests of what comes after a run share them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import flow
from flow.algorithms import REGISTRY
from flow.data import DataOptions

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "every", "child", "sleeps")
MOODS = {"glad": WORDS[:6], "sad": WORDS[6:]}


def texts_of(number: int, count: int) -> list[str]:
    """Texts of one client: its words follow one another in a way of its own."""
    step = number % 5 + 1
    return [" ".join(WORDS[(number + i + j * step) % len(WORDS)] for j in range(5 + i % 4)) for i in range(count)]


def write_jsonl(path: Path, clients: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]] | None = None) -> Path:
    """A file of clients; labels: the class of every text."""
    lines: list[dict[str, Any]] = [{"id": name, "texts": list(texts)} for name, texts in clients.items()]
    for line in lines if labels is not None else ():
        line["mood"] = list((labels or {})[line["id"]])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


CLIENTS = {f"c{number:02d}": texts_of(number, 10 + number % 3) for number in range(24)}
LABELS = {name: ["glad" if (int(name[1:]) + n) % 2 else "sad" for n in range(len(texts))] for name, texts in CLIENTS.items()}


def config(data: Path, algorithm: str = "flow", dtype: Any = "float32", **options: Any) -> flow.Config[Any]:
    """A run of two rounds on a file of texts."""
    own = {key: options.pop(key) for key in list(options) if key in {field for field in DataOptions.__dataclass_fields__}}
    return flow.Config(
        algorithm=REGISTRY[algorithm].options(**{"lr": 0.5, "batch_size": 4, **options}),
        data=DataOptions(data=str(data), **own),
        model=flow.ModelOptions(embedding_dim=4, hidden_size=6, dtype=dtype),
        rounds=2, cohort=6, evaluate_every=0, min_texts=2, validation_share=0.0, checkpoint_every=1, threads=1,
    )  # fmt: skip


def simulated(folder: Path, run: flow.Config[Any], **options: Any) -> flow.Result:
    """The run in a folder, without bars."""
    return flow.simulate(run, folder, progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Attention(nn.Module):
    """A module of one's own: every token looks at those before it, and knows as many positions as the tests' windows have."""

    def __init__(self, vocabulary_size: int, positions: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 8)
        self.positions = nn.Parameter(torch.randn(positions, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = tokens.shape[1]
        mask = torch.triu(torch.ones(steps, steps, dtype=torch.bool, device=tokens.device), 1)
        scores: Tensor = self.head(self.layer(self.embedding(tokens) + self.positions[:steps], mask))
        return scores


def classified(clients: int = 12) -> flow.Population:
    """Texts of numbers with one of two classes; the larger numbers are of the second one."""
    rng, made = np.random.default_rng(3), {}
    for number in range(clients):
        own: dict[str, Any] = {"held_out": number > clients - 3}
        for side, count in (("train", 6), ("test", 4)):
            labels = rng.integers(0, 2, count)
            own |= {side: rng.integers(4, 10, (count, 5)) + 6 * labels[:, None], f"{side}_labels": labels}
        made[f"client {number:02d}"] = own
    return flow.Population.from_arrays(made, vocabulary=16, classes=("low", "high"))
