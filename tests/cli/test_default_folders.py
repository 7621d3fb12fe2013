"""The folder of a run that names none: a new one for every command, whenever it starts."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from comparisons import plain_fixture  # noqa: F401
from forked import Forked

from flow.cli.command import default_folder
from flow.cli.main import main
from flow.parallel.processes import Ranks

TINY = ["--embedding-dim", "3", "--hidden-size", "4", "--cohort", "3", "--rounds", "2", "--min-texts", "5", "--threads", "1"]
TINY += ["--data", "mine.jsonl.gz", "--evaluate-every", "0"]
SECOND = "20261129-120000"
SAME_SECOND = f"""
import sys, time
time.strftime = lambda form: {SECOND!r}
import comparisons
from flow.cli.main import main
comparisons.write_plainly(setattr)
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


def started(arguments: list[str]) -> Forked:
    process = Forked(
        ["-c", SAME_SECOND, *arguments], paths=[str(Path(__file__).parents[1] / folder) for folder in (".", "support")]
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("arguments", "name"), [(["run", "fedavg"], f"fedavg-mine-{SECOND}"), (["compare", "fedavg"], f"compare-mine-{SECOND}")]
)
def test_two_processes_of_the_same_second_get_a_folder_each(here: Path, arguments: list[str], name: str) -> None:
    processes = [started([*arguments, *TINY]) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert sorted(path.name for path in (here / "runs").iterdir()) == [name, f"{name}-2"]
    reports = sorted(out.splitlines()[-1] for out, _ in ends)
    page = "report.html" if arguments[0] == "run" else "comparison.html"
    assert reports == sorted(f"report: {Path('runs', folder, page)}" for folder in (name, f"{name}-2"))
    if arguments[0] == "run":
        configs = [json.loads((here / "runs" / folder / "config.json").read_text()) for folder in (name, f"{name}-2")]
        assert configs[0] == configs[1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: SECOND)


@pytest.mark.usefixtures("clock")
def test_of_many_that_claim_a_name_at_once_each_gets_its_own(here: Path) -> None:
    def claim(_: int) -> str:
        with default_folder("flow", "a/mine.jsonl", Ranks()) as folder:
            assert not folder.exists()
            folder.mkdir()
            return str(folder)

    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(claim, range(40)))
    assert set(folders) == {f"runs/flow-mine-{SECOND}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 41)))}
    assert sorted(str(path.relative_to(here)) for path in (here / "runs").iterdir()) == sorted(folders)


@pytest.mark.usefixtures("clock", "plain")
def test_a_name_that_is_taken_gets_the_next_number(here: Path) -> None:
    for expected in ("", "-2", "-3"):
        assert main(["run", "local", *TINY]) == 0
        assert (here / "runs" / f"local-mine-{SECOND}{expected}" / "report.html").is_file()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("dirichlet:0.3:100:posts.csv", "posts"),
        ("dirichlet:0.3:100:/some/where/posts.csv", "posts"),
        ("dirichlet:0.3:100:shakespeare", "shakespeare"),
        ("hf:someone/reviews:train", "reviews-train"),
    ],
)
def test_the_name_has_a_word_for_the_data(here: Path, data: str, word: str) -> None:
    with default_folder("fedavg", data, Ranks()) as folder:
        assert folder == Path("runs", f"fedavg-{word}-{SECOND}")


@pytest.mark.usefixtures("clock")
def test_nothing_is_left_where_the_run_cannot_start_and_what_was_there_stays(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--data", "none.jsonl"]) == main(["compare", "--data", "none.jsonl"]) == 2
    assert sorted(path.name for path in here.iterdir()) == ["mine.jsonl.gz"]
    (here / "runs").mkdir()
    assert main(["run", "--data", "none.jsonl"]) == 2
    assert (here / "runs").is_dir() and not list((here / "runs").iterdir())
    (here / "runs").rmdir()
    (here / "runs").write_text("a file")
    capsys.readouterr()
    assert main(["run", "local", *TINY]) == main(["compare", "local", *TINY]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("flow: folder='runs/") and "cannot be created ([Errno" in line, line
    assert main(["run", "local", "--data", "x" * 300 + ".jsonl"]) == 2
    assert (here / "runs").read_text() == "a file"


@pytest.mark.usefixtures("clock")
def test_all_processes_of_a_run_get_the_name_that_the_first_chose(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "texts", lambda ranks, own: ["runs/chosen", own])
    with default_folder("flow", "mine.jsonl", Ranks(1, 2)) as folder:
        assert folder == Path("runs/chosen")
    assert sorted(path.name for path in here.iterdir()) == ["mine.jsonl.gz"]
