"""git:PATH: the commit messages of a local repository, one client for each author; next word.

The program git reads the history of HEAD, without merges, and maps authors by the .mailmap of that commit. So the same commit
gives the same clients, whatever the working tree and the settings of the user. Trailers, e-mail addresses, URLs and hashes are
taken out, and an author's name is hashed unless the option authors asks for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from flow.data import paths
from flow.data.options import DataOptions
from flow.data.readers import sqlite
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError, plural, say

PREFIX = "git:"
WANTED = "the folder of a Git repository"
HASHED, NAMES = "hashed", "names"
AUTHORS = (HASHED, NAMES)
"""What a client's id is: a hash of the author's name, or the name."""
FIELDS = ("%H", "%aN", "%aE", "%at", "%B")
BLOCK = 1 << 20  # bytes that are read at a time
LONGEST = 1 << 28  # bytes of a message
HASH_DIGITS = 16  # of an author's name
_KEPT = ("GIT_EXEC_PATH", "GIT_CONFIG_")  # other variables of this kind may name another repository

_ADDRESS = re.compile(r"\w+://|[\w.-]+@[\w.-]+:")
_URL = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.)[^\s<>\"'`]*[^\s<>\"'`.,;:!?)\]}]", re.IGNORECASE)
_EMAIL = re.compile(r"<?[\w.+=-]+@[\w-]+(?:\.[\w-]+)*>?")
_SHA = re.compile(r"\b(?:(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,64}|[0-9a-f]{40})\b")
_TRAILER = re.compile(r"[A-Za-z0-9-]+[ \t]*:")
_OF_GIT = ("Signed-off-by: ", "(cherry picked from commit ")
_SIGNED = re.compile(
    r"(?:[A-Za-z-]+-by|cc|change-id|git-svn-id|message-id)[ \t]*:.*|\(cherry picked from commit .*\)", re.IGNORECASE
)


class _Repository(NamedTuple):
    name: str
    """Of its folder."""
    folder: Path
    """With its objects and references."""
    commit: str
    """That HEAD points to."""
    shallow: str
    """The commits at which a shallow clone ends; empty for a complete one."""


def clean(message: str) -> str:
    """A commit message without trailers, and with ``<url>``, ``<email>`` and ``<sha>`` for what they name.

    The last paragraph is one of trailers where Git says so (git-interpret-trailers): it is not the first, and either all of its
    lines are trailers, or at least a quarter of them are and one is of Git's own. Lines that sign a commit go wherever they
    stand below the first line.
    """
    lines = [line.rstrip() for line in message.strip().split("\n")]
    if not lines:
        return ""
    begin = max((number for number, line in enumerate(lines) if not line), default=len(lines)) + 1
    trailers = _trailers(lines[begin:])
    kept = [line for number, line in enumerate(lines) if number < begin or number - begin not in trailers]
    text = "\n".join([kept[0], *(line for line in kept[1:] if not _SIGNED.fullmatch(line))]).strip()
    for name, pattern in (("<url>", _URL), ("<email>", _EMAIL), ("<sha>", _SHA)):
        text = pattern.sub(name, text)
    return text


def _trailers(lines: list[str]) -> set[int]:
    """Which lines of the last paragraph are trailers, or go on with one."""
    trailers: set[int] = set()
    others = 0
    for number, line in enumerate(lines):
        is_trailer = line.startswith(_OF_GIT) or _TRAILER.match(line) is not None
        if is_trailer or (line[:1].isspace() and number - 1 in trailers):
            trailers.add(number)
        else:
            others += 1
    firm = any(line.startswith(_OF_GIT) for line in lines)
    heads = sum(not lines[number][:1].isspace() for number in trailers)
    return trailers if heads and (not others or (firm and heads * 3 >= others)) else set()


def client_id(author: str, authors: str) -> str:
    """The id of the client with an author's name.

    Args:
        authors: one of :data:`AUTHORS`.
    """
    return author if authors == NAMES else hashlib.sha256(author.encode()).hexdigest()[:HASH_DIGITS]


def _program(where: str) -> str:
    program = shutil.which("git")
    if program is None:
        raise UserError(f"{where} is read by the program git, which is not on PATH; install it, such as with `apt install git`")
    return program


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    return kept | {"LC_ALL": "C", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_TERMINAL_PROMPT": "0"}


def _ask(where: str, folder: Path, *arguments: str) -> tuple[list[str], str]:
    """The lines that git prints, and what it says where it fails."""
    done = subprocess.run(
        [_program(where), *arguments],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    complaint = " ".join(done.stderr.decode(errors="replace").split())
    return os.fsdecode(done.stdout).splitlines(), complaint[:300] if done.returncode else ""


def _path(data: str) -> Path:
    return Path(data.removeprefix(PREFIX)).expanduser()


def _repository(data: str) -> _Repository:
    """The repository of a value of `data`.

    Raises:
        UserError: git is missing, the path is not the top folder of a repository, or there is no commit.
    """
    where = f"data={data!r}"
    if not data.removeprefix(PREFIX):
        raise UserError(f"{where} must have the form git:PATH; give the path of {WANTED}, such as git:/home/ann/project")
    path = _path(data)
    if _ADDRESS.match(data.removeprefix(PREFIX)) and not path.exists():
        raise UserError(
            f"{where} is an address, and nothing is downloaded; clone it, such as with `git clone`, and give git:PATH of the "
            "clone"
        )
    with paths.readable(path, "data", WANTED, data):
        path = path.resolve(strict=True)
        if not path.is_dir():
            raise UserError(f"{where} is a file and not a folder; give the path of {WANTED}, as git:PATH")
        os.listdir(path)
    answers, complaint = _ask(where, path, "rev-parse", "--absolute-git-dir", "--is-shallow-repository", "--show-prefix")
    if "dubious ownership" in complaint:
        raise UserError(
            f"{where} belongs to another user, and git reads it only with leave; if you trust it, run: git config --global "
            f"--add safe.directory {str(path)!r}"
        )
    if complaint or len(answers) < 2:
        raise UserError(f"{where} is no Git repository ({complaint or 'git names no folder'}); give the path of {WANTED}")
    prefix = answers[2] if len(answers) > 2 else ""
    if prefix:
        top = str(path).removesuffix(prefix.rstrip("/")).rstrip("/")
        raise UserError(f"{where} is a folder inside of a Git repository; give git:{top} for the messages of all of it")
    folder = Path(answers[0])
    commits, complaint = _ask(where, path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if not commits:
        raise UserError(
            f"{where} is a Git repository in which HEAD leads to no commit that is there"
            f"{f' ({complaint})' if complaint else ''}; commit something, check out a branch, or clone it again"
        )
    with paths.readable(path, "data", WANTED):
        shallow = (_common(folder) / "shallow").read_text(errors="replace") if answers[1] == "true" else ""
    name = path.parent.name if path.name == ".git" else path.name.removesuffix(".git")
    return _Repository(re.sub(r"[^\w.-]+", "-", name).strip("-.") or "git", folder, commits[-1], shallow)


def _common(folder: Path) -> Path:
    """The folder that all working trees of a repository share."""
    link = folder / "commondir"
    return (folder / os.fsdecode(link.read_bytes()).rstrip("\n")).resolve() if link.is_file() else folder


def _log(repository: _Repository) -> list[str]:
    """The arguments of git; nothing of the working tree, and no program that a repository's settings name, has a part in it."""
    return [
        "--bare", f"--git-dir={repository.folder}", "-c", "mailmap.file=",
        "-c", f"mailmap.blob={repository.commit}:.mailmap", "-c", "protocol.allow=never",
        "log", "--no-merges", "--reverse", "--use-mailmap", "--no-show-signature", "--no-color", "--no-notes", "--no-patch",
        "--encoding=UTF-8", "-z", f"--format={'%x00'.join(FIELDS)}", repository.commit, "--",
    ]  # fmt: skip


def _count(data: str, repository: _Repository) -> int:
    """How many commits :func:`_log` gives."""
    lines, _ = _ask(
        f"data={data!r}", repository.folder, "--bare", f"--git-dir={repository.folder}", "-c", "protocol.allow=never",
        "rev-list", "--count", "--no-merges", repository.commit, "--",
    )  # fmt: skip
    return int(lines[0]) if lines else 0  # of a damaged repository, which reading names


def _fields(file: IO[bytes], where: str) -> Iterator[bytes]:
    """What stands between NULs."""
    held: list[bytes] = []
    size = 0
    while block := file.read(BLOCK):
        first, *others = block.split(b"\0")
        held.append(first)
        size += len(first)
        if size > LONGEST:
            raise UserError(f"{where}: a commit message is longer than {LONGEST} bytes; give another repository")
        for field in others:
            yield b"".join(held)
            held, size = [field], len(field)


def parts(data: str, repository: _Repository, authors: str) -> Iterator[Part]:
    """One message at a time, the oldest commit first.

    Raises:
        UserError: git fails, as where a commit is missing or damaged; or no message is left.
    """
    where = f"data={data!r}"
    command = [_program(where), *_log(repository)]
    number, left, unknown = 0, 0, 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=repository.folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
        closing(_Seen(where)) as seen,
    ):
        assert process.stdout is not None
        try:
            fields = _fields(process.stdout, where)
            for commit, name, email, time, message in zip(*[fields] * len(FIELDS), strict=False):
                number += 1
                author = _text(name).strip() or _text(email).strip()
                if not author or not time.isdigit():  # of a damaged line
                    unknown += 1
                    continue
                client, text = client_id(author, authors), clean(_text(message))
                if text and seen.is_new(client, text):
                    left += 1
                    yield Part(client, (text,), (float(time),), place=f"commit {commit.decode()[:12]}", position=number)
            status = process.wait()
        finally:
            process.kill()
        errors.seek(0)
        complaint = " ".join(errors.read(4096).decode(errors="replace").split())[:300]
    if status:
        raise UserError(
            f"{where}: git log stopped after {number} {plural(number, 'commit')} with exit code {status} ({complaint}); see "
            "what `git fsck` says of the repository, or clone it again"
        )
    if unknown:
        say(
            f"{where}: left out {unknown} of {number} {plural(number, 'commit')}, for want of an author or of a time since 1970"
        )
    if not left:
        raise UserError(
            f"{where}: none of {number} {plural(number, 'commit')} has a message, merges aside; give another repository"
        )


def _text(content: bytes) -> str:
    """UTF-8, as git gives it; a message that is none, and names no encoding, is taken as Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


class _Seen:
    """The messages of every author that were seen, by their hash, in a file that goes when it is closed."""

    def __init__(self, where: str) -> None:
        """``where``: the start of error messages."""
        self._where = where
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("PRAGMA synchronous=OFF")
        self._base.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")

    def is_new(self, client: str, text: str) -> bool:
        """Whether the author has no such message so far."""
        key = hashlib.blake2b(f"{client}\0{text}".encode(), digest_size=16).digest()
        try:
            return self._base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount > 0
        except sqlite3.OperationalError as error:  # it is a temporary file
            if sqlite.is_of_temporary_file(error):
                raise sqlite.temporary(self._where, error) from error
            raise

    def close(self) -> None:
        self._base.close()


# --- the source -------------------------------------------------------------------------------------------------------


def _content(data: str) -> Content:
    repository = _repository(data)
    return Content(repository.name, f"{PREFIX}{repository.commit} {hashlib.sha256(repository.shallow.encode()).hexdigest()}")


def _stream(options: DataOptions) -> Stream:
    repository = _repository(options.data)
    authors = options.authors or HASHED
    about = f"commit messages of {repository.name} (commit {repository.commit[:16]}; under the licence of that project)"
    return Stream(
        repository.name,
        about,
        lambda: parts(options.data, repository, authors),
        total=_count(options.data, repository),
        path=options.data,
    )


def check(options: DataOptions) -> None:
    """Refuse a value of `authors` that is none."""
    if options.authors not in (None, *AUTHORS):
        raise UserError(f"authors={options.authors!r} must be {HASHED!r} or {NAMES!r}; leave it out for {HASHED!r}")


def _recognises(data: str) -> bool:
    return data.startswith(PREFIX)


def _located(data: str) -> str:
    return f"{PREFIX}{_path(data).absolute()}" if data != PREFIX else data


SOURCE = Source(
    "git",
    _content,
    stream=_stream,
    matches=_recognises,
    located=_located,
    options=("authors",),
    check=check,
    form="git:PATH",
    tokenizer="words",
)
