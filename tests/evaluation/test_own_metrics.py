"""Metrics of the user's own: registered, named as FILE.py:NAME or brought by a package; what runs record of their files."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import ranks
from comparisons import plain_fixture  # noqa: F401
from run_cases import POPULATION, SMALL

import flow
from flow.algorithms import registry as algorithms
from flow.cli.main import main
from flow.errors import UserError
from flow.evaluation import registry
from flow.evaluation.metrics import METRICS
from flow.simulation import loop
from flow.storage import files, run_folder
from flow.training.predict import Guess

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
LATE = re.search(r"^```py\n(# late\.py\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
assert LATE is not None
CODE = LATE[1]
DATA = ["--data", "synthetic", "--clients", "20", "--sequences", "4", "--sequence-length", "6", "--vocabulary-size", "30"]
OPTIONS = [
    *DATA,
    *["--embedding-dim", "4", "--hidden-size", "5", "--cohort", "3", "--min-texts", "0", "--checkpoint-every", "1"],
]
pytestmark = pytest.mark.usefixtures("plain")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def code(folder: Path | str, file: str = "config.json") -> Any:
    return json.loads((Path(folder) / file).read_text()).get("code")


def forget() -> None:
    registry._registered.clear()
    algorithms._registered.clear()


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the page, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "late.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def sure(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> int:
    return int(((guess.tokens == targets) & (guess.probability > 0.2) & scored).sum())


SURE = flow.Metric("sure", "sure and right", "%", "% of tokens", "sure", "sure_", sure, scale=100.0, always=False)


def other(**fields: Any) -> flow.Metric:
    return replace(SURE, **fields)


# --- registering ------------------------------------------------------------------------------------------------------


def test_a_metric_of_the_users_own_is_counted_where_it_is_asked_for() -> None:
    assert flow.register_metric(SURE) is SURE is flow.register_metric(SURE)
    assert [metric.name for metric in registry.all_metrics()] == [*(metric.name for metric in METRICS), "sure"]
    rows = flow.simulate(replace(SMALL, metric="sure"), population=POPULATION, progress=False).evaluation["clients"]
    assert all(0 <= row["global_sure"] <= row["global_correct"] for row in rows)
    plain = flow.simulate(SMALL, population=POPULATION, progress=False).evaluation["clients"]
    assert "global_sure" not in plain[0]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (3, "metric=3 must be a flow.Metric"),
        (replace(SURE, name="accuracy"), "name='accuracy' is that of 'accuracy'"),
        (replace(SURE, infix="loss_"), "infix='loss_' is that of 'loss'"),
        (replace(SURE, infix="sure"), "infix='sure' must be a name that ends in '_'"),
        (replace(SURE, name="Sure!"), "must be lower-case letters"),
        (other(axis=None), "metric='sure': axis must be a string, got None"),
        (other(count=0.5), "metric='sure': count must be a function, got 0.5; give one"),
        (other(scale="x"), "metric='sure': scale must be a finite number, got 'x'; give one"),
        (other(span=float("inf")), "metric='sure': span must be a finite number, got inf; give one"),
        (other(digits=-2), "metric='sure': digits must be a whole number from 0 to 20, got -2; give one"),
        (replace(SURE, of_classes=True), "of_table=None and of_classes=True go together"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(metric: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        flow.register_metric(metric)
    assert registry.all_metrics() == METRICS


def counting(count: Any) -> flow.Metric:
    return replace(SURE, count=lambda guess, targets, scored: count(guess, targets, scored))


def test_a_count_of_numpy_is_a_number_and_anything_else_is_refused(tmp_path: Path) -> None:
    flow.register_metric(counting(lambda guess, targets, scored: ((guess.tokens == targets) & scored).sum()))
    config = replace(SMALL, metric="sure")
    rows = flow.simulate(config, tmp_path / "run", population=POPULATION, progress=False).evaluation["clients"]
    assert all(type(row["global_sure"]) is int and row["global_sure"] == row["global_correct"] for row in rows)
    flow.register_metric(counting(lambda guess, targets, scored: guess.nats[scored].sum()))
    rows = flow.simulate(config, population=POPULATION, progress=False).evaluation["clients"]
    assert all(row["global_sure"] == pytest.approx(row["global_nats"], rel=1e-5) for row in rows)
    for wrong in (None, "3", np.ones(2), True):
        flow.register_metric(counting(lambda guess, targets, scored, wrong=wrong: wrong))
        with pytest.raises(UserError, match=r"metric='sure': count must give a number, got .*; return float\(\.\.\.\)"):
            flow.simulate(config, population=POPULATION, progress=False)


def test_a_number_beyond_float64_and_a_summary_that_is_no_number_are_refused() -> None:
    for metric, message in (
        (counting(lambda guess, targets, scored: 10**400), "count must give a number that float64 holds"),
        (other(over_tokens=lambda counts, tokens: "x"), "over_tokens must give a number, got 'x'"),
        (other(over_clients=lambda counts, tokens: np.ones(2)), r"over_clients must give a number, got array\(\[1"),
    ):
        flow.register_metric(metric)
        with pytest.raises(UserError, match=f"metric='sure': {message}"):
            flow.simulate(replace(SMALL, metric="sure"), population=POPULATION, progress=False)


def test_a_count_cannot_change_what_other_metrics_count() -> None:
    def erase(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_], which: int) -> int:
        (*guess, targets, scored)[which][:] = 0
        return 0

    for which in range(len(Guess._fields) + 2):
        flow.register_metric(counting(functools.partial(erase, which=which)))
        with pytest.raises(ValueError, match="assignment destination is read-only"):
            flow.simulate(replace(SMALL, metric="sure"), population=POPULATION, progress=False)


def test_a_run_whose_metric_is_below_zero_goes_on(tmp_path: Path) -> None:
    flow.register_metric(counting(lambda guess, targets, scored: -2))
    config = replace(SMALL, metric="sure", rounds=2, evaluate_every=1, checkpoint_every=1)
    flow.simulate(config, tmp_path / "run", population=POPULATION, progress=False)
    longer = flow.resume(tmp_path / "run", rounds=3, population=POPULATION, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["evaluation"]["seen"]["global_sure_token"] < 0 for row in rows] == [True] * 3
    assert all(client["global_sure"] == -2 for client in longer.evaluation["clients"])


def test_the_words_of_a_metric_are_no_markup_on_a_page(tmp_path: Path) -> None:
    flow.register_metric(other(label='"><b>sure & $x_$', axis="$x_$ & <b>"))
    config = replace(SMALL, metric="sure", evaluate_every=1)
    flow.simulate(config, tmp_path / "run", population=POPULATION, progress=False)
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<b>sure" not in page and "&#34;&gt;&lt;b&gt;sure &amp; $x_$ on held-out" in page and "$x_$ &amp; &lt;b&gt;" in page


def test_a_file_that_is_loaded_again_replaces_its_metric_and_another_file_does_not(late: Path) -> None:
    assert registry.named_metrics("top3, late.py:LATE") == "top3,late"
    late.write_text(CODE + "# changed\n")
    assert registry.named_metrics("late.py:LATE,") == "late"
    assert registry.sources() == {"late": ("late.py", sha256(CODE + "# changed\n"))}
    (late.parent / "other.py").write_text(CODE)
    with pytest.raises(
        UserError, match=r"another metric of the name 'late', which .*late\.py registered; give it another name"
    ):
        registry.named_metrics("other.py:LATE")
    with pytest.raises(UserError, match=r"metric='late\.py:late' is a function and not a Metric; give the name of the file's"):
        registry.named_metrics("late.py:late")


def test_the_file_that_is_named_counts_where_its_functions_are_from_elsewhere(late: Path) -> None:
    (late.parent / "counts_of_late.py").write_text(CODE[: CODE.index("LATE")])
    text = "from functools import partial\nfrom counts_of_late import late\nimport flow\n" + CODE[CODE.index("LATE") :]
    for count, names in (("late", "both.py, counts_of_late.py"), ("partial(max, 0)", "both.py")):
        (late.parent / "both.py").write_text(text.replace("count=late", f"count={count}"))
        registry.named_metrics("both.py:LATE")
        source = registry.sources()["late"]
        assert source is not None and source[0] == names
        (late.parent / "both.py").write_text(text.replace("count=late", f"count={count}") + "# changed\n")
        registry.named_metrics("both.py:LATE")
        assert registry.sources()["late"] not in (None, source)


# --- what runs record ---------------------------------------------------------------------------------------------------


def test_a_run_records_the_file_and_goes_on_when_it_is_named(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fedavg", *OPTIONS, "--rounds", "1", "--metric", "late.py:LATE", "--folder", "run"]) == 0
    assert "late tokens right" in capsys.readouterr().out
    assert code("run") == {"metric": {"late": {"file": "late.py", "sha256": sha256(CODE)}}}
    assert "with `flow run --resume run --metric late.py:NAME`, on any number" in loop._remedy("run")  # a process was lost
    assert json.loads(Path("run/config.json").read_text())["metric"] == "late"
    before = Path("run/config.json").read_bytes()
    forget()
    assert main(["run", "--resume", "run", "--rounds", "2"]) == 2
    told = capsys.readouterr().err
    assert "the run's metric 'late' is of the file late.py, and a folder never runs code by itself" in told
    assert "`flow run --resume run --metric late.py:NAME`" in told and "flow.register_metric before" in told
    assert told.replace("flow: run/", "flow: runs/late/").replace("--resume run ", "--resume runs/late ").strip() in PAGE
    assert main(["run", "--resume", "run", "--metric", "top3", "--rounds", "2"]) == 2
    registry.named_metrics("late.py:LATE")
    assert main(["run", "--resume", "run", "--metric", "top3", "--rounds", "2"]) == 2
    assert "metric='top3' is not counted in run, which was started with metric='late'" in capsys.readouterr().err
    assert Path("run/config.json").read_bytes() == before
    forget()
    assert main(["run", "--resume", "run", "--rounds", "2", "--metric", "late.py:LATE"]) == 0
    assert main(["report", "run"]) == 0


def test_a_changed_file_is_refused_until_the_user_says_so(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fedavg", *OPTIONS, "--rounds", "1", "--metric", "top3,late.py:LATE", "--folder", "run"]) == 0
    before = Path("run/config.json").read_bytes()
    identity = run_folder.identity(json.loads(before))
    late.write_text(CODE + "# changed\n")
    again = ["run", "--resume", "run", "--rounds", "2", "--metric", "late.py:LATE"]
    assert main(again) == 2
    told = capsys.readouterr().err
    assert f"the file of the metric 'late' is recorded as late.py with SHA-256 {sha256(CODE)[:12]}..., but here it is" in told
    assert told.replace("run: ", "runs/late: ").splitlines()[-1].partition(", but here it is late.py")[0] in PAGE
    assert "put the recorded file back, or go on with the changed one by --changed-file" in told
    assert Path("run/config.json").read_bytes() == before
    assert main([*again, "--changed-file"]) == 0
    changed = {"file": "late.py", "sha256": sha256(CODE + "# changed\n"), "before": [sha256(CODE)]}
    assert code("run") == {"metric": {"late": changed}}
    assert run_folder.identity(run_folder.read_config(Path("run"))) == identity
    assert main(again) == 0
    forget()
    late.write_text(CODE)
    registry.named_metrics("late.py:LATE")
    with pytest.raises(UserError, match="changed_file=True"):
        flow.resume("run", progress=False)
    flow.resume("run", changed_file=True, progress=False)
    assert code("run")["metric"]["late"]["before"] == [sha256(CODE), sha256(CODE + "# changed\n")]


def test_a_run_of_an_older_build_has_no_such_record_and_goes_on(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fedavg", *OPTIONS, "--rounds", "1", "--metric", "late.py:LATE", "--folder", "run"]) == 0
    config = run_folder.read_config(Path("run"))
    del config["code"]
    files.write_json(Path("run/config.json"), files.with_checksum(config))
    late.write_text(CODE + "# changed\n")
    assert main(["run", "--resume", "run", "--rounds", "2", "--metric", "late.py:LATE"]) == 0
    assert code("run") is None
    forget()
    assert main(["run", "--resume", "run", "--rounds", "3"]) == 2
    assert "there is no 'late', only accuracy, loss, perplexity, top3, f1; give one of these, or" in capsys.readouterr().err


def test_a_record_that_is_none_is_refused(late: Path) -> None:
    assert main(["run", "fedavg", *OPTIONS, "--rounds", "1", "--metric", "late.py:LATE", "--folder", "run"]) == 0
    good = run_folder.read_config(Path("run"))
    wrongs: list[Any] = [[], 3, {"late": 3}, {"late": {"file": "late.py"}}, {"late": {"file": 1, "sha256": "x"}}]
    for wrong in wrongs:
        files.write_json(Path("run/config.json"), files.with_checksum(good | {"code": {"metric": wrong}}))
        with pytest.raises(UserError, match=r"config\.json: not the configuration of a run of this version"):
            flow.resume("run", progress=False)


def test_two_processes_load_the_file_each(late: Path) -> None:
    options = ["fedavg", *OPTIONS, "--rounds", "2", "--metric", f"{late}:LATE"]
    ran = ranks.launch(2, "run", *options, "--folder", str(late.parent / "two"))
    assert not ran.returncode, ran.stderr
    assert main(["run", *options, "--folder", "one"]) == 0
    alone, both = (json.loads(Path(name, "evaluation.json").read_text()) for name in ("one", "two"))
    assert alone["clients"] == both["clients"] and alone["summary"] == both["summary"]
    assert code("two") == code("one") == {"metric": {"late": {"file": "late.py", "sha256": sha256(CODE)}}}


# --- comparisons --------------------------------------------------------------------------------------------------------

MODEL = """
from torch import nn


class Bag(nn.Module):
    def __init__(self, vocabulary_size):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 3)
        self.head = nn.Linear(3, vocabulary_size)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))
"""
MINE = """
from dataclasses import dataclass
from flow.building_blocks import Algorithm, Sgd, Update, fit


@dataclass(frozen=True)
class MineOptions(Sgd):
    pass


def local(options, model, visit):
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


MINE = Algorithm(name="mine_beside_a_metric", about="Mine.", options=MineOptions, local=local, personalize=None)
"""


def test_a_comparison_says_everything_that_has_to_be_named_again(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (late.parent / "bag.py").write_text(MODEL)
    (late.parent / "mine.py").write_text(MINE)
    options = [*DATA, "--cohort", "3", "--min-texts", "0", "--rounds", "1", "--evaluate-every", "0"]
    own = ["--model", "bag.py:Bag", "--metric", "late.py:LATE"]
    assert main(["compare", "mine.py:MINE", "fedavg", *options, *own, "--folder", "c"]) == 0
    assert {part: sorted(entry) for part, entry in code("c", "comparison.json").items()} == {
        "mine_beside_a_metric": ["file", "sha256"],
        "--model": ["file", "sha256"],
        "--metric": ["late"],
    }
    assert set(code("c/runs/mine_beside_a_metric-seed0")) == {"algorithm", "model", "metric"}
    forget()
    capsys.readouterr()
    assert main(["compare", "--resume", "c"]) == 2
    told = capsys.readouterr().err
    assert "the algorithm 'mine_beside_a_metric' is of the file mine.py and the metric 'late' is of the file late.py" in told
    assert "`flow compare --resume c mine.py:NAME --model bag.py:Bag --metric late.py:NAME`" in told
    assert "in Python call flow.register and flow.register_metric before" in told
    assert main(["compare", "--resume", "c", "mine.py:MINE", "--model", "bag.py:Bag"]) == 2
    assert "comparison.json: the metric 'late' is of the file late.py, and a folder" in capsys.readouterr().err
    before = Path("c/comparison.json").read_bytes()
    assert main(["compare", "--resume", "c", "mine.py:MINE", *own]) == 0
    assert Path("c/comparison.json").read_bytes() == before


def test_a_comparison_whose_file_changed(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "fedavg", "fedavgft", *OPTIONS, "--rounds", "1", "--evaluate-every", "0", "--folder", "c"]
    arguments += ["--metric", "late.py:LATE"]
    assert main(arguments) == 0
    late.write_text(CODE + "# changed\n")
    (Path("c/runs/fedavgft-seed0/evaluation.json")).unlink()  # a run that has not ended
    Path("c/kept/fedavgft-seed0.json").unlink()
    again = ["compare", "--resume", "c", "--metric", "late.py:LATE"]
    capsys.readouterr()
    for command in (again, arguments):
        assert main(command) == 2
        assert "c: the file of the metric 'late' is recorded as late.py with SHA-256" in capsys.readouterr().err
    assert main([*again, "--changed-file"]) == 0
    changed = {"file": "late.py", "sha256": sha256(CODE + "# changed\n"), "before": [sha256(CODE)]}
    assert code("c", "comparison.json") == {"--metric": {"late": changed}}
    assert code("c/runs/fedavgft-seed0") == {"metric": {"late": changed}}
    assert main(again) == 0
    assert main([*again[:-1], "top3"]) == 2
    assert "metric='top3' is not counted in c, which was started with metric='late'" in capsys.readouterr().err


def test_a_comparison_of_an_unknown_metric_writes_nothing(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "fedavg", "fedavgft", *OPTIONS, "--metric", "top5", "--folder", "c"]) == 2
    assert "there is no 'top5'" in capsys.readouterr().err
    assert not Path("c").exists()


def test_a_comparison_of_a_metric_that_may_be_negative(tmp_path: Path) -> None:
    def gone(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> float:
        return -float(guess.nats[scored].sum(dtype=np.float64))

    flow.register_metric(replace(SURE, name="likely", column="likely", infix="likely_", count=gone))
    config = replace(SMALL, algorithm=flow.SharedOptions(), metric="likely", evaluate_every=1)
    result = flow.compare(["fedavg", "ditto"], tmp_path / "c", config, population=POPULATION, progress=False)
    for row in result.rows:
        loss, likely = (row.mean[f"global_{name}_seen"] for name in ("loss", "likely"))
        assert loss is not None and likely == pytest.approx(-loss)
    again = flow.resume_comparison(tmp_path / "c", population=POPULATION, progress=False)
    assert [row.mean["global_likely_seen"] for row in again.rows] == [row.mean["global_likely_seen"] for row in result.rows]


# --- packages -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(late: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package with metrics, by its entry points' values."""
    (late.parent / "late_by_a_package.py").write_text(
        "from dataclasses import replace\n" + CODE + "ACCURACY = replace(LATE, name='accuracy')\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(late.parent))

    def install(*values: str) -> None:
        points = [metadata.EntryPoint(f"theirs{n}", value, registry.GROUP) for n, value in enumerate(values)]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == registry.GROUP else [])
        registry._brought.cache_clear()

    yield install
    monkeypatch.undo()
    registry._brought.cache_clear()


def test_a_package_brings_a_metric(package: Callable[..., None]) -> None:
    package("late_by_a_package:LATE")
    assert main(["run", "fedavg", *OPTIONS, "--rounds", "1", "--metric", "late", "--folder", "run"]) == 0
    assert code("run")["metric"]["late"]["file"] == "late_by_a_package.py"  # it lies beside the installed packages
    assert main(["run", "--resume", "run", "--rounds", "2"]) == 0
    assert "personal_late_token" in json.loads(Path("run/evaluation.json").read_text())["summary"]["seen"]
    with pytest.raises(UserError, match="metric='late': name='late' is that of 'late'; rename it"):
        registry.named_metrics("late.py:LATE")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["not_there:LATE"], r"which cannot be loaded \(ModuleNotFoundError: .*\); correct the package, or run: pip uninstall"),
        (["late_by_a_package:GONE"], r"which cannot be loaded \(AttributeError: .*\); correct the package"),
        (["late_by_a_package:NUMBER"], r"which is refused \(it must be a flow\.Metric, got a int; .*\); correct the package"),
        (["late_by_a_package:ACCURACY"], r"which is refused \(it: name='accuracy' is that of 'accuracy'; rename it\)"),
        (["late_by_a_package:LATE"] * 2, r"the metric 'theirs1' .*, which is refused \(it: name='late' is that of 'late'"),
    ],
)
def test_a_package_that_brings_something_else(
    values: list[str], message: str, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    package(*values)
    assert main(["run", "fedavg", *OPTIONS, "--folder", "run"]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told) and re.search(r"flow: the package \S+ brings the metric 'theirs\d' \(", told)
    assert not Path("run").exists()


# --- tuning -------------------------------------------------------------------------------------------------------------


def _slow(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> float:
    """The probability of the most likely token, which is lowest where little was learned."""
    return float(guess.probability[scored].sum(dtype=np.float64))


MEEK = replace(SURE, name="meek", column="meek", infix="meek_", count=_slow, higher_is_better=False)


def of_clients(evaluation: dict[str, Any], metric: str, model: str, seen: bool) -> float:
    """A side's mean over clients of count over tokens, from the clients' lines of evaluation.json."""
    own = [row for row in evaluation["clients"] if row["seen"] is seen]
    return float(np.mean([row[f"{model}_{metric}"] / row["tokens"] for row in own]))


def labelled(classes: int) -> flow.Population:
    """Clients of texts whose first two words tell the class; some classes are rare."""
    draw, shares = np.random.default_rng(6), 0.5 ** np.arange(classes)
    clients: dict[str, dict[str, Any]] = {}
    for n in range(14):
        own: dict[str, Any] = {"held_out": n > 11}
        for side, count in (("train", 10), ("test", 6)):
            labels = draw.choice(classes, count, p=shares / shares.sum())
            words = draw.integers(4, 4 + 3 * classes, (count, 5))
            words[:, :2] = 4 + 3 * labels[:, None] + draw.integers(0, 3, (count, 2))
            own |= {side: words, f"{side}_labels": labels}
        clients[f"c{n}"] = own
    return flow.Population.from_arrays(clients, vocabulary=4 + 3 * classes, classes=classes)


@pytest.mark.parametrize("metric", ["meek", "top3", "f1"])
def test_a_tuning_chooses_by_a_metric_that_not_every_run_counts(metric: str, tmp_path: Path) -> None:
    """tune_by adds the metric to what is counted. Scores and choice are those of the tries' evaluation.json, and the accuracy
    would choose otherwise."""
    flow.register_metric(MEEK)
    population, own = labelled(6), tmp_path / metric
    config: flow.Config[Any] = flow.Config(
        algorithm=flow.SharedOptions(batch_size=4), model=flow.ModelOptions(4, 5), rounds=2, cohort=5, evaluate_every=0,
        min_texts=0, threads=1, validation_share=0.3, seed=6,
    )  # fmt: skip
    for by in (metric, "accuracy"):
        result = flow.compare(["ditto"], tmp_path / by, config, tune=5, tune_by=by, population=population, progress=False)
        counted = json.loads((tmp_path / by / "comparison.json").read_text())["config"]["metric"]
        assert counted == ("" if by == "accuracy" else by)
        if by == "accuracy":
            continue
        scores = []
        for number, trial in enumerate(result.tried["ditto"], start=1):
            evaluation = json.loads((own / "tuning" / f"ditto-{number}" / "evaluation.json").read_text())
            parts = [of_clients(evaluation, metric, "personal", seen) for seen in (True, False)]
            assert [trial.seen, trial.unseen] == pytest.approx(parts) and trial.metric == metric
            scores.append(sum(parts) / 2)
            assert trial.score == pytest.approx(scores[-1])
        best = (min if metric == "meek" else max)(scores)
        assert max(scores) - min(scores) > 1e-3 and scores.count(best) == 1
        values = result.tried["ditto"][scores.index(best)].values
    chosen = [json.loads((tmp_path / by / "results.json").read_text())["chosen"]["ditto"] for by in (metric, "accuracy")]
    assert chosen[0] == values != chosen[1]


def test_a_tuning_by_a_metric_of_a_file_goes_on(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "fedavg", "fedavgft", *OPTIONS, "--rounds", "1", "--evaluate-every", "0", "--folder", "c"]
    arguments += ["--metric", "late.py:LATE", "--tune", "--trials", "2", "--tune-by", "late", "--validation-share", "0.3"]
    assert main(arguments) == 0
    chosen = Path("c/chosen.toml").read_text()
    (Path("c/tuning/fedavg-2/evaluation.json")).unlink()
    Path("c/kept/tuning/fedavg-2.json").unlink()
    forget()
    assert main(["compare", "--resume", "c", "--metric", "late.py:LATE"]) == 0
    assert Path("c/chosen.toml").read_text() == chosen
    assert code("c/tuning/fedavg-2") == {"metric": {"late": {"file": "late.py", "sha256": sha256(CODE)}}}


def test_partials_have_an_origin() -> None:
    flow.register_metric(replace(SURE, count=functools.partial(sure)))
    assert registry.sources()["sure"] == (Path(__file__).name, hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
