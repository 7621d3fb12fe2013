"""Labelled texts dealt out anew by a Dirichlet draw."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import write_jsonl

from flow.data import DataOptions, dirichlet, is_file, load, located, registry
from flow.data.streams import Part, Stream
from flow.errors import UserError


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture
def mine(tmp_path: Path) -> str:
    lines = [{"id": f"c{n}", "group": f"g{n % 3}", "texts": [f"t{n}-{place}" for place in range(1 + n % 5)]} for n in range(20)]
    return write_jsonl(tmp_path / "mine.jsonl", lines)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e6])
@pytest.mark.parametrize(("counts", "clients"), [([5, 1], 6), ([100, 30, 7, 1], 9), ([4, 4, 4], 1), ([1000] * 20, 40)])
def test_every_text_is_dealt_once_and_clients_are_of_one_size(alpha: float, counts: list[int], clients: int) -> None:
    dealt = dirichlet.deal(np.array(counts), alpha, clients, stream())
    assert [len(own) for own in dealt] == counts and all(own.dtype == np.int32 for own in dealt)
    sizes = Counter(np.concatenate(dealt).tolist())
    assert sorted(sizes) == list(range(clients)) and max(sizes.values()) - min(sizes.values()) <= 1


def test_a_small_alpha_gives_few_labels_a_client_and_a_large_one_the_shares_of_all() -> None:
    counts = np.array([6000, 3000, 1000])
    for alpha, low, high in ((1e-4, 0.97, 1.0), (1e7, 0.58, 0.66)):
        dealt = dirichlet.deal(counts, alpha, 50, stream(1))
        table = np.stack([np.bincount(own, minlength=50) for own in dealt], axis=1)
        most = (table.max(axis=1) / table.sum(axis=1)).mean()
        assert low <= most <= high


def test_the_first_clients_draw_as_the_paper_says() -> None:
    """Before a label runs out the mean of q is p, and its variance p (1 - p) / (alpha + 1)."""
    counts, alpha = np.array([500_000, 300_000, 200_000]), 2.0
    drawn = []
    for seed in range(300):
        dealt = dirichlet.deal(counts, alpha, 100, stream(seed))
        drawn.append([(own == 0).sum() / 10_000 for own in dealt])
    shares = counts / counts.sum()
    assert np.allclose(np.mean(drawn, axis=0), shares, atol=0.06)
    assert np.allclose(np.var(drawn, axis=0), shares * (1 - shares) / (alpha + 1), rtol=0.3)


def parts(data: str, **options: Any) -> list[Part]:
    return list(registry.source_of(data).opened(DataOptions(data=data, **options)).parts())


def test_a_source_is_dealt_out_with_its_texts_and_labels(mine: str) -> None:
    data = f"dirichlet:0.5:7:{mine}"
    before, after = parts(mine), parts(data)
    assert sorted((text, part.group) for part in before for text in part.texts) == sorted(
        (part.texts[0], part.group) for part in after
    )
    assert parts(data) == after != parts(data, data_seed=1)
    population = load(DataOptions(data=data))
    assert [client.id for client in population.clients] == [f"client-{n}" for n in range(7)]
    assert population.name == "dirichlet-mine" and population.about.endswith(
        "dealt out to 7 clients by Dir(0.5 p), data_seed 0"
    )
    assert load(DataOptions(data=data, data_seed=1)).fingerprint != population.fingerprint


def test_it_is_placed_and_takes_the_options_of_its_source(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("dirichlet:0.5:7:mine.jsonl") == f"dirichlet:0.5:7:{mine}"
    assert is_file(mine) and not is_file(f"dirichlet:0.5:7:{mine}")
    (tmp_path / "a.csv").write_text("who,what,kind\na,x,1\nb,y,2\nc,z,1\nd,x,2\n")
    given: dict[str, Any] = {"client_column": "who", "text_column": "what", "group_column": "kind"}
    assert len(parts("dirichlet:1:2:a.csv", **given)) == 4
    assert len(load(DataOptions(data="dirichlet:1:2:a.csv", **given)).clients) == 2
    with pytest.raises(
        UserError,
        match=r"client_column='who' is an option of data='hf' and 'tabular', not of data='dirichlet:1:2:mine",
    ):
        load(DataOptions(data="dirichlet:1:2:mine.jsonl", client_column="who"))
    with pytest.raises(UserError, match=r"protocol='x' is .*of data='mine\.jsonl'; leave it out"):
        load(DataOptions(data="mine.jsonl", protocol="x"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("dirichlet:1", "must have the form dirichlet:ALPHA:CLIENTS:SOURCE, such as"),
        ("dirichlet:1:2:", "must have the form dirichlet:ALPHA"),
        ("dirichlet:x:2:mine.jsonl", "must have two numbers"),
        ("dirichlet:0:2:mine.jsonl", "ALPHA=0 must be above 0"),
        ("dirichlet:nan:2:mine.jsonl", "ALPHA=nan must be above 0"),
        ("dirichlet:-1:2:mine.jsonl", "ALPHA=-1 must be above 0"),
        ("dirichlet:1:0:mine.jsonl", "CLIENTS=0 must be from 1 to"),
        ("dirichlet:1:9999:mine.jsonl", "CLIENTS=9999 is more than the 60 texts of 'mine.jsonl'; give at most 60"),
        ("dirichlet:1:2:gone.jsonl", r"data='gone\.jsonl': there is no such file"),
        ("dirichlet:1:2:one.jsonl", r"needs texts of at least two groups, and 'one\.jsonl' has one, 'g'; give a source"),
        ("dirichlet:1:2:synthetic", "'synthetic' has no texts to deal out"),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "one.jsonl", [{"id": "a", "group": "g", "texts": ["x", "y"]}])
    with pytest.raises(UserError, match=message):
        load(DataOptions(data=data))


@pytest.mark.parametrize("group", ["b", "c"])
def test_a_source_that_changes_between_its_two_reads_is_refused(group: str) -> None:
    """A text more of a known label, or one of a new label."""
    once = [Part("ann", ["one", "two"], group="a"), Part("bob", ["three"], group="b")]
    reads = iter([once, [*once, Part("bob", ["four"], group=group)]])
    base = Stream("mine", "", lambda: iter(next(reads)))
    with pytest.raises(UserError, match=r"data='dirichlet:1:2:mine' changed while it was being prepared, and must .*; run the"):
        list(dirichlet._parts(base, dirichlet._asked("dirichlet:1:2:mine"), 0, "dirichlet:1:2:mine"))
