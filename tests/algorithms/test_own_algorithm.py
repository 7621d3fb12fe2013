"""Algorithms of the user's own: registered, named as FILE.py:NAME or brought by a package; what runs record of their files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest
import ranks
from checksums import rows
from comparisons import plain_fixture  # noqa: F401

import flow
from flow import Config, ModelOptions, UserError
from flow.algorithms import NAMES, REGISTRY, Algorithm, algorithm_of, registry
from flow.algorithms.interface import Tunable
from flow.algorithms.perfedavg import PerFedAvgOptions
from flow.cli.main import main
from flow.cli.run import Run
from flow.data import DataOptions
from flow.storage import files, run_folder
from flow.training.sgd import Sgd
from flow.user_code import load

PAGE = Path(__file__).parents[2] / "docs" / "own-algorithm.md"
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
DATA = DataOptions(data="synthetic", clients=11, sequences=7, sequence_length=5, vocabulary_size=19, data_seed=3)
SIZES: dict[str, Any] = dict(
    rounds=2, cohort=5, evaluate_every=1, evaluate_clients=2, min_texts=0, threads=1, checkpoint_every=1
)
MODEL = ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64")
FLAGS = (
    "--data synthetic --clients 11 --sequences 7 --sequence-length 5 --vocabulary-size 19 --data-seed 3 --rounds 2 --cohort 5"
)
FLAGS += " --evaluate-every 1 --evaluate-clients 2 --min-texts 0 --threads 1 --checkpoint-every 1 --embedding-dim 3"
FLAGS += " --hidden-size 4"
RUN = [*FLAGS.split(), "--dtype", "float64"]
pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "my_perfedavg.py").write_text(CODE, encoding="utf-8")
    return f"{tmp_path}/my_perfedavg.py:ALGORITHM"


def loaded(reference: str) -> Algorithm[Any]:
    algorithm: Algorithm[Any] = load(reference, "algorithm").value
    return algorithm


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def code(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["code"]["algorithm"]


def numbers(folder: Path) -> list[Any]:
    """What a run measured, without what depends on time or says of which run it is."""

    def timeless(content: Any) -> Any:
        if isinstance(content, dict):
            return {
                k: timeless(v)
                for k, v in content.items()
                if "second" not in k and k not in (files.RUN, files.CHECKSUM, "about", "algorithm")
            }
        return [timeless(each) for each in content] if isinstance(content, list) else content

    return [timeless(rows(folder)), timeless(json.loads((folder / "evaluation.json").read_text()))]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_algorithm_of_the_page_is_the_built_in_one(mine: str, tmp_path: Path) -> None:
    """From the command line, by a registration, and resumed: the numbers of `perfedavg`, to the bit."""
    assert len(CODE.strip().splitlines()) < 60
    assert main(["run", mine, *RUN, "--inner-lr", "0.3", "--folder", str(tmp_path / "a")]) == 0
    options = PerFedAvgOptions(inner_lr=0.3)
    built_in: Config[Any] = Config(algorithm=options, data=DATA, model=MODEL, **SIZES)
    flow.simulate(built_in, tmp_path / "b", progress=False)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert "code" not in json.loads((tmp_path / "b" / "config.json").read_text())

    algorithm = loaded(mine)
    flow.register(algorithm)
    config: Config[Any] = dataclasses.replace(built_in, algorithm=algorithm.options(inner_lr=0.3), rounds=1)
    flow.simulate(config, tmp_path / "c", progress=False)
    flow.resume(tmp_path / "c", rounds=2, progress=False)
    assert numbers(tmp_path / "c") == numbers(tmp_path / "b")
    assert (tmp_path / "c" / "config.json").read_bytes() == (tmp_path / "a" / "config.json").read_bytes()
    assert code(tmp_path / "a") == {"file": "my_perfedavg.py", "sha256": sha256(CODE)}


def test_a_folder_never_runs_code_by_itself(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    assert main(["run", mine, *RUN, "--folder", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    registry._registered.clear()
    capsys.readouterr()
    assert main(["run", "--resume", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "the run's algorithm 'my_perfedavg' is of the file my_perfedavg.py, and a folder never runs code by itself" in told
    assert f"name the file and the algorithm in it (`flow run --resume {folder} my_perfedavg.py:NAME`)" in told
    with pytest.raises(UserError, match=r"in Python call flow\.register before"):
        flow.resume(folder, progress=False)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert main(["report", str(folder)]) == 0  # which reads the files alone
    for arguments in (["--resume", str(folder), mine], [mine, "--resume", str(folder)], [mine, f"--resume={folder}"]):
        registry._registered.clear()
        assert main(["run", *arguments]) == 0, arguments
    assert main(["run", mine, "--resume", str(folder), "--rounds", "1"]) == 2


def test_a_changed_file_is_refused_until_the_user_says_so(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "r", tmp_path / "my_perfedavg.py"
    assert main(["run", mine, *RUN, "--rounds", "1", "--folder", str(folder)]) == 0
    before = (folder / "config.json").read_bytes()
    identity = run_folder.identity(json.loads(before))
    path.write_text(CODE + "# changed\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["run", "--resume", str(folder), mine]) == 2
    told = capsys.readouterr().err
    assert f"is recorded as my_perfedavg.py with SHA-256 {sha256(CODE)[:12]}..., but here it is my_perfedavg.py with" in told
    assert "put the recorded file back, or go on with the changed one by --changed-file" in told
    assert (folder / "config.json").read_bytes() == before
    assert main(["run", "--resume", str(folder), "--rounds", "2", "--changed-file", mine]) == 0
    changed = {"file": "my_perfedavg.py", "sha256": sha256(CODE + "# changed\n"), "before": [sha256(CODE)]}
    assert code(folder) == changed
    assert run_folder.identity(run_folder.read_config(folder)) == identity  # rows and checkpoints stay readable
    assert [row["round"] for row in rows(folder)] == [1, 2]
    assert main(["run", "--resume", str(folder), mine]) == 0  # the changed one is the recorded one now

    path.write_text(CODE, encoding="utf-8")
    flow.register(loaded(mine))
    with pytest.raises(UserError, match="changed_file=True"):
        flow.resume(folder, progress=False)
    flow.resume(folder, changed_file=True, progress=False)
    assert code(folder)["before"] == [sha256(CODE), sha256(CODE + "# changed\n")] and code(folder)["sha256"] == sha256(CODE)


def test_code_that_config_json_has_no_place_for_is_refused(mine: str, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert main(["run", mine, *RUN, "--rounds", "1", "--folder", str(folder)]) == 0
    good = run_folder.read_config(folder)
    registry._registered.clear()
    wrongs: list[Any] = [[], {"algorithm": 3}, {"algorithm": {"file": "a.py"}}, {"algorithm": {"file": 1, "sha256": "x"}}]
    for wrong in wrongs:
        files.write_json(folder / "config.json", files.with_checksum(good | {"code": wrong}))
        with pytest.raises(UserError, match=r"config\.json: not the configuration of a run of this version"):
            flow.resume(folder, progress=False)
    files.write_json(folder / "config.json", files.with_checksum(good))
    text = (folder / "config.json").read_text().replace(sha256(CODE), sha256("other"))
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="damaged or changed"):
        flow.resume(folder, progress=False)


def test_help_has_the_files_own_options(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", mine, "--help"])
    output = " ".join(re.sub("[^\\x20-\\x7e]", " ", capsys.readouterr().out).split())
    assert "usage: flow run my_perfedavg " in output
    assert re.search(r"--inner-lr FLOAT alpha, learning rate of the inner step\. \(default: 0\.5\)", output)
    assert "my_perfedavg: Per-FedAvg in a file of my own." in output


def test_two_processes_load_the_file_each(mine: str, tmp_path: Path) -> None:
    ran = ranks.launch(2, "run", mine, *RUN, "--folder", str(tmp_path / "two"))
    assert not ran.returncode, ran.stderr
    assert main(["run", mine, *RUN, "--folder", str(tmp_path / "one")]) == 0
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    assert code(tmp_path / "two") == {"file": "my_perfedavg.py", "sha256": sha256(CODE)}


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_a_comparison_with_settings_and_tuning(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, settings = tmp_path / "c", tmp_path / "settings.toml"
    settings.write_text('[my_perfedavg]\nlr = 0.7\n[again]\nalgorithm = "my_perfedavg"\nlr = 0.5\ninner_lr = 0.2\n')
    arguments = [mine, "fedavg", "again", *RUN, "--settings", str(settings), "--tune", "--trials", "2", "--evaluate-every", "0"]
    assert main(["compare", *arguments, "--validation-share", "0.3", "--folder", str(folder)]) == 0
    content = json.loads((folder / "comparison.json").read_text())
    assert content["algorithms"] == ["my_perfedavg", "fedavg", "again"]
    assert content["parameters"] == {"my_perfedavg": ["inner_lr"], "fedavg": ["lr"]}
    assert content["code"] == {"my_perfedavg": {"file": "my_perfedavg.py", "sha256": sha256(CODE)}}
    runs = {name: json.loads((folder / "runs" / f"{name}-seed0" / "config.json").read_text()) for name in content["algorithms"]}
    assert runs["again"]["algorithm"] | {"lr": 0.5, "inner_lr": 0.2, "name": "my_perfedavg"} == runs["again"]["algorithm"]
    assert ["code" in runs[name] for name in content["algorithms"]] == [True, False, True]

    registry._registered.clear()
    capsys.readouterr()
    assert main(["compare", "--resume", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "the algorithm 'my_perfedavg' is of the file my_perfedavg.py, and a folder never runs code by itself" in told
    assert f"`flow compare --resume {folder} my_perfedavg.py:NAME`" in told
    before = (folder / "comparison.json").read_bytes()
    assert main(["compare", "--resume", str(folder), mine]) == 0
    assert (folder / "comparison.json").read_bytes() == before


def test_a_comparison_whose_file_changed(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "c", tmp_path / "my_perfedavg.py"
    arguments = [mine, *RUN, "--rounds", "1", "--evaluate-every", "0", "--validation-share", "0", "--folder", str(folder)]
    assert main(["compare", *arguments]) == 0
    path.write_text(CODE + "# changed\n", encoding="utf-8")
    (folder / "runs" / "my_perfedavg-seed0" / "evaluation.json").unlink()  # a run that has not ended
    (folder / "kept" / "my_perfedavg-seed0.json").unlink()
    capsys.readouterr()
    for again in (["--resume", str(folder), mine], arguments):
        assert main(["compare", *again]) == 2
        assert "put the recorded file back, or go on with the changed one by --changed-file" in capsys.readouterr().err
    flow.register(loaded(mine))
    flow.resume_comparison(folder, changed_file=True, progress=False)
    changed = {"file": "my_perfedavg.py", "sha256": sha256(CODE + "# changed\n"), "before": [sha256(CODE)]}
    assert json.loads((folder / "comparison.json").read_text())["code"] == {"my_perfedavg": changed}
    assert code(folder / "runs" / "my_perfedavg-seed0") == changed
    assert main(["compare", "--resume", str(folder), mine]) == 0
    assert main(["compare", *arguments]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.py:A"], "algorithm='none.py:A': there is no file none.py; give the path of a Python file"),
        (["run", "none.py"], "there is no algorithm 'none.py'; .*write none.py:NAME for an algorithm of a file"),
        (["run", "{mine}", "{mine}"], "one algorithm runs at a time, got .* name one, or write `flow compare"),
        (["run", "{file}:MyOptions"], "my_perfedavg.py:MyOptions' is a type and not an Algorithm; give the name of the file's"),
        (["run", "{mine}", "--changed-file"], "--changed-file does nothing without --resume; add --resume FOLDER"),
        (["compare", "{mine}", "--changed-file"], "--changed-file does nothing without --resume; add --resume FOLDER"),
        (["compare", "{mine}", "{mine}"], "'my_perfedavg' is named 2 times; name it once"),
        (
            ["compare", "fedavg", "--resume", "r", "{mine}"],
            "leave names and all options but --against, --data, --model, --metric, --changed-file, --log and --json",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    mine: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(mine=mine, file=tmp_path / "my_perfedavg.py") for argument in arguments]
    assert main(filled) == 2
    assert re.search(message, capsys.readouterr().err)


# --- registering ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Own(Sgd):
    """Options of the algorithms of these tests."""

    mode: Literal["a", "b"] = "a"
    number: int | None = None


FEDAVG = REGISTRY["fedavg"]
MINE = dataclasses.replace(FEDAVG, name="own", options=Own)


def test_a_registered_algorithm_is_known_everywhere() -> None:
    assert registry.algorithms() == REGISTRY
    with pytest.raises(TypeError, match=r"must be an instance of one of FlowOptions, .*, got Own\("):
        algorithm_of(Own())
    flow.register(MINE)
    flow.register(MINE)
    assert algorithm_of(Own()) is MINE and registry.names()["own"].algorithm is MINE
    assert set(registry.names()) == {*NAMES, "own"} and "own" not in REGISTRY
    source = registry.code_of(MINE)
    assert source == (Path(__file__).name, hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
    assert registry.code_of(FEDAVG) is None


def test_a_cell_that_runs_again_replaces_its_algorithm(tmp_path: Path) -> None:
    path, other = tmp_path / "cell.py", tmp_path / "other.py"
    for text in (CODE, CODE + "# again\n"):
        path.write_text(text)
        newest = loaded(f"{path}:ALGORITHM")
        flow.register(newest)
    assert registry.algorithms()["my_perfedavg"] is newest
    assert registry.code_of(newest) == ("cell.py", sha256(CODE + "# again\n"))
    other.write_text(CODE)
    with pytest.raises(UserError, match=r"there is another algorithm of the name 'my_perfedavg', which .*cell\.py registered"):
        flow.register(loaded(f"{other}:ALGORITHM"))


def own(**options: Any) -> Callable[[], Algorithm[Any]]:
    """An algorithm whose options have these fields beside those of SGD: name -> (type, default)."""

    def make() -> Algorithm[Any]:
        given = [(name, kind, dataclasses.field(default=value)) for name, (kind, value) in options.items()]
        return dataclasses.replace(MINE, options=dataclasses.make_dataclass("Made", given, bases=(Sgd,), frozen=True))

    return make


def other_fields(**fields: Any) -> Callable[[], Algorithm[Any]]:
    return lambda: dataclasses.replace(MINE, **fields)


@dataclasses.dataclass
class Thawed:
    batch_size: int = 1


@dataclasses.dataclass(frozen=True)
class NoBatchSize:
    lr: float = 1.0


@dataclasses.dataclass(frozen=True)
class NoDefault(Sgd):
    made: list[int] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "algorithm=3 must be a flow.building_blocks.Algorithm, got a int"),
        (other_fields(name="Own"), "name must be a lower-case letter, then up to 59 .*, got 'Own'; rename it"),
        (other_fields(name="a-b"), "name must be a lower-case letter"),
        (other_fields(name="fedavg"), "algorithm='fedavg': there is another algorithm of the name 'fedavg'; give it another"),
        (other_fields(name="fedyogi"), "there is another algorithm of the name 'fedyogi'; give it another name"),
        (other_fields(about="two\nlines"), "about must be one line of text"),
        (other_fields(local=None), "local must be a function, got None; give one"),
        (other_fields(personalize=3), "personalize must be a function, got 3; give one"),
        (other_fields(options=FEDAVG.options), "options: FedAvgOptions are those of fedavg; derive a class of its own"),
        (other_fields(options=dict), "options must be a frozen dataclass, got <class 'dict'>; write @dataclass"),
        (other_fields(options=Thawed), "options must be a frozen dataclass, got .*Thawed"),
        (other_fields(options=NoBatchSize), "NoBatchSize must have batch_size: int, by which memory is estimated"),
        (other_fields(options=NoDefault), r"NoDefault\.made has no default; give it one behind '='"),
        (own(rounds=(int, 3)), r"Made\.rounds is the name of another option of a run; rename it"),
        (own(name=(str, "x")), r"Made\.name is the name of another option of a run; rename it"),
        (own(_hidden=(int, 3)), r"Made\._hidden cannot be given by a user; rename it"),
        (own(sizes=(tuple[int, int], (1, 2))), r"Made\.sizes has the type tuple\[int, int\], and an option is an int, float"),
        (own(size=(int | str, 1)), r"Made\.size has the type int \| str, and an option is"),
        (own(size=(Literal[1, 2], 1)), r"Made\.size has the type .*, and an option is"),
        (own(lr=(float, -1.0)), r"Made has a default that is refused \(lr must be a finite number above 0, got -1\.0"),
        (own(size=(int, "x")), r"Made has a default that is refused \(size must be an integer, got 'x'"),
        (other_fields(tuned=(("lr",),)), r"tuned must hold Tunable records of options of Own, got \('lr',\); correct it"),
        (other_fields(tuned=(Tunable("rate"),)), r"tuned must hold Tunable records of options of Own, got Tunable"),
    ],
)
def test_what_cannot_be_registered(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flow.register(make())
    assert registry.algorithms() == REGISTRY


def test_no_option_of_a_run_can_be_hidden_by_an_algorithms_own() -> None:
    assert {field.name for field in dataclasses.fields(Run)} <= registry._reserved | {"algorithm"}
    assert {field.name for part in (DataOptions, ModelOptions) for field in dataclasses.fields(part)} < registry._reserved


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Installs a package with one algorithm, by its entry point's value."""
    (tmp_path / "brought_by_a_package.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(value: str) -> None:
        point = metadata.EntryPoint("theirs", value, registry.GROUP)
        monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == registry.GROUP else [])
        registry._brought.cache_clear()

    yield install
    monkeypatch.undo()
    registry._brought.cache_clear()


def test_a_package_brings_an_algorithm(package: Callable[[str], None], tmp_path: Path) -> None:
    package("brought_by_a_package:ALGORITHM")
    assert main(["run", "my_perfedavg", *RUN, "--rounds", "1", "--folder", str(tmp_path / "r")]) == 0
    assert code(tmp_path / "r")["file"] == "brought_by_a_package.py"  # it lies beside the installed packages, not among them
    with pytest.raises(UserError, match="there is another algorithm of the name 'my_perfedavg'; give it another name"):
        flow.register(dataclasses.replace(MINE, name="my_perfedavg"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "not_there:ALGORITHM",
            r"\(not_there:ALGORITHM\), which cannot be loaded \(ModuleNotFoundError: .*\); correct the package",
        ),
        ("brought_by_a_package:MyOptions", r"which is refused \(it must be a flow\.building_blocks\.Algorithm, got a type"),
        (
            "flow.algorithms.fedavg:ALGORITHM",
            r"which is refused \(it: there is another algorithm of the name 'fedavg'\); correct",
        ),
    ],
)
def test_a_package_that_brings_none(package: Callable[[str], None], value: str, message: str) -> None:
    package(value)
    with pytest.raises(UserError, match=r"the package .* brings the algorithm 'theirs' .*" + message):
        registry.names()
