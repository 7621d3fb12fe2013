"""Commit messages by author, of a local git repository: ``git:PATH``, read by the program git.

Merges are left out and .mailmap is applied. Trailers such as Signed-off-by are removed, and <email>, <url> and <sha> stand for
addresses and hashes. Of an author's messages that are the same, the newest stays.

Memory: some 100 bytes for every message, to know the same one again.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

PREFIX = "git:"
PROGRAM = "git"
FIELDS = ("%H", "%aN", "%aE", "%at", "%B")
"""Of a commit, each ended by a NUL: hash, name and e-mail address by .mailmap, seconds when it was written, message."""
BLOCK = 1 << 16
LONGEST = 1 << 28  # bytes of a message
ID = 16  # hexadecimal digits of a hashed author
MOST = 1 << 22  # commits that a fraction of a second can order
SETTINGS = (
    "log.showSignature=false", "core.fsmonitor=false", "log.mailmap=true", "mailmap.file=", "core.quotePath=true",
    "i18n.logOutputEncoding=UTF-8", "color.ui=false",
)  # fmt: skip
"""Settings of the repository or the user that must not change what comes out, or run a program."""

_EMAIL = re.compile(r"<?[\w.+%-]+@[\w-]+(?:\.[\w-]+)*>?")
_URL = re.compile(r"\b(?:(?:https?|ftp|git|ssh|svn)://|www\.)[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]")
_SHA = re.compile(r"\b(?:(?=[0-9a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{7,39}|[0-9a-f]{40}|[0-9a-f]{64})\b")
_TRAILER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: \S.*|\(cherry picked from commit [0-9a-f]+\)|[ \t]+\S.*")
_BY = re.compile(r"^[ \t]*(?:(?:[a-z]+-)+(?:by|id|to)|cc|link): \S.*\n?", re.MULTILINE | re.IGNORECASE)
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def cleaned(message: str) -> str:
    """A message without trailers, addresses and hashes."""
    paragraphs = _BLANK.split(message.replace("\r\n", "\n").strip("\n"))
    while len(paragraphs) > 1 and _is_trailers(paragraphs[-1]):
        paragraphs.pop()
    kept = [_BY.sub("", f"{paragraph}\n") if place else paragraph for place, paragraph in enumerate(paragraphs)]
    text = "\n\n".join(one.strip("\n") for one in kept if one.strip())
    return _SHA.sub("<sha>", _EMAIL.sub("<email>", _URL.sub("<url>", text)))


def _is_trailers(paragraph: str) -> bool:
    lines = paragraph.split("\n")
    return not lines[0].startswith((" ", "\t")) and all(_TRAILER.fullmatch(line.rstrip()) for line in lines)


def hashed(author: str) -> str:
    """What stands for an author: the first hexadecimal digits of a SHA-256. Who knows the name can compute it, too."""
    return hashlib.sha256(f"author\n{author}".encode()).hexdigest()[:ID]


def _path(data: str) -> str:
    return data.removeprefix(PREFIX)


def recognises(data: str) -> bool:
    """Whether it is git:PATH."""
    return data.startswith(PREFIX)


def located(data: str) -> str:
    """The same with an absolute path."""
    return f"{PREFIX}{Path(_path(data)).absolute()}"


def _command(path: Path, *arguments: str) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("-c", setting)]
    return [PROGRAM, "--no-pager", "--no-replace-objects", "-C", str(path.absolute()), *settings, *arguments]


def _environment() -> dict[str, str]:
    """Of the program: nothing that names another repository, and no question, no download."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


@contextmanager
def _running(path: Path, where: str, *arguments: str) -> Iterator[IO[bytes]]:
    """The output of the program, which is ended with the block.

    Raises:
        UserError: the program is missing, or reports a mistake.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed below; a pipe that nobody reads meanwhile could fill up)
    command, environment = _command(path, *arguments), _environment()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment)
    except FileNotFoundError as error:
        raise UserError(
            f"{where} is read by the program git, which is not on PATH; install git, or give a .jsonl file"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: the program git cannot be started ({error}); give the path of a git repository") from error
    assert process.stdout is not None
    ended = False
    try:
        yield process.stdout
        ended = not process.stdout.read(1)
    finally:
        if not ended:
            process.kill()
        process.stdout.close()
        code = process.wait()
        with errors:
            errors.seek(0)
            said = errors.read(4096).decode(errors="replace")
    if ended and code:
        line = next(iter(said.strip().splitlines()), f"exit code {code}").removeprefix("fatal: ")
        raise UserError(f"{where}: git refuses the repository ({line}); give the path of a repository that `git log` can read")


def _ask(path: Path, where: str, *arguments: str) -> str:
    with _running(path, where, *arguments) as output:
        return output.read().decode(errors="surrogateescape").rstrip("\n")


def check(path: Path, where: str) -> str:
    """The hash of the commit that is checked out.

    Raises:
        UserError: the path is no folder, no repository of its own, or one without a commit.
    """
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        raise UserError(f"{where}: there is no such folder; give git:PATH with the path of a git repository")
    try:
        inside = _ask(path, where, "rev-parse", "--is-inside-work-tree", "--absolute-git-dir")
    except UserError as error:
        if "not a git repository" not in str(error):
            raise
        raise UserError(
            f"{where}: there is no git repository in this folder; give the path of one, as `git clone` or `git init` makes it"
        ) from error
    in_tree, folder = inside.split("\n")
    top = _ask(path, where, "rev-parse", "--show-toplevel") if in_tree == "true" else folder
    if os.path.realpath(top) != os.path.realpath(path):
        raise UserError(f"{where} lies within the git repository {top!r}; give {PREFIX}{top} for all of it")
    try:
        return _ask(path, where, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except UserError as error:
        raise UserError(f"{where}: the git repository has no commit yet; give one with a history") from error


def records(output: IO[bytes], where: str) -> Iterator[list[bytes]]:
    """The fields of every commit."""
    held, fields = b"", list[bytes]()
    while block := output.read(BLOCK):
        *whole, rest = block.split(b"\0")
        for one in whole:
            fields.append(held + one)
            held = b""
            if len(fields) == len(FIELDS):
                yield fields
                fields = []
        held += rest
        if len(held) > LONGEST:
            raise UserError(f"{where}: a commit message has more than {LONGEST} bytes; give another repository")


def parts(path: Path, where: str, head: str, names: bool) -> Iterator[Part]:
    """The messages of all authors, the newest first; their times put them in order, and of one second the older commit first.

    Args:
        path: of the repository.
        where: the start of error messages.
        head: the hash of the newest commit.
        names: whether authors are called by name.

    Raises:
        UserError: git reports a mistake, as for a damaged repository.
    """
    pattern = "%x00".join(FIELDS)
    arguments = ("--no-merges", "--use-mailmap", "--no-notes", "--no-patch", "--encoding=UTF-8", f"--format=tformat:{pattern}")
    seen: set[int] = set()
    with _running(path, where, "log", "-z", *arguments, head, "--") as output:
        for number, (commit, name, email, seconds, message) in enumerate(records(output, where)):
            text = cleaned(message.decode("utf-8", errors="replace"))
            author = (name.strip() or email).decode("utf-8", errors="replace") or "unknown"
            client = author if names else hashed(author)
            same = int.from_bytes(hashlib.blake2b(f"{client}\0{text}".encode(), digest_size=8).digest(), "big")
            if not text or same in seen:
                continue
            seen.add(same)
            order = max(MOST - 1 - number, 0) / MOST
            yield Part(client, [text], [int(seconds or 0) + order], place=f"commit {commit.decode()[:12]}", position=number + 1)


def _content(data: str) -> Content:
    path = Path(_path(data))
    return Content(_name(path), f"{check(path, f'data={data!r}')} {_mailmap(path)}")


def _name(path: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", path.absolute().resolve().name.removesuffix(".git")).strip("-.") or "repository"


def _mailmap(path: Path) -> str:
    """A digest of the file that says which names are one author's."""
    try:
        return hashlib.sha256((path / ".mailmap").read_bytes()).hexdigest()
    except OSError:
        return ""


def _stream(options: DataOptions) -> Stream:
    path, where, names = Path(_path(options.data)), f"data={options.data!r}", bool(options.authors)
    head = check(path, where)
    total = int(_ask(path, where, "rev-list", "--count", "--no-merges", head, "--"))
    about = f"commit messages of {_name(path)} at {head[:12]} (under the licence of the repository), a client an author"
    if not names:
        about += ", names hashed"
    return Stream(_name(path), about, lambda: parts(path, where, head, names), total=total, path=options.data)


SOURCE = Source("git", _content, stream=_stream, matches=recognises, located=located, options=("authors",), tokenizer="words")
