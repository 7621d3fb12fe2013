"""A comparison goes on where the file of its data lies elsewhere, with and without the folders of its runs."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from comparisons import (
    plain_fixture,  # noqa: F401
)
from kept_cases import (
    untrained_fixture,  # noqa: F401
)

from flow import Config, ModelOptions, UserError, compare, resume_comparison
from flow.cli.main import main
from flow.data import DataOptions
from flow.storage import files

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
NAMES = ["fedavg", "fedavgft"]


def write(path: Path, seed: int) -> None:
    """Eight clients, two of them held out, with random words."""
    stream = random.Random(seed)
    clients = [
        {
            "id": f"c{number}",
            "split": "heldout" if number > 5 else "train",
            "texts": [" ".join(stream.choices(WORDS, k=9)) for _ in range(6)],
        }
        for number in range(8)
    ]
    path.write_text("".join(json.dumps(client) + "\n" for client in clients), encoding="utf-8")


def config(path: Path) -> Config[Any]:
    model = ModelOptions(hidden_size=4, embedding_dim=3)
    return Config(
        data=DataOptions(data=str(path)),
        model=model,
        rounds=1,
        cohort=2,
        evaluate_every=0,
        threads=1,
        min_texts=2,
        validation_share=0.0,
    )


@pytest.fixture(name="moved")
def moved_fixture(tmp_path: Path, plain: None) -> Path:
    """Where the file of the finished comparison in c/ lies now."""
    write(tmp_path / "words.jsonl", 0)
    compare(NAMES, tmp_path / "c", config(tmp_path / "words.jsonl"), progress=False)
    (tmp_path / "new").mkdir()
    return (tmp_path / "words.jsonl").rename(tmp_path / "new" / "words.jsonl")


@pytest.mark.parametrize("runs", [True, False])
def test_it_goes_on_with_a_file_that_moved(moved: Path, tmp_path: Path, runs: bool, untrained: None) -> None:
    folder, before = tmp_path / "c", (tmp_path / "c" / "table.csv").read_bytes()
    if not runs:
        shutil.rmtree(folder / "runs")
    with pytest.raises(UserError, match=r"there is no such file, which .* --data FILE"):
        resume_comparison(folder, progress=False)
    assert main(["compare", "--resume", str(folder), "--data", str(moved)]) == 0
    assert (folder / "table.csv").read_bytes() == before
    content = json.loads((folder / "comparison.json").read_text())
    assert files.intact(content) and content["config"]["data"]["data"] == str(moved)
    assert [row.name for row in resume_comparison(folder, progress=False).rows] == NAMES
    assert [row.name for row in compare(NAMES, folder, config(moved), progress=False).rows] == NAMES


def test_other_data_are_refused(moved: Path, tmp_path: Path) -> None:
    write(moved, 1)
    before = (tmp_path / "c" / "comparison.json").read_bytes()
    with pytest.raises(UserError, match="the data are others"):
        resume_comparison(tmp_path / "c", data=moved, progress=False)
    assert (tmp_path / "c" / "comparison.json").read_bytes() == before


def test_data_and_population_exclude_each_other(moved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does nothing beside population"):
        resume_comparison(tmp_path / "c", data=moved, population=cast(Any, object()), progress=False)
