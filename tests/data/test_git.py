"""Commit messages of a repository that the test makes with git itself."""

import os
import subprocess

import pytest

from flow.data import DataOptions, load, located, registry
from flow.data.readers import git
from flow.errors import UserError

AUTHORS = {"ann": ("Ann Lee", "ann@example.org"), "old": ("ann", "a.lee@old.example"), "bob": ("Bob Ö", "bob@example.org")}


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    """Settings of a user that would change what `git log` prints."""
    settings = tmp_path / "settings"
    settings.write_text(
        "[log]\n\tshowSignature = true\n\tdecorate = full\n[format]\n\tpretty = fuller\n[color]\n\tui = always\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


class Repository:
    def __init__(self, path):
        self.path, self.second = path, 1_700_000_000
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments, **environment):
        return subprocess.run(
            ["git", "-C", str(self.path), *arguments], check=True, capture_output=True, env=os.environ | environment
        ).stdout.decode()

    def commit(self, who, message, step=60):
        self.second += step
        name, email = AUTHORS[who]
        when = f"@{self.second} +0100"
        ids = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email, "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@c"}
        self.git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message, **ids,
                 GIT_AUTHOR_DATE=when, GIT_COMMITTER_DATE=when)  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "project").mkdir()
    made = Repository(tmp_path / "project")
    made.commit(
        "ann", "first: start\n\nSee https://example.org/a?b=(c) and ann@example.org.\n\nSigned-off-by: Ann <ann@example.org>\n"
    )
    made.commit("bob", 'zoë: naïve fix for 0123abcdef\n\nFixes: 89abcdef0123 ("first")\nReviewed-by: Ann Lee <ann@example.org>')
    made.commit("old", "third")
    made.commit("bob", "same", 0)
    made.commit("bob", "newer in the same second", 0)
    made.commit("bob", "same")
    made.git("checkout", "-q", "-b", "side", "HEAD~2")
    made.commit("ann", "on a branch")
    made.git("checkout", "-q", "main")
    made.commit("bob", "\n\n  \n")
    ids = {"GIT_AUTHOR_NAME": "M", "GIT_AUTHOR_EMAIL": "m@m", "GIT_COMMITTER_NAME": "M", "GIT_COMMITTER_EMAIL": "m@m"}
    made.git("merge", "-q", "--no-ff", "-m", "merge of side", "side", **ids)
    (made.path / ".mailmap").write_text("Ann Lee <ann@example.org> <a.lee@old.example>\n")
    return made


def stream_of(path, **options):
    given = DataOptions(data=f"git:{path}", **options)
    source = registry.source_of(given.data)
    assert source.name == "git"
    return source.opened(given)


def by_client(stream):
    found = {}
    for part in stream.parts():
        found.setdefault(part.client, []).extend(zip(part.times, part.texts, strict=True))
    return {client: [text for _, text in sorted(own)] for client, own in found.items()}


def test_messages_by_author_in_the_order_of_time(repository):
    assert by_client(stream_of(repository.path, authors=True)) == {
        "Ann Lee": ["first: start\n\nSee <url>) and <email>.", "third", "on a branch"],
        "Bob Ö": ["zoë: naïve fix for <sha>", "newer in the same second", "same"],
    }


def test_authors_are_hashed_unless_asked_for(repository):
    named, hidden = (by_client(stream_of(repository.path, authors=authors)) for authors in (True, None))
    assert {git.hashed(name): texts for name, texts in named.items()} == hidden
    assert all(len(client) == 16 and int(client, 16) >= 0 for client in hidden)


def test_a_bare_repository_and_one_with_damage(repository, tmp_path):
    plain = by_client(stream_of(repository.path))
    repository.git("add", ".mailmap")
    repository.commit("bob", "mailmap")
    bare = tmp_path / "bare.git"
    repository.git("clone", "-q", "--bare", ".", str(bare))
    assert {client: texts for client, texts in by_client(stream_of(bare)).items()} != plain
    assert stream_of(bare).name == "bare" and len(by_client(stream_of(bare))) == 2
    stream = stream_of(bare)
    for found in (bare / "objects").rglob("*"):
        if found.is_file():
            found.chmod(0o600)
            found.write_bytes(b"x" * 30)
    with pytest.raises(UserError, match=r"data='git:.*bare\.git': git refuses the repository \(.*\); give the path"):
        list(stream.parts())


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("Subject: not a trailer", "Subject: not a trailer"),
        ("a\n\nChange-Id: I0123\nSigned-off-by: A B <a@b.c>\n\n", "a"),
        ("a\n\nb\n\nSigned-off-by: A\n[x: fixed]\n", "a\n\nb\n\n[x: fixed]"),
        ("a\n\nbody\nCc: x@y.z\nAcked-by: B\nmore", "a\n\nbody\nmore"),
        ("a\n\n(cherry picked from commit 0123456789abcdef)\n", "a"),
        ("a\n\nNote: this\n  goes on\n", "a"),
        ("a\r\n\r\nb\r\n", "a\n\nb"),
        ("see git@github.com:a/b.git, <x.y@z.org> and mailto a+b@c.co.uk.", "see <email>:a/b.git, <email> and mailto <email>."),
        ("www.x.org/a, (http://x.org/b) ftp://c", "<url>, (<url>) <url>"),
        ("deadbeef 1234567 12ab34f " + "0" * 40, "deadbeef 1234567 <sha> <sha>"),
        ("revert abcdef0 and 0x1f2e3d4c", "revert <sha> and 0x1f2e3d4c"),
        ("", ""),
    ],
)
def test_what_is_removed_and_replaced(message, wanted):
    assert git.cleaned(message) == wanted


def test_a_population(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    for n in range(16):
        repository.commit(("ann", "bob")[n % 2], f"fix the part {n} of the parser")
    monkeypatch.setattr("flow.data.preparing.is_held_out", lambda client: client == git.hashed("Bob Ö"))
    data = located(f"git:{repository.path}")
    assert data == f"git:{repository.path}"
    population = load(DataOptions(data=data))
    assert [client.texts for client in sorted(population.clients, key=lambda client: client.held_out)] == [11, 11]
    assert "names hashed" in population.about and population.name == "project"
    before = registry.source_of(data).content(data)
    (repository.path / ".mailmap").write_text("")
    assert registry.source_of(data).content(data) != before


def test_relative_paths(repository, monkeypatch):
    monkeypatch.chdir(repository.path.parent)
    assert located("git:project") == f"git:{repository.path}"
    monkeypatch.chdir(repository.path)
    assert by_client(stream_of(".")) and stream_of(".").name == "project"


def test_what_is_no_repository(repository, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data='git:.*nowhere': there is no such folder; give git:PATH"):
        stream_of(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no git repository in this folder; give the path of one, as `git clone`"):
        stream_of(tmp_path / "empty")
    (repository.path / "docs").mkdir()
    with pytest.raises(UserError, match=r"docs' lies within the git repository '.*project'; give git:.*project for all of it"):
        stream_of(repository.path / "docs")
    Repository(tmp_path / "empty")
    with pytest.raises(UserError, match=r"the git repository has no commit yet; give one with a history"):
        stream_of(tmp_path / "empty")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"is read by the program git, which is not on PATH; install git"):
        stream_of(repository.path)
