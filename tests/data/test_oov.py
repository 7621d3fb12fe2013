"""Ids that unknown tokens share: one, or several by hash; FedRecon keeps their embeddings to the client."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedrecon import FedReconOptions
from flow.data import DataOptions, load
from flow.data.tokens import OOV, SPECIALS
from flow.engine.task import prepare

RARE = ["zebra", "yak", "xerus", "wombat", "vole", "urial", "tapir", "skunk"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Clients who say the same two words, and every one a rare word of its own."""
    lines = [
        {"id": f"c{n}", "split": "heldout" if n > 5 else "train", "group": "g", "texts": [f"red blue red {RARE[n]} blue"] * 10}
        for n in range(8)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_unknown_words_share_as_many_ids_as_asked_for(path: str) -> None:
    population = load(DataOptions(data=path, vocabulary_size=2, oov_buckets=3))
    vocabulary = population.vocabulary
    assert vocabulary.tokens == (*SPECIALS, "blue", "red", "<oov-2>", "<oov-3>")
    assert vocabulary.oov == (OOV, 6, 7)
    expected = {word: vocabulary.oov[zlib.crc32(word.encode()) % 3] for word in RARE}
    assert len(set(expected.values())) == 3
    for client, word in zip(population.clients, RARE, strict=True):
        assert client.train.tokens[0, 4] == expected[word]
        assert vocabulary.encode(f"red {word}") == [5, expected[word]]
    assert vocabulary.scored.tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_one_id_is_the_default_and_changes_nothing(path: str) -> None:
    default, same = (
        load(DataOptions(data=path, vocabulary_size=2)),
        load(DataOptions(data=path, vocabulary_size=2, oov_buckets=1)),
    )
    assert default.vocabulary == same.vocabulary and default.vocabulary.oov == (OOV,)
    with pytest.raises(ValueError, match="oov_buckets=0 must be at least 1"):
        load(DataOptions(data=path, oov_buckets=0))


def config(path: str, options: DittoOptions | FedReconOptions, **changes: Any) -> Config[Any]:
    return Config(
        algorithm=options, data=DataOptions(data=path, vocabulary_size=2, oov_buckets=3), rounds=2, cohort=4, evaluate_every=0,
        model=ModelOptions(embedding_dim=3, hidden_size=4), **changes,
    )  # fmt: skip


def test_fedrecon_sends_all_but_the_rows_of_unknown_words(path: str) -> None:
    task = prepare(config(path, FedReconOptions()))
    assert task.model.oov == (OOV, 6, 7)
    result = simulate(config(path, FedReconOptions()), progress=False)
    assert result.state["embedding.weight"].shape == (5, 3)
    sent = sum(tensor.numel() * 4 for tensor in result.state.values())
    assert all(row["upload_bytes"] == row["download_bytes"] == 4 * sent for row in result.metrics)
    assert result.state["head.weight"].shape == (8, 4)


def test_more_state_than_memory_needs_a_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"client_memory=0 MB does not hold what 6 clients keep, .*; give the run a folder"):
        simulate(config(path, DittoOptions(), client_memory=0), progress=False)
    simulate(config(path, DittoOptions(), client_memory=0), tmp_path / "run", progress=False)
    assert len(list((tmp_path / "run" / "clients").glob("*/*"))) >= 4
