"""LEAF's JSON files, made as LEAF's own scripts make them; and the genuine pair, where it is at hand."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from flow.data import DataOptions, load, registry
from flow.data.readers import leaf
from flow.data.streams import Part
from flow.errors import UserError

GENUINE = Path(os.environ.get("FLOW_LEAF_SAMPLE", Path(__file__).resolve().parents[3] / "shared" / "data"))
LINES = "To be, or not to be: that is the question. Whether 'tis nobler in the mind to suffer " * 3


def leaf_file(path: Path, user_data: dict, hierarchies=None) -> Path:
    """A file as LEAF's data/utils write it, num_samples from before anything was left out."""
    found = {"users": list(user_data)}
    if hierarchies:
        found["hierarchies"] = hierarchies
    found |= {"num_samples": [len(own) + 79 for own in user_data.values()], "user_data": user_data}
    text = json.dumps(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def windows(text: str, begin: int, end: int, length: int = 80) -> dict:
    places = range(begin, end)
    return {"x": [text[n : n + length] for n in places], "y": [text[n + length] for n in places]}


def stream_of(path, **options):
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "leaf"
    return source.opened(given)


def plain(part: Part):
    return part._replace(place="", position=0)


@pytest.fixture
def shakespeare(tmp_path):
    """By sample: the first windows to train on, the next 79 left out, the rest to test on; several files a part."""
    folder = tmp_path / "data"
    texts = {f"PLAY_ROLE{n}": LINES[n:] for n in range(3)}
    for name, begin, end in (("train", 0, 60), ("test", 139, 160)):
        for number, own in enumerate((["PLAY_ROLE0", "PLAY_ROLE1"], ["PLAY_ROLE2"])):
            data = {user: windows(texts[user], begin, end) for user in own}
            leaf_file(folder / name / f"all_data_{number}_niid_0_keep_0_{name}_9.json", data, [f"The {user}" for user in own])
    return folder


def test_windows_are_joined_again(shakespeare):
    found = sorted(plain(part) for part in stream_of(shakespeare).parts())
    wanted = []
    for n in range(3):
        text, user = LINES[n:], f"PLAY_ROLE{n}"
        wanted.append(Part(user, [text[139:240]], None, f"The {user}", None, "test"))
        wanted.append(Part(user, [text[:140]], None, f"The {user}", None, "train"))
    assert found == sorted(wanted)


def test_the_population_has_every_target_of_leaf_once(shakespeare, monkeypatch):
    monkeypatch.setenv("FLOW_CACHE", "")
    population = load(DataOptions(data=str(shakespeare)))
    assert population.sequence_length == 80 and len(leaf.ALPHABET) == len(set(leaf.ALPHABET)) == 80
    assert population.vocabulary.tokens[4:] == tuple(leaf.ALPHABET)
    client = population.clients[0]
    letters = [population.vocabulary.tokens[token] for row, n in zip(client.train.tokens, client.train.lengths, strict=True)
               for token in row[1 : n + 1]]  # fmt: skip
    assert "".join(letters) == LINES[:140] and client.train.lengths.sum() == 140


def test_texts_that_do_not_go_on_are_texts_of_their_own():
    draw = random.Random(0)
    for _ in range(50):
        texts = ["".join(draw.choices("ab ", k=draw.randrange(4, 30))) for _ in range(4)]
        own = [windows(text, 0, len(text) - 3, 3) for text in texts]
        x, y = ([item for one in own for item in one[name]] for name in "xy")
        if draw.random() < 0.5:
            places = draw.sample(range(len(x)), k=draw.randrange(len(x)))
            x, y = [x[n] for n in places], [y[n] for n in places]
        made = [windows(text, 0, len(text) - 3, 3) for text in leaf.joined(x, y)]
        pairs = [pair for one in made for pair in zip(one["x"], one["y"], strict=True)]
        assert sorted(pairs) == sorted(zip(x, y, strict=True))
    assert leaf.joined([], []) == []


def test_windows_that_were_shuffled_are_joined_again():
    text = "".join(random.Random(1).choices("abcdefgh ", k=200))
    own = windows(text[:200], 0, 120)
    order = list(range(120))
    random.Random(0).shuffle(order)
    assert leaf.joined([own["x"][n] for n in order], [own["y"][n] for n in order]) == [text[:200]]
    del order[order.index(70)]  # a window that was not drawn
    found = leaf.joined([own["x"][n] for n in order], [own["y"][n] for n in order])
    assert sorted(found) == sorted([text[:150], text[71:200]])


def test_one_file_alone_is_cut_in_two(tmp_path):
    file = leaf_file(tmp_path / "all_data_niid.json.gz", {"ROLE": windows(LINES, 0, 120)})
    train, test = stream_of(file).parts()
    assert plain(train) == Part("ROLE", [LINES[:160]], None, "", None, "train")
    assert plain(test) == Part("ROLE", [LINES[160:200]], None, "", None, "test")


def test_clients_of_a_split_by_user_are_held_out(tmp_path):
    leaf_file(tmp_path / "a_train_9.json", {"ROLE": windows(LINES, 0, 9)})
    leaf_file(tmp_path / "a_test_9.json", {"OTHER": windows(LINES, 0, 9)})
    found = {(part.client, part.held_out, part.side) for part in stream_of(tmp_path).parts()}
    assert found == {("ROLE", None, "train"), ("OTHER", True, "train"), ("OTHER", True, "test")}


# --- Reddit and Sent140 -----------------------------------------------------------------------------------------------


def comment(words: list[str], length: int = 10):
    """A comment as data/reddit/source of LEAF cuts it."""
    tokens = ["<BOS>", *words, "<EOS>"]
    rows = [tokens[begin : begin + length] for begin in range(0, len(tokens), length)]
    rows = [[*row, *["<PAD>"] * (length - len(row))] for row in rows]
    flat = [*(token for row in rows for token in row), "<PAD>"][1:]
    targets = [flat[begin : begin + length] for begin in range(0, len(flat), length)]
    return rows, targets


@pytest.fixture
def reddit(tmp_path):
    draw = random.Random(1)
    words = ["so", "much", "<url>", "<user>", "zo", "!", "a"]
    wanted, folder = {}, tmp_path / "reddit"
    for name, size in (("train", 6), ("val", 2), ("test", 2)):
        data = {}
        for user in ("1", "2"):
            x, y = [], []
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


def test_reddit(reddit, capsys):
    folder, wanted = reddit
    (folder / "reddit_vocab.pck").write_bytes(b"\x80\x03cos\nsystem\n")
    stream = stream_of(folder)
    found = {}
    for part in stream.parts():
        own = [(text, time, part.group) for text, time in zip(part.texts, part.times, strict=True)]
        found.setdefault((part.client, part.side), []).extend(own)
    assert found == wanted
    assert (stream.tokenizer, stream.sequence_length, stream.first_only, stream.vocabulary) == ("spaces", 10, False, None)
    assert "reddit_vocab.pck' is a Python pickle and is not loaded, for it can run any code" in capsys.readouterr().err


def test_windows_of_reddit_are_those_of_leaf(reddit, monkeypatch):
    """The targets of every comment, up to its end, are those of LEAF's own target_tokens."""
    monkeypatch.setenv("FLOW_CACHE", "")
    folder, _ = reddit
    population = load(DataOptions(data=str(folder)))
    raw = json.loads((folder / "test" / "reddit_0_test.json").read_text())["user_data"]["1"]
    (client,) = (one for one in population.clients if one.id == "1")
    tokens = population.vocabulary.tokens
    mine = [[tokens[n] for n in row[1 : size + 1]] for row, size in zip(client.test.tokens, client.test.lengths, strict=True)]
    theirs = [
        [token.replace("<EOS>", "<eos>") for token in row if token != "<PAD>"]
        for one in raw["y"]
        for row in one["target_tokens"]
    ]
    assert mine == [row for row in theirs if row]


def test_a_vocabulary_of_reddit_in_json(reddit):
    folder, _ = reddit
    words = {"<PAD>": 0, "zo": 3, "<BOS>": 4, "so": 2}
    (folder / "vocab").mkdir()
    (folder / "vocab" / "reddit_vocab.json").write_text(json.dumps({"size": 4, "vocab": words}))
    assert stream_of(folder).vocabulary == ("so", "zo")
    (folder / "vocab" / "reddit_vocab.json").write_text('{"vocab": {"a": "b"}}')
    with pytest.raises(UserError, match=r"reddit_vocab\.json' must be .*; write it again, or put it elsewhere"):
        stream_of(folder)


def test_a_pickled_vocabulary_is_refused(tmp_path):
    (tmp_path / "reddit_vocab.pck").write_bytes(b"\x80\x03}q\x00.")
    with pytest.raises(UserError, match="a Python pickle; none is loaded, for it can run any code"):
        registry.source_of(str(tmp_path / "reddit_vocab.pck"))


def test_sent140(tmp_path):
    def tweet(date, text):
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


def test_comments_as_they_are(tmp_path):
    file = leaf_file(tmp_path / "raw.json", {"1": {"x": ["One comment.", "Another."], "y": ["aww", "python"]}})
    assert [plain(part) for part in stream_of(file).parts()] == [Part("1", ["One comment.", "Another."], None, "")]


# --- faulty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_data", "message"),
    [
        ({}, r"there is no text of any client in user_data"),
        ({"ann": {"x": [], "y": []}}, r"there is no text of any client"),
        ({"ann": {"x": [[0.0, 1.0]], "y": [3]}}, r"client 'ann', example 1: x is numbers, as of pictures"),
        ({"ann": {"x": ["abc"], "y": []}}, r"client 'ann': there must be two lists x and y of the same length"),
        ({"ann": [1]}, r"client 'ann': there must be two lists x and y"),
        (
            {"ann": {"x": ["abc"], "y": ["d"]}, "bob": {"x": ["abc", 3], "y": ["d", 4]}},
            r"client 'bob', example 2: x is numbers",
        ),
        (
            {"ann": {"x": ["abc"], "y": ["d"]}, "bob": {"x": ["a b"], "y": ["more"]}},
            r"client 'bob', example 1: x='a b' is of an",
        ),
        ({"ann": {"x": ["abc"], "y": ["d"]}, "": {"x": ["abc"], "y": ["d"]}}, r"client '': the name of a client must not be"),
        ({"ann": {"x": [[["a"]]], "y": [{"created_utc": "soon"}]}}, r"client 'ann', example 1: created_utc='soon' is no time"),
        ({"ann": {"x": [[["a", 3]]], "y": [{}]}}, r"client 'ann', example 1: x must be lists of words"),
        ({"ann": {"x": [[["a"]]], "y": [{"subreddit": 3}]}}, r"client 'ann', example 1: subreddit=3 must be text"),
    ],
)
def test_faulty_clients_are_named(tmp_path, user_data, message):
    file = leaf_file(tmp_path / "leaf.json", user_data)
    with pytest.raises(UserError, match=message) as refused:
        list(stream_of(file).parts())
    assert "leaf.json" in str(refused.value) and "; " in str(refused.value)


def test_files_of_a_folder_must_say_their_part(shakespeare, tmp_path):
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


def test_cut_files_give_a_sentence(tmp_path, shakespeare):
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
def test_the_genuine_pair(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_CACHE", "")
    raw = {}
    for side in ("train", "test"):
        name = f"leaf_format_sample_{side}.json.gz"
        (tmp_path / name).symlink_to(GENUINE / name)
        raw[side] = json.loads(gzip.decompress((GENUINE / name).read_bytes()))["user_data"]
    found = {(part.client, part.side): part.texts for part in stream_of(tmp_path).parts()}
    assert len(found) == 20
    for (client, side), texts in found.items():
        own = raw[side][client]
        if client == "MUCH_ADO_ABOUT_NOTHING_IAGO":  # whose windows LEAF drew at random
            made = [windows(text, 0, len(text) - 80) for text in texts]
            pairs = [pair for one in made for pair in zip(one["x"], one["y"], strict=True)]
            assert sorted(pairs) == sorted(zip(own["x"], own["y"], strict=True)) and len(texts) < len(own["x"])
        else:
            (text,) = texts
            assert windows(text, 0, len(text) - 80) == {"x": own["x"], "y": own["y"]}
    population = load(DataOptions(data=str(tmp_path)))
    assert [client.id for client in population.clients] == sorted(raw["train"])
    for client in population.clients:
        if client.texts == 2:
            assert client.test.lengths.sum() == len(raw["test"][client.id]["x"]) + 80
