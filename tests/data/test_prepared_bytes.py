"""The bytes of prepared data are those of their VERSION, and the name of a prepared folder depends on no source text.

PYTHONPATH=. python tests/data/test_prepared_bytes.py      records them anew, after VERSION was raised
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from flow.data import DataOptions, digests, load, prepared, prepared_folder, registry, shakespeare

RECORDED = Path(__file__).with_name("prepared_bytes.json")
REMEDY = (
    "raise VERSION in flow/data/prepared.py, or folders that users have prepared would be read with another meaning; "
    "then record anew with `PYTHONPATH=. python tests/data/test_prepared_bytes.py`"
)

TEXTS = """\
{"id": "ann", "group": "team-1", "split": "train", "texts": ["Red, blue and red.", "Don't re-enable it!", "A yak: 1,000!"], "ts": [1, 2.5, 3]}
{"id": "bob", "split": "heldout", "texts": ["Blue is <email>.", "", "wombat vole urial tapir"], "ts": [7, 7, 9]}
{"id": "zoë", "split": "train", "texts": ["red blue zebra", "xerus red", "a a a", "blue", "l’été 2.6.32"]}
{"id": "user 3", "group": "team-2", "texts": ["one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
fifteen sixteen seventeen eighteen nineteen twenty twenty-one", "two"]}
{"id": "user 13", "texts": ["decided by its id", "red and blue"]}
{"id": "nobody", "split": "train", "texts": []}
"""  # noqa: E501
PLAYS = {
    "storm": [
        ("FIRST SAILOR", "A wave! A tall wave,\nand wet."),
        ("ANN", "Who calls?"),
        ("FIRST SAILOR", "Not I."),
        ("GHOST", "One speech is too few for a client."),
        ("ANN", "Then good night!"),
    ],
    "calm": [("BEN", "Hush."), ("CAT", "Mew."), ("BEN", "Hush, I said."), ("CAT", "Mew again.")],
}


def _jsonl(folder: Path, **options: int) -> DataOptions:
    (folder / "mine.jsonl").write_text(TEXTS, encoding="utf-8")
    return DataOptions(data=str(folder / "mine.jsonl"), **options)  # type: ignore[arg-type]


TABLE = """\
user_id,created_utc,body,subreddit,score
bob,20,"Blue, and red.
A second line.",colours,1
ann,2017-12-31 23:59:59,Not red.,colours,5
bob,10,"He said ""blue"".",animals,2
user 3,30,,colours,1
bob,1e1,wombat vole,animals,0
ann,2017-12-31T23:59:58Z,red blue zebra,,3
user 13,5,decided by its id,animals,1
"""


def _table(folder: Path, **options: int) -> DataOptions:
    (folder / "posts.csv").write_text(TABLE, encoding="utf-8")
    return DataOptions(data=str(folder / "posts.csv"), **options)  # type: ignore[arg-type]


def _foreign() -> Any:
    """tests/support/foreign.py, which is not on the path of whoever records."""
    spec = importlib.util.spec_from_file_location("foreign", Path(__file__).parents[1] / "support" / "foreign.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stackoverflow(folder: Path, **options: Any) -> DataOptions:
    foreign = _foreign()
    texts = [
        ("train", "10", "red , blue and c++ ."),
        ("train", "2", "a <URL> ."),
        ("test", "10", "blue ."),
        ("heldout", "3", "red"),
    ]
    rows = [
        (split, client, foreign.sentence(f"{text} {n}", f"2016-02-29 23:00:0{9 - n} UTC"))
        for split, client, text in texts
        for n in range(3)
    ]
    (folder / "stackoverflow.word_count").write_text(". 9\nred 8\nblue 7\n<URL> 6\nunseen 5\nc++ 4\n")
    return DataOptions(data=str(foreign.tff_sqlite(folder / "so.sqlite", rows)), **options)


def _fedjax(folder: Path, **options: Any) -> DataOptions:
    clients = {f"ROLE{n}": {"snippets": ["To be,\nor not.", "Words—"] * n} for n in range(1, 8)}
    return DataOptions(data=str(_foreign().fedjax_sqlite(folder / "shakespeare_train.sqlite", clients)), **options)


def _pfl(folder: Path, **options: Any) -> DataOptions:
    rows = [["BOS", "red", ".", "EOS"], ["BOS", "c/c++", "unseen", "red", "red", "red"]]
    parts = {"train": {"10": rows, "2": rows[:1]}, "val": {"3": rows * 2}, "test": {"10": rows[1:]}}
    return DataOptions(data=str(_foreign().pfl_h5(folder / "so.hdf5", ["red", ".", "c/c++"], parts, 4)), **options)


def _leaf(folder: Path, **options: Any) -> DataOptions:
    text = "Who calls? Not I. A wave; a tall wave, and wet: then good night!"
    for name, begin, end in (("train", 0, 30), ("test", 34, 50)):
        places = range(begin, end)
        own = {"x": [text[n : n + 5] for n in places], "y": [text[n + 5] for n in places]}
        content = {"users": ["ANN", "BEN"], "num_samples": [30, 30], "user_data": {"ANN": own, "BEN": own}}
        (folder / "plays" / name).mkdir(parents=True)
        (folder / "plays" / name / f"all_data_{name}_9.json").write_text(json.dumps(content))
    return DataOptions(data=str(folder / "plays"), **options)


def _textfiles(folder: Path, **options: Any) -> DataOptions:
    for name, content in {
        "ann/2.txt": "red\n",
        "ann/10.txt": "blue",
        "bob.txt": "One.\nTwo.\n",
        "eve.md": "A,\n\nb.\nc",
    }.items():
        (folder / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "texts" / name).write_text(content)
    return DataOptions(data=str(folder / "texts"), **options)


HISTORY = """\
commit refs/heads/main
mark :1
author Ann <ann@a.org> 1400000000 +0000
committer Ann <ann@a.org> 1400000000 +0000
data <<END
Red, blue and red

Signed-off-by: Ann <a@b.c>
END
commit refs/heads/main
mark :2
author Bob <bob@b.org> 1400000002 +0000
committer Ann <ann@a.org> 1400000001 +0000
data <<END
a yak of <x@y.z>, see 0123abc
END
from :1
commit refs/heads/main
mark :3
author Bob <bob@b.org> 1400000001 +0000
committer Ann <ann@a.org> 1400000002 +0000
data <<END
not red
END
from :2
commit refs/heads/main
mark :4
author A. Lee <ann@a.org> 1400000003 +0000
committer Ann <ann@a.org> 1400000003 +0000
data <<END
blue, at last
END
from :3
M 100644 inline .mailmap
data <<END
Ann <ann@a.org>
END
"""


def _git(folder: Path, **options: str) -> DataOptions:
    made = folder / "history.git"
    for command, given in (
        (["init", "-q", "--bare", "--object-format=sha1", "-b", "main", str(made)], ""),
        (["-C", str(made), "fast-import"], HISTORY),
    ):
        subprocess.run(["git", *command], input=given.encode(), check=True, capture_output=True)
    return DataOptions(data=f"git:{made}", **options)  # type: ignore[arg-type]


SAVED = Path(__file__).parents[1] / "fixtures" / "saved_dataset"
"""As the library datasets 5.2 wrote it."""


CASES: dict[str, Callable[[Path], DataOptions]] = {
    "shakespeare": lambda folder: DataOptions(),
    "shakespeare, cut": lambda folder: DataOptions(sequence_length=7, vocabulary_size=9, max_clients=3),
    "jsonl": lambda folder: _jsonl(folder),
    "jsonl, cut": lambda folder: _jsonl(folder, sequence_length=4, vocabulary_size=5, oov_buckets=3, max_clients=5),
    "tabular": lambda folder: _table(folder),
    "tabular, cut": lambda folder: _table(folder, sequence_length=3, vocabulary_size=4, oov_buckets=2, max_clients=3),
    "dirichlet": lambda folder: replace(_table(folder), data=f"dirichlet:0.5:3:{folder}/posts.csv"),
    "dirichlet, cut": lambda folder: replace(
        _table(folder, sequence_length=3, data_seed=4, max_clients=2), data=f"dirichlet:2:4:{folder}/posts.csv"
    ),
    "tff_sqlite": _stackoverflow,
    "tff_sqlite, tff": lambda folder: _stackoverflow(folder, protocol="tff", sequence_length=4, vocabulary_size=4),
    "tff_sqlite, motley": lambda folder: _stackoverflow(folder, protocol="motley", oov_buckets=2),
    "fedjax": _fedjax,
    "hdf5": _pfl,
    "leaf": _leaf,
    "textfiles": _textfiles,
    "git": lambda folder: _git(folder),
    "git, named": lambda folder: _git(folder, authors="names"),
    "hf": lambda folder: DataOptions(data=str(SAVED)),
    "hf, cut": lambda folder: DataOptions(data=f"hf:{SAVED}", sequence_length=3, group_column=""),
    "synthetic, few sequences": lambda folder: DataOptions(data="synthetic", sequences=1, vocabulary_size=50),
    "synthetic, few clients": lambda folder: DataOptions(data="synthetic", clients=12, oov_buckets=2),
    "synthetic, cut": lambda folder: DataOptions(
        data="synthetic", clients=30, sequences=3, data_seed=5, sequence_length=6, vocabulary_size=40
    ),
}
"""Every source with its defaults, and with every option that it has."""
BY_LIBRARIES = ("tff_sqlite", "fedjax", "hdf5")
"""Sources whose files have other bytes with every version of the library that writes them: their digest is left out."""


def prepare(name: str, folder: Path) -> dict[str, str]:
    """Prepare a case below this folder: the SHA-256 of every file, and the folder's name."""
    (folder / "cache").mkdir()
    with (
        mock.patch.dict(os.environ, FLOW_CACHE=str(folder / "cache")),
        mock.patch.object(shakespeare, "unpacked", return_value=json.dumps(PLAYS).encode()),
        ExitStack() as patched,
    ):
        if name.startswith(BY_LIBRARIES):
            patched.enter_context(mock.patch.object(digests, "of_file", return_value="0" * 64))
        options = CASES[name](folder)
        load(options)
        made = prepared_folder(options)
    assert made is not None and [made] == list((folder / "cache").iterdir())
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
    return {"folder": made.name} | hashes


def test_every_source_has_a_case() -> None:
    assert {name.partition(",")[0] for name in CASES} == {source.name for source in registry.SOURCES}


@pytest.mark.parametrize("name", CASES)
def test_prepared_bytes_are_those_of_their_version(name: str, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    made = prepare(name, tmp_path)
    if recorded["version"] != prepared.VERSION:
        pytest.fail("VERSION was raised; record anew with `PYTHONPATH=. python tests/data/test_prepared_bytes.py`")
    expected = recorded["cases"][name]
    changed = [file for file in expected.keys() | made.keys() if expected.get(file) != made.get(file)]
    if changed:
        pytest.fail(f"prepared data have other bytes than before, in {', '.join(sorted(changed))}: {REMEDY}")


def test_an_edit_of_the_source_text_prepares_nothing_again(tmp_path: Path) -> None:
    import forked  # not on the path of whoever records

    root = Path(__file__).parents[2]
    shutil.copytree(root / "flow", tmp_path / "flow", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "flow").rglob("*.py"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n# a comment\n")
    options = _jsonl(tmp_path)
    program = (
        "import sys; import flow.data; options = flow.data.DataOptions(data=sys.argv[1]);"
        "print(flow.data.__file__, flow.data.prepared_folder(options), sep='\\n')"
    )
    ran = forked.python(program, options.data, paths=[str(tmp_path)])
    assert not ran.returncode, ran.stderr
    edited, folder = ran.stdout.splitlines()
    assert Path(edited) == tmp_path / "flow" / "data" / "__init__.py"
    assert Path(folder) == prepared_folder(options)


def record() -> None:
    """Write down the bytes of this VERSION; refused where they changed and VERSION did not."""
    cases = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases[name] = prepare(name, Path(folder))
    if RECORDED.exists():
        recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
        kept = {name: cases.get(name) for name in recorded["cases"]}
        if recorded["version"] == prepared.VERSION and kept != recorded["cases"]:
            raise SystemExit(f"prepared data have other bytes than before: {REMEDY}")
    content = {"version": prepared.VERSION, "cases": cases}
    RECORDED.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
