"""The drawing of charts: round ticks, limits, and where every mark and name stands."""

import itertools
import math
import random
import re
from typing import Any

import pytest
from report_cases import Page

from flow.algorithms import NAMES
from flow.reports.drawing import Area, Axis, Bars, Chart, Line, Rule, limits, ticks
from flow.reports.labels import HEIGHT, spread


def chart(*marks: Any, **options: Any) -> tuple[Page, str]:
    """A chart of x from 0 to 10 and y from 0 to 1, and its source."""
    source = str(Chart("c", "about", Axis("x", 0, 10), Axis("y", 0, 1), marks, **options).svg())
    return Page(source), source


@pytest.mark.parametrize(
    ("low", "high", "count", "whole", "expected"),
    [
        (0, 1, 5, False, (["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"], 1)),
        (1.32, 3.51, 5, False, (["1.5", "2.0", "2.5", "3.0", "3.5"], 1)),
        (-0.3, 0.7, 4, False, (["-0.25", "0.00", "0.25", "0.50"], 2)),
        (0.4, 4.6, 6, True, (["1", "2", "3", "4"], 0)),
        (-88, 3088, 6, True, (["0", "1000", "2000", "3000"], 0)),
        (5, 3, 5, False, (["3.0", "3.5", "4.0", "4.5", "5.0"], 1)),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, whole: bool, expected: tuple[list[str], int]) -> None:
    values, digits = ticks(low, high, count, whole)
    assert ([f"{value + 0.0:.{digits}f}" for value in values], digits) == expected


def test_ticks_of_any_range_are_few_even_and_within() -> None:
    rng = random.Random(2)
    for _ in range(500):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-5, 9)
        high = low + 10 ** rng.uniform(-6, 9) + 1e-9 * abs(low)
        values, digits = ticks(low, high, 5)
        steps = [b - a for a, b in itertools.pairwise(values)]
        assert 1 <= len(values) <= 7
        assert all(low - 1e-6 * (high - low) <= value <= high + 1e-6 * (high - low) for value in values)
        assert all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)
        assert 0 <= digits <= 12


def test_limits_hold_what_is_finite() -> None:
    assert limits([math.nan, 1.0, 3.0], margin=0.1) == pytest.approx((0.8, 3.2))
    assert limits([2.0], least=4, margin=0) == (0, 4)
    assert limits([]) == limits([math.nan, math.inf]) == (0, 1)
    low, high = limits([5e8, 5e8])
    assert low < 5e8 < high


def test_a_mark_has_its_data_and_its_place() -> None:
    page, source = chart(
        Line("a & b", [(0, 0.25), (5, math.nan), (10, 1)], "global", dots="full", notes=["<1>", "", "3"]),
        Bars("bars", [0, 5, 10], [0.5, 1], ["same", "q3"]),
        Area("band", [(0, 0), (10, 0)], [(0, 1), (10, 1)], "pale"),
        Rule([(0, 0.5), (10, 0.5)], "dotted"),
        columns=2,
    )
    by_class = {values["class"]: values for _, values in page.tags if values.get("data-p")}
    assert by_class["line solid"]["data-p"] == "0,0.25;10,1"
    frame = re.search(r'"from": ([\d.]+), "to": ([\d.]+).*?"from": ([\d.]+), "to": ([\d.]+)', source.replace("&#34;", '"'))
    assert frame is not None
    left, right, bottom, top = map(float, frame.groups())

    def at(x: float, y: float) -> str:
        place = left + x / 10 * (right - left), bottom + y * (top - bottom)
        return " ".join(f"{value:.1f}".removesuffix(".0") for value in place)

    assert by_class["line solid"]["d"] == f"M{at(0, 0.25)}h0M{at(10, 1)}h0"
    assert by_class["bar c-same"]["d"] == f"M{at(0, 0)}L{at(0, 0.5)}L{at(5, 0.5)}L{at(5, 0)}Z"
    assert by_class["area pale"]["data-p"] == "0,0 10,0 10,1 0,1"
    assert by_class["rule dotted"]["data-p"] == "0,0.5 10,0.5"
    dots = [values["data-p"] for _, values in page.tags if values.get("class") == "dot"]
    assert dots == ["0,0.25", "10,1"]
    named = [values for _, values in page.tags if values.get("data-name")]
    assert [values["data-name"] for values in named] == ["a & b", "bars"] and named[0]["data-notes"] == '["<1>", "", "3"]'
    assert re.findall(r'<text x="17" y="4">([^<]*)</text>', source) == ["a &amp; b", "band"]


def test_names_cover_neither_each_other_nor_a_line() -> None:
    rng = random.Random(3)
    for gap in (0.4, 0.001):  # ends apart, and together
        lines = [Line(name, [(0, 0.1), (10 * rng.random(), 0.5 + gap * rng.random())], "same") for name in NAMES]
        _, source = chart(*lines, ends=lines, height=14.0 * len(NAMES))
        names = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>', source)
        assert [name for *_, name in names] == [line.name for line in sorted(lines, key=lambda line: -line.points[-1][1])]
        heights = [float(y) for _, y, _ in names]
        assert all(b - a >= HEIGHT - 0.11 for a, b in itertools.pairwise(heights))
        axis = re.search(r'class="base" d="M[\d.]+ ([\d.]+)H([\d.]+)"', source)
        assert axis is not None
        bottom, right = map(float, axis.groups())
        assert all(float(x) > right for x, *_ in names) and heights[0] > 20 and heights[-1] < bottom + 4


def test_names_are_as_near_to_their_lines_as_can_be() -> None:
    """Against all places on a grid."""
    rng = random.Random(1)
    for _ in range(20):
        wanted = sorted(rng.uniform(0, 6) for _ in range(3))
        places = spread(wanted, 1.5, 0.5, 6)
        assert all(b - a >= 1.5 - 1e-9 for a, b in itertools.pairwise(places)) and places[0] >= 0.5 and places[-1] <= 6
        cost = sum((a - b) ** 2 for a, b in zip(places, wanted, strict=True))
        grid = [0.5 + n / 8 for n in range(45)]
        allowed = [p for p in itertools.product(grid, repeat=3) if p[1] - p[0] >= 1.5 and p[2] - p[1] >= 1.5]
        assert cost <= min(sum((a - b) ** 2 for a, b in zip(p, wanted, strict=True)) for p in allowed) + 1e-9
    assert spread([], HEIGHT, 0, 9) == [] and spread([5.0], HEIGHT, 0, 9) == [5.0]
    assert spread([1.0, 1.0, 1.0], 2, 0, 3) == [0, 2, 4], "without room for all they begin at the lower end"
