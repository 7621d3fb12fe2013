"""A folder of text files."""

import os
import tracemalloc
from pathlib import Path

import pytest

from flow.data import DataOptions, load, registry
from flow.data.readers import textfiles
from flow.data.streams import Stream
from flow.errors import UserError


def stream_of(path: Path) -> Stream:
    given = DataOptions(data=str(path))
    source = registry.source_of(given.data)
    assert source.name == "textfiles"
    return source.opened(given)


def by_client(path: Path) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for part in stream_of(path).parts():
        assert part.times is None and part.side == "" and part.held_out is None
        texts.setdefault(part.client, []).extend(part.texts)
    return texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "lines.txt": "\ufeffOne.\r\nTwo zoë.\r\n\r\n \n",
        "paragraphs.md": "\n\nOne,\nstill one.\n\n  \nTwo.\nEnd.\n",
        "plain": "only",
        "empty.txt": "\n",
        "ann/10.txt": "ten\n",
        "ann/2.txt": "two\n\nmore of two\n",
        "ann/b/1": "below",
        "ann/blank.txt": " \n",
        "bob/1.txt": "bob's",
        "picture.png": "x",
        "ann/notes.rtf": "x",
        ".hidden.txt": "x",
        ".git/HEAD.txt": "x",
    }
    for name, content in files.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(content.encode())
    return tmp_path / "texts"


def test_a_client_is_a_file_or_a_sub_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_client(folder) == {
        "ann": ["two\n\nmore of two", "ten", "below"],
        "bob": ["bob's"],
        "lines.txt": ["One.", "Two zoë."],
        "paragraphs.md": ["One,\nstill one.", "Two.\nEnd."],
        "plain": ["only"],
    }
    assert "left out are 1 file without the ending .txt, .text, .md" in capsys.readouterr().err
    assert stream_of(folder).total == 6


def test_what_is_left_out_is_called_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.rtf").write_text("x")
    (folder / "gone.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    assert stream_of(folder).total == 6
    assert (
        "left out are 2 files without the ending .txt, .text, .md and 1 symbolic link to nothing and 1 pipe, socket or device"
        in capsys.readouterr().err
    )


def test_numbers_in_names_count_by_their_value() -> None:
    wanted = ["1a", "1b", "2", "0002", "10", "chapter 9.txt", "chapter 10.txt", "chapter.txt"]
    assert sorted(reversed(wanted), key=textfiles._order)[4:] == wanted[4:]
    assert sorted(sorted(wanted), key=textfiles._order)[:2] == ["1a", "1b"]


def test_a_population_is_prepared_anew_where_a_file_changes_or_moves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("flow.data.by_client.is_held_out", lambda client: client == "bob")
    population = load(DataOptions(data=str(folder)))
    assert [(client.id, client.texts) for client in population.clients] == [
        ("ann", 3), ("bob", 1), ("lines.txt", 2), ("paragraphs.md", 2), ("plain", 1),
    ]  # fmt: skip
    source = registry.source_of(str(folder))
    seen = {source.content(str(folder))}
    (folder / "bob" / "1.txt").write_text("other")
    seen.add(source.content(str(folder)))
    (folder / "bob" / "1.txt").rename(folder / "ann" / "1.txt")
    seen.add(source.content(str(folder)))
    assert len(seen) == 3
    os.utime(folder / "plain", (1, 1))
    assert source.content(str(folder)) in seen


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wörter\n".encode("latin-1"), r"file 'x\.txt', line 1: not UTF-8 \(invalid .* at byte 2\); save the file in UTF-8"),
        (b"a\nb\0\n", r"file 'x\.txt', line 2: a NUL character"),
    ],
)
def test_files_that_are_no_text_are_named(folder: Path, content: str | bytes, message: str) -> None:
    (folder / "x.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        by_client(folder)
    (folder / "x.txt").rename(folder / "ann" / "x.txt")
    with pytest.raises(UserError, match=message.replace("x\\.txt", r"ann/x\.txt").replace(r", line \d", "").split(",")[0]):
        by_client(folder)


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ann" / "gone.txt").symlink_to("nowhere")
    assert len(by_client(folder)["ann"]) == 3
    monkeypatch.setattr(textfiles, "LONGEST", 12)
    with pytest.raises(UserError, match=r"file 'ann/2\.txt': 17 bytes are more than a text may have, 12; break it"):
        by_client(folder)
    (folder / "ann" / "2.txt").unlink()
    (folder / "lines.txt").write_text("a line that is long\n")
    with pytest.raises(UserError, match=r"file 'lines\.txt', line 1: longer than 12 bytes"):
        by_client(folder)
    os.mkdir(os.fsencode(folder) + b"/\xff")
    with pytest.raises(UserError, match=r"the name '.udcff' is not UTF-8; rename the file or folder"):
        by_client(folder)


def test_other_folders_are_not_text(tmp_path: Path) -> None:
    assert not textfiles.recognises(str(tmp_path)) and not textfiles.recognises(str(tmp_path / "none"))
    (tmp_path / "table.csv").write_text("client,text\na,b\n")
    assert registry.source_of(str(tmp_path)).name == "tabular"
    (tmp_path / "table.csv").rename(tmp_path / "binary.txt")
    (tmp_path / "binary.txt").write_bytes(b"\x89HDF\r\n\x1a\n\0\0")
    with pytest.raises(UserError):
        registry.source_of(str(tmp_path))


def test_a_large_file_is_read_a_piece_at_a_time(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("w") as file:
        for n in range(60_000):
            file.write(f"line {n} with some words that follow one another, more and more of them\n")
    stream = stream_of(tmp_path)
    tracemalloc.start()
    texts = sum(len(part.texts) for part in stream.parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == 60_000 and peak < 2_000_000


def test_hidden_folders_are_left_out_at_any_depth(tmp_path: Path) -> None:
    """They hold copies of the texts beside them, which would stand on both sides of the split, or no texts at all."""
    for name in ("ann/a.txt", "ann/.copies/a-copy.txt", "ann/deeper/.git/HEAD", "ann/deeper/b.txt", ".git/HEAD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    parts = list(textfiles.parts(tmp_path))
    assert [(part.client, list(part.texts)) for part in parts] == [("ann", ["ann/a.txt", "ann/deeper/b.txt"])]
