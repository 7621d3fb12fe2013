"""What a user hands over in place of a .jsonl file: recognised, named, and answered with a remedy."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import socket
import sqlite3
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import write_jsonl

from flow.data import DataOptions, jsonl, load
from flow.errors import UserError

LINES = (
    b'{"id": "a", "texts": ["one two", "three"], "split": "train"}\n{"id": "b", "texts": ["four", "five"], "split": "train"}\n'
)
LEAF = {"users": ["a"], "num_samples": [2], "user_data": {"a": {"x": ["to be", "or no"], "y": [" ", "t"]}}}


def _sqlite(path: Path) -> bytes:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
    database.close()
    return path.read_bytes()


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _archive(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jsonl"))


def _contents(folder: Path) -> dict[str, tuple[bytes, str]]:
    """By name: the content of a file and what must be said of it."""
    convert = r'convert it to a \.jsonl file with one line per client, \{"id": "ann", "texts": \["first", "second"\]\}'
    return {
        "parquet": (b"PAR1" + bytes(40) + b"PAR1", r"a Parquet table; let its name end in \.parquet"),
        "sqlite": (_sqlite(folder / "made.sqlite"), f"an SQLite database; one of .* or fedjax is .*{convert}"),
        "h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), f"an HDF5 file; one of .* or pfl-research is .*{convert}"),
        "arrow": (b"ARROW1\0\0" + bytes(40), f"an Arrow or Feather table; {convert}"),
        "feather": (b"FEA1" + bytes(40), f"an Arrow or Feather table; {convert}"),
        "zip": (_written(lambda file: zipfile.ZipFile(file, "w").writestr("a.jsonl", LINES)), "a zip archive; unpack it"),
        "zst": (b"\x28\xb5\x2f\xfd\x04\x00", "a file compressed with zstd; decompress it with `zstd -d`"),
        "xz": (lzma.compress(LINES), "a file compressed with xz; decompress it with `xz -d`"),
        "lzma": (lzma.compress(LINES, lzma.FORMAT_ALONE), "a file compressed with lzma; decompress it"),
        "bz2": (bz2.compress(LINES), "a file compressed with bzip2; decompress it with `bzip2 -d`"),
        "tar": (_written(_archive), "a tar archive; unpack it"),
        "pkl": (pickle.dumps(LEAF), "a Python pickle; none is loaded, for it can run any code: let who wrote it"),
        "pdf": (b"%PDF-1.7\n", f"a PDF document; {convert}"),
        "npy": (_written(lambda file: np.save(file, np.zeros(3))), f"a NumPy array; {convert}"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS; fetch"),
        "utf16": (LINES.decode().encode("utf-16"), "text in UTF-16; save it in UTF-8, such as with `iconv -f UTF-16 -t UTF-8`"),
        "utf32": (LINES.decode().encode("utf-32"), "text in UTF-32; save it in UTF-8"),
        "utf16le": (LINES.decode().encode("utf-16-le"), "text in UTF-16LE; save it in UTF-8"),
        "utf16be": (LINES.decode().encode("utf-16-be"), "text in UTF-16BE; save it in UTF-8"),
        "leaf": (json.dumps(LEAF).encode(), "a JSON object in the form of LEAF, with users and user_data; let"),
        "leaf2": (json.dumps(LEAF, indent=2).encode(), "a JSON object in the form of LEAF"),
        "array": (b"[" + LINES.strip().replace(b"\n", b",\n") + b"]", r"a JSON array; write every element .* `jq -c '\.\[\]'`"),
        "spread": (json.dumps({"id": "a", "texts": ["x"]}, indent=1).encode(), "a JSON object spread over several lines"),
        "csv": (b'id,text\nann,"First, or so"\nbob,Second\n', r"a table of comma-separated values \(CSV\); let its name"),
        "semicolons": (b"id;text\r\nann;First\r\n", r"a table of comma-separated values \(CSV\); let its name end in"),
        "tsv": (b"id\ttext\nann\tFirst, or so\n", r"a table of tab-separated values \(TSV\); let its name end in \.tsv"),
        "txt": (b"Well, it was late.\nAnd then, of course, it rained.\n", f"plain text; {convert}"),
        "html": (b"<!DOCTYPE html><html>404</html>", "a web page or XML, as a failed download leaves; download the file"),
    }  # fmt: skip


OWN = {"csv", "semicolons", "tsv", "parquet", "sqlite", "h5", "leaf", "leaf2"}
"""Kinds that a source reads."""
PACKED = {"leaf", "leaf2"}
"""Those that it reads inside a gzip file."""


def refused(path: object) -> str:
    """The one line that is said of a file."""
    with pytest.raises(UserError) as caught:
        load(DataOptions(data=str(path)))
    assert str(caught.value).startswith(f"data={str(path)!r}") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_format_is_recognised_by_its_first_bytes_whatever_the_name(tmp_path: Path) -> None:
    for name, (content, message) in _contents(tmp_path).items():
        for file in (f"{name}.jsonl", f"{name}.jsonl.gz", f"{name}.data", f"{name}.json.gz"):
            if (file.endswith(".data") and name in OWN) or (file.endswith(".json.gz") and name in PACKED):  # whatever the name
                continue
            path = tmp_path / file
            path.write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
            inside = " inside a gzip file" if file.endswith(".gz") else ""
            what, _, remedy = message.partition("; ")
            # What only the first line tells is said of that line.
            expected = rf"{name}\.[a-z.]+'(, line 1)?: this is {what}"
            assert re.search(expected, refused(path)), (file, refused(path))
            assert re.search(remedy, refused(path)), (file, refused(path))
            if file == f"{name}.json.gz":
                assert inside in refused(path)


def test_names_that_promise_something_else(tmp_path: Path) -> None:
    """The first bytes of these tell nothing, or the content is right and the name is not."""
    for name, content, message in (
        ("noise.csv", b"only one column", r"noise\.csv', line 1: one column, 'only one column', where one for the client"),
        ("noise.h5", bytes(range(128, 160)), "this is an HDF5 file; .*convert"),
        ("noise.bin", bytes(range(128, 160)) + b"\0", "this is a file of a kind that is not known here; convert"),
        ("empty.csv", b"", r"line 1: empty, where the names of the columns must stand"),
        ("clients.json", LINES, r"this is a file of JSON objects, one per line; let its name end in \.jsonl$"),
        (
            "clients.JSONL",
            b"\xef\xbb\xbf" + LINES,
            r"this is a file of JSON objects, one per line; let its name end in \.jsonl$",
        ),
        ("clients.json.gz", gzip.compress(LINES), r"one per line inside a gzip file; let its name end in \.jsonl\.gz$"),
        ("packed.jsonl", gzip.compress(LINES), r"this is a gzip file; rename it to 'packed\.jsonl\.gz'"),
        ("plain.jsonl.gz", LINES, r"this is not compressed; rename it to 'plain\.jsonl'"),
        ("twice.jsonl.gz", gzip.compress(gzip.compress(LINES)), "this is a gzip file inside another; decompress it once"),
        ("empty.jsonl", b"", "there is no client, the file is empty or blank; write one JSON object per client"),
        ("empty.jsonl.gz", b"", "there is no client, the file is empty or blank"),
        ("blank.jsonl", b"\n \n\r\n", "there is no client, the file is empty or blank"),
    ):
        (tmp_path / name).write_bytes(content)
        assert re.search(message, refused(tmp_path / name)), refused(tmp_path / name)


def test_a_first_line_that_is_meant_as_a_client_gets_its_own_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    for line, message in (
        (b'{"id": "a", "texts": ["x"]', r"line 1: not JSON \(Expecting ',' delimiter at column 27\)"),
        (b'{"text": "x", "label": 1}', r"line 1: the field 'id' is missing \(fields present: 'text', 'label'\)"),
        (b'{"id": "a", "texts": ["caf\xe9"]}', r"line 1: not UTF-8 \(invalid continuation byte at byte 27\); save the file"),
    ):
        path.write_bytes(line + b"\n" + LINES)
        assert re.search(message, refused(path)), refused(path)


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", "", ".csv"])
def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.chdir(tmp_path)
    made = {kind: Path(kind + ending) for kind in ("folder", "pipe", "socket", "loop", "dangling", "file", "device")}
    made["folder"].mkdir()
    os.mkfifo(made["pipe"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(made["socket"]))
    made["loop"].symlink_to(made["loop"])
    made["dangling"].symlink_to("gone")
    made["file"].write_bytes(LINES)
    made["device"].symlink_to("/dev/zero")
    wanted = (
        rf"give the path of a{'' if ending.startswith('.jsonl') else ' file whose name ends in'} \.jsonl(, | or )\.jsonl\.gz"
    )
    for path, message in (
        (made["folder"], "is a folder; "),
        (made["pipe"], "is a named pipe, which can be read only once; write its content to a file, and "),
        (made["socket"], "is a socket, which holds no data; "),
        (made["device"], "is a device, which holds no data; "),
        (made["loop"], "is a symbolic link that leads back to itself; "),
        (made["dangling"], "is a symbolic link to 'gone', where there is no file; renew the link, or "),
        (made["file"] / f"below{ending}", f"leads through 'file{ending}', which is a file and not a folder; "),
        (f"{'x' * 300}{ending}", "is longer than the name of a file can be; "),
    ):
        assert re.search(message + wanted, refused(path)), refused(path)
    if ending.startswith(".jsonl"):
        assert "holds a character that no file's name can have" in refused(f"a\0b{ending}")
        assert re.search(f"there is no such file; {wanted}", refused(f"none{ending}"))
        assert "is an address, and nothing is downloaded; download it" in refused(Path(f"https://example.org/a{ending}"))


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv"])
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(LINES)

    def refuses(method: str, error: OSError) -> None:
        before = getattr(Path, method)

        def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
            if self == path:
                raise error
            return before(self, *arguments, **options)

        monkeypatch.setattr(Path, method, refusing)

    refuses("open", PermissionError(13, "Permission denied", str(path)))
    message = (
        r"is a file that this user is not permitted to read, or lies in such a folder; permit it with chmod, or give the path"
    )
    assert re.search(message, refused(path)) and "Errno" not in refused(path)
    monkeypatch.undo()
    refuses("stat", PermissionError(13, "Permission denied", str(path)))  # the folder may not be looked into
    assert re.search(message, refused(path))
    monkeypatch.undo()
    refuses("open", OSError(5, "Input/output error", str(path)))
    assert re.search(r"cannot be read \(Input/output error\); give the path", refused(path))


# --- what is accepted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        LINES.rstrip(),
        LINES + b"\n\n",
        LINES + b" \t\r\n\n   ",
        LINES + "\u3000\n\u00a0".encode(),
        LINES.replace(b'\n{"id": "b"', b'\n\xef\xbb\xbf {"id": "b"'),  # two files that were joined
        LINES.replace(b'"split"', b'"note": NaN, "deep": {"a": 1, "a": 2}, "split"'),  # other fields are ignored
    ],
    ids=["mark", "CR LF", "no end", "blank lines", "white space", "wide blanks", "joined", "other fields"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_editors_leave_changes_no_client(tmp_path: Path, content: bytes, packed: bool) -> None:
    ending = ".jsonl.gz" if packed else ".jsonl"
    for name, written in (("plain", LINES), ("other", content)):
        (tmp_path / (name + ending)).write_bytes(gzip.compress(written) if packed else written)
    plain, other = (load(DataOptions(data=str(tmp_path / (name + ending)))) for name in ("plain", "other"))
    assert [client.id for client in other.clients] == ["a", "b"]
    assert other.vocabulary == plain.vocabulary and other.fingerprint == plain.fingerprint


def test_gzip_files_that_were_joined(tmp_path: Path) -> None:
    (tmp_path / "joined.jsonl.gz").write_bytes(b"".join(gzip.compress(line + b"\n") for line in LINES.splitlines()))
    assert len(load(DataOptions(data=str(tmp_path / "joined.jsonl.gz"))).clients) == 2


def test_a_blank_line_above_a_client_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gap.jsonl"
    first, second = LINES.splitlines()
    path.write_bytes(first + b"\n\n \n" + second + b"\n\n")
    assert re.search(r"gap\.jsonl', line 2: a blank line above the client of line 4; put back the client", refused(path))
    path.write_bytes(b"\n" + LINES)
    assert "line 1: a blank line above the client of line 2" in refused(path)


def test_a_gzip_file_with_other_bytes_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "tail.jsonl.gz"
    path.write_bytes(gzip.compress(LINES) + b"rubbish")
    assert re.search(r"damaged gzip file, or one with other bytes behind it, unreadable after line 2 \(Not", refused(path))


def test_ids_that_look_the_same_are_two_clients_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number, (first, second) in enumerate((("zoë", "zoe\u0308"), ("ann", "ann "), ("a b", "a\u00a0b"), (" x", "x\t"))):
        path = tmp_path / f"alike{number}.jsonl"
        write_jsonl(path, [{"id": name, "texts": ["a b", "c"], "split": "train"} for name in (first, "other", second)])
        assert len(load(DataOptions(data=str(path))).clients) == 3
        message = capfd.readouterr().err
        assert message.startswith("flow: ") and message.count("\n") == 1 and "they are taken as two clients" in message
        assert f"{first!r} in line 1" in message and f"{second!r} in line 3" in message
    write_jsonl(tmp_path / "plain.jsonl", [{"id": name, "texts": ["a b", "c"], "split": "train"} for name in ("zoë", "zoe")])
    load(DataOptions(data=str(tmp_path / "plain.jsonl")))
    assert not capfd.readouterr().err


# --- what would take all memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["one line", "a client", "blank lines", "an array", "zeros"])
def test_a_file_that_grows_out_of_all_proportion_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(jsonl, "LONGEST", 1 << 20)
    size = 1 << 25
    start, filling, message = {
        "one line": (b"", b"a", "line 1: this is plain text"),
        "a client": (b'{"id": "a", "texts": ["', b"a", "line 1: longer than 1048576 bytes, more than a client may have"),
        "blank lines": (LINES, b"\n", r"line 1048579: more than 1048576 bytes of blank lines from line 3 on; remove them"),
        "an array": (b'[{"id": "a", "texts": ["', b"a", "line 1: this is a JSON array"),
        "zeros": (b"", b"\0", "line 1: longer than 1048576 bytes"),
    }[what]
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(start + filling * size, compresslevel=1))
    assert path.stat().st_size < size // 100
    tracemalloc.start()
    try:
        assert re.search(message, refused(path))
        assert tracemalloc.get_traced_memory()[1] < size // 4
    finally:
        tracemalloc.stop()


def test_messages_stay_short_whatever_a_line_holds(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    for record in (
        {"id": ["x" * 10**6]}, {"id": "a", "texts": [], "group": [1] * 10**5}, {"id": "a", "texts": [], "split": "y" * 10**6},
        {f"field {n}": n for n in range(10**4)}, {"id": "a", "texts": ["x", "y"], "ts": [10**4000, 1]},
        {"id": "z" * 10**6, "texts": ["\ud800"]},
    ):  # fmt: skip
        write_jsonl(path, [record])
        assert len(refused(path).replace(str(path), "")) < 500
    assert "fields present: 'field 0'" in refused(write_jsonl(path, [{f"field {n}": n for n in range(20)}]))
    assert "8 more" in refused(path)
