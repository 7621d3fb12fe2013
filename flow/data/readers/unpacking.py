"""Files packed with lzma that have to be on disk unpacked, because they are not read from start to end."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flow.data import digests, formats, paths
from flow.data.cache import cache_folder
from flow.errors import UserError, say

MAGIC = (b"\x5d\0\0", b"\xfd7zXZ\0")
"""How files of the formats lzma and xz begin."""
BLOCK = 1 << 20
MOST_MEMORY = 1 << 31
"""Bytes that unpacking may take: a file's header can ask for any number."""


def head(packed: bytes, most: int) -> bytes:
    """The first bytes of what the first bytes of a file hold; raises LZMAError."""
    return lzma.LZMADecompressor(memlimit=MOST_MEMORY).decompress(packed, most)


def unpacked(path: Path, wanted: str) -> Path:
    """The file itself, or what it holds: unpacked beside the prepared data, once, a block at a time.

    Args:
        path: of the file.
        wanted: what `data` must be the path of, for messages.

    Raises:
        UserError: the file is damaged, or there is no folder of prepared data or no room in it.
    """
    with paths.readable(path, "data", wanted):
        if not formats.head(path).startswith(MAGIC):
            return path
    where = f"data={str(path)!r}"
    cache = cache_folder()
    if cache is None:
        raise UserError(
            f"{where} is packed and has to be unpacked to disk, and FLOW_CACHE='' keeps nothing; set it to a folder, or unpack "
            f"the file with `xz --format=auto -dk --suffix={path.suffix} {path.name}`, and give what comes out"
        )
    target = cache / f"{path.name.removesuffix(path.suffix)}-{digests.of_file(path, wanted)[:20]}.unpacked"
    if target.is_file():
        return target
    part = target.with_name(f".{target.name}.{os.getpid()}")
    say(f"{where} is unpacked once, to {str(target)!r}; you may delete it when the data are prepared")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            _unpack(path, file.write, where, wanted)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise UserError(
            f"FLOW_CACHE={str(cache)!r}: {path.name} cannot be unpacked there ({error.strerror or error}); free some disk, or "
            "set this variable of the environment to a folder on a larger disk"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return target


def _unpack(path: Path, write: Callable[[bytes], object], where: str, wanted: str) -> None:
    """Write what a file holds, a block at a time."""
    unpacker, read = lzma.LZMADecompressor(memlimit=MOST_MEMORY), 0
    with paths.readable(path, "data", wanted):
        file = path.open("rb")
    with file:
        try:
            while not unpacker.eof:
                block = b""
                if unpacker.needs_input:
                    with paths.readable(path, "data", wanted):
                        block = file.read(BLOCK)
                    if not block:
                        raise UserError(f"{where}: the file ends in the middle, after byte {read}; copy or download it again")
                    read += len(block)
                write(unpacker.decompress(block, BLOCK))
            if unpacker.unused_data or file.read(1):
                raise UserError(f"{where}: bytes follow the packed file; unpack it with `xz -d`, and give what comes out")
        except lzma.LZMAError as error:
            raise UserError(f"{where}: damaged before byte {read} ({error}); copy or download it again") from error
