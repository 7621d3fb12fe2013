"""LEAF's JSON files, made as LEAF's own scripts make them; and the genuine pair, where it is at hand."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from flow.data import DataOptions, load, registry
from flow.data.readers import leaf
from flow.data.readers.windows import joined, pieces_of
from flow.data.streams import Part, Stream
from flow.errors import UserError

GENUINE = Path(os.environ.get("FLOW_LEAF_SAMPLE", Path(__file__).resolve().parents[3] / "shared" / "data"))
LINES = "To be, or not to be: that is the question. Whether 'tis nobler in the mind to suffer " * 3


def leaf_file(path: Path, user_data: dict[str, Any], hierarchies: list[str] | None = None) -> Path:
    """A file as LEAF's data/utils write it, num_samples from before anything was left out."""
    content: dict[str, Any] = {"users": list(user_data)}
    if hierarchies:
        content["hierarchies"] = hierarchies
    content |= {"num_samples": [len(own) + 79 for own in user_data.values()], "user_data": user_data}
    text = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def windows(text: str, begin: int, end: int, length: int = 80) -> dict[str, list[str]]:
    places = range(begin, end)
    return {"x": [text[n : n + length] for n in places], "y": [text[n + length] for n in places]}


def stream_of(path: Path, **options: Any) -> Stream:
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "leaf"
    return source.opened(given)


def plain(part: Part) -> Part:
    return part._replace(place="", position=0)


@pytest.fixture
def shakespeare(tmp_path: Path) -> Path:
    """By sample: the first windows to train on, the next 79 left out, the rest to test on; several files a part."""
    folder = tmp_path / "data"
    texts = {f"PLAY_ROLE{n}": LINES[n:] for n in range(3)}
    for name, begin, end in (("train", 0, 60), ("test", 139, 160)):
        for number, own in enumerate((["PLAY_ROLE0", "PLAY_ROLE1"], ["PLAY_ROLE2"])):
            data = {user: windows(texts[user], begin, end) for user in own}
            leaf_file(folder / name / f"all_data_{number}_niid_0_keep_0_{name}_9.json", data, [f"The {user}" for user in own])
    return folder


def test_windows_are_joined_again_and_cut_into_pieces(shakespeare: Path) -> None:
    stream = stream_of(shakespeare)
    wanted = []
    for n in range(3):
        text, user = LINES[n:], f"PLAY_ROLE{n}"
        wanted.append(Part(user, [text[139:219], text[219:240]], None, f"The {user}", None, "test"))
        wanted.append(Part(user, [text[:80], text[80:140]], None, f"The {user}", None, "train"))
    assert sorted(plain(part) for part in stream.parts()) == sorted(wanted)
    assert stream.continuous and stream.separator == "" and "split by user" not in stream.about


def test_a_role_has_as_many_texts_as_the_least_that_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long text each side of a role would leave nobody to score, with ten texts as the least."""
    monkeypatch.setenv("FLOW_CACHE", "")
    text = "".join(random.Random(2).choices("abcdefgh ", k=1200))
    for name, begin, end in (("train", 0, 800), ("test", 879, 1120)):
        leaf_file(tmp_path / f"plays_{name}_9.json", {"ROLE": windows(text, begin, end)})
    (client,) = load(DataOptions(data=str(tmp_path))).clients
    assert client.texts == 11 + 5
    assert (client.train.lengths.sum(), client.test.lengths.sum()) == (880, 321)


def test_texts_that_do_not_go_on_have_a_line_break_between_them() -> None:
    draw = random.Random(3)
    for _ in range(50):
        texts = ["".join(draw.choices("ab", k=draw.randrange(1, 20))) for _ in range(draw.randrange(1, 4))]
        size = draw.randrange(1, 9)
        cut = pieces_of(texts, size)
        assert "".join(cut) == "\n".join(texts) and {len(piece) for piece in cut[:-1]} <= {size} and len(cut[-1]) <= size


def test_a_role_in_two_files_of_a_part(tmp_path: Path) -> None:
    for number in range(2):
        leaf_file(tmp_path / f"plays_{number}_train.json", {"ROLE": windows(LINES[number:], 0, 5)})
        leaf_file(tmp_path / f"plays_{number}_test.json", {"ROLE": windows(LINES[number + 7 :], 0, 5)})
    for side, begin in (("train", 0), ("test", 7)):
        texts = [text for part in stream_of(tmp_path).parts() if part.side == side for text in part.texts]
        assert "".join(texts) == LINES[begin : begin + 85] + "\n" + LINES[begin + 1 : begin + 86]


def test_the_population_has_every_target_of_leaf_once(shakespeare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    population = load(DataOptions(data=str(shakespeare)))
    assert population.sequence_length == 80 and len(leaf.ALPHABET) == len(set(leaf.ALPHABET)) == 80
    assert population.vocabulary.tokens[4:] == tuple(leaf.ALPHABET)
    client = population.clients[0]
    letters = [population.vocabulary.tokens[token] for row, n in zip(client.train.tokens, client.train.lengths, strict=True)
               for token in row[1 : n + 1]]  # fmt: skip
    assert "".join(letters) == LINES[:140] and client.train.lengths.sum() == 140


def test_texts_that_do_not_go_on_are_texts_of_their_own() -> None:
    draw = random.Random(0)
    for _ in range(50):
        texts = ["".join(draw.choices("ab ", k=draw.randrange(4, 30))) for _ in range(4)]
        own = [windows(text, 0, len(text) - 3, 3) for text in texts]
        x, y = ([item for of_text in own for item in of_text[name]] for name in "xy")
        if draw.random() < 0.5:
            places = draw.sample(range(len(x)), k=draw.randrange(len(x)))
            x, y = [x[n] for n in places], [y[n] for n in places]
        again = [windows(text, 0, len(text) - 3, 3) for text in joined(x, y)]
        pairs = [pair for own_windows in again for pair in zip(own_windows["x"], own_windows["y"], strict=True)]
        assert sorted(pairs) == sorted(zip(x, y, strict=True))
    assert joined([], []) == []


def test_windows_that_were_shuffled_are_joined_again() -> None:
    text = "".join(random.Random(1).choices("abcdefgh ", k=200))
    own = windows(text[:200], 0, 120)
    order = list(range(120))
    random.Random(0).shuffle(order)
    assert joined([own["x"][n] for n in order], [own["y"][n] for n in order]) == [text[:200]]
    del order[order.index(70)]  # a window that was not drawn
    again = joined([own["x"][n] for n in order], [own["y"][n] for n in order])
    assert sorted(again) == sorted([text[:150], text[71:200]])


def test_one_file_alone_is_split_by_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    file = leaf_file(tmp_path / "all_data_niid.json.gz", {"ROLE": windows(LINES, 0, 120)})
    (part,) = stream_of(file).parts()
    assert plain(part) == Part("ROLE", [LINES[:80], LINES[80:160], LINES[160:200]], None, "", None, "")
    (client,) = load(DataOptions(data=str(file))).clients
    assert (client.train.lengths.sum(), client.test.lengths.sum()) == (160, 40)


def the_splits(folder: Path) -> set[tuple[str, bool | None, str]]:
    return {(part.client, part.held_out, part.side) for part in stream_of(folder).parts()}


def by_user(folder: Path, more: dict[str, Any], late: bool = False) -> Path:
    """Train with ANN and BEN in two files, and test with CAT and more; late: the list of users stands behind the texts."""
    for name, users in (("train_0", ["ANN"]), ("train_1", ["BEN"]), ("test_0", ["CAT"])):
        data = {user: windows(LINES, 0, 9) for user in users}
        file = leaf_file(folder / f"all_data_{name}.json", data | (more if name == "test_0" else {}))
        if late:
            content = json.loads(file.read_text())
            file.write_text(json.dumps({"user_data": content["user_data"], "users": content["users"]}))
    return folder


@pytest.mark.parametrize("late", [False, True])
def test_clients_of_a_split_by_user_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Whatever the hashes of their names say, here that ANN and BEN are to be held out."""
    monkeypatch.setenv("FLOW_CACHE", "")
    monkeypatch.setattr("flow.data.by_client.is_held_out", lambda client: client in ("ANN", "BEN"))
    folder = by_user(tmp_path, {}, late)
    assert the_splits(folder) == {("ANN", False, "train"), ("BEN", False, "train"), ("CAT", True, "")}
    assert "test, train as published, split by user; sha256" in stream_of(folder).about
    clients = load(DataOptions(data=str(folder))).clients
    assert [(client.id, client.held_out) for client in clients] == [("ANN", False), ("BEN", False), ("CAT", True)]


@pytest.mark.parametrize("late", [False, True])
def test_sides_that_share_a_user_say_nothing_of_clients(tmp_path: Path, late: bool) -> None:
    folder = by_user(tmp_path, {"BEN": windows(LINES, 100, 109)}, late)
    wanted = {("ANN", None, "train"), ("BEN", None, "train"), ("CAT", None, "test"), ("BEN", None, "test")}
    assert the_splits(folder) == wanted
    assert "split by user" not in stream_of(folder).about


def test_a_list_of_users_that_is_wrong_is_no_silent_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of both sides whom the list of test leaves out."""
    monkeypatch.setenv("FLOW_CACHE", "")
    folder = by_user(tmp_path, {"BEN": windows(LINES, 100, 109)})
    file = folder / "all_data_test_0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"users": ["CAT"]}))
    with pytest.raises(UserError, match=r"client 'BEN' is held out here and trains elsewhere, or the other way round"):
        load(DataOptions(data=str(folder)))


# --- Reddit and Sent140 -----------------------------------------------------------------------------------------------


def comment(words: list[str], length: int = 10) -> tuple[list[list[str]], list[list[str]]]:
    """A comment as data/reddit/source of LEAF cuts it."""
    tokens = ["<BOS>", *words, "<EOS>"]
    rows = [tokens[begin : begin + length] for begin in range(0, len(tokens), length)]
    rows = [[*row, *["<PAD>"] * (length - len(row))] for row in rows]
    flat = [*(token for row in rows for token in row), "<PAD>"][1:]
    targets = [flat[begin : begin + length] for begin in range(0, len(flat), length)]
    return rows, targets


Wanted = dict[tuple[str, str], list[tuple[str, float, str]]]


@pytest.fixture
def reddit(tmp_path: Path) -> tuple[Path, Wanted]:
    draw = random.Random(1)
    words = ["so", "much", "<url>", "<user>", "zo", "!", "a"]
    wanted: Wanted = {}
    folder = tmp_path / "reddit"
    for name, size in (("train", 6), ("val", 2), ("test", 2)):
        data = {}
        for user in ("1", "2"):
            x: list[Any] = []
            y: list[Any] = []
            for n in range(size if user == "1" or name == "train" else 0):
                text = draw.choices(words, k=draw.choice([1, 8, 9, 10, 25]))
                rows, targets = comment(text)
                label = draw.choice(["aww", "python"])
                x.append(rows)
                created = 1512000000 + 100 * ["train", "val", "test"].index(name) + n // 2
                counts = [[1] * 10 for _ in rows]
                y.append(
                    {"subreddit": label, "created_utc": created, "score": 1, "target_tokens": targets, "count_tokens": counts}
                )
                side = "test" if name == "test" else "train"
                wanted.setdefault((user, side), []).append((" ".join(text), created, label))
            data[user] = {"x": x, "y": y}
        leaf_file(folder / name / f"reddit_0_{name}.json", data)
    return folder, wanted


def test_reddit(reddit: tuple[Path, Wanted], capsys: pytest.CaptureFixture[str]) -> None:
    folder, wanted = reddit
    (folder / "reddit_vocab.pck").write_bytes(b"\x80\x03cos\nsystem\n")
    stream = stream_of(folder)
    examples: Wanted = {}
    for part in stream.parts():
        own = [(text, time, part.group) for text, time in zip(part.texts, part.times or (), strict=True)]
        examples.setdefault((part.client, part.side), []).extend(own)
    assert examples == wanted
    assert (stream.tokenizer, stream.sequence_length, stream.first_only, stream.vocabulary) == ("spaces", 10, False, None)
    assert "reddit_vocab.pck' is a Python pickle and is not loaded, for it can run any code" in capsys.readouterr().err


def test_windows_of_reddit_are_those_of_leaf(reddit: tuple[Path, Wanted], monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets of every comment, up to its end, are those of LEAF's own target_tokens."""
    monkeypatch.setenv("FLOW_CACHE", "")
    folder, _ = reddit
    population = load(DataOptions(data=str(folder)))
    raw = json.loads((folder / "test" / "reddit_0_test.json").read_text())["user_data"]["1"]
    (client,) = (own for own in population.clients if own.id == "1")
    tokens = population.vocabulary.tokens
    mine = [[tokens[n] for n in row[1 : size + 1]] for row, size in zip(client.test.tokens, client.test.lengths, strict=True)]
    theirs = [
        [token.replace("<EOS>", "<eos>") for token in row if token != "<PAD>"]
        for label in raw["y"]
        for row in label["target_tokens"]
    ]
    assert mine == [row for row in theirs if row]


def test_a_vocabulary_of_reddit_in_json(reddit: tuple[Path, Wanted]) -> None:
    folder, _ = reddit
    words = {"<PAD>": 0, "zo": 3, "<BOS>": 4, "so": 2}
    (folder / "vocab").mkdir()
    (folder / "vocab" / "reddit_vocab.json").write_text(json.dumps({"size": 4, "vocab": words}))
    assert stream_of(folder).vocabulary == ("so", "zo")
    (folder / "vocab" / "reddit_vocab.json").write_text('{"vocab": {"a": "b"}}')
    with pytest.raises(UserError, match=r"reddit_vocab\.json' must be .*; write it again, or put it elsewhere"):
        stream_of(folder)


def test_a_pickled_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reddit_vocab.pck").write_bytes(b"\x80\x03}q\x00.")
    with pytest.raises(UserError, match="a Python pickle; none is loaded, for it can run any code"):
        registry.source_of(str(tmp_path / "reddit_vocab.pck"))


def test_sent140(tmp_path: Path) -> None:
    def tweet(date: str, text: str) -> list[str]:
        return ["1467810369", date, "NO_QUERY", "ann", text, "training"]

    dates = ["Mon Apr 06 22:19:45 PDT 2009", "Sun Jun 07 00:00:01 PDT 2009"]
    data = {"ann": {"x": [tweet(dates[0], "@bob Hi"), tweet(dates[1], "no!"), tweet(dates[1], "why")], "y": [1, 0, 0]},
            "bob": {"x": [tweet("yesterday", "so")], "y": [1]}}  # fmt: skip
    file = leaf_file(tmp_path / "all_data.json", data)
    april, june = 1239056385.0, 1244332801.0
    assert [plain(part) for part in stream_of(file).parts()] == [
        Part("ann", ["@bob Hi"], [april], "1"),
        Part("ann", ["no!", "why"], [june, june], "0"),
        Part("bob", ["so"], None, "1"),
    ]
    assert stream_of(file).tokenizer == "words"


def test_comments_as_they_are(tmp_path: Path) -> None:
    file = leaf_file(tmp_path / "raw.json", {"1": {"x": ["One comment.", "Another."], "y": ["aww", "python"]}})
    assert [plain(part) for part in stream_of(file).parts()] == [Part("1", ["One comment.", "Another."], None, "")]


@pytest.mark.parametrize(
    ("empty", "other"),
    [
        ({"x": [], "y": []}, {"x": [[["<BOS>", "so", "<EOS>"]]], "y": [{"subreddit": "aww", "created_utc": 1512000000}]}),
        ({"x": [], "y": []}, {"x": ["abc", "bcd"], "y": ["d", "e"]}),
        ({"x": [], "y": []}, {"x": ["A comment."], "y": ["aww"]}),
    ],
)
def test_a_user_without_a_text_is_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: dict[str, Any], other: dict[str, Any]
) -> None:
    """LEAF's split leaves users with nothing on one side, or at all; the first of a file may be one."""
    monkeypatch.setenv("FLOW_CACHE", "")
    leaf_file(tmp_path / "a_train.json", {"none": empty, "1": other, "2": other})
    leaf_file(tmp_path / "a_val.json", {"1": empty, "none": empty})
    leaf_file(tmp_path / "a_test.json", {"none": empty, "1": other, "2": empty})
    assert the_splits(tmp_path) == {("1", None, "train"), ("2", None, "train"), ("1", None, "test")}
    clients = {client.id: client.texts for client in load(DataOptions(data=str(tmp_path))).clients}
    assert list(clients) == ["1", "2"] and clients["1"] == 2 * clients["2"]


def test_a_comment_without_a_word_is_an_empty_text(tmp_path: Path) -> None:
    label = {"subreddit": "aww", "created_utc": 1512000000}
    x = [[], [["<BOS>", "so", "<EOS>", "<PAD>"]], [["<BOS>", "<EOS>"]], [[]]]
    file = leaf_file(tmp_path / "reddit.json", {"1": {"x": x, "y": [label] * 4}})
    assert [list(part.texts) for part in stream_of(file).parts()] == [["", "so", "", ""]]


def test_comments_whose_labels_are_letters_are_no_windows(tmp_path: Path) -> None:
    data = {"1": {"x": ["One comment.", "Another."], "y": ["aww", "a"]}, "2": {"x": ["cat.jpg"], "y": ["b"]}}
    assert [list(part.texts) for part in stream_of(leaf_file(tmp_path / "raw.json", data)).parts()] == [
        ["One comment.", "Another."],
        ["cat.jpg"],
    ]


# --- faulty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_data", "message"),
    [
        ({}, r"there is no text of any client in user_data"),
        ({"ann": {"x": [], "y": []}}, r"there is no text of any client"),
        (
            {"f0001": {"x": [[1.0, 0.3] * 392] * 2, "y": [3, 61]}},
            r"client 'f0001', example 1: x is numbers, as in FEMNIST or LEAF's synthetic data, and flow trains on text; give",
        ),
        ({"ann": {"x": [0.5], "y": [3]}}, r"client 'ann', example 1: x is numbers, as in FEMNIST"),
        (
            {"1": {"x": [], "y": []}, "2": {"x": ["000001.jpg", "000002.JPG"], "y": [0, 1]}, "3": {"x": ["a.png"], "y": [1]}},
            r"client '2', example 1: x is the name of a picture's file, as in CelebA, and flow trains on text; give LEAF's",
        ),
        (
            {str(user): {"x": [f"{user:06}.jpg"] * 30, "y": [0] * 30} for user in range(9)},
            r"client '0', example 1: x is the name of a picture's file",
        ),
        ({"ann": {"x": ["abc", "bcde"], "y": ["d", "f"]}}, r"client 'ann', example 2: x='bcde' is of another kind or length"),
        ({"ann": {"x": ["abc"], "y": []}}, r"client 'ann': there must be two lists x and y of the same length"),
        ({"ann": [1]}, r"client 'ann': there must be two lists x and y"),
        (
            {"ann": {"x": ["abc"], "y": ["d"]}, "bob": {"x": ["abc", 3], "y": ["d", 4]}},
            r"client 'bob', example 2: x is numbers",
        ),
        (
            {"ann": {"x": ["abc"], "y": ["d"]}, "bob": {"x": ["a b"], "y": ["more"]}},
            r"client 'bob', example 1: x='a b' is of another kind or length than the first, or its y='more' is; copy",
        ),
        ({"ann": {"x": ["abc"], "y": ["d"]}, "": {"x": ["abc"], "y": ["d"]}}, r"client '': the name of a client must not be"),
        ({"ann": {"x": [[["a"]]], "y": [{"created_utc": "soon"}]}}, r"client 'ann', example 1: created_utc='soon' is no time"),
        ({"ann": {"x": [[["a", 3]]], "y": [{}]}}, r"client 'ann', example 1: x must be lists of words"),
        ({"ann": {"x": [[["a"]]], "y": [{"subreddit": 3}]}}, r"client 'ann', example 1: subreddit=3 must be text"),
    ],
)
def test_faulty_clients_are_named(tmp_path: Path, user_data: dict[str, Any], message: str) -> None:
    file = leaf_file(tmp_path / "leaf.json", user_data)
    with pytest.raises(UserError, match=message) as refused:
        list(stream_of(file).parts())
    assert "leaf.json" in str(refused.value) and "; " in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user_data": {"ann": OWN, "ann": OWN}}', r"client 'ann': this client stands there twice; copy or download"),
        ('{"user_data": {"ann": OWN}, "user_data": {"ann": OWN}}', r"client 'ann': this client stands there twice"),
        ('{"users": 3, "user_data": [OWN]}', r"there is no text of any client in user_data"),
        ('{"users": [["ann"], 3], "user_data": {"ann": OWN}}', r"users holds \['ann'\], and must be a list of names; copy"),
        ('{"users": "abc", "user_data": {"ann": OWN}}', r"leaf.json': users='abc' must be a list of names; copy"),
        (
            '{"users": ["ann", "bob"], "user_data": {"ann": OWN}}',
            r"leaf.json': users lists 'bob', whom user_data has not; copy",
        ),
        (
            '{"user_data": {"ann": OWN}, "users": ["bob", "ann"]}',
            r"leaf.json': users lists 'bob', whom user_data has not; copy",
        ),
        ('{"users": ["ann"], "hierarchies": ["a", "b"], "user_data": {"ann": OWN}}', ""),
        (
            '{"user_data": {"ann": {"x": [[["a"]]], "y": [{"created_utc": NaN}]}}}',
            r"created_utc=nan is no time \(it is not finite",
        ),
        ('{"user_data": {"ann": {"x": [[["a"]]], "y": [{"created_utc": 1e999}]}}}', r"created_utc=inf is no time"),
        ('{"user_data": {"ann": {"x": [[["a"]]], "y": [{"created_utc": true}]}}}', r"created_utc=True is no time"),
        ('{"user_data": {"ann": {"x": [[["a"]]], "y": [{"created_utc": BIG}]}}}', r"created_utc=1000+\.\.\.0+ is no time"),
    ],
)
def test_objects_that_nobody_would_write(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "leaf.json"
    file.write_text(text.replace("OWN", '{"x": ["abc"], "y": ["d"]}').replace("BIG", "1" + "0" * 400))
    if not message:
        assert [part.client for part in stream_of(file).parts()] == ["ann"]
        return
    with pytest.raises(UserError, match=message):
        list(stream_of(file).parts())


def test_files_of_a_folder_must_say_their_part(shakespeare: Path, tmp_path: Path) -> None:
    for path in shakespeare.rglob("*_0_niid*.json"):
        path.rename(tmp_path / path.name)
    leaf_file(tmp_path / "more.json", {"ann": {"x": ["abc"], "y": ["d"]}})
    (tmp_path / "notes.json").write_text('{"other": 1}')
    for path in list(shakespeare.rglob("*.json")):
        path.unlink()
    with pytest.raises(UserError, match=r"more\.json' names no part of the data set, and others do"):
        stream_of(tmp_path)
    (tmp_path / "more.json").unlink()
    assert len(list(stream_of(tmp_path).parts())) == 4


def test_cut_files_give_a_sentence(tmp_path: Path, shakespeare: Path) -> None:
    whole = next(shakespeare.rglob("*_0_niid*train*.json")).read_bytes()
    file, draw = tmp_path / "cut.json", random.Random(0)
    for _ in range(40):
        file.write_bytes(whole[: draw.randrange(20, len(whole))])
        with pytest.raises(UserError, match=r"cut\.json'.*; (copy or download|give a file)"):
            list(stream_of(file).parts())


# --- the genuine pair -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (GENUINE / "leaf_format_sample_train.json.gz").is_file(),
    reason="FLOW_LEAF_SAMPLE names no folder with leaf_format_sample_{train,test}.json.gz",
)
def test_the_genuine_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    raw = {}
    for side in ("train", "test"):
        name = f"leaf_format_sample_{side}.json.gz"
        (tmp_path / name).symlink_to(GENUINE / name)
        raw[side] = json.loads(gzip.decompress((GENUINE / name).read_bytes()))["user_data"]
    by_side = {(part.client, part.side): "".join(part.texts).split("\n") for part in stream_of(tmp_path).parts()}
    assert len(by_side) == 20
    for (name, side), texts in by_side.items():
        own = raw[side][name]
        if name == "MUCH_ADO_ABOUT_NOTHING_IAGO":  # whose windows LEAF drew at random
            again = [windows(text, 0, len(text) - 80) for text in texts]
            pairs = [pair for own_windows in again for pair in zip(own_windows["x"], own_windows["y"], strict=True)]
            assert sorted(pairs) == sorted(zip(own["x"], own["y"], strict=True)) and len(texts) < len(own["x"])
        else:
            (text,) = texts
            assert windows(text, 0, len(text) - 80) == {"x": own["x"], "y": own["y"]}
    population = load(DataOptions(data=str(tmp_path)))
    assert [client.id for client in population.clients] == sorted(raw["train"])
    for client in population.clients:
        if client.id != "MUCH_ADO_ABOUT_NOTHING_IAGO":
            assert client.test.lengths.sum() == len(raw["test"][client.id]["x"]) + 80
