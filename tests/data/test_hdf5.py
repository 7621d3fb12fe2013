"""HDF5 files of TensorFlow Federated and of pfl-research, made with h5py."""

import random
import sys

import h5py
import numpy as np
import pytest
from foreign import pfl_h5, sentence, tff_h5, tff_sqlite

from flow.data import DataOptions, load, registry
from flow.data.readers import pfl
from flow.data.streams import Part
from flow.errors import UserError


def stream_of(path, **options):
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "hdf5"
    source.check(given)
    return source.opened(given)


def plain(part: Part):
    return part._replace(place="", position=0, texts=list(part.texts), times=part.times and list(part.times))


# --- TensorFlow Federated ---------------------------------------------------------------------------------------------


@pytest.fixture
def clients():
    draw = random.Random(1)
    return {
        split: {
            client: {
                "creation_date": [f"2016-02-29 23:0{draw.randrange(9)}:00.5 UTC" for _ in range(count)],
                "score": list(range(count)),
                "tags": ["sql|median"] * count,
                "title": ["how ?"] * count,
                "tokens": [f"{split} {client} zoë <URL> {n} ." for n in range(count)],
                "type": ["answer"] * count,
            }
            for client, count in sizes.items()
        }
        for split, sizes in {"train": {"10": 5, "2": 2000}, "held_out": {"30": 4}, "test": {"10": 2, "9": 1}}.items()
    }


@pytest.fixture
def folder(tmp_path, clients):
    (tmp_path / "so").mkdir()
    for split, own in clients.items():
        tff_h5(tmp_path / "so" / f"stackoverflow_{split}.h5", own)
    return tmp_path / "so"


@pytest.mark.parametrize("protocol", [None, "tff", "motley"])
def test_the_files_give_what_the_database_gives(tmp_path, folder, clients, protocol, monkeypatch):
    """The same examples as SQLite and as HDF5: the populations agree, by whatever protocol."""
    monkeypatch.setenv("FLOW_CACHE", "")
    rows = []
    for split, own in clients.items():
        for client, fields in own.items():
            for text, date in zip(fields["tokens"], fields["creation_date"], strict=True):
                rows.append((split.replace("_", ""), client, sentence(text, date)))
    database = tff_sqlite(tmp_path / "so.sqlite", rows)
    (tmp_path / "stackoverflow.word_count").write_text(". 4\nzoë 3\n<URL> 2\ntrain 1\n")
    (folder / "stackoverflow.word_count").write_text(". 4\nzoë 3\n<URL> 2\ntrain 1\n")
    one, other = (load(DataOptions(data=str(path), protocol=protocol)) for path in (folder, database))
    assert one.vocabulary == other.vocabulary and one.vocabulary.tokens[4:] == (".", "zoë", "<URL>", "train")
    assert len(one.clients) == len(other.clients) == (3 if protocol == "motley" else 4)
    for mine, theirs in zip(one.clients, other.clients, strict=True):
        assert (mine.id, mine.held_out, mine.texts) == (theirs.id, theirs.held_out, theirs.texts)
        for side in ("train", "test"):
            assert np.array_equal(getattr(mine, side).tokens, getattr(theirs, side).tokens)


def test_one_file_alone_is_split_anew(folder):
    stream = stream_of(folder / "stackoverflow_train.h5")
    assert {(part.held_out, part.side) for part in stream.parts()} == {(None, "")}
    assert "one split alone" in stream.about and stream.total == 2


def test_shakespeare(tmp_path):
    for split in ("train", "test"):
        tff_h5(tmp_path / f"shakespeare_{split}.h5", {"PLAY_ROLE": {"snippets": [f"To be,\n{split}", "Or not."]}})
    stream = stream_of(tmp_path)
    assert [plain(part) for part in stream.parts()] == [
        Part("PLAY_ROLE", [f"To be,\n{split}", "Or not."], None, "", False, split) for split in ("test", "train")
    ]
    assert (stream.tokenizer, stream.sequence_length, len(stream.vocabulary)) == ("characters", 80, 86)


def test_folders_that_do_not_fit_together(tmp_path, folder, clients):
    (folder / "more.h5").write_bytes((folder / "stackoverflow_test.h5").read_bytes())
    with pytest.raises(UserError, match=r"more\.h5' names no split: every file of the folder must end in _train"):
        stream_of(folder)
    (folder / "more.h5").rename(folder / "other_test.h5")
    with pytest.raises(UserError, match=r"stackoverflow_test\.h5' is of the split 'test', as other_test\.h5 is"):
        stream_of(folder)
    (folder / "other_test.h5").unlink()
    (folder / "stackoverflow_test.h5").unlink()
    tff_h5(folder / "shakespeare_test.h5", {"A": {"snippets": ["x"]}})
    with pytest.raises(UserError, match=r"held_out\.h5' holds StackOverflow.* and shakespeare_test\.h5 Shakespeare"):
        stream_of(folder)
    (folder / "shakespeare_test.h5").write_text("no")
    with pytest.raises(UserError, match=r"shakespeare_test\.h5' is no HDF5 file, as its name says"):
        stream_of(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": ["x"]}, "the fields are title, and there must be 'tokens'"),
        ({"tokens": ["x"]}, "there must be a data set 'creation_date'"),
        ({"tokens": ["x", "y"], "creation_date": ["2010-01-08 09:34:05 UTC"]}, "2 tokens and 1 creation_date"),
        ({"tokens": ["x"], "creation_date": ["soon"]}, "creation_date: 'soon' is no date"),
    ],
)
def test_faulty_clients_are_named(tmp_path, fields, message):
    file = tff_h5(tmp_path / "x.h5", {"ann": fields})
    with pytest.raises(UserError, match=rf"x\.h5', client 'ann'.*{message}.*; "):
        list(stream_of(file).parts())


def test_faulty_values_are_named(tmp_path):
    file = tmp_path / "x.h5"
    for values, message in (
        (np.arange(3), r"example 1 of 'tokens' must be text, got 0"),
        (np.array(b"a"), r"data set 'tokens' of one dimension"),
        (np.array([b"a", b"\xff"]), r"'tokens' is not UTF-8"),
    ):
        with h5py.File(file, "w") as made:
            made["examples/ann/tokens"] = values
        with pytest.raises(UserError, match=rf"client 'ann': .*{message}"):
            list(stream_of(file).parts())
    with h5py.File(file, "w") as made:
        made["pictures"] = np.arange(3)
    with pytest.raises(UserError, match=r"the groups of the file are pictures, and there must be 'examples'"):
        stream_of(file)
    with h5py.File(file, "w") as made:
        made.create_group("examples")
    with pytest.raises(UserError, match=r"group examples: there is no client"):
        stream_of(file)


def test_without_h5py_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"is an HDF5 file, which needs the package h5py .*; run: pip install 'flow-fl\[data\]'"
    ):
        stream_of(folder)


# --- pfl-research -----------------------------------------------------------------------------------------------------

WORDS = ["the", ".", "c/c++", "/", "zoë", "a/b"]


def tokens(text):
    return ["BOS", *text.split(), "EOS"]


@pytest.fixture
def texts():
    return {
        "train": {"10": ["the . c/c++", "", "the the the the", "unseen the ."], "2": ["/"]},
        "val": {"30": ["zoë .", "the zoë the zoë the zoë"]},
        "test": {"10": ["the"]},
    }


def test_pfl_stackoverflow(tmp_path, texts, monkeypatch):
    """The numbers of the file become the texts again, and the windows of the population are the file's rows."""
    monkeypatch.setenv("FLOW_CACHE", "")
    steps = 4
    rows = {part: {user: [tokens(text) for text in own] for user, own in users.items()} for part, users in texts.items()}
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, rows, steps)
    found = {(part.client, part.held_out, part.side): list(part.texts) for part in stream_of(file).parts()}
    shown = {
        (user, part == "val", "" if part == "val" else part): [
            " ".join(word if word in WORDS else "<oov>" for word in text.split()[:steps]) for text in own
        ]
        for part, users in texts.items()
        for user, own in users.items()
    }
    assert found == shown
    population = load(DataOptions(data=str(file)))
    assert population.sequence_length == steps and population.vocabulary.tokens[4:] == tuple(WORDS)
    (client,) = (one for one in population.clients if one.id == "10")
    with h5py.File(file) as made:
        names = ["<pad>", *WORDS, "<oov>", "<bos>", "<eos>"]
        inputs, targets = made["train/10/inputs"][()], made["train/10/targets"][()]
    whole = np.concatenate([inputs, targets[:, -1:]], axis=1)
    assert [[population.vocabulary.tokens[n] for n in row] for row in client.train.tokens] == [
        [names[n] for n in row] for row in whole
    ]
    assert client.train.lengths.tolist() == (targets != 0).sum(axis=1).tolist()


def test_pfl_reddit_rows_go_on_where_the_last_one_ended():
    """Any number of texts cut into rows of three, as LEAF cuts them, is joined again."""
    draw = random.Random(5)
    names = ["PAD", "a", "b", "c", "UNK", "BOS", "EOS"]
    words = pfl.Words(["", "a", "b", "c", "<oov>", "", ""], 0, 5, 6)
    for _ in range(100):
        wanted = [[draw.choice(["a", "b", "c", "UNK"]) for _ in range(draw.randrange(9))] for _ in range(draw.randrange(5))]
        inputs, targets = [], []
        for text in wanted:
            ids = [names.index(token) for token in ["BOS", *text, "EOS"]]
            for begin in range(0, len(ids) - 1, 3):
                inputs.append((ids[begin : begin + 3] + [0] * 3)[:3])
                targets.append((ids[begin + 1 : begin + 4] + [0] * 3)[:3])
        found = pfl.joined(np.array(inputs, np.int32).reshape(-1, 3), np.array(targets, np.int32).reshape(-1, 3), words)
        assert found == [" ".join(text).replace("UNK", "<oov>") for text in wanted]


def test_pfl_reddit_has_length_10(tmp_path):
    file = pfl_h5(tmp_path / "reddit.hdf5", WORDS, {"train": {"1": [tokens("the .")]}}, 10, with_length=False)
    stream = stream_of(file)
    assert (stream.sequence_length, stream.first_only) == (10, False)
    assert [list(part.texts) for part in stream.parts()] == [["the ."]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("metadata/pad_symbol"), "/metadata: pad_symbol is missing"),
        (lambda file: file.pop("metadata/vocabulary"), "/metadata: vocabulary is missing"),
        (lambda file: file.move('metadata/vocabulary/"the"', "metadata/vocabulary/the"), "name of a word must be in double"),
        (lambda file: file.move('metadata/vocabulary/"the"', 'metadata/vocabulary/"t h"'), "a word must have no space"),
        (lambda file: file['metadata/vocabulary/"the"'].write_direct(np.array(2, "i4")), "numbers from 0 to 9, each once"),
        (lambda file: file["metadata/unk_symbol"].write_direct(np.array(99)), "unk_symbol=99 must be numbers of words"),
        (lambda file: file["train/10/inputs"].write_direct(np.full((4, 4), 77, "i4")), "inputs must be numbers of words"),
        (lambda file: file["train/10/inputs"].write_direct(np.full((4, 4), 2, "i4")), "targets must be the inputs moved"),
        (lambda file: file.pop("train/10/targets"), r"targets must be whole numbers \[sentences"),
        (lambda file: [file.pop(name) for name in ("train", "val", "test")], "there is no group train"),
    ],
)
def test_faulty_files_of_pfl(tmp_path, texts, change, message):
    rows = {part: {user: [tokens(text) for text in own] for user, own in users.items()} for part, users in texts.items()}
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, rows, 4)
    with h5py.File(file, "r+") as made:
        change(made)
    with pytest.raises(UserError, match=rf"stackoverflow\.hdf5'.*{message}.*; make the file again"):
        list(stream_of(file).parts())


def test_pfl_takes_no_protocol(tmp_path):
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, {"train": {"1": [tokens("the .")]}}, 4)
    with pytest.raises(UserError, match=r"protocol='tff' takes text, and .* was prepared before; leave it out"):
        stream_of(file, protocol="tff")


def test_damaged_files_give_a_sentence(tmp_path, folder, texts):
    rows = {part: {user: [tokens(text) for text in own] for user, own in users.items()} for part, users in texts.items()}
    whole = [
        (folder / "stackoverflow_held_out.h5").read_bytes(),
        pfl_h5(tmp_path / "x.hdf5", WORDS, rows, 4).read_bytes(),
    ]
    draw, damaged, refused = random.Random(6), tmp_path / "damaged.h5", 0
    for content in whole * 40:
        cut = bytearray(content[: draw.choice([len(content), draw.randrange(100, len(content))])])
        for _ in range(draw.choice([1, 20, 300])):
            cut[draw.randrange(8, len(cut))] = draw.randrange(256)
        damaged.write_bytes(cut)
        said = "damaged.h5"
        try:
            list(stream_of(damaged).parts())
        except UserError as error:
            refused, said = refused + 1, str(error)
        assert "damaged.h5" in said
    assert refused > 40
