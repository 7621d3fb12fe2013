"""HDF5 files of TensorFlow Federated and of pfl-research, made with h5py."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from foreign import Row, pfl_h5, sentence, tff_h5, tff_sqlite

from flow.data import DataOptions, load, registry
from flow.data.readers import hdf5, pfl
from flow.data.streams import Part, Stream
from flow.errors import UserError

Clients = dict[str, dict[str, dict[str, Any]]]


def stream_of(path: Path, **options: Any) -> Stream:
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "hdf5"
    source.check(given)
    return source.opened(given)


def plain(part: Part) -> Part:
    return part._replace(place="", position=0, texts=list(part.texts), times=None if part.times is None else list(part.times))


# --- TensorFlow Federated ---------------------------------------------------------------------------------------------


@pytest.fixture
def clients() -> Clients:
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
def folder(tmp_path: Path, clients: Clients) -> Path:
    (tmp_path / "so").mkdir()
    for split, own in clients.items():
        tff_h5(tmp_path / "so" / f"stackoverflow_{split}.h5", own)
    return tmp_path / "so"


@pytest.mark.parametrize("protocol", [None, "tff", "motley"])
def test_the_files_give_what_the_database_gives(
    tmp_path: Path, folder: Path, clients: Clients, protocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same examples as SQLite and as HDF5: the populations agree, by whatever protocol."""
    monkeypatch.setenv("FLOW_CACHE", "")
    rows: list[Row] = []
    for split, own in clients.items():
        for client, fields in own.items():
            for text, date in zip(fields["tokens"], fields["creation_date"], strict=True):
                rows.append((split.replace("_", ""), client, sentence(text, date)))
    database = tff_sqlite(tmp_path / "so.sqlite", rows)
    (tmp_path / "stackoverflow.word_count").write_text(". 4\nzoë 3\n<URL> 2\ntrain 1\n")
    (folder / "stackoverflow.word_count").write_text(". 4\nzoë 3\n<URL> 2\ntrain 1\n")
    from_folder, from_database = (load(DataOptions(data=str(path), protocol=protocol)) for path in (folder, database))
    assert from_folder.vocabulary == from_database.vocabulary and from_folder.vocabulary.tokens[4:] == (
        ".",
        "zoë",
        "<URL>",
        "train",
    )
    assert len(from_folder.clients) == len(from_database.clients) == (3 if protocol == "motley" else 4)
    for mine, theirs in zip(from_folder.clients, from_database.clients, strict=True):
        assert (mine.id, mine.held_out, mine.texts) == (theirs.id, theirs.held_out, theirs.texts)
        for side in ("train", "test"):
            assert np.array_equal(getattr(mine, side).tokens, getattr(theirs, side).tokens)


def test_one_file_alone_is_split_anew(folder: Path) -> None:
    stream = stream_of(folder / "stackoverflow_train.h5")
    assert {(part.held_out, part.side) for part in stream.parts()} == {(None, "")}
    assert "one split alone" in stream.about and stream.total == 2


def test_shakespeare(tmp_path: Path) -> None:
    for split in ("train", "test"):
        tff_h5(tmp_path / f"shakespeare_{split}.h5", {"PLAY_ROLE": {"snippets": [f"To be,\n{split}", "Or not."]}})
    stream = stream_of(tmp_path)
    assert [plain(part) for part in stream.parts()] == [
        Part("PLAY_ROLE", [f"To be,\n{split}", "Or not."], None, "", held_out, split)
        for split, held_out in (("test", None), ("train", False))
    ]
    assert (stream.tokenizer, stream.sequence_length, len(stream.vocabulary or ())) == ("characters", 80, 86)


def test_a_client_of_test_alone_is_held_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    held_out = {client.id: client.held_out for client in load(DataOptions(data=str(folder))).clients}
    assert held_out == {"10": False, "2": False, "30": True, "9": True}


def test_folders_that_do_not_fit_together(tmp_path: Path, folder: Path) -> None:
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
        (
            {"tokens": ["x"], "creation_date": ["2010-01-08 99:34:05 UTC"]},
            "creation_date: '2010-01-08 99:34:05 UTC' is no date",
        ),
    ],
)
def test_faulty_clients_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    file = tff_h5(tmp_path / "x.h5", {"ann": fields})
    with pytest.raises(UserError, match=rf"x\.h5', client 'ann'.*{message}.*; "):
        list(stream_of(file).parts())


def test_faulty_values_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    for values, message in (
        (np.arange(3), r"example 1 of 'tokens' must be text, got 0"),
        (np.array(b"a"), r"data set 'tokens' of one dimension"),
        (np.array([b"a", b"\xff"]), r"'tokens' must be UTF-8 \(invalid start byte at byte 1\)"),
    ):
        with h5py.File(file, "w") as made:
            made["examples/ann/tokens"] = values
        with pytest.raises(UserError, match=rf"client 'ann'(, example 2)?: .*{message}"):
            list(stream_of(file).parts())
    with h5py.File(file, "w") as made:
        made["pictures"] = np.arange(3)
    with pytest.raises(UserError, match=r"the groups of the file are pictures, and there must be 'examples'"):
        stream_of(file)
    with h5py.File(file, "w") as made:
        made.create_group("examples")
    with pytest.raises(UserError, match=r"group examples: there is no client"):
        stream_of(file)


def huge(group: h5py.Group, name: str, shape: tuple[int, ...], kind: str | np.dtype[Any]) -> h5py.Dataset:
    """A data set of any size in a few bytes: no part of it is written."""
    return group.create_dataset(name, shape=shape, dtype=kind, chunks=tuple(min(size, 1024) for size in shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.create_dataset("examples", data=3), r"examples: there must be a group, and there is a Dataset"),
        (lambda file: file.create_dataset("examples/ann", data=3), r"client 'ann': there must be a group, and there is a Dat"),
        (lambda file: file.create_group("examples/ann/snippets"), r"there must be a data set 'snippets' of one dimension"),
        (
            lambda file: file.create_dataset("examples/ann/snippets", data=h5py.Empty(h5py.string_dtype())),
            r"a data set 'snippets' of one dimension",
        ),
        (
            lambda file: huge(file, "examples/ann/snippets", (1 << 50,), h5py.string_dtype()),
            r"'snippets' has 1125899906842624 examples, and a client may have 4194304",
        ),
        (
            lambda file: file.update({"examples/ann/snippets": h5py.SoftLink("/none")}),
            r"client 'ann'.*(damaged|must be a data)",
        ),
        (lambda file: file.update({"examples/ann": h5py.SoftLink("/none")}), r"damaged or incomplete"),
        (lambda file: file.update({"examples/ann": h5py.ExternalLink("none.h5", "/")}), r"damaged or incomplete"),
    ],
)
def test_members_of_another_kind_are_named(tmp_path: Path, change: Callable[[h5py.File], object], message: str) -> None:
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as made:
        change(made)
    with pytest.raises(UserError, match=rf"x\.h5'.*{message}.*; (download|copy)"):
        list(stream_of(file).parts())


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """h5py gives such a name as bytes, which is no id."""
    file = tmp_path / "x.h5"
    for name, message in (
        (b"examples/\xff/snippets", r"client b'\\xff': the name of a client must be UTF-8"),
        (b"examples/ann/\xff", r"client 'ann': the fields are b'\\xff', and there must be"),
        (b"\xff", r"the groups of the file are b'\\xff', and there must be"),
    ):
        with h5py.File(file, "w") as made:
            made[name] = np.array([b"To be"])
        with pytest.raises(UserError, match=rf"x\.h5'.*{message}.*; "):
            list(stream_of(file).parts())


@pytest.mark.parametrize("kind", [OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError])
def test_an_error_that_is_none_of_the_file_stays_as_it_is(folder: Path, kind: type[Exception]) -> None:
    """A bug in what reads the file must not be called a damaged file."""
    path = folder / "stackoverflow_train.h5"
    with pytest.raises(kind, match="a bug"), hdf5.opened(path):
        raise kind("a bug")
    with pytest.raises(UserError, match="damaged or incomplete"), hdf5.opened(path) as file:
        file["none"]


def test_without_h5py_the_message_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"is an HDF5 file, which needs the package h5py .*; run: pip install 'flow-fl\[data\]'"
    ):
        stream_of(folder)


# --- pfl-research -----------------------------------------------------------------------------------------------------

WORDS = ["the", ".", "c/c++", "/", "zoë", "a/b"]


def tokens(text: str) -> list[str]:
    return ["BOS", *text.split(), "EOS"]


@pytest.fixture
def texts() -> dict[str, dict[str, list[str]]]:
    return {
        "train": {"10": ["the . c/c++", "", "the the the the", "unseen the ."], "2": ["/"]},
        "val": {"30": ["zoë .", "the zoë the zoë the zoë"]},
        "test": {"10": ["the"]},
    }


def test_pfl_stackoverflow(tmp_path: Path, texts: dict[str, dict[str, list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the file become the texts again, and the windows of the population are the file's rows."""
    monkeypatch.setenv("FLOW_CACHE", "")
    steps = 4
    rows = {part: {user: [tokens(text) for text in own] for user, own in users.items()} for part, users in texts.items()}
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, rows, steps)
    read = {(part.client, part.held_out, part.side): list(part.texts) for part in stream_of(file).parts()}
    wanted = {
        (user, {"train": False, "val": True, "test": None}[part], "" if part == "val" else part): [
            " ".join(word if word in WORDS else "<oov>" for word in text.split()[:steps]) for text in own
        ]
        for part, users in texts.items()
        for user, own in users.items()
    }
    assert read == wanted
    population = load(DataOptions(data=str(file)))
    assert population.sequence_length == steps and population.vocabulary.tokens[4:] == tuple(WORDS)
    (client,) = (own for own in population.clients if own.id == "10")
    with h5py.File(file) as made:
        names = ["<pad>", *WORDS, "<oov>", "<bos>", "<eos>"]
        inputs, targets = made["train/10/inputs"][()], made["train/10/targets"][()]
    whole = np.concatenate([inputs, targets[:, -1:]], axis=1)
    assert [[population.vocabulary.tokens[n] for n in row] for row in client.train.tokens] == [
        [names[n] for n in row] for row in whole
    ]
    assert client.train.lengths.tolist() == (targets != 0).sum(axis=1).tolist()


def test_pfl_reddit_rows_go_on_where_the_last_one_ended() -> None:
    """Any number of texts cut into rows of three, as LEAF cuts them, is joined again."""
    draw = random.Random(5)
    names = ["PAD", "a", "b", "c", "UNK", "BOS", "EOS"]
    words = pfl.Words(["", "a", "b", "c", "<oov>", "", ""], 0, 5, 6)
    for _ in range(100):
        wanted = [[draw.choice(["a", "b", "c", "UNK"]) for _ in range(draw.randrange(9))] for _ in range(draw.randrange(5))]
        inputs: list[list[int]] = []
        targets: list[list[int]] = []
        for text in wanted:
            ids = [names.index(token) for token in ["BOS", *text, "EOS"]]
            for begin in range(0, len(ids) - 1, 3):
                inputs.append((ids[begin : begin + 3] + [0] * 3)[:3])
                targets.append((ids[begin + 1 : begin + 4] + [0] * 3)[:3])
        again = pfl.joined(np.array(inputs, np.int32).reshape(-1, 3), np.array(targets, np.int32).reshape(-1, 3), words)
        assert again == [" ".join(text).replace("UNK", "<oov>") for text in wanted]


def test_pfl_reddit_has_length_10(tmp_path: Path) -> None:
    file = pfl_h5(tmp_path / "reddit.hdf5", WORDS, {"train": {"1": [tokens("the .")]}}, 10, with_length=False)
    stream = stream_of(file)
    assert (stream.sequence_length, stream.first_only) == (10, False)
    assert [list(part.texts) for part in stream.parts()] == [["the ."]]


def put(file: h5py.File, name: str, value: object) -> None:
    """Another value in place of what the file has."""
    del file[name]
    file[name] = value


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
        (lambda file: put(file, "metadata", 3), "/metadata must be a group"),
        (lambda file: put(file, "metadata/vocabulary", 3), "/metadata/vocabulary must be a group"),
        (
            lambda file: put(file, "metadata/pad_symbol", [1, 2]),
            "pad_symbol: there must be one whole number, and there is int64",
        ),
        (
            lambda file: put(file, "metadata/unk_symbol", 1.5),
            "unk_symbol: there must be one whole number, and there is float64",
        ),
        (lambda file: put(file, "metadata/pad_symbol", h5py.Empty("i4")), "pad_symbol: there must be one whole number"),
        (lambda file: put(file, "metadata/max_sequence_length", 0), "max_sequence_length=0 must be from 1 to 65536"),
        (lambda file: put(file, "metadata/max_sequence_length", 1 << 40), "max_sequence_length=1099511627776 must be from 1"),
        (lambda file: put(file, "metadata/max_sequence_length", "x"), "max_sequence_length: there must be one whole number"),
        (lambda file: put(file, "train", 3), "/train must be a group"),
        (lambda file: file.move("train/10", b"train/\xff"), r"/train: the name of the user b'\\xff' must be UTF-8"),
        (
            lambda file: file.move('metadata/vocabulary/"the"', b'metadata/vocabulary/"\xff"'),
            r"/metadata/vocabulary: the word b'.*' must be UTF-8",
        ),
        (lambda file: put(file, "train/10", 3), r"/train/10: inputs must be whole numbers \[sentences"),
        (lambda file: put(file, "train/10/inputs", h5py.Empty("i4")), r"/train/10: inputs must be whole numbers \[sentences"),
        (
            lambda file: [file.pop("train/10/inputs"), huge(file, "train/10/inputs", (1 << 40, 4), "i4")],
            "inputs has 1099511627776 x 4 numbers, and a client may have 67108864",
        ),
    ],
)
def test_faulty_files_of_pfl(
    tmp_path: Path, texts: dict[str, dict[str, list[str]]], change: Callable[[h5py.File], object], message: str
) -> None:
    rows = {part: {user: [tokens(text) for text in own] for user, own in users.items()} for part, users in texts.items()}
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, rows, 4)
    with h5py.File(file, "r+") as made:
        change(made)
    with pytest.raises(UserError, match=rf"stackoverflow\.hdf5'.*{message}.*; make the file again"):
        list(stream_of(file).parts())


def test_pfl_takes_no_protocol(tmp_path: Path) -> None:
    file = pfl_h5(tmp_path / "stackoverflow.hdf5", WORDS, {"train": {"1": [tokens("the .")]}}, 4)
    with pytest.raises(UserError, match=r"protocol='tff' takes text, and .* was prepared before; leave it out"):
        stream_of(file, protocol="tff")


def test_damaged_files_give_a_sentence(tmp_path: Path, folder: Path, texts: dict[str, dict[str, list[str]]]) -> None:
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
        message = "damaged.h5"
        try:
            list(stream_of(damaged).parts())
        except UserError as error:
            refused, message = refused + 1, str(error)
        assert "damaged.h5" in message
    assert refused > 40
