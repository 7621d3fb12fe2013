"""What a file is that holds no clients line by line: recognised by its first bytes or its name, with what to do about it."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

from flow.errors import UserError

HEAD = 4096
"""How many of the first bytes are looked at."""

CONVERT = (
    'convert it to a .jsonl file with one line per client, {"id": "ann", "texts": ["first", "second"]}, as docs/data.md shows'
)


class Format(NamedTuple):
    """A kind of file."""

    what: str
    """With its article."""
    remedy: str = CONVERT


def _compressed(name: str, command: str) -> Format:
    return Format(f"a file compressed with {name}", f"decompress it with `{command}`, and give what comes out")


def _encoded(name: str) -> Format:
    return Format(f"text in {name}", f"save it in UTF-8, such as with `iconv -f {name} -t UTF-8`")


GZIP = Format("a gzip file", "let its name end in .gz")
JSON_LINES = Format("a file of JSON objects, one per line")
CSV = Format("a table of comma-separated values (CSV)", "let its name end in .csv, or in .csv.gz where it is compressed")
TSV = Format("a table of tab-separated values (TSV)", "let its name end in .tsv, or in .tsv.gz where it is compressed")
TEXT = Format("plain text")
LEAF = Format("a JSON object in the form of LEAF, with users and user_data", "let its name end in .json or .json.gz")
ARRAY = Format("a JSON array", "write every element on a line of its own, such as with `jq -c '.[]'`, as docs/data.md shows")
SPREAD = Format(
    "a JSON object spread over several lines", "write every client on one line, such as with `jq -c .`, as docs/data.md shows"
)
PICKLE = Format("a Python pickle", "none is loaded, for it can run any code: let who wrote it write JSON lines")
SQLITE = Format(
    "an SQLite database", f"one of TensorFlow Federated or fedjax is read if content and name say so; otherwise {CONVERT}"
)
HDF5 = Format(
    "an HDF5 file", f"one of TensorFlow Federated or pfl-research is read if content and name say so; otherwise {CONVERT}"
)
PARQUET = Format("a Parquet table", "let its name end in .parquet, and decompress it where it is compressed")
ARROW = Format("an Arrow or Feather table")
ZIP = Format("a zip archive", "unpack it with `unzip`, and give a file of what comes out")
TAR = Format("a tar archive", "unpack it with `tar -xf`, and give a file of what comes out")
PDF = Format("a PDF document")
PAGE = Format("a web page or XML, as a failed download leaves", "download the file itself again")
ZSTD, XZ, BZIP2 = (
    _compressed(name, command) for name, command in (("zstd", "zstd -d"), ("xz", "xz -d"), ("bzip2", "bzip2 -d"))
)

# In this order: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (b"PAR1", PARQUET),
    (b"SQLite format 3\0", SQLITE),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"ARROW1", ARROW),
    (b"FEA1", ARROW),
    (b"\xff\xff\xff\xff", ARROW),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"\xfd7zXZ\0", XZ),
    (b"\x5d\0\0", _compressed("lzma", "xz --format=lzma -d")),
    (b"BZh", BZIP2),
    (b"7z\xbc\xaf\x27\x1c", _compressed("7-Zip", "7z x")),
    (b"\x04\x22\x4d\x18", _compressed("lz4", "lz4 -d")),
    (b"\x1f\x8b", GZIP),
    (b"%PDF-", PDF),
    (b"\x93NUMPY", Format("a NumPy array")),
    (b"Obj\x01", Format("an Avro file")),
    (b"ORC", Format("an ORC table")),
    (b"version https://git-lfs.github.com/spec/", Format("a pointer of Git LFS", "fetch the file itself with `git lfs pull`")),
    (b"\xff\xfe\0\0", _encoded("UTF-32")),
    (b"\0\0\xfe\xff", _encoded("UTF-32")),
    (b"\xff\xfe", _encoded("UTF-16")),
    (b"\xfe\xff", _encoded("UTF-16")),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_LEAF = re.compile(r'\{\s*"(?:users|user_data|num_samples|hierarchies)"\s*:')
_SPREAD = re.compile(r'\{\s*?\r?\n\s*"')
_PAGE = re.compile(r"<(?:!doctype|html|\?xml)", re.IGNORECASE)
_CLIENT = re.compile(r'\{\s*"[^"]+"\s*:')
_NAMES = {
    ".csv": CSV, ".tsv": TSV, ".txt": TEXT, ".md": TEXT, ".parquet": PARQUET, ".pq": PARQUET, ".sqlite": SQLITE,
    ".sqlite3": SQLITE, ".db": SQLITE, ".h5": HDF5, ".hdf5": HDF5, ".arrow": ARROW, ".feather": ARROW, ".zip": ZIP, ".tar": TAR,
    ".zst": ZSTD, ".xz": XZ, ".bz2": BZIP2, ".pkl": PICKLE, ".pickle": PICKLE, ".pck": PICKLE, ".pdf": PDF,
}  # fmt: skip


def head(path: Path) -> bytes:
    """The first bytes of a file, at most :data:`HEAD`."""
    with path.open("rb") as file:
        return file.read(HEAD)


def unpacked(packed: bytes) -> bytes:
    """What the first bytes of a gzip file hold, at most :data:`HEAD` bytes; as much as can be read of a damaged one."""
    try:
        return zlib.decompressobj(31).decompress(packed, HEAD)
    except zlib.error:
        return b""


def of_bytes(first: bytes) -> Format | None:
    """What a file is that no text begins like; None where the first bytes do not tell."""
    for mark, kind in _MARKS:
        if first.startswith(mark):
            return kind
    if _PICKLE.match(first):
        return PICKLE
    if first[257:262] == b"ustar":
        return TAR
    for encoding, zeros, others in (("UTF-16LE", 1, 0), ("UTF-16BE", 0, 1)):  # without a mark, as far as text is ASCII
        start = first[:64]
        if len(start) >= 8 and not any(start[zeros::2]) and all(start[others::2]):
            return _encoded(encoding)
    return None


def of_text(first: bytes) -> Format | None:
    """What a text file is whose first line is no client; None where it may be meant as one."""
    text = first.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if text.startswith("["):
        return ARRAY
    if _LEAF.match(text):
        return LEAF
    if _SPREAD.match(text):
        return SPREAD
    if _PAGE.match(text):
        return PAGE
    if not text or text.startswith("{") or "\0" in text:
        return None
    return next((kind for mark, kind in (("\t", TSV), (",", CSV), (";", CSV)) if _is_table(text, mark)), TEXT)


def _is_table(text: str, mark: str) -> bool:
    """Whether the first line names columns, and the second has as many values."""
    lines = [line for line in text.splitlines() if line.strip()]
    names = lines[0].split(mark)
    return (
        len(names) > 1
        and all(0 < len(name) <= 40 and name[0] != " " for name in names)
        and lines[-1 if len(lines) < 2 else 1].count(mark) > 0
    )


def is_named(path: Path) -> bool:
    """Whether the ending of a file's name says what the file is."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix in _NAMES or suffix in (".json", ".jsonl", ".ndjson")


def refusal(where: str, kind: Format, inside: bool = False) -> UserError:
    """The error for a file of this kind; ``inside``: packed in a gzip file."""
    return UserError(f"{where}: this is {kind.what}{' inside a gzip file' if inside else ''}; {kind.remedy}")


def check_name(path: Path, where: str) -> None:
    """Refuse a file that is not what a name that ends in .jsonl or .jsonl.gz promises.

    Raises:
        UserError: the first bytes tell that it is something else, that it is compressed under the name of a file that is
            not, or the other way round.
    """
    first, packed = head(path), path.suffix == ".gz"
    kind = of_bytes(first)
    if kind is GZIP and not packed:
        raise refusal(where, Format("a gzip file", f"rename it to {path.name + '.gz'!r}"))
    if packed and first and kind is None:
        raise refusal(where, Format("not compressed", f"rename it to {path.name.removesuffix('.gz')!r}"))
    inside = of_bytes(unpacked(first)) if kind is GZIP else None
    if inside is GZIP:
        raise refusal(where, Format("a gzip file inside another", "decompress it once with `gunzip`"))
    if inside is not None:
        raise refusal(where, inside, inside=True)
    if kind is not None and kind is not GZIP:
        raise refusal(where, kind)


def any_file(path: Path, where: str) -> UserError:
    """The error for a file whose name no source reads: what it is, by its first bytes, else by its name."""
    first = head(path)
    kind = of_bytes(first)
    packed = kind is GZIP
    if packed:
        first = unpacked(first)
        kind = of_bytes(first)
    named = _NAMES.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    text = None if b"\0" in first else of_text(first)
    if kind is None and not first:
        kind = Format("an empty file", "copy or download it again, or give another file")
    elif kind is None and _CLIENT.match(first.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")):
        kind = text or JSON_LINES._replace(remedy=f"let its name end in .jsonl{'.gz' if packed else ''}")
    elif kind is None:
        kind = text if text in (ARRAY, SPREAD, LEAF) else named or text or Format("a file of a kind that is not known here")
    return refusal(where, kind, inside=packed)
