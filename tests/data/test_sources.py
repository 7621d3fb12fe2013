"""The registry of data sources, and what loading makes of mistakes and of bugs."""

import ast
import dataclasses
from pathlib import Path
from typing import NoReturn

import pytest
from optional import present

import flow
from flow import Config, UserError, simulate
from flow.cli.main import main
from flow.data import DataOptions, jsonl, load, prepared_folder, registry, source, streams

LINE = '{"id": "a", "texts": ["one two", "two three"], "split": "train"}\n'


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.jsonl").write_text(LINE)
    return str(tmp_path / "mine.jsonl")


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_new_source_is_one_record_in_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mine: str) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))

    def stream(options: DataOptions) -> streams.Stream:
        part = streams.Part("ann", ("a b c",) * (options.clients or 4), held_out=False)
        return streams.Stream("lines", "made up", lambda: iter([part]), sequence_length=3)

    own = {"synthetic": ("sequences", "data_seed")}  # `clients` is the new source's
    before = [known._replace(options=own.get(known.name, known.options)) for known in registry.SOURCES]
    lines = source.Source(
        "lines", lambda data: source.Content(data, "1"), stream=stream, options=("clients",), tokenizer="words"
    )
    paths = source.Source("paths", lambda data: source.Content("x", "1"), stream=stream, suffixes=(".abc",))
    monkeypatch.setattr(registry, "SOURCES", (*before, lines, paths))
    made = load(DataOptions(data="lines", clients=7))
    assert (made.name, made.sequence_length, made.clients[0].texts) == ("lines", 3, 7)
    assert {path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()} == {"lines"}
    assert load(DataOptions(data="some.abc")).clients[0].texts == 4
    with pytest.raises(UserError, match=r"clients=7 is an option of data='lines', not of data='.*mine\.jsonl'; leave it out"):
        load(DataOptions(data=mine, clients=7))
    with pytest.raises(
        UserError,
        match=r"one of these \(dirichlet:ALPHA.*, git:PATH, hf:.*, synthetic, lines\), or .* in \.jsonl, .* or \.abc and exist",
    ):
        load(DataOptions(data="nothing"))


def test_no_other_module_names_a_source() -> None:
    """As a value; docstrings and usage may. A source's own file does, and the options have one of them as their default."""
    root = Path(flow.__file__).parent
    names = {known.name for known in registry.SOURCES}
    own = {root / "data" / folder / f"{name}.py": name for name in names for folder in ("", "readers")}
    assert {name for path, name in own.items() if path.exists()} == names
    # a preset is named for what its model was made for; an extra is named for the source that needs it
    allowed = {*own, root / "data" / "options.py", root / "presets.py", root / "doctor" / "packages.py"}
    allowed.add(root / "cli" / "completing.py")  # which completes these names without loading them
    for path in set(root.rglob("*.py")) - allowed:
        constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not names & constants, path


def test_options_of_one_source_are_fields_with_the_default_none() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(DataOptions)}
    assert all(defaults[name] is None for known in registry.SOURCES for name in known.options)
    assert {"synthetic", "tabular"} <= {known.name for known in registry.SOURCES if known.options}


# --- mistakes of the user, and bugs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [RuntimeError, ValueError, OSError, ModuleNotFoundError])
def test_a_bug_in_a_source_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, mine: str, bug: type[Exception]) -> None:
    def read(path: Path, label_field: str | None) -> NoReturn:
        raise bug("a bug of the source")

    monkeypatch.setattr(jsonl, "parts", read)
    for run in (
        lambda: load(DataOptions(data=mine)),
        lambda: simulate(Config(data=DataOptions(data=mine)), progress=False),
        lambda: main(["prepare", "--data", mine]),
    ):
        with pytest.raises(bug, match="a bug of the source") as raised:
            run()
        assert not isinstance(raised.value, UserError)


def test_a_file_that_the_system_refuses_to_read_is_named(monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    name = "x" * 300 + ".jsonl"
    with pytest.raises(UserError, match=r"data='x+\.jsonl' is longer than the name of a file can be; give the path of a"):
        load(DataOptions(data=name))

    def refused(path: Path, mode: str = "r") -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"data='.*mine\.jsonl' is a file that this user is not permitted to read, .*chmod"):
        next(jsonl.parts(Path(mine)))


def test_a_cache_that_cannot_be_looked_into_is_named(monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    monkeypatch.setenv("FLOW_CACHE", "x" * 300)
    with pytest.raises(UserError, match=r"FLOW_CACHE='x+': prepared data cannot be kept there \(\[Errno 36\].*set it empty"):
        load(DataOptions(data=mine))


def test_the_default_cache_and_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    monkeypatch.delenv("FLOW_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert present(prepared_folder(DataOptions(data=mine))).parent == Path("/somewhere/.cache/flow")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert present(prepared_folder(DataOptions(data=mine))).parent == Path("/elsewhere/flow")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where neither $HOME nor the password file has one
    with pytest.raises(UserError, match=r"FLOW_CACHE is not set, and this user has no home folder .*; set this variable"):
        prepared_folder(DataOptions(data=mine))


@pytest.mark.parametrize("length", [2**50, 2**59, 2**60, 2**63 - 2, 2**63 - 1, 2**63, 10**23])
@pytest.mark.parametrize("data", ["mine", "synthetic"])
def test_sequences_longer_than_memory_are_refused(mine: str, data: str, length: int) -> None:
    options = DataOptions(data="synthetic", clients=3, vocabulary_size=20) if data == "synthetic" else DataOptions(data=mine)
    message = (
        rf"data='.*' with sequence_length={length} does not fit into memory \(.+\); lower sequence_length or max_clients"
        rf"|sequence_length={length}: prepared data would take at least .+ are free; lower clients, sequences"
        rf"|sequence_length={length} must be at most {2**63 - 1}"
    )
    with pytest.raises(UserError, match=message):
        load(dataclasses.replace(options, sequence_length=length))


@pytest.mark.parametrize("sequences", [10**15, 10**18, 10**23, 10**400])
def test_more_sequences_than_memory_are_refused(sequences: int) -> None:
    message = rf"sequences={sequences}(: prepared data would take at least .+ are free| must be at most {2**63 - 1})"
    with pytest.raises(UserError, match=message):
        load(DataOptions(data="synthetic", clients=3, sequences=sequences, vocabulary_size=20))
