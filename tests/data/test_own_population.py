"""Populations made in Python: what is refused, when it is checked, and how often clients are read."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import harness
import numpy as np
import oracles
import pytest
from data_cases import Counting, Mapped

from flow import Config, ModelOptions, SharedOptions, UserError, compare, resume, simulate
from flow.algorithms.ditto import DittoOptions
from flow.data import DataOptions, Population, Sequences, Vocabulary, load, prepared, validated, validation
from flow.data.synthetic import Shape, SyntheticClients
from flow.simulation import loop

GOOD = oracles.population()
CONFIG: Config[Any] = Config(
    algorithm=DittoOptions(lr=0.5, batch_size=4), model=ModelOptions(embedding_dim=3, hidden_size=4), rounds=1, cohort=4,
    min_texts=1, evaluate_every=0, threads=1, validation_share=0.0,
)  # fmt: skip


def changed(place: int = 2, side: str | None = None, **values: Any) -> Population:
    """The good population with other fields of one client, or of one side of it."""
    clients = list(GOOD.clients)
    values = values if side is None else {side: dataclasses.replace(getattr(clients[place], side), **values)}
    clients[place] = dataclasses.replace(clients[place], **values)
    return dataclasses.replace(GOOD, clients=tuple(clients))


def broken(**fields: Any) -> Population:
    """The good population with other fields, of any type."""
    return dataclasses.replace(GOOD, **fields)


def poked(name: str, index: tuple[int, ...], value: int, side: str = "train", place: int = 2) -> Population:
    """The good population with one other number."""
    array = getattr(getattr(GOOD.clients[place], side), name).copy()
    array[index] = value
    return changed(place, side, **{name: array})


T, V = GOOD.sequence_length, len(GOOD.vocabulary)
TRAIN = GOOD.clients[2].train
FAULTS: dict[str, tuple[Any, str]] = {
    "no population": ([], r"population must be a flow.data.Population, got \[\]; leave it out to load config.data"),
    "token too large": (
        poked("tokens", (4, 3), V),
        rf"client 'client 2', train.tokens, sequence 4, position 3: token {V} must be from 0 to {V - 1}, an id of the",
    ),
    "token below 0": (
        poked("tokens", (1, 0), -1, "test", 7),
        r"client 'client 7', test.tokens, sequence 1, position 0: token -1 must be from 0 to 8, .*; number the words",
    ),
    "length 0": (poked("lengths", (3,), 0), r"client 'client 2', train.lengths, sequence 3: length 0 must be from 1 to .*=6;"),
    "length beyond T": (poked("lengths", (0,), T + 1, "test"), r"client 2', test.lengths, sequence 0: length 7 must be from 1"),
    "too wide": (
        changed(side="train", tokens=np.zeros((11, T + 2), np.int32)),
        r"client 'client 2', train.tokens is int32 \[11, 8\] and must be integers \[n, 7\], as sequence_length=6 says;",
    ),
    "one dimension": (changed(side="test", tokens=np.zeros(7, np.int32)), r"test.tokens is int32 \[7\] and must be"),
    "fractions": (changed(side="train", tokens=TRAIN.tokens.astype(float)), r"train.tokens is float64 \[11, 7\] and must be"),
    "truth": (changed(side="train", lengths=TRAIN.lengths > 1), r"train.lengths is bool \[11\] and must be integers"),
    "too large a type": (changed(side="train", tokens=TRAIN.tokens.astype(np.uint64)), r"train.tokens is uint64"),
    "lists": (changed(side="train", tokens=TRAIN.tokens.tolist()), r"train.tokens is a list and must be integers"),
    "fewer lengths": (
        changed(side="train", lengths=TRAIN.lengths[:-1]),
        r"client 'client 2', train.lengths is int32 \[10\] and must be integers \[11\], .*; give every sequence its",
    ),
    "no sequences": (changed(test=None), r"client 'client 2', test must be a flow.data.Sequences, got None"),
    "equal ids": (
        changed(3, id="client 2"),
        r"population.clients\[3\].id='client 2' follows 'client 2': every client needs an id of its own; give distinct ids",
    ),
    "order": (
        broken(clients=GOOD.clients[::-1]),
        r"population.clients\[1\].id='client 7' follows 'client 8': clients must be sorted by id; .*sorted\(clients, key=",
    ),
    "number for an id": (changed(0, id=7), r"population.clients\[0\].id=7 must be a string"),
    "empty id": (changed(0, id=""), r"population.clients\[0\].id='' must not be empty"),
    "half a character": (changed(0, id="\ud800"), r"clients\[0\].id='\\ud800' is not text that UTF-8 can hold; rename"),
    "half a group": (changed(0, group="\ud800"), r"client 'client 0', group='\\ud800' is not text that UTF-8 can hold"),
    "no group": (changed(0, group=None), r"client 'client 0', group=None must be a string"),
    "held out": (changed(1, held_out="yes"), r"client 'client 1', held_out='yes' must be True or False"),
    "texts": (changed(1, texts=-1), r"client 'client 1', texts=-1 must be an integer of at least 0"),
    "no client": (broken(clients=("a",)), r"population.clients\[0\] must be a flow.data.Client, got 'a'"),
    "an iterator": (broken(clients=iter(())), r"population.clients must be a sequence .* tuple\(clients\)"),
    "width": (broken(sequence_length=0), r"population.sequence_length=0 must be an integer of at least 1"),
    "vocabulary": (broken(vocabulary=("a",)), r"population.vocabulary must be a flow.data.Vocabulary"),
    "name": (broken(name=None), "population.name=None must be a string"),
    "about": (broken(about="\udcff"), r"population.about='\\udcff' is not text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_population_that_breaks_a_rule_is_named_before_anything_is_written(name: str, tmp_path: Path) -> None:
    population, message = FAULTS[name]
    for _ in range(2):  # what was refused is not taken the second time
        with pytest.raises(UserError, match=message):
            simulate(CONFIG, tmp_path / "run", population=population, progress=False)
    with pytest.raises(UserError, match=message):
        compare(
            ["fedavg"], tmp_path / "comparison", dataclasses.replace(CONFIG, algorithm=SharedOptions()), population=population
        )
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_checks_its_population_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)
    simulate(CONFIG, tmp_path / "run", population=GOOD, progress=False)
    with pytest.raises(UserError, match=r"client 'client 2', train\.lengths, sequence 3: length 0"):
        resume(tmp_path / "run", population=FAULTS["length 0"][0], progress=False)


@pytest.mark.parametrize(
    ("tokens", "buckets", "message"),
    [
        (["<pad>", "<oov>", "<bos>", "<eos>", "a"], 1, r"tokens=\['<pad>', .*\] must be a tuple of strings; write tuple"),
        (("<pad>", "<oov>", "<bos>", "<eos>", 3), 1, "must be a tuple of strings"),
        (("<pad>", "<oov>", "a"), 1, r"the first ids are reserved; start tokens with \('<pad>', "),
        (("<pad>", "<oov>", "<bos>", "<eos>", "a", "a"), 1, "a token occurs twice"),
        (("<pad>", "<oov>", "<bos>", "<eos>", "a", "\ud800"), 1, r"tokens\[5\]='\\ud800' is not text that UTF-8 can hold"),
        (("<pad>", "<oov>", "<bos>", "<eos>", "a"), 3, r"oov_buckets=3 must be an integer from 1 to 2, as 5 tokens leave no"),
        (("<pad>", "<oov>", "<bos>", "<eos>", "a"), 0, "oov_buckets=0 must be an integer from 1 to 2"),
        (("<pad>", "<oov>", "<bos>", "<eos>", "a"), True, "oov_buckets=True must be an integer from 1 to 2"),
    ],
)
def test_a_vocabulary_without_what_the_code_relies_on_cannot_be_made(tokens: Any, buckets: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary(tokens, "word", buckets)
    assert Vocabulary(("<pad>", "<oov>", "<bos>", "<eos>", "<oov-2>"), "word", 2).oov == (1, 4)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, ">i4"])
def test_other_whole_numbers_give_the_same_run(kind: Any) -> None:
    def cast(side: Sequences) -> Sequences:
        return Sequences(side.tokens.astype(kind), side.lengths.astype(kind))

    clients = [dataclasses.replace(c, train=cast(c.train), test=cast(c.test)) for c in GOOD.clients]
    first, second = (simulate(CONFIG, population=p, progress=False) for p in (GOOD, dataclasses.replace(GOOD, clients=clients)))
    assert first.evaluation == second.evaluation


def test_clients_made_on_demand_are_read_once_before_the_first_round() -> None:
    clients = Counting(GOOD.clients)
    population = dataclasses.replace(GOOD, clients=clients)
    validated(population)
    assert clients.reads.pop(len(clients), 1) == 1 and clients.reads == Counter(range(len(clients)))
    assert (population.fingerprint, population.table.texts.tolist()) == (GOOD.fingerprint, GOOD.table.texts.tolist())
    assert np.array_equal(np.array(population.table), np.array(GOOD.table))
    validated(population)
    assert clients.reads == Counter(range(len(clients)))


def test_of_clients_with_a_table_the_table_alone_is_checked() -> None:
    clients = Mapped(GOOD.clients, GOOD.table)
    assert validated(dataclasses.replace(GOOD, clients=clients)).fingerprint == "known" and not clients.reads
    short = Mapped(GOOD.clients, GOOD.table._replace(texts=GOOD.table.texts[1:]))
    with pytest.raises(UserError, match=r"population.clients.table.texts has the shape \[8\] and must have \[9\]"):
        validated(dataclasses.replace(GOOD, clients=short))


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[Population]:
    """The populations that were checked client by client."""
    seen: list[Population] = []

    def counted(population: Population, survey: Any = validation._surveyed) -> Any:
        seen.append(population)
        return survey(population)

    monkeypatch.setattr(validation, "_surveyed", counted)
    return seen


@pytest.mark.parametrize("cache", ["cache", ""])
def test_what_flow_data_loaded_is_not_checked(
    surveyed: list[Population], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_CACHE", cache and str(tmp_path / cache))
    loaded = load(DataOptions(data="synthetic", clients=30, sequences=3, vocabulary_size=20))
    assert isinstance(loaded.clients, prepared.StoredClients if cache else SyntheticClients)
    simulate(CONFIG, population=loaded, progress=False)
    assert not surveyed
    copy = dataclasses.replace(loaded, clients=SyntheticClients(Shape(30, 3), 20, 20))
    simulate(CONFIG, population=copy, progress=False)
    assert surveyed == [copy], "a population made from another is checked for itself"


def test_a_comparison_checks_its_population_once(
    surveyed: list[Population], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(folder: Path) -> Path:
        (folder / "report.html").write_text("report")
        return folder / "report.html"

    monkeypatch.setattr(loop, "_write_report", plain)
    monkeypatch.setattr("flow.comparison.page.pictures", lambda *_: [])
    population = dataclasses.replace(harness.POPULATION, about="not seen before")
    shared = dataclasses.replace(CONFIG, algorithm=SharedOptions(batch_size=4))
    compare(["fedavg", "ditto", "local"], tmp_path / "c", shared, seeds=2, population=population, progress=False)
    assert surveyed == [population]
