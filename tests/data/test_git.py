"""git:PATH: what is read of a history, compared with what was written into it; and what is refused."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from oracles import preparation

from flow.cli.main import main
from flow.data import DataOptions, load, located, prepared_folder, registry
from flow.data.population import Population
from flow.data.readers import git
from flow.data.streams import Part, Stream
from flow.errors import UserError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

MAILMAP = "Ann Lee <ann@a.org> <ann@old.org>\nZoë <zoe@b.org> zoe <z@b.org>\n"
MAPPED = {("Ann", "ann@old.org"): "Ann Lee", ("zoe", "z@b.org"): "Zoë", ("zoe", "other@b.org"): "zoe"}
AUTHORS = [("Ann Lee", "ann@a.org"), ("Ann", "ann@old.org"), ("zoe", "z@b.org"), ("zoe", "other@b.org"), ("Zoë", "zoe@b.org"),
           ("Bob, Jr.", "bob@c.org"), ("", "nobody@d.org")]  # fmt: skip
SUBJECTS = ["fix: red", "blue, again", "add green", "日本 zoë", "Fix typo"]
BODIES = ["", "\n\nA second paragraph.\nIt has two lines.", "\n\nSee below.\n\nSigned-off-by: Ann Lee <ann@a.org>"]


def run(folder: Path, *arguments: str, text: str | bytes = "") -> str:
    isolated = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=isolated, input=text if isinstance(text, bytes) else text.encode(), check=True,
        capture_output=True,
    )  # fmt: skip
    return done.stdout.decode()


Commit = tuple[Any, ...]
"""Author, e-mail, time, message (bytes or text), and where they are not left out, its encoding and whether it merges."""


def repository(folder: Path, commits: Sequence[Commit], mailmap: str = "") -> str:
    """A repository in which every commit is (author, e-mail, time, message, ...), with an encoding and whether it merges."""
    folder.mkdir(parents=True, exist_ok=True)
    run(folder, "init", "-q", "-b", "main")
    stream: list[bytes] = []
    for number, (name, email, time, message, *more) in enumerate(commits, 1):
        content = message if isinstance(message, bytes) else message.encode()
        encoding, merges = (*more, "", False)[:2]
        stream += [f"commit refs/heads/main\nmark :{number}\n".encode()]
        stream += [f"author {name}{' ' * bool(name)}<{email}> {time} +0000\n".encode()]
        stream += [f"committer Carl <carl@e.org> {1_500_000_000 + number} +0000\n".encode()]
        stream += [f"encoding {encoding}\n".encode()] if encoding else []
        stream += [f"data {len(content)}\n".encode(), content, b"\n"]
        stream += [f"from :{number - 1}\n".encode()] if number > 1 else []
        stream += [f"merge :{number - 2}\n".encode()] if merges else []
        if number == len(commits) and mailmap:
            stream += [f"M 100644 inline .mailmap\ndata {len(mailmap.encode())}\n{mailmap}\n".encode()]
    run(folder, "fast-import", "--quiet", text=b"".join(stream))
    run(folder, "reset", "-q", "--hard")
    return f"git:{folder}"


def made_up(seed: int, count: int = 120) -> list[Commit]:
    draw = random.Random(seed)
    return [
        (*draw.choice(AUTHORS), draw.randrange(1_400_000_000, 1_400_000_030), draw.choice(SUBJECTS) + draw.choice(BODIES), "",
         number > 2 and draw.random() < 0.2)
        for number in range(count)
    ]  # fmt: skip


def expected(commits: Sequence[Commit]) -> list[Part]:
    """The parts, from what was written."""
    parts: list[Part] = []
    seen: set[tuple[str, str]] = set()
    for name, email, time, message, _, merges in commits:
        author = MAPPED.get((name, email), name) or email
        text = message.partition("\n\nSigned-off-by")[0]
        if not merges and (author, text) not in seen:
            seen.add((author, text))
            parts.append(Part(author, [text], [float(time)]))
    return parts


def plain(population: Population) -> tuple[Any, Any]:
    return population.vocabulary.tokens, {
        client.id: (
            client.group, client.held_out, client.texts,
            *(list(zip(side.tokens.tolist(), side.lengths.tolist(), strict=True)) for side in (client.train, client.test)),
        )
        for client in population.clients
    }  # fmt: skip


def stream_of(data: str, authors: str | None = "names") -> Stream:
    return registry.source_of(data).opened(DataOptions(data=data, authors=authors))


def read(data: str, authors: str = "names") -> list[tuple[str, ...]]:
    return [(part.client, *part.texts) for part in stream_of(data, authors).parts()]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_messages_by_author(tmp_path: Path, seed: int) -> None:
    commits = made_up(seed)
    data = repository(tmp_path / "project", commits, MAILMAP)
    stream = stream_of(data)
    for _ in range(2):
        parts = [(part.client, list(part.texts), list(part.times or ())) for part in stream.parts()]
        assert parts == [(part.client, part.texts, part.times) for part in expected(commits)]
    assert stream.total == sum(not merges for *_, merges in commits) and stream.name == "project"
    assert {part.client for part in expected(commits)} == {"Ann Lee", "Zoë", "zoe", "Bob, Jr.", "nobody@d.org"}
    assert plain(load(DataOptions(data=data, authors="names"))) == preparation.prepared(
        expected(commits), "words", 20, 10_000, 1
    )


def test_authors_are_hashed_unless_asked(tmp_path: Path) -> None:
    commits = made_up(4)
    data = repository(tmp_path / "project", commits, MAILMAP)
    hashed = [part.client for part in stream_of(data, None).parts()]
    named = [client for client, _ in read(data)]
    assert len(set(hashed)) == len(set(named)) == len(set(zip(hashed, named, strict=True)))
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in hashed)
    assert plain(load(DataOptions(data=data, authors="hashed"))) == plain(load(DataOptions(data=data)))
    with pytest.raises(UserError, match=r"authors='yes' must be 'hashed' or 'names'; leave it out for 'hashed'"):
        load(DataOptions(data=data, authors="yes"))
    with pytest.raises(UserError, match=r"authors='names' is an option of data='git', not of data='synthetic'"):
        load(DataOptions(data="synthetic", authors="names"))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("fix it", "fix it"),
        ("fix it\n\nNote: this is a trailer, as git sees it", "fix it"),
        ("doc: one line", "doc: one line"),
        ("a\n\nb\n\nSigned-off-by: A <a@b.c>\nnot one\n", "a\n\nb\n\nnot one"),
        ("a\n\nb: c\nd\ne", "a\n\nb: c\nd\ne"),
        ("a\n\nReviewed-by: B <b@c.d>\n\nLast words.", "a\n\n\nLast words."),
        ("a\n\n(cherry picked from commit 0123abc)", "a"),
        ("a\n\nLink: x\n  goes on\nCc: y", "a"),
        ("a\r\n\r\nSigned-off-by: A <a@b.c>\r\n", "a"),
        ("Acked-by: is the first line", "Acked-by: is the first line"),
        ("write to Ann <ann.lee+x@a.org>, or bob@c", "write to Ann <email>, or <email>"),
        ("see https://a.org/b?c=d#e. And (www.x.de/y), git://h/i@j", "see <url>. And (<url>), <url>"),
        ("reverts 0123abc, g0123abc, 1234567, defaced and " + 40 * "1", "reverts <sha>, g0123abc, 1234567, defaced and <sha>"),
        ("at " + 70 * "a1" + " 0xdeadbeef1", "at " + 70 * "a1" + " 0xdeadbeef1"),
        ("in <20200101.12345@host.org> and a@b", "in <email> and <email>"),
        ("", ""), (" \n\n ", ""),
    ],
)  # fmt: skip
def test_what_is_taken_out_of_a_message(message: str, text: str) -> None:
    assert git.clean(message) == text


def test_trailers_are_those_of_git(tmp_path: Path) -> None:
    """Lines of the last paragraph that git itself calls trailers, and no others, are gone."""
    draw = random.Random(5)
    lines = ["Signed-off-by: A", "Fixes: 12", "no trailer", "Key : value", "a-b: c", "  goes on", "two words: x",
             "(cherry picked from commit 1)", "http://x", "x_y: z", ":"]  # fmt: skip
    for _ in range(60):
        block = draw.choices(lines, k=draw.randrange(1, 6))
        if any(line.startswith("(") and after.startswith(" ") for line, after in pairwise(block)):
            continue  # git counts such lines, and prints neither
        message = "subject\n\nbody\n\n" + "\n".join(block) + "\n"
        only = run(tmp_path, "interpret-trailers", "--only-trailers", "--only-input", "--no-divider", text=message).splitlines()
        taken = [block[number] for number in sorted(git._trailers(block)) if not block[number].startswith("(")]
        assert [re.sub(" ?: ?", ":", line) for line in taken] == [re.sub(" ?: ?", ":", line) for line in only], block


def test_encodings(tmp_path: Path) -> None:
    commits = [
        ("Ann", "a@b.c", 1, "caf\xe9 one".encode("latin-1"), "ISO-8859-1"),
        ("Ann", "a@b.c", 2, "caf\xe9 two".encode("latin-1")),
        ("Ann", "a@b.c", 3, "caf\xe9 three"),
        ("Ann", "a@b.c", 4, ""),
        ("Ann", "a@b.c", 99_999_999_999, "far away"),
    ]
    messages = read(repository(tmp_path / "project", commits))
    assert messages == [("Ann", text) for text in ("caf\xe9 one", "caf\xe9 two", "caf\xe9 three", "far away")]


def test_the_commit_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working tree nor settings change what is read, no program that they name is run, and no other repository."""
    commits = made_up(6)
    data = repository(tmp_path / "project", commits, MAILMAP)
    before, digest = read(data), registry.source_of(data).content(data).digest
    (tmp_path / "project" / ".mailmap").write_text("Other <x@y.z> <ann@a.org>\n")
    (tmp_path / "map").write_text("Other <x@y.z> <ann@a.org>\n")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for name, value in (
        ("mailmap.file", str(tmp_path / "map")), ("log.showSignature", "true"), ("gpg.program", str(trap)),
        ("core.pager", str(trap)), ("core.fsmonitor", str(trap)), ("log.follow", "true"), ("color.ui", "always"),
        ("format.pretty", "oneline"), ("log.decorate", "full"), ("log.mailmap", "false"), ("log.date", "relative"),
    ):  # fmt: skip
        run(tmp_path / "project", "config", name, value)
    other = repository(tmp_path / "other", commits[:3])
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert (read(data), registry.source_of(data).content(data).digest) == (before, digest)
    monkeypatch.delenv("GIT_DIR")
    assert not (tmp_path / "sprung").exists()
    run(tmp_path, "clone", "-q", "--bare", "project", "bare.git")
    run(tmp_path / "project", "worktree", "add", "-q", "--detach", "../tree")
    for same in (f"git:{tmp_path}/bare.git", f"git:{tmp_path}/tree", f"git:{tmp_path}/project/.git"):
        assert (read(same), registry.source_of(same).content(same).digest) == (before, digest), same
    assert registry.source_of(other).content(other).digest != digest
    run(tmp_path, "clone", "-q", "--depth", "5", f"file://{tmp_path}/project", "shallow")
    shallow = f"git:{tmp_path}/shallow"
    assert registry.source_of(shallow).content(shallow).digest != digest and len(read(shallow)) <= 5


def test_paths_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(tmp_path / "my project", made_up(7), MAILMAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("git:my project") == located("git:~/my project") == f"git:{tmp_path}/my project"
    folder = prepared_folder(DataOptions(data="git:my project"))
    assert folder is not None and folder.name.startswith("my-project-")
    assert main(["data", "git:my project", "--authors", "names", "--sample", "1"]) == 0
    assert "commit messages of my-project" in capsys.readouterr().out
    dealt = load(DataOptions(data="git:~/my project"))
    assert len(dealt.clients) == 5


def test_a_reader_that_is_left_ends_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repository(tmp_path / "project", made_up(8))
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def starting(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*given, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", starting)
    parts = git.parts(data, git._repository(data), "names")
    next(parts)
    assert len(started) >= 1
    assert isinstance(parts, Generator)
    parts.close()
    assert started[-1].poll() is not None and started[-1].stdout is not None and started[-1].stdout.closed


def test_a_disk_that_is_full_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which messages were read is kept in a temporary file; here it takes one page."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    with closing(git._Seen("data='git:x'")) as seen:
        seen._base.execute("PRAGMA max_page_count = 2")
        with pytest.raises(UserError, match=r"^data='git:x': SQLite cannot write its temporary files \(.* full\); .*TMPDIR"):
            assert all(seen.is_new("ann", str(number)) for number in range(1000))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_paths_that_lead_to_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repository(tmp_path / "project", made_up(9))
    (tmp_path / "project" / "sub").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "plain").mkdir()
    run(tmp_path / "plain", "init", "-q", "../empty")
    for path, message in (
        ("gone", r"^data='git:/.*gone': there is no such file; give the path of the folder of a Git repository"),
        ("file", r"data='git:.*file' is a file and not a folder; give the path of the folder of a Git repository, as git:PATH"),
        ("plain", r"data='git:.*plain' is no Git repository \(fatal: not a git repository.*\); give the path of the folder"),
        ("project/sub", r"sub' is a folder inside of a Git repository; give git:.*/project for the messages of all of it$"),
        ("empty", r"HEAD leads to no commit that is there.*; commit something, check out a branch, or clone it again"),
    ):
        with pytest.raises(UserError, match=message):
            load(DataOptions(data=f"git:{tmp_path}/{path}"))
    for address in ("https://a.org/b", "git@a.org:b/c"):
        with pytest.raises(UserError, match=r"data='git:.*' is an address, and nothing is downloaded; clone it, .*`git clone`"):
            load(DataOptions(data=f"git:{address}"))
    with pytest.raises(UserError, match=r"data='git:' must have the form git:PATH"):
        load(DataOptions(data="git:"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"is read by the program git, which is not on PATH; install it"):
        load(DataOptions(data=data))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")
def test_a_repository_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = repository(tmp_path / "project", made_up(10))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for path in (tmp_path / "project", tmp_path / "project" / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(
        UserError, match=r"belongs to another user, .*run: git config --global --add safe\.directory '.*project'"
    ):
        load(DataOptions(data=data))


def test_damaged_histories(tmp_path: Path) -> None:
    data = repository(tmp_path / "project", made_up(11))
    folder = tmp_path / "project"
    for pack in (folder / ".git" / "objects" / "pack").glob("*.pack"):
        (folder / pack.name).write_bytes(pack.read_bytes())
        for file in pack.parent.glob(f"{pack.stem}.*"):
            file.unlink()
        run(folder, "unpack-objects", "-q", text=(folder / pack.name).read_bytes())
    middle = run(folder, "rev-list", "HEAD").split()[60]
    path = folder / ".git" / "objects" / middle[:2] / middle[2:]
    path.chmod(0o644)
    whole = path.read_bytes()
    damages: list[Callable[[], object]] = [
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: path.write_bytes(b"x" * 30),
        path.unlink,
    ]
    for damage in damages:
        damage()
        with pytest.raises(
            UserError, match=r"git log stopped after \d+ commits with exit code \d+ \(.+\); see what `git fsck`"
        ):
            load(DataOptions(data=data))
    head = run(folder, "rev-parse", "HEAD").strip()
    Path(folder / ".git" / "objects" / head[:2] / head[2:]).unlink()
    with pytest.raises(UserError, match=r"HEAD leads to no commit that is there"):
        load(DataOptions(data=data))


def test_histories_without_messages_and_authors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"none of 2 commits has a message, merges aside; give another repository"):
        load(DataOptions(data=repository(tmp_path / "silent", [("Ann", "a@b.c", 1, ""), ("Ann", "a@b.c", 2, "\n")])))
    messages = read(repository(tmp_path / "nameless", [("", "", 1, "one"), ("Ann", "a@b.c", 2, "two")]))
    assert messages == [("Ann", "two")]
    assert "left out 1 of 2 commits, for want of an author or of a time since 1970" in capfd.readouterr().err
