"""Objects of a user's file: how they are loaded, which mistakes are told, and which file some code is from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import linecache
import os
import pickle
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flow import UserError
from flow.algorithms import fedavg
from flow.user_code import Loaded, is_reference, load, source_of

GOOD = """\
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

RUNS = []
RUNS.append(1)


@dataclass(frozen=True)
class Options:
    rate: float = math.pi


def double(x: int) -> int:
    return 2 * x


_PRIVATE = 3
"""


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    before, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def refusal(reference: str) -> str:
    with pytest.raises(UserError) as raised:
        load(reference, "model")
    assert not raised.value.args[0].count("\n")
    return str(raised.value)


@pytest.mark.parametrize("text", ["a.py:B", "/tmp/a b/c.py:D", "x.py:", "a.b.py:C", "x.py:1", "./x.py:N"])
def test_the_form_of_a_reference(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize("text", ["", "fedavg", "a.py", ".py:", ".py:A", "a.pyc:B", "a.py:B/c", "a.txt:B", "runs/x"])
def test_other_texts_are_no_references(text: str) -> None:
    assert not is_reference(text)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_an_object_is_loaded_with_its_file_and_hash(mine: Path) -> None:
    loaded = load(f"{mine}:double", "model")
    assert loaded == Loaded(loaded.value, f"{mine}:double", mine.resolve(), hashlib.sha256(GOOD.encode()).hexdigest())
    assert loaded.value(21) == 42


def test_a_path_starts_at_the_working_directory_or_beside_a_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    here = load("mine.py:double", "model")
    monkeypatch.chdir("/")
    beside = load("mine.py:double", "model", beside=mine.parent)
    assert here.value is beside.value and here.path == beside.path == mine.resolve()


def test_the_same_file_is_executed_once_and_a_changed_one_again(mine: Path) -> None:
    link = mine.with_name("link.py")
    link.symlink_to(mine)
    first, again, linked = (load(f"{path}:RUNS", "model") for path in (mine, mine, link))
    assert first.value == [1] and first.value is again.value is linked.value
    mine.write_text(GOOD + "# changed\n")
    other = load(f"{mine}:RUNS", "model")
    assert other.value == [1] and other.value is not first.value and other.sha256 != first.sha256


def test_equal_files_in_two_places_are_two_modules(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(GOOD)
    assert load(f"{mine}:RUNS", "model").value is not load(f"{tmp_path}/other/mine.py:RUNS", "model").value


def test_classes_are_known_by_their_module(mine: Path) -> None:
    kind = load(f"{mine}:Options", "model").value
    assert typing.get_type_hints(kind) == {"rate": float}  # text annotations are looked up in the module
    assert dataclasses.fields(kind)[0].name == "rate"
    assert pickle.loads(pickle.dumps(kind(2.0))) == kind(2.0)


def test_modules_beside_the_file_can_be_imported_at_its_top(tmp_path: Path) -> None:
    (tmp_path / "beside_it_1.py").write_text("VALUE = 5\n")
    (tmp_path / "mine.py").write_text("import beside_it_1\nVALUE = beside_it_1.VALUE\n")
    assert load(f"{tmp_path}/mine.py:VALUE", "model").value == 5


def test_a_module_beside_it_of_the_name_of_a_loaded_one_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beside_it_2.py").write_text(f"VALUE = {folder!r}\n")
        (tmp_path / folder / "mine.py").write_text("from beside_it_2 import VALUE\n")
    assert load(f"{tmp_path}/a/mine.py:VALUE", "model").value == "a"
    told = refusal(f"{tmp_path}/b/mine.py:VALUE")
    assert "mine.py imports 'beside_it_2', which is beside it, but another module of this name is loaded already" in told
    assert told.endswith(f"{tmp_path}/a/beside_it_2.py; rename the one beside it")
    (tmp_path / "b" / "json.py").write_text("VALUE = 1\n")
    (tmp_path / "b" / "mine.py").write_text("import json\n")
    assert json.__file__ in refusal(f"{tmp_path}/b/mine.py:json")


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_reference_of_another_form(mine: Path) -> None:
    for text in (f"{mine}:", f"{mine}:1x", f"{mine}:a.b", str(mine)):
        assert refusal(text) == (
            f"model={text!r} must have the form FILE.py:NAME, with NAME a variable, function or class of the file; write it so"
        )
    assert "has a NUL character; leave it out" in refusal("a\0.py:B")


def test_no_file_a_folder_and_what_is_no_regular_file(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/no.py; give the path of a Python file" in refusal(f"{tmp_path}/no.py:A")
    (tmp_path / "folder.py").mkdir()
    assert f"{tmp_path}/folder.py is a folder and not a file; give" in refusal(f"{tmp_path}/folder.py:A")
    os.mkfifo(tmp_path / "pipe.py")
    assert f"{tmp_path}/pipe.py is not a regular file; give" in refusal(f"{tmp_path}/pipe.py:A")
    assert "cannot be read ([Errno 36] File name too long" in refusal(f"{'x' * 300}.py:A")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"A = 1\nB = '\xe4'\n", "mine.py is not UTF-8 in line 2 (invalid continuation byte); save it as UTF-8"),
        (b"A = 1\n\nB = (\n", "mine.py is not Python in line 3 (SyntaxError: '(' was never closed); correct the file"),
        (b"if 1:\nA = 1\n", "mine.py is not Python in line 2 (IndentationError: expected an indented block"),
        (b"A = 1\0", "mine.py is not Python"),
        (b"A = " + b"-" * 100_000 + b"1", "mine.py is not Python ("),
        (b"A = 1\nB = A / 0\n", "mine.py stopped in line 2 with ZeroDivisionError: division by zero; correct the file"),
        (b"def f():\n    raise KeyError\n\nf()\n", "mine.py stopped in line 2 with KeyError; correct the file"),
        (b"import json\n\njson.loads('{')\n", "mine.py stopped in line 3 with JSONDecodeError: Expecting property name"),
        (b"import not_there_at_all\n", "mine.py stopped in line 1 with ModuleNotFoundError: No module named 'not_there"),
        (b"raise ValueError('one\\ntwo')\n", "mine.py stopped in line 1 with ValueError: one two; correct the file"),
        (b"A = 1\nimport sys\nsys.exit('done')\n", "mine.py stopped in line 3, where it ends the program (SystemExit: done);"),
    ],
)
def test_a_file_that_cannot_be_executed(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    before = set(sys.modules)
    told = refusal(f"{tmp_path}/mine.py:A")
    assert told.startswith(f"model='{tmp_path}/mine.py:A': {rule}"), told
    assert not [name for name in set(sys.modules) - before if name.startswith("user_")]
    assert refusal(f"{tmp_path}/mine.py:A") == told  # nothing half executed is found the second time


def test_an_interruption_is_none_of_the_files_mistakes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load(f"{tmp_path}/mine.py:A", "model")


def test_a_name_that_is_not_there(mine: Path) -> None:
    assert refusal(f"{mine}:Optons").endswith(
        "mine.py has no 'Optons' at its top level; the public names in it are RUNS, Options, double; give one of these"
    )
    mine.write_text("import math\n")
    assert refusal(f"{mine}:A").endswith("the public names in it are none; give one of these")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"\xef\xbb\xbfA = '\xc3\xa4'\r\nB = 2\r\n")
    assert load(f"{tmp_path}/mine.py:A", "model").value == "ä"


# --- where code is from -----------------------------------------------------------------------------------------------


def test_the_source_of_a_users_code(mine: Path) -> None:
    expected = ("mine.py", hashlib.sha256(GOOD.encode()).hexdigest())
    double, options = (load(f"{mine}:{name}", "model").value for name in ("double", "Options"))
    mine.write_text(GOOD + "# changed since it was executed\n")
    for objects in (
        (double,),
        (options,),
        (functools.partial(double, 1),),
        (options(),),
        (None, options, double, fedavg.local),
    ):
        assert source_of(*objects) == expected
    assert source_of(options.__init__) == expected  # which dataclass wrote


def test_code_of_flow_of_python_and_of_packages_does_not_count() -> None:
    assert source_of(fedavg.local, fedavg.FedAvgOptions, torch.nn.Linear, torch.relu, json.loads, dict, len, None) is None
    assert source_of() is None


def test_a_base_in_another_file_counts(tmp_path: Path) -> None:
    (tmp_path / "base_3.py").write_text("class Base:\n    pass\n")
    (tmp_path / "mine.py").write_text("from base_3 import Base\nclass Mine(Base):\n    pass\n")
    kind = load(f"{tmp_path}/mine.py:Mine", "model").value
    both = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("base_3.py", "mine.py")]
    lines = sorted(f"{sha} {name}\n" for sha, name in zip(both, ("base_3.py", "mine.py"), strict=True))
    assert source_of(kind) == ("mine.py, base_3.py", hashlib.sha256("".join(lines).encode()).hexdigest())


def test_a_module_that_was_imported_has_its_files_content() -> None:
    def own() -> None:
        pass

    assert source_of(own) == (Path(__file__).name, hashlib.sha256(Path(__file__).read_bytes()).hexdigest())


def test_code_of_a_notebook_counts_by_its_text() -> None:
    """A notebook's cell has no file, but linecache knows its text."""
    text = "def cell(x):\n    return x + 1\n"
    name, space = "<ipython-input-1-abc>", {"__name__": "__main__"}
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), space)
    cell: Any = space["cell"]
    try:
        main, file = sys.modules["__main__"], getattr(sys.modules["__main__"], "__file__", None)
        if file is not None:
            del main.__file__
        assert source_of(cell) == ("__main__", hashlib.sha256(text.encode()).hexdigest())
    finally:
        del linecache.cache[name]
        if file is not None:
            main.__file__ = file


def test_code_of_a_prompt_has_no_source() -> None:
    space: dict[str, Any] = {"__name__": "not_a_module"}
    exec(compile("def f(): pass\nclass C: pass\n", "<stdin>", "exec"), space)
    assert source_of(space["f"], space["C"]) is None
