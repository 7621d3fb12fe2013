"""What tests of the command line share: a working directory with a small data set."""

import gzip
import json
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a data set of 9 clients, 2 of them held out, one with a single short text."""
    words = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "every", "child", "sleeps")
    lines = []
    for n in range(9):
        texts = [" ".join(words[(n + i + j * (n + 1)) % len(words)] for j in range(6 + i % 3)) for i in range(5 + n)]
        lines.append(
            {
                "id": f"c{n}",
                "split": "heldout" if n > 6 else "train",
                "group": "g",
                "texts": texts,
                "ts": list(range(5 + n)),
            }
        )
    lines[0].update(texts=["fox"], ts=[0])
    with gzip.open(tmp_path / "mine.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    monkeypatch.chdir(tmp_path)
    return tmp_path
