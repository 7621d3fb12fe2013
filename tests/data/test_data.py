"""How texts are split, numbered and cut, and read from a file."""

import os
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from data_cases import fingerprint, spelled, targets, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from flow.data import DataOptions, Vocabulary, load
from flow.data.corpus import cut_windows, split_by_time
from flow.data.preparing import in_memory
from flow.data.streams import Part, Stream
from flow.data.tokens import BOS, EOS, OOV, PAD, SPECIALS, split_words

# --- windows, splits, words -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(1, 12))
def test_windows_cover_every_target_once(sizes: list[int], length: int) -> None:
    streams = [np.arange(i * 100 + 1, i * 100 + 1 + size, dtype=np.int32) for i, size in enumerate(sizes)]
    cut = cut_windows(streams, length)
    assert cut.tokens.dtype == cut.lengths.dtype == np.int32
    assert cut.tokens.shape == (sum(-(-max(size - 1, 0) // length) for size in sizes), length + 1)
    pairs = []
    for row, n in zip(cut.tokens.tolist(), cut.lengths.tolist(), strict=True):
        assert 1 <= n <= length
        assert row[n + 1 :] == [PAD] * (length - n)
        pairs += list(pairwise(row[: n + 1]))
    assert pairs == [(int(a), int(b)) for s in streams for a, b in pairwise(s)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 400])
def test_split_by_time(count: int) -> None:
    texts = [str(place) for place in range(count)]
    train, test = split_by_time(texts)
    assert [*train, *test] == texts
    if count >= 2:
        assert train
        assert test
        assert 0.8 * count - 1 < len(train) <= 0.8 * count
    else:
        assert test == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't re-enable it.", ["don't", "re-enable", "it", "."]),
        ("the users' `max_clients`", ["the", "users", "'", "`", "max_clients", "`"]),
        ("cmd_bisect__helper()", ["cmd_bisect__helper", "(", ")"]),
        ("v1 2.6.32, 1,000 and 0x1f", ["v1", "2.6.32", ",", "1,000", "and", "0x1f"]),
        ("a 3. End -- x", ["a", "3", ".", "end", "-", "-", "x"]),
        ("<EMAIL> see <url>: <sha>.", ["<email>", "see", "<url>", ":", "<sha>", "."]),
        ("<b> <pad> a<b", ["<", "b", ">", "<", "pad", ">", "a", "<", "b"]),
        ("Ångström naïve l’été 東京", ["ångström", "naïve", "l’été", "東京"]),
        (" \n\t", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text())
def test_words_lose_only_white_space(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.lower().split())


# --- vocabulary -------------------------------------------------------------------------------------------------------


def test_vocabulary_counts_only_the_training_clients_training_texts(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"id": "seen", "split": "train", "texts": ["b a", "a c", "c b", "b", "late late late late"]},
            {"id": "unseen", "split": "heldout", "texts": ["other other", "other", "other", "other", "other"]},
        ],
    )
    population = load(DataOptions(data=path, sequence_length=4))
    assert population.vocabulary.tokens == (*SPECIALS, "b", "a", "c")
    seen, unseen = population.clients
    assert " ".join(spelled(seen.train, population.vocabulary)) == "b a <eos> a c <eos> c b <eos> b <eos>"
    assert targets(seen.test) == [OOV] * 4 + [EOS]
    assert set(targets(unseen.train)) == set(targets(unseen.test)) == {OOV, EOS}
    assert (seen.held_out, unseen.held_out) == (False, True)


def test_vocabulary_size_keeps_the_most_frequent_and_breaks_ties_by_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "split": "train", "texts": ["d d c b a a"]}])
    assert load(DataOptions(data=path, vocabulary_size=3)).vocabulary.tokens[4:] == ("a", "d", "b")


def test_vocabulary_encode_and_scored() -> None:
    vocabulary = Vocabulary((*SPECIALS, "the", "."), "word")
    assert vocabulary.encode("The end.") == [4, OOV, 5]
    assert vocabulary.encode("") == []
    assert len(vocabulary) == 6
    assert vocabulary.scored.dtype == np.bool_
    assert vocabulary.scored.tolist() == [False, False, False, False, True, True]
    assert Vocabulary((*SPECIALS, "\n", "a"), "character").encode("a\nA") == [5, 4, OOV]


@pytest.mark.parametrize(
    ("tokens", "unit", "message"),
    [
        (("a", "b"), "word", "the first ids are reserved"),
        ((*SPECIALS, "a", "a"), "word", "a token occurs twice"),
        (SPECIALS, "byte", "unit='byte'.*'character', 'word'"),
    ],
)
def test_faulty_vocabularies_are_refused(tokens: tuple[str, ...], unit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens, unit)


# --- jsonl ------------------------------------------------------------------------------------------------------------

RECORDS = [
    {"id": "b", "group": "g", "split": "train", "texts": ["one two three four five six seven", "one"], "ts": [1, 1.5]},
    {"id": "c", "texts": ["a b", "", "a", "b", "a a"]},
    {"id": "a", "split": "heldout", "texts": ["single text"]},
    {"id": "d", "texts": []},
]


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_jsonl_round_trip(tmp_path: Path, name: str) -> None:
    path = write_jsonl(tmp_path / name, RECORDS)
    population = load(DataOptions(data=path, sequence_length=3))
    assert population.name == "mine"
    assert name in population.about
    assert [(c.id, c.group, c.texts) for c in population.clients] == [
        ("a", "", 1),
        ("b", "g", 2),
        ("c", "", 5),
        ("d", "", 0),
    ]
    a, b, c, d = population.clients
    v = population.vocabulary
    assert a.held_out
    assert not b.held_out
    assert [client.held_out for client in (c, d)] == [zlib.crc32(i) % 10 == 0 for i in (b"c", b"d")]
    # Seven words and EOS are eight targets: windows of 3, 3 and 2.
    assert b.train.lengths.tolist() == [3, 3, 2]
    assert " ".join(spelled(b.train, v)) == "one two three four five six seven <eos>"
    assert b.train.tokens[:, 0].tolist() == [BOS, *v.encode("three six")]
    assert b.train.tokens[2, 3] == PAD
    assert spelled(b.test, v) == ["one", "<eos>"]
    # Texts never share a window, and an empty text still ends.
    assert c.train.lengths.tolist() == [3, 1, 2, 2]
    assert c.train.tokens[:, 0].tolist() == [BOS] * 4
    # Empty sides stay, with no sequences in them.
    assert [len(side) for side in (a.train, a.test, d.train, d.test)] == [1, 0, 0, 0]
    assert d.test.tokens.shape == (0, 4)


def test_default_lengths_and_held_out_by_id(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": f"u{i}", "texts": ["a b", "c"]} for i in range(200)])
    population = load(DataOptions(data=path))
    assert population.sequence_length == 20
    assert population.vocabulary.unit == "word"
    held_out = {client.id for client in population.clients if client.held_out}
    assert held_out == {f"u{i}" for i in range(200) if zlib.crc32(f"u{i}".encode()) % 10 == 0}
    assert 0 < len(held_out) < 200


def test_max_clients_takes_the_first_by_crc32_and_counts_no_other(tmp_path: Path) -> None:
    records = [{"id": f"u{i}", "split": "train", "texts": [f"word{i}", "x"]} for i in range(50)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    population = load(DataOptions(data=path, max_clients=7))
    chosen = sorted((f"u{i}" for i in range(50)), key=lambda i: zlib.crc32(i.encode()))[:7]
    assert [client.id for client in population.clients] == sorted(chosen)
    assert population.vocabulary.tokens[4:] == tuple(sorted(i.replace("u", "word") for i in chosen))
    assert len(load(DataOptions(data=path, max_clients=1000)).clients) == 50


def test_same_population_whatever_the_order_of_lines_and_the_hash_seed(tmp_path: Path) -> None:
    texts = ["a b c d", "e f a", "z y x"]
    records = [{"id": f"u{i}", "split": "train", "texts": texts[i % 3 :] + texts} for i in range(9)]
    parts = [Part(r["id"], r["texts"], held_out=False) for r in records]  # type: ignore[arg-type]
    options = DataOptions(sequence_length=5, vocabulary_size=4)
    forth, back = (in_memory(Stream("n", "about", lambda given=given: iter(given)), options) for given in (parts, parts[::-1]))  # type: ignore[misc]
    assert fingerprint(forth) == fingerprint(back)
    path = write_jsonl(tmp_path / "a.jsonl.gz", records)
    program = (
        "import sys; from data_cases import fingerprint; from flow.data import DataOptions, load;"
        "print(fingerprint(load(DataOptions(data=sys.argv[1], vocabulary_size=4))))"
    )
    root = str(Path(__file__).parents[2])
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, path],
            env={"PYTHONPATH": f"{root}{os.pathsep}{root}/tests/support", "PYTHONHASHSEED": seed},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {fingerprint(load(DataOptions(data=path, vocabulary_size=4)))}
