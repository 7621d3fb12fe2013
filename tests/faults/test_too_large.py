"""What no machine can hold is refused in a sentence that names the options, before anything is allocated or written."""

import itertools
import re
from pathlib import Path
from typing import Any, NoReturn

import forked
import numpy as np
import oracles  # noqa: F401 (one thread)
import pytest
import torch

import flow
from flow import resources
from flow.algorithms import REGISTRY
from flow.cli import main as command_line
from flow.cli.main import main
from flow.data import DataOptions, least_size, load, loading
from flow.errors import UserError
from flow.model.language_model import LanguageModel, parameter_counts
from flow.resources import Need, free_disk, free_memory, require_memory, short_of_memory, size

HUGE = "9223372036854775807"
FILE, SYNTHETIC = ["--data", "mine.jsonl.gz"], ["--data", "synthetic"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fedavg", *FILE, "--hidden-size", HUGE], "hidden_size"),
        (["fedavg", *FILE, "--hidden-size", "1000000"], "hidden_size"),
        (["flow", *FILE, "--embedding-dim", HUGE], "embedding_dim"),
        (["fedavg", *FILE, "--projection-dim", HUGE], "projection_dim"),
        (["fedavg", *FILE, "--oov-buckets", "1000000000000"], "oov_buckets"),
        (["fedavg", *FILE, "--oov-buckets", HUGE], "oov_buckets"),
        (["fedavg", *FILE, "--sequence-length", HUGE], "sequence_length"),
        (["fedavg", *FILE, "--sequence-length", "1000000000000"], "sequence_length"),
        (["fedavg", *FILE, "--sequence-length", str(2**63)], "sequence_length"),
        (["fedavg", *FILE, "--max-clients", str(2**70)], "max_clients"),
        (["fedavg", *SYNTHETIC, "--vocabulary-size", "1000000000000"], "vocabulary_size"),
        (["fedavg", *SYNTHETIC, "--clients", "1000000000000"], "clients"),
        (["fedavg", *SYNTHETIC, "--clients", "1" + "0" * 400], "clients"),
        (["fedavg", *SYNTHETIC, "--clients", "10", "--sequences", str(2**60)], "sequences"),
        (["fedavg", *SYNTHETIC, "--clients", "10", "--sequences", str(2**70)], "sequences"),
        (["hypcluster", *FILE, "--clusters", "10000000000"], "clusters"),
        (["fedfomo", *FILE, "--models", "10000000000"], "models"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_an_option_that_no_machine_can_hold(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    refused(here, capsys, monkeypatch, ["run", *arguments], named)


def test_a_comparison_of_which_one_algorithm_is_too_large(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own.toml").write_text("[hypcluster]\nclusters = 10000000000\n")
    refused(here, capsys, monkeypatch, ["compare", "fedavg", "hypcluster", *FILE, "--settings", "own.toml"], "clusters")


def refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    """The command ends with one sentence that names the option, its value and the remedy, and leaves nothing behind."""
    monkeypatch.setenv("FLOW_CACHE", str(folder / "cache"))
    before = sorted(folder.rglob("*"))
    assert main([*arguments, "--cohort", "2", "--folder", "new"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.match(rf"flow: .*{named}(=| must be at most )\d+", lines[0])
    assert re.search(rf"; lower .*{named}|; leave it out|; lower sequence_length or", lines[0])
    assert [path for path in sorted(folder.rglob("*")) if "cache" not in path.parts] == before


def test_the_numbers_of_a_model_are_counted_without_making_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for projection, routed, layers in itertools.product((None, 3), (False, True), (1, 2, 3)):
        model = LanguageModel(11, 5, 7, num_layers=layers, projection_dim=projection, routed_head=routed, generator=generator)
        counted = parameter_counts(11, 5, 7, projection, num_layers=layers, routed_head=routed)
        assert counted == {name: parameter.numel() for name, parameter in model.named_parameters()}


def test_options_that_count_models_are_options_of_the_algorithm() -> None:
    for algorithm in REGISTRY.values():
        options = algorithm.resolve(algorithm.options(), 10)
        assert algorithm.models(options) == {name: getattr(options, name) for name in algorithm.models(options)}


MEASURED = """
import resource, sys
import flow
from flow.algorithms import REGISTRY
from flow.data import DataOptions
from flow.engine import estimate
from flow.config import checked
def config(hidden):
    return checked(flow.Config(
        algorithm=REGISTRY[sys.argv[1]].options(), model=flow.ModelOptions(embedding_dim=8, hidden_size=hidden),
        rounds=1, cohort=2, data=DataOptions(data="synthetic", clients=30, sequences=2, vocabulary_size=50),
        evaluate_every=0, final_clients=1, min_texts=1, threads=int(sys.argv[2]), validation_share=0.0,
    ))
peaks = []
for hidden in (8, 1500):
    flow.simulate(config(hidden), progress=False)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
needs = []
estimate.require_memory = lambda given, device: needs.extend(given)
estimate.check_memory(config(1500), REGISTRY[sys.argv[1]])
print(peaks[1] - peaks[0], needs[0].nbytes)
"""


@pytest.mark.parametrize(("algorithm", "threads"), [("fedavg", "2"), ("ditto", "1")])
def test_the_estimate_is_at_most_what_a_run_takes_and_not_far_below(algorithm: str, threads: str) -> None:
    done = forked.python(MEASURED, algorithm, threads)
    assert done.returncode == 0, done.stderr
    taken, estimated = map(int, done.stdout.split())
    assert taken / 2.5 < estimated <= taken


def test_prepared_data_take_at_least_what_was_said() -> None:
    sizes: list[dict[str, Any]] = [
        {"clients": 300, "sequences": 1}, {"clients": 120, "sequences": 9}, {"clients": 5, "sequences": 400},
    ]  # fmt: skip
    for given in sizes:
        for words in (100, 70_000):
            options = DataOptions(data="synthetic", vocabulary_size=words, sequence_length=7, **given)
            population, least = load(options), least_size(options)
            folder = loading.prepared_folder(options)
            assert folder is not None
            taken = sum((folder / name).stat().st_size for name in ("tokens", "lengths"))
            assert least.tokens == len(population.vocabulary)
            assert taken / 10 < least.prepared <= taken


def test_what_clients_keep_is_held_against_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda folder: 10**6)
    config = flow.Config(
        algorithm=REGISTRY["ditto"].options(),
        data=DataOptions(data="synthetic", clients=40, sequences=2, vocabulary_size=50),
        model=flow.ModelOptions(embedding_dim=4, hidden_size=64),
        cohort=30,
        rounds=50,
        client_memory=0,
    )
    monkeypatch.setenv("FLOW_CACHE", "")
    with pytest.raises(
        UserError, match=r"cohort=30, rounds=50, hidden_size=64: what \d+ clients keep would take at least .* of disk"
    ):
        flow.simulate(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_free_memory_is_the_least_of_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    texts = {"/proc/meminfo": "MemTotal: 90 kB\nMemAvailable: 70 kB\nSwapFree: 10 kB\n", "/proc/self/cgroup": "0::/a/b\n"}
    real = resources._text
    monkeypatch.setattr(resources, "_text", lambda path: texts.get(str(path)) or real(path))
    monkeypatch.setattr(resources, "_within_limit", lambda: None)
    assert free_memory() == 80 * 1024
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("5000\n")
    assert free_memory() == 80 * 1024
    (tmp_path / "a" / "memory.max").write_text("60000\n")  # of the group above
    (tmp_path / "a" / "memory.current").write_text("50000\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 39500\ninactive_file 7000\nactive_file 500\nshmem 3000\n")
    assert free_memory() == 17_500
    (tmp_path / "a" / "memory.swap.max").write_text("max\n")
    assert free_memory() == 17_500  # the system does not say what is used
    (tmp_path / "a" / "memory.swap.current").write_text("300\n")
    assert free_memory() == 17_500 + 10 * 1024  # no more than the machine has left
    (tmp_path / "a" / "memory.swap.max").write_text("2300\n")
    assert free_memory() == 19_500
    (tmp_path / "a" / "memory.swap.max").write_text("200\n")
    assert free_memory() == 17_500
    (inner / "memory.max").write_text("4000\n")
    assert free_memory() == 0
    monkeypatch.setattr(resources, "_within_limit", lambda: 12)
    (inner / "memory.max").write_text("max\n")
    assert free_memory() == 12
    texts["/proc/meminfo"] = "MemTotal: 90 kB\n"  # of an old system
    assert free_memory() == 12


def test_the_limit_of_a_process_counts() -> None:
    code = "import resource as r, flow.resources as f; r.setrlimit(r.RLIMIT_AS, (1 << 36, r.RLIM_INFINITY)); "
    done = forked.python(code + "a = f._within_limit(); b = bytearray(1 << 28); print(a, a - f._within_limit())")
    left, taken = map(int, done.stdout.split())
    assert 0 < left < 1 << 36
    assert abs(taken - (1 << 28)) < 1 << 24


def test_here_and_now_something_is_free(tmp_path: Path) -> None:
    free = free_memory()
    assert free is not None and 1 << 20 < free < 1 << 50
    assert free_disk(tmp_path / "not" / "there") == pytest.approx(free_disk(tmp_path), rel=0.1)
    require_memory([Need("a page", 4096, (("one", 1),))])


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.50 kB"),
        (21_460_000_000, "21.5 GB"),
        (999_600, "1.00 MB"),
        (10**40, "1.0e+25 PB"),
    ],
)
def test_sizes(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_the_message_names_what_is_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_memory", lambda: 100)
    needs = [Need("a", 30, (("x", 1),)), Need("the model", 80, (("y", 2), ("z", None), ("w", 3)))]
    require_memory(needs[:1])
    with pytest.raises(UserError) as refused_:
        require_memory(needs)
    assert str(refused_.value) == (
        "y=2, w=3: the model would take at least 80 bytes of memory, of 110 bytes for everything, and 100 bytes are free; "
        "lower y, z or w"
    )
    monkeypatch.setattr(resources, "free_memory", lambda: None)  # where the system says nothing, nothing is refused
    require_memory(needs)


def test_an_allocation_that_fails_all_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**55, dtype=torch.float64)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**55)
    for error in (of_torch.value, of_numpy.value, MemoryError()):
        assert short_of_memory(error)

        def failing(*_: object, error: BaseException = error) -> NoReturn:
            raise error

        monkeypatch.setitem(command_line.COMMANDS, "run", command_line.COMMANDS["run"]._replace(call=failing))
        assert main(["run"]) == 2
        message = capsys.readouterr().err
        assert message.startswith("flow: there is not enough memory (")
        assert message.count("\n") == 1
    assert short_of_memory(RuntimeError("a fault of ours")) is None
