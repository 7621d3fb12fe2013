"""``--preset`` and :func:`flow.preset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import flow
from flow.cli.command import say_other_unit
from flow.cli.main import main
from flow.config import read_config
from flow.data import DataOptions
from flow.errors import say
from flow.presets import PRESETS, Name

SIZES = {
    "stackoverflow": (96, 670, 1, 96, 20, 10_000),
    "shakespeare": (8, 256, 2, None, 80, 10_000),
    "reddit": (256, 256, 2, None, 10, 10_000),
}


def sizes(config: flow.Config[object]) -> tuple[int | None, ...]:
    model, data = config.model, config.data
    assert isinstance(model, flow.ModelOptions)
    layers = (model.embedding_dim, model.hidden_size, model.num_layers, model.projection_dim)
    return (*layers, data.sequence_length, data.vocabulary_size)


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_has_the_published_sizes_and_keeps_the_rest(name: str) -> None:
    assert sizes(flow.preset(name)) == SIZES[name]
    config = flow.preset(name, flow.Config(rounds=3, data=flow.data.DataOptions(data="mine.jsonl")))
    assert (config.rounds, config.data.data, sizes(config)) == (3, "mine.jsonl", SIZES[name])


def test_all_presets_are_known_to_the_command() -> None:
    assert set(get_args(Name)) == set(PRESETS) == set(SIZES)
    with pytest.raises(
        flow.UserError, match="preset='imdb' must be 'stackoverflow', 'shakespeare', 'reddit'; give one of these"
    ):
        flow.preset("imdb")


@pytest.mark.parametrize(
    "given", [["--preset", "reddit"], ["--preset=reddit"], ["--preset", "shakespeare", "--preset", "reddit"]]
)
def test_options_beside_a_preset_take_precedence(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"id": "{name}", "texts": ["a b c {name}", "b c", "c d"]}}\n' for name in "uvwxyz"]
    Path("mine.jsonl").write_text("".join(lines))
    small = [
        "--hidden-size",
        "4",
        "--embedding-dim",
        "3",
        "--rounds",
        "1",
        "--cohort",
        "2",
        "--threads",
        "1",
        "--final-clients",
        "2",
    ]
    assert main(["run", "fedavg", "--data", "mine.jsonl", *small, *given, "--folder", "run"]) == 0
    assert sizes(read_config(Path("run"))) == (3, 4, 2, None, 10, 10_000)
    small[1] = "5"
    assert main(["compare", "fedavg", "--data", "mine.jsonl", *small, *given, "--folder", "both"]) == 0
    assert sizes(read_config(Path("both/runs/fedavg-seed0"))) == (3, 5, 2, None, 10, 10_000)


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        (
            "shakespeare",
            {"data": "mine.jsonl"},
            "characters, and data='mine.jsonl' is cut into words; it sets sequence_length=80",
        ),
        ("shakespeare", {"data": "mine.jsonl", "tokenizer": "characters"}, ""),
        ("shakespeare", {"data": "shakespeare"}, ""),
        ("reddit", {"data": "shakespeare"}, "words, and data='shakespeare' is cut into characters; it sets sequence_length=10"),
        ("stackoverflow", {"data": "mine.jsonl", "tokenizer": "spaces"}, ""),
        (
            "stackoverflow",
            {"data": "mine.jsonl", "tokenizer": "my.json"},
            "words, and data='mine.jsonl' is cut into tokens; it",
        ),
        (None, {"data": "no such"}, ""),
    ],
)
def test_a_preset_of_another_unit_is_said(
    preset: str | None, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"id": "a", "texts": ["b"]}\n')
    say.cache_clear()
    say_other_unit(preset, DataOptions(**options))
    err = capsys.readouterr().err
    assert (message in err and err.startswith(f"flow: preset={preset!r} was published for ")) if message else not err


def test_an_unknown_preset_is_refused_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "compare"):
        with pytest.raises(SystemExit):
            main([command, "--preset", "imdb"])
        text = " ".join(capsys.readouterr().err.split())
        assert "preset" in text and "imdb" in text and "stackoverflow" in text
