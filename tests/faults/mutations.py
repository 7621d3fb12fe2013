"""Damage to bytes, from a random stream: what disks, copies, editors and half a restored backup do to a file."""

from __future__ import annotations

import random
from collections.abc import Callable


def flip(content: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    if not content:
        return b"\x01"
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def zero(content: bytes, draw: random.Random) -> bytes:
    """A stretch is zeros, as after a crash of a file system."""
    start, end = _stretch(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def truncate(content: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return content[: draw.randrange(len(content))] if content else b""


def extend(content: bytes, draw: random.Random) -> bytes:
    """Something follows."""
    return content + draw.choice([b"\n", b"\x00", b"x", b"{}\n", draw.randbytes(40)])


def duplicate(content: bytes, draw: random.Random) -> bytes:
    """A stretch is there twice."""
    start, end = _stretch(content, draw)
    return content[:end] + content[start:]


def remove(content: bytes, draw: random.Random) -> bytes:
    """A stretch is missing."""
    start, end = _stretch(content, draw)
    return content[:start] + content[end:]


def exchange(content: bytes, draw: random.Random) -> bytes:
    """Two lines have changed their places."""
    lines = content.split(b"\n")
    first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def number(content: bytes, draw: random.Random) -> bytes:
    """A digit is something else that a number may hold."""
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return content + b"0"
    place = draw.choice(digits)
    other = draw.choice([b"-1", b"1e400", b"9" * 20, b"NaN", b"null", b"0", b'"1"', b"[]", b"true", b"1.5"])
    return content[:place] + other + content[place + 1 :]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    mutation.__name__: mutation for mutation in (flip, zero, truncate, extend, duplicate, remove, exchange, number)
}


def _stretch(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content) + 1)
    return start, min(len(content), start + draw.choice([1, 8, 64, 4096]))
