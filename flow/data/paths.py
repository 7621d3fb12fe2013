"""The path of a file that a user names: what stands there, and what to do where it cannot be read."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from flow.errors import UserError

_KINDS = {
    stat.S_IFDIR: ("a folder", "give the path of {wanted} in it"),
    stat.S_IFIFO: ("a named pipe, which can be read only once", "write its content to a file, and give the path of {wanted}"),
    stat.S_IFSOCK: ("a socket, which holds no data", "give the path of {wanted}"),
    stat.S_IFCHR: ("a device, which holds no data", "give the path of {wanted}"),
    stat.S_IFBLK: ("a device, not a file on it", "mount it, and give the path of {wanted}"),
}
PATTERN = re.compile(r"[*?\[]")
"""What a pattern for several files has and hardly any path."""
_ADDRESS = re.compile(r"(?:^|/)(?:https?|ftp|s3|gs|hf):/")  # a Path keeps one slash of two


_option: ContextVar[str] = ContextVar("option", default="data")
"""The option by which the files that are read now were given."""


@contextmanager
def given_by(option: str) -> Iterator[None]:
    """Have messages name another option than `data` for the files that are read in the block."""
    before = _option.set(option)
    try:
        yield
    finally:
        _option.reset(before)


def where(path: Path | str) -> str:
    """The beginning of a message on a file: the option that it was given by, and its path."""
    return f"{_option.get()}={str(path)!r}"


def check_file(path: Path, option: str, wanted: str) -> None:
    """See that a path leads to a regular file.

    Args:
        option: the option that holds the path, for the message.
        wanted: what its value must be the path of, for the message: "a .jsonl file".

    Raises:
        UserError: it leads nowhere, or to something else; the message names the option, the path, what it is, and the remedy.
    """
    with readable(path, option, wanted):
        kind = stat.S_IFMT(path.stat().st_mode)
    if kind in _KINDS:
        what, remedy = _KINDS[kind]
        raise UserError(f"{_named(option)}={str(path)!r} is {what}; {remedy.format(wanted=wanted)}")


def leads_somewhere(path: str) -> bool:
    """Whether a path has anything at its end, if only a link or an error; False where nothing has this name."""
    try:
        os.lstat(path)
    except (FileNotFoundError, ValueError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def readable(path: Path, option: str, wanted: str, given: str | None = None) -> Iterator[None]:
    """Raise UserError, as :func:`check_file`, where the system refuses to look at the file or to read it.

    A faulty gzip file is left to whoever reads its lines. ``given``: the option's value, where it is not the path alone.
    """
    value = str(path) if given is None else given
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise UserError(f"{_named(option)}={value!r}{_refusal(path, error)}; {_remedy(path, error, wanted)}") from error
    except ValueError as error:
        if isinstance(error, UserError | UnicodeDecodeError):
            raise
        if "\0" in str(path) or isinstance(error, UnicodeEncodeError):
            raise UserError(
                f"{_named(option)}={value!r} holds a character that no file's name can have; give the path of {wanted}"
            ) from error
        raise


def _named(option: str) -> str:
    """The option that a message names."""
    return _option.get() if option == "data" else option


def _refusal(path: Path, error: OSError) -> str:
    """Why the system refuses."""
    match error.errno:
        case errno.ENOENT if path.is_symlink():
            return f" is a symbolic link to {os.readlink(path)!r}, where there is no file"
        case errno.ENOENT if _ADDRESS.search(str(path)):
            return " is an address, and nothing is downloaded"
        case errno.ENOENT:
            return ": there is no such file"
        case errno.ENOTDIR:
            above = next((str(parent) for parent in path.parents if parent.is_file()), str(path.parent))
            return f" leads through {above!r}, which is a file and not a folder"
        case errno.ELOOP:
            return " is a symbolic link that leads back to itself"
        case errno.EACCES | errno.EPERM:
            return " is a file that this user is not permitted to read, or lies in such a folder"
        case errno.ENAMETOOLONG:
            return " is longer than the name of a file can be"
        case _:
            return f" cannot be read ({error.strerror or error})"


def _remedy(path: Path, error: OSError, wanted: str) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"permit it with chmod, or give the path of {wanted} that you may read"
        case errno.ENOENT if _ADDRESS.search(str(path)):
            return f"download it, and give the path of {wanted}"
        case errno.ENOENT if path.is_symlink():
            return f"renew the link, or give the path of {wanted}"
        case _:
            return f"give the path of {wanted}"


def changed(data: str) -> UserError:
    """The error for data that are not what they were when their preparation began."""
    return UserError(
        f"data={data!r} changed while it was being prepared, and must stay as it is until the end; run the command again when "
        "no program writes to it"
    )
