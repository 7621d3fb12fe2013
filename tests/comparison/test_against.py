"""Every algorithm against one of them: from the numbers of the clients, by plain Python, and how it is asked for."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from comparisons import (
    ARGUMENTS,
    TINY,
    plain_fixture,  # noqa: F401
    tree,
)
from kept_cases import (
    GIVEN,
    QUIET,
    again,
    copied_fixture,  # noqa: F401
    lines,
    same_results,
    untrained_fixture,  # noqa: F401
    whole_fixture,  # noqa: F401
)
from optional import present
from report_cases import Page

from flow import Comparison, UserError, compare
from flow.cli.main import main
from flow.comparison import against
from flow.comparison.against import Line, cells, lines_against, notes, p_value
from flow.comparison.kept import Values
from flow.comparison.paired import paired
from flow.comparison.table import Run
from flow.evaluation.select import SIDES

COLUMNS = {"accuracy": "correct", "loss": "nats"}


def numbers(folder: Path, name: str, side: str, metric: str) -> list[dict[str, float]]:
    """By seed and client, what it reaches with the model that it predicts with in the end."""
    model = "global" if name == "fedavg" else "personal"
    return [
        {
            line["client"]: float(line[f"{model}_{COLUMNS[metric]}"]) / int(line["tokens"])
            for line in lines(folder / "kept" / f"{name}-seed{seed}.csv")
            if line["side"] == side
        }
        for seed in (0, 1)
    ]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def holm(p: Sequence[float]) -> list[float]:
    """The step-down procedure, as Holm (1979) states it: the smallest times n, the next times n - 1, none below one before."""
    order, corrected = sorted(range(len(p)), key=lambda n: p[n]), list(p)
    for rank, place in enumerate(order):
        corrected[place] = min(1, max((len(p) - other) * p[order[other]] for other in range(rank + 1)))
    return corrected


def test_the_numbers_are_those_of_the_clients_that_both_scored_with_every_seed(whole: Path) -> None:
    printed = lines(whole / "paired.csv")
    table = {line["algorithm"]: line for line in lines(whole / "table.csv")}
    keys = [(line["algorithm"], line["side"], line["metric"]) for line in printed]
    assert keys == [(name, side, metric) for name in ("fedavg", "ditto") for side in SIDES for metric in COLUMNS]
    for line in printed:
        name, side, metric = line["algorithm"], line["side"], line["metric"]
        own, other = numbers(whole, name, side, metric), numbers(whole, "fedavgft", side, metric)
        clients = sorted(own[0].keys() & own[1].keys() & other[0].keys() & other[1].keys())
        assert len(clients) < len(own[0]) or side == "unseen"
        assert (line["reference"], line["seeds"], line["clients"]) == ("fedavgft", "2", str(len(clients)))
        of = {client: [mean(seed[client] for seed in each) for each in (own, other)] for client in clients}
        difference = mean(a - b for a, b in of.values())
        assert float(line["value"]) == pytest.approx(mean(a for a, _ in of.values()), rel=1e-12)
        assert float(line["reference_value"]) == pytest.approx(mean(b for _, b in of.values()), rel=1e-12)
        assert float(line["difference"]) == pytest.approx(difference, abs=1e-13)
        better = [a > b if metric == "accuracy" else a < b for a, b in of.values()]
        worse = [a < b if metric == "accuracy" else a > b for a, b in of.values()]
        assert float(line["better"]) == mean(better) and float(line["worse"]) == mean(worse)
        worst_of = min if metric == "accuracy" else max  # one client is the tenth of fewer than eleven
        assert float(line["worst_tenth"]) == pytest.approx(worst_of(a for a, _ in of.values()), rel=1e-12)
        assert float(line["reference_worst_tenth"]) == pytest.approx(worst_of(b for _, b in of.values()), rel=1e-12)
        differences = np.array([[own[seed][client] - other[seed][client] for client in clients] for seed in (0, 1)])
        test = paired(differences)
        order = np.argsort([int(client, 16) for client in clients])
        assert order.tolist() == list(range(len(clients))), "the order of the hashes, on which resampling depends"
        assert [float(line[key]) for key in ("low", "high", "p")] == pytest.approx([test.low, test.high, test.p], rel=1e-9)
        for key, column in (("helped", f"helped_{side}"), ("hurt", f"hurt_{side}")):
            assert (line[key], line[f"reference_{key}"]) == (table[name][column], table["fedavgft"][column])
        for key in ("total_flops", "total_personal_flops"):
            assert (line[key], line[f"reference_{key}"]) == (table[name][key], table["fedavgft"][key])
    assert [float(line["p_holm"]) for line in printed] == pytest.approx(holm([float(line["p"]) for line in printed]))
    assert len({line["p"] for line in printed}) > 4


def test_json_text_and_page_say_the_same(whole: Path) -> None:
    printed, stored = lines(whole / "paired.csv"), json.loads((whole / "results.json").read_text())["against"]
    assert stored["reference"] == "fedavgft" and len(stored["tests"]) == len(printed) == 8
    for line, test in zip(printed, stored["tests"], strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in test.items()}
    text, page = (whole / "table.txt").read_text(), Page((whole / "comparison.html").read_text(encoding="utf-8"))
    section = page.text_of("against")
    for line in printed:
        scale, digits, unit = (100, 2, "%") if line["metric"] == "accuracy" else (1, 4, "nats")
        low, high, difference = (f"{scale * float(line[key]):+.{digits}f}" for key in ("low", "high", "difference"))
        values = [f"{scale * float(line[key]):.{digits}f}" for key in ("reference_value", "value")]
        wanted = [
            line["algorithm"],
            f"{line['clients']} {line['side']}",
            "2",
            f"{line['metric']}, {unit}",
            *values,
            difference,
            f"{low} to {high}",
            f"{float(line['p_holm']):.3f}",
            f"{100 * float(line['better']):.0f}",
        ]
        wanted = [re.sub(r"[+-](0\.0+)(?= |$)", r"\1", cell) for cell in wanted]
        assert re.search(r"\s+".join(map(re.escape, wanted)), text), wanted
        assert "".join(wanted) in section
    assert max(map(len, text.splitlines())) < 200
    assert "adjusted by Holm's method for the 8 tests of this table" in text and "the 8 tests of this table" in section
    assert "they speak of other clients and other seeds" in text and "Against fedavgft, client by client" in section
    *_, second = re.split(r"\nalgorithm", text)
    assert [line.split()[0] for line in second.splitlines()[1:4]] == ["fedavgft", "fedavg", "ditto"]


# ---- how it is asked for ---------------------------------------------------------------------------------------------


def test_it_is_recorded_and_may_be_changed(whole: Path, copied: Path, untrained: None) -> None:
    shutil.rmtree(copied / "runs")
    before = json.loads((copied / "comparison.json").read_text())
    result = again(copied, against="ditto")
    assert result.against == "ditto" and [test.algorithm for test in result.tests[::4]] == ["fedavg", "fedavgft"]
    after = json.loads((copied / "comparison.json").read_text())
    assert after["against"] == "ditto" and {k for k in after if after[k] != before[k]} == {"against", "sha256"}
    assert lines(copied / "paired.csv")[0]["reference"] == "ditto"
    assert again(copied).against == "ditto"  # the one recorded
    assert compare(folder=copied, **{**GIVEN, "against": None}, **QUIET).against == "ditto"
    compare(folder=copied, **GIVEN, **QUIET)
    same_results(copied, whole)


def test_errors_of_the_option_change_nothing(whole: Path, copied: Path, untrained: None) -> None:
    before = tree(copied)
    calls: list[Callable[[], Comparison]] = [
        lambda: again(copied, against="flow"),
        lambda: compare(folder=copied, **{**GIVEN, "against": "flow"}, **QUIET),
    ]
    for call in calls:
        with pytest.raises(
            UserError, match="against='flow' is not among the algorithms compared, fedavg, fedavgft, ditto; name"
        ):
            call()
    assert tree(copied) == before


def test_a_comparison_that_has_none(tmp_path: Path, plain: None) -> None:
    result = compare(["fedavg", "local"], tmp_path / "c", TINY, **QUIET)
    assert result.against is None and result.tests == [] and not (tmp_path / "c" / "paired.csv").exists()
    assert "client by client" not in result.text() + result.report.read_text(encoding="utf-8")
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert content["against"] is None and json.loads((tmp_path / "c" / "results.json").read_text())["against"] is None


def test_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str], plain: None) -> None:
    arguments = ["compare", "fedavg", "local", *ARGUMENTS, "--folder", "mine"]
    assert main([*arguments, "--against", "local"]) == 0
    first = capsys.readouterr().out
    assert "Against local, client by client" in first and "Against fedavg" not in first
    assert "Other seeds may come out differently" in first and "other clients and other seeds" not in first
    assert main(["compare", "--resume", "mine"]) == 0 and capsys.readouterr().out == first
    assert main(["compare", "--against=fedavg", "--resume", "mine"]) == 0
    assert "Against fedavg, client by client" in capsys.readouterr().out
    assert main(["compare", "--resume=mine", "--against", "flow"]) == 2
    assert "against='flow' is not among the algorithms compared, fedavg, local; name" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "--against NAME" in capsys.readouterr().out


# ---- runs made by hand -----------------------------------------------------------------------------------------------


def run(seed: int, accuracy: Mapping[int, float], predicted: str = "personal") -> Run:
    """accuracy: by client of the seen side."""
    clients = np.array(sorted(accuracy), dtype=np.uint64)
    values = Values(clients, np.array([accuracy[client] for client in sorted(accuracy)]))
    return Run(seed, {}, {("seen", "accuracy"): values}, predicted, [], "", "", {})


def test_only_seeds_that_both_finished_and_clients_that_both_scored() -> None:
    base = {seed: dict.fromkeys(range(20, 60), 0.5 + seed / 10) for seed in range(3)}
    runs = {
        "reference": [run(seed, base[seed]) for seed in (0, 1, 2)],
        "higher": [run(seed, {c: v + 0.1 + (c % 7) / 100 for c, v in base[seed].items() if c != 30 + seed}) for seed in (0, 2)],
        "none": [],
        "others": [run(seed, {c + 100: v for c, v in base[seed].items()}) for seed in (0, 1, 2)],
        "one": [run(1, {20: 0.7, 99: 0.1})],
    }
    higher, none, others, alone = lines_against("reference", runs)
    clients = [c for c in range(20, 60) if c not in (30, 32)]
    assert (higher.seeds, higher.clients, higher.side, higher.metric) == (2, 38, "seen", "accuracy")
    assert higher.reference_value == pytest.approx(0.6) and higher.better == 1 and higher.worse == 0
    assert higher.difference == pytest.approx(0.1 + mean(c % 7 for c in clients) / 100)
    assert present(higher.low) < present(higher.difference) < present(higher.high)
    assert higher.p == present(higher.p_holm) < 0.05
    assert higher.worst_tenth == pytest.approx(0.7) and higher.reference_worst_tenth == pytest.approx(0.6)
    assert none == Line("none", "reference", "seen", "accuracy", 0, 0)
    assert others == Line("others", "reference", "seen", "accuracy", 3, 0)
    assert (alone.seeds, alone.clients, alone.p, alone.low, alone.p_holm) == (1, 1, None, None, None)
    assert alone.difference == pytest.approx(0.1) and cells(alone)[6:9] == ["+10.00", "-", "-"]
    assert cells(none)[4:] == ["-"] * 9
    printed = " ".join(notes("reference", [higher, none, others, alone]))
    assert "for the 1 test of this table" in printed and "other seeds" in printed
    printed = " ".join(notes("reference", [none, others, alone]))
    assert "There is no test: it takes two clients that both scored with every seed" in printed and "Holm" not in printed


def test_intervals_of_one_seed_and_of_several_are_told_apart() -> None:
    of_one_seed, of_two_seeds = (Line("flow", "x", "seen", "accuracy", seeds, 5, p=0.5) for seeds in (1, 2))
    assert "where there is one seed" not in " ".join(notes("x", [of_one_seed]))
    assert "where there is one seed: a bootstrap over clients" in " ".join(notes("x", [of_one_seed, of_two_seeds]))
    assert "come out differently" not in " ".join(notes("x", [of_two_seeds]))


def test_how_small_numbers_are_printed() -> None:
    assert [p_value(p) for p in (1.0, 0.0124, 0.001, 0.0009, None)] == ["1.000", "0.012", "0.001", "< 0.001", "-"]
    line = Line("flow", "x", "seen", "accuracy", 1, 5, 0.5, 0.5, -0.000001, -0.001, 0.00001, 0.5, 0.5, 0.0, 1.0, 0.1, 0.2)
    assert cells(line)[4:] == ["50.00", "50.00", "0.00", "-0.10 to 0.00", "0.500", "0", "100", "10.00", "20.00"]
    assert [title for _, title in against.titles("x")][4:6] == ["x", "algorithm"] and len(against.titles("x")) == len(
        cells(line)
    )
