"""flow.Population.from_arrays: what it builds, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flow
from flow.data.tokens import SPECIALS
from flow.errors import UserError


def given(**changes: Any) -> dict[str, dict[str, Any]]:
    anna = {"train": [[2, 5, 6, 3], [7, 5, 0, 0]], "test": [[2, 5, 3]], "group": "g", "texts": 12}
    ben = {"train": np.zeros((0, 4), dtype=np.int64), "test": [[4, 8], [5, 0]], "held_out": True}
    ben["test_lengths"] = [2, 2] if "test" not in changes else None
    ben["test"] = [[4, 8], [5, 4]]
    return {"ben": ben, "anna": {**anna, **changes}}


def test_next_tokens_are_cut_as_a_population_has_them() -> None:
    population = flow.Population.from_arrays(given(), vocabulary=9, name="mine", about="public domain")
    anna, ben = population.clients
    assert (anna.id, anna.group, anna.held_out, anna.texts) == ("anna", "g", False, 12)
    assert (ben.id, ben.group, ben.held_out, ben.texts) == ("ben", "", True, 2)
    assert population.sequence_length == 3 and population.name == "mine" and population.about == "public domain"
    assert population.vocabulary.tokens == (*SPECIALS, *(f"token {n}" for n in range(4, 9)))
    assert anna.train.tokens.tolist() == [[2, 5, 6, 3], [7, 5, 0, 0]] and anna.train.lengths.tolist() == [3, 1]
    assert anna.train.targets.tolist() == [[5, 6, 3], [5, 0, 0]]
    assert anna.train.valid.tolist() == [[True] * 3, [True, False, False]]
    assert anna.train.texts.tolist() == [0, 0]  # the second row does not begin with <bos>
    assert ben.test.tokens.tolist() == [[4, 8, 0, 0], [5, 4, 0, 0]] and ben.train.tokens.shape == (0, 4)
    assert population.table.scored.tolist() == [1, 2] and population.outputs == 9


def test_labels_stand_behind_the_tokens_and_all_of_them_are_scored() -> None:
    labels = {"train_labels": [1, 0], "test_labels": [2]}
    clients = given(**labels)
    clients["ben"] |= {"train_labels": [], "test_labels": [0, 1]}
    population = flow.Population.from_arrays(clients, vocabulary=(*SPECIALS, *"abcde"), classes=3)
    anna, _ = population.clients
    assert population.classes == ("class 0", "class 1", "class 2") and population.outputs == 3
    assert population.sequence_length == 4 and anna.train.labelled
    assert anna.train.tokens.tolist() == [[2, 5, 6, 3, 1], [7, 5, 0, 0, 0]] and anna.train.lengths.tolist() == [4, 2]
    assert anna.test.targets.tolist() == [[0, 0, 2, 0]] and anna.test.valid.tolist() == [[False, False, True, False]]
    assert anna.train.texts.tolist() == [0, 1]
    assert population.table.scored.tolist() == [1, 2]
    plain = flow.Population.from_arrays(given(), vocabulary=9)
    assert plain.fingerprint != population.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [[2.5, 1.0]]}, r"client 'anna', train is float64 \[1, 2\] and must be whole numbers \[S, T\]"),
        ({"train": [1, 2]}, r"train is int64 \[2\] and must be whole numbers \[S, T\]"),
        ({"train": [[1], [2, 3]]}, "train is no array .* pad its rows with 0"),
        ({"train": [[2, 9, 0, 0]]}, "train, sequence 0, position 1: the token 9 must be from 1 to 8"),
        ({"train": [[2, 0, 5, 0]]}, "position 1: the token 0 must be from 1 to 8"),
        ({"train": [[2, 5, 6]], "train_lengths": [2]}, "position 2: the token 6 must be 0, behind the sequence's length"),
        ({"train": [[2, 5, 6]], "train_lengths": [4]}, "the length 4 must be from 2 to 3"),
        ({"train": [[2, 0, 0]]}, "the length 1 must be from 2 to 3, as a sequence needs a token and one that follows"),
        ({"train": [[2, 5, 6]], "train_lengths": [3, 3]}, "train_lengths has 2 numbers and train 1 sequences"),
        ({"train": None}, "client 'anna' has no 'train', its sequences"),
        ({"test_labels": [1]}, "has 'test_labels', and there are no classes"),
        ({"tokens": []}, "client 'anna': 'tokens' is none of 'train', "),
        ({"texts": -1}, "texts=-1 must be an integer of at least 0"),
        ({"held_out": "yes"}, "held_out='yes' must be True or False"),
    ],
)
def test_faulty_arrays_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flow.Population.from_arrays(given(**changes), vocabulary=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 4}, "vocabulary=4 must be a number of tokens from 5"),
        ({"vocabulary": "abc"}, "vocabulary='abc' must be a number of tokens, or all their names"),
        ({"vocabulary": tuple("abcdefghi")}, "the first ids are reserved"),
        ({"vocabulary": 9, "classes": 1}, "classes=1 must be a number of classes from 2"),
        ({"vocabulary": 9, "classes": ("a", "a")}, "must be at least two names, each once"),
        ({"vocabulary": 9, "classes": "ab"}, "classes='ab' must be a number of classes, or all their names"),
    ],
)
def test_faulty_names_are_refused(options: dict[str, Any], message: str) -> None:
    clients = given()
    if "classes" in options:
        for own in clients.values():
            own |= {f"{side}_labels": [0] * len(own[side]) for side in ("train", "test")}
    with pytest.raises(UserError, match=message):
        flow.Population.from_arrays(clients, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"train_labels": [0, 1]}, "client 'anna' has no 'test_labels', a class for every sequence"),
        ({"train_labels": [0, 3], "test_labels": [0]}, "train_labels, sequence 1: the label 3 must be from 0 to 2"),
        ({"train_labels": [0], "test_labels": [0]}, "train_labels has 1 numbers and train 2 sequences"),
    ],
)
def test_faulty_labels_are_refused(labels: dict[str, Any], message: str) -> None:
    clients = {"anna": given(**labels)["anna"]}
    with pytest.raises(UserError, match=message):
        flow.Population.from_arrays(clients, vocabulary=9, classes=3)


def test_a_client_is_a_dictionary_with_a_name() -> None:
    for clients, message in (({}, "at least one client"), ({3: {}}, "the id 3 must be a string"), ({"a": 5}, "a dictionary")):
        with pytest.raises(UserError, match=message):
            flow.Population.from_arrays(clients, vocabulary=9)  # type: ignore[arg-type]


def test_arrays_are_trained_on() -> None:
    rng = np.random.default_rng(1)
    clients = {f"c{n}": {"train": rng.integers(1, 9, (5, 6)), "test": rng.integers(4, 9, (3, 4))} for n in range(6)}
    population = flow.Population.from_arrays(clients, vocabulary=9)
    config: flow.Config[Any] = flow.Config(model=flow.ModelOptions(4, 5), rounds=1, cohort=3, min_texts=0, threads=1)
    result = flow.simulate(config, population=population, progress=False)
    assert result.evaluation["summary"]["seen"]["tokens"] == 9 * (6 - int(population.setting_aside(0.1).validation.sum()))
