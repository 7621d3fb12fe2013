"""Who is a validation client: by the id alone, whatever else a run is made of."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import oracles
import pytest
from data_cases import Mapped

from flow.data import DataOptions, Population, load
from flow.data.corpus import client_hash
from flow.data.population import is_validation
from flow.data.prepared import StoredClients

FIRST = ["client 7", "client 26", "client 31", "client 48", "client 57"]
MORE = [f"client {n}" for n in (7, 12, 21, 26, 28, 31, 36, 44, 45, 46, 48, 57, 59)]


def fraction(client_id: str) -> float:
    """The SHA-256 of the id as a fraction of 1, by its hexadecimal digits."""
    digits = hashlib.sha256(b"validation client\n" + client_id.encode()).hexdigest()
    return float(sum(int(digit, 16) / 16**place for place, digit in enumerate(digits[:12], start=1)))


def ids(population: Population) -> list[str]:
    return [client.id for client, validates in zip(population.clients, population.validation, strict=True) if validates]


def test_the_same_ids_validate_for_ever() -> None:
    """Runs are resumed by later builds: these ids must not change."""
    names = [f"client {n}" for n in range(60)]
    assert [name for name in names if is_validation(name, 0.1)] == FIRST
    assert [name for name in names if is_validation(name, 0.25)] == MORE
    assert is_validation("Zoë \N{SNOWMAN}", 0.5) == (fraction("Zoë \N{SNOWMAN}") < 0.5)


def test_roles_are_nested_disjoint_and_follow_the_share() -> None:
    population = oracles.population(sizes=(2,) * 400, held_out=(2,) * 50)
    before: set[str] = set()
    for share in (0.0, 0.05, 0.1, 0.5, 0.99):
        aside = population.setting_aside(share)
        assert aside.clients is population.clients and aside.survey is population.survey
        chosen = set(ids(aside))
        expected = {client.id for client in population.clients if not client.held_out and fraction(client.id) < share}
        assert chosen == expected and before <= chosen
        assert abs(len(chosen) - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5 + 1
        trains = [client.id for client in aside.trainable()]
        assert trains == [client.id for client in population.clients if not client.held_out and client.id not in chosen]
        numbers = dict(zip((client.id for client in population.clients), aside.numbers(population.clients), strict=True))
        assert [numbers[name] for name in trains] == list(range(len(trains)))
        assert {number for name, number in numbers.items() if name not in trains} == {-1}
        before = chosen


def test_who_validates_says_nothing_of_who_is_held_out() -> None:
    """Of both halves of the ids by crc32 the same share validates, to four standard deviations."""
    names = [f"user/{n}" for n in range(20_000)]
    by_parity = [[is_validation(name, 0.1) for name in names if client_hash(name) % 10 == rest] for rest in range(10)]
    for some in by_parity:
        assert abs(np.mean(some) - 0.1) < 4 * (0.09 / len(some)) ** 0.5


@pytest.mark.parametrize("cache", ["cache", ""])
def test_no_text_is_read_to_know_them(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", cache and str(tmp_path / cache))
    population = load(DataOptions(data="synthetic", clients=150, sequences=3, vocabulary_size=20))
    expected = [client.id for client in population.clients if not client.held_out and fraction(client.id) < 0.2]
    everybody = list(population.clients)[:20]
    if cache:
        monkeypatch.setattr(StoredClients, "load", None)
        monkeypatch.setattr(StoredClients, "__getitem__", None)
    aside = population.setting_aside(0.2)
    assert len(aside.validation) == 150 and aside.validation.sum() == len(expected) > 10
    assert (aside.numbers(everybody) < 0).tolist() == [client.held_out or client.id in expected for client in everybody]
    monkeypatch.undo()
    assert ids(aside) == expected and aside.fingerprint == population.fingerprint


def test_clients_of_an_index_of_ones_own_are_asked_for_their_ids() -> None:
    plain = oracles.population(sizes=(2,) * 60)
    mapped = dataclasses.replace(plain, clients=Mapped(plain.clients, plain.table))
    assert ids(mapped.setting_aside(0.3)) == ids(plain.setting_aside(0.3)) != []


def test_nobody_is_set_aside_twice_or_without_being_asked() -> None:
    population = oracles.population(sizes=(2,) * 60)
    assert not population.validation.any()
    aside = population.setting_aside(0.3)
    assert aside.setting_aside(0.3) is aside and ids(aside.setting_aside(0.1)) == ids(population.setting_aside(0.1))
