"""`flow data`: what it says of a data set, compared with plain counts."""

import json
import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import write_jsonl
from optional import present

from flow.cli.data import headroom
from flow.cli.main import main
from flow.data import DataOptions, Sequences, description, load, opened
from flow.data.streams import Part, Stream

Event = tuple[int, int, int]
"""The token two before, the one before, and the token; -1 for none."""

WORDS = ["red", "blue", "green", "grey", "pink", "zoë"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(3)
    lines: list[dict[str, Any]] = []
    for n in range(30):
        texts = [" ".join(draw.choices(WORDS[n % 3 :], k=draw.randrange(1, 12))) for _ in range(n % 7)]
        texts += texts[:1]
        lines.append({"id": f"c{n}", "group": f"g{n % 2}", "split": "heldout" if n > 26 else "train", "texts": texts})
    lines[1]["texts"] = ["<b>red & blue</b> " + "x" * 500, "second text"]
    write_jsonl(tmp_path / "mine.jsonl", lines)
    return lines


def test_sizes_are_those_of_plain_counts(mine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    options = DataOptions(data="mine.jsonl", vocabulary_size=4, sequence_length=3, oov_buckets=2)
    population = load(options)
    sizes = description.sizes(population)
    words = {line["id"]: re.findall(r"\w+|[^\w\s]", " ".join(line["texts"]).lower()) for line in mine}
    known = set(population.vocabulary.tokens)
    total = sum(map(len, words.values()))
    assert (sizes.clients, sizes.held_out, sizes.texts) == (30, 3, sum(len(line["texts"]) for line in mine))
    assert sizes.tokens == total
    assert sizes.unknown == sum(word not in known for own in words.values() for word in own) / total
    assert sizes.texts_of_client == tuple(np.quantile([len(line["texts"]) for line in mine], [0.1, 0.5, 0.9, 1]))
    assert sizes.tokens_of_client == tuple(np.quantile([len(own) for own in words.values()], [0.1, 0.5, 0.9, 1]))
    ids, stream = [client.id for client in population.clients], present(opened(options))
    texts = description.texts(stream, ids, 40)
    assert texts.looked_at == sizes.texts and texts.clients == sum(bool(line["texts"]) for line in mine) == 25
    assert len({sample.client for sample in texts.samples[:25]}) == 25 and len(texts.samples) == 40
    near = 0
    for line in mine:
        sets = [{tuple(w[i : i + 3]) for i in range(len(w) - 2)} or {tuple(w)} for w in (t.split() for t in line["texts"])]
        near += sum(any(len(a & b) / len(a | b) >= 0.5 for b in sets[:place]) for place, a in enumerate(sets))
    assert texts.near == near > 10
    monkeypatch.setattr(description, "CLIENTS", 5)
    monkeypatch.setattr(description, "TEXTS", 2)
    assert description.texts(stream, ids, 0).looked_at <= 10


def test_long_texts_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    same = "red blue grey pink zoë"
    parts = [Part("a", [same + " one two x", "x"]), Part("b", ["y"]), Part("a", [same + " eight nine", same])]
    stream = Stream("made", "made up", lambda: iter(parts))
    whole = description.texts(stream, ["a", "b"], 5)
    assert (whole.looked_at, whole.near, len(whole.samples)) == (5, 1, 5)
    monkeypatch.setattr(description, "CHARACTERS", 40)
    cut = description.texts(stream, ["a", "b"], 5)
    assert (cut.looked_at, cut.near) == (4, 0)
    assert sorted(sample.text for sample in cut.samples) == ["red blu", same + " one two x", "x", "y"]


def contexts(second: int, first: int) -> tuple[tuple[int, ...], ...]:
    return (), (first,), (second, first)


def witten_bell(events: Iterable[Event], size: int) -> Callable[[int, int, int], float]:
    """p(word | two words before) of a list of (second, first, word), by nested counts."""
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for second, first, word in events:
        for context in contexts(second, first):
            if -1 not in context:
                counts.setdefault(context, Counter())[word] += 1

    def chance(second: int, first: int, word: int) -> float:
        p = 1 / size
        for context in contexts(second, first):
            own = counts.get(context) if -1 not in context else None
            if own:
                p = (own[word] + len(own) * p) / (own.total() + len(own))
        return p

    return chance


def events(side: Sequences) -> Iterator[Event]:
    for row, length in zip(side.tokens.tolist(), side.lengths.tolist(), strict=True):
        for place in range(length):
            yield (row[place - 1] if place else -1), row[place], row[place + 1]


def test_the_headroom_is_that_of_plain_n_grams(mine: list[dict[str, Any]]) -> None:
    population = load(DataOptions(data="mine.jsonl", vocabulary_size=5))
    size, scored = len(population.vocabulary), population.vocabulary.scored
    order = sorted(population.clients, key=lambda client: (zlib.crc32(client.id.encode()), client.id))
    may = [c for c in order if len(c.train) and any(scored[word] for _, _, word in events(c.test))]
    chosen = may[:6]
    names = {client.id for client in chosen}
    general = witten_bell([e for c in order if c.id not in names and not c.held_out for e in events(c.train)], size)
    bits, helped, count = np.zeros(2), 0, 0
    for client in chosen:
        personal = witten_bell(list(events(client.train)), size)
        both = [(general(*e), personal(*e)) for e in events(client.test) if scored[e[2]]]
        own = np.array([sum(-math.log(a) for a, _ in both), sum(-math.log(0.7 * a + 0.3 * b) for a, b in both)])
        bits, helped, count = bits + own, helped + (own[1] < own[0]), count + len(both)
    room = headroom(population, clients=6)
    assert np.allclose(room[:2], np.exp(bits / count), rtol=1e-12)
    assert room[2:] == (helped, 6)


def test_the_command_prints_a_table_shows_texts_and_writes_a_page(
    mine: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "mine.jsonl", "--sample", "30", "--folder", "page"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^clients +30, of which 3 are held out$", output, re.MULTILINE)
    for line in ("texts of a client", "words of a client", "vocabulary", "near-duplicates", "headroom"):
        assert re.search(rf"^{line} ", output, re.MULTILINE)
    assert "\nc1, g1\n<b>red & blue</b> xxx" in output and " ...\n" in output and "page: page/data.html" in output
    page = Path("page/data.html").read_text()
    assert "&lt;b&gt;red &amp; blue" in page and "30, of which 3 are held out" in page


def test_what_steers_a_terminal_is_shown_as_an_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = {"texts": ["so \x1b[31mred\r\nnext"] * 20, "mood": ["a\x1b[2J\nb", "c"] * 10}
    lines = [json.dumps({"id": f"ann\x07{n}", "group": "g\x1b[1m", **line}) for n in range(20)]
    (tmp_path / "steers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main(["data", "steers.jsonl", "--label-column", "mood", "--sample", "1"]) == 0
    output = capsys.readouterr().out
    assert r"a\x1b[2J\nb 50.0 %" in output and r"g\x1b[1m" in output and "\nso \\x1b[31mred\nnext\n" in output
    assert all(letter == "\n" or letter.isprintable() for letter in output)


def test_data_without_text_and_faulty_options(
    mine: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["data", "synthetic", "--clients", "12", "--sequences", "3", "--vocabulary-size", "20"]) == 0
    assert "near-duplicates" not in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["synthetic", "--sample", "3"], "sample=3 shows texts, and data='synthetic' has none; leave it out"),
        (["mine.jsonl", "--sample", "-1"], "sample must be a finite number at least 0, got -1"),
        (["mine.jsonl", "--folder", "file"], "folder='file': the page cannot be written there"),
        (["gone.jsonl"], "data='gone.jsonl': there is no such file"),
    ):
        assert main(["data", *arguments]) == 2
        assert message in capsys.readouterr().err
