"""Paired tests against naive oracles, Student's t where it is exact, and simulated tables of known variances."""

import itertools
import math
import random
import statistics
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from simulated_tables import Variances, parts, pigeonhole, rejections, shares

from flow.comparison import paired as module
from flow.comparison.paired import Paired, holm, paired, wins, worst
from flow.errors import UserError

T_2 = {0.95: 4.302653, 0.99: 9.924843}  # two-sided quantiles of Student's t, printed tables
T_5 = 2.570582


def crossed(seeds: int, clients: int, **variances: Any) -> npt.NDArray[np.float64]:
    return parts(np.random.default_rng(8), seeds, clients, Variances(**variances))


def students_probability(t: float, free: int) -> float:
    """P(|T| < t) of Student's t by its finite series (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(free)), free % 2
    power, total = math.cos(angle) ** odd, 0.0
    for k in range(odd, free, 2):
        total += power
        power *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total * (free > 1)) if odd else math.sin(angle) * total


def students_quantiles(free: int, draws: int) -> list[float]:
    """Quantiles in the middle of `draws` equal parts, by bisection."""
    quantiles = []
    for i in range(draws):
        wanted, low, high = abs((2 * i + 1) / draws - 1), 0.0, 1e6
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if students_probability(middle, free) < wanted else (low, middle)
        quantiles.append(math.copysign(low, 2 * i + 1 - draws) if wanted else 0.0)
    return quantiles


def loop_bootstrap(table: list[list[float]], draws: int, seed: int) -> tuple[float, list[float], list[float]]:
    """The draws of the docstring, a resample at a time, in plain Python: both sets."""
    seeds, clients = len(table), len(table[0])
    mean = math.fsum(itertools.chain(*table)) / (seeds * clients)
    of_clients = [math.fsum(column) / seeds for column in zip(*table, strict=True)]
    of_seeds = [math.fsum(row) / clients for row in table]
    error = math.sqrt(statistics.variance(of_clients) / clients)
    left = [table[s][c] - of_seeds[s] - of_clients[c] + mean for s in range(seeds) for c in range(clients)]
    mixed = math.fsum(x * x for x in left) / max(1, (seeds - 1) * (clients - 1)) / (seeds * clients)
    resampling, students, shared = np.random.default_rng(seed).spawn(3)
    drawn = resampling.integers(clients, size=(draws, clients))
    t = students.permutation(students_quantiles(clients - 1, draws))
    moved = [0.0] * draws
    if seeds > 1:
        rows = statistics.variance(of_seeds) / seeds
        of_runs = shared.permutation(students_quantiles(seeds - 1, draws))
        for b, wider in enumerate(shared.chisquare(seeds, draws)):
            x = wider / (1 + of_runs[b] ** 2 / (seeds - 1))  # chi-squared with S - 1 degrees of freedom
            normal = of_runs[b] * math.sqrt(x / (seeds - 1))
            moved[b] = normal * math.sqrt(max(0.0, rows * (seeds - 1) / x - mixed))
    first, second = [], []
    for b in range(draws):
        sample = [of_clients[c] for c in drawn[b]]
        own = max(math.sqrt(statistics.variance(sample) / clients), error / math.sqrt(clients))
        first.append(mean - error * (statistics.fmean(sample) - mean) / own + moved[b])
        second.append(mean - error * t[b] + moved[b])
    return mean, sorted(first), sorted(second)


@pytest.mark.parametrize(("seeds", "clients"), [(1, 2), (1, 7), (2, 3), (3, 5), (3, 19), (4, 33)])
def test_the_vectorised_draws_are_those_of_a_loop(seeds: int, clients: int) -> None:
    table = crossed(seeds, clients, ratio=1.0, skewed=True) + 1.5
    draws, level = 399, 0.9  # 5 % of 400 is the 20th of the ordered draws: the interval ends before it, at the 19th
    side = 1 if table.mean() > 0 else -1  # the mean is made positive before random numbers meet it
    mean, *both = loop_bootstrap((side * table).tolist(), draws, seed=5)
    tails = [min(sum(v <= 0 for v in values), sum(v >= 0 for v in values)) for values in both]
    result = paired(side * table, level=level, draws=draws, seed=5)
    assert result.difference == pytest.approx(mean, rel=1e-12)
    assert result.low == pytest.approx(min(values[18] for values in both), rel=1e-5)  # quantiles are interpolated
    assert result.high == pytest.approx(max(values[-19] for values in both), rel=1e-5)
    assert result.p == pytest.approx(min(1, 2 * (1 + max(tails)) / (draws + 1)), rel=1e-12)
    assert (result.seeds, result.clients) == (seeds, clients)


def test_without_variance_of_clients_the_interval_is_students_over_seeds() -> None:
    """Every run shifts all clients alike: t with S - 1 degrees of freedom on the S means."""
    shifts = [0.3, -0.4, 1.3]
    table = np.repeat(np.array(shifts)[:, None], 11, axis=1)
    error = statistics.stdev(shifts) / math.sqrt(3)
    for level, t in T_2.items():
        result = paired(table, level=level)
        assert result.difference == pytest.approx(0.4, rel=1e-12)
        assert result.low == pytest.approx(0.4 - t * error, abs=0.01 * t * error)
        assert result.high == pytest.approx(0.4 + t * error, abs=0.01 * t * error)
    exact = 1 - 1 / math.sqrt(1 + 2 * (error / 0.4) ** 2)  # the distribution function of t with 2 degrees of freedom
    assert result.p == pytest.approx(exact, abs=0.0005)


def test_without_variance_of_seeds_the_interval_is_that_of_clients() -> None:
    """Runs that are alike: 1.96 standard errors for many clients, whatever the number of runs."""
    of_clients = np.random.default_rng(3).standard_normal(1500) + 0.05
    error = of_clients.std(ddof=1) / math.sqrt(1500)
    result = paired(np.tile(of_clients, (3, 1)))
    assert result.low == pytest.approx(of_clients.mean() - 1.959964 * error, abs=0.08 * error)
    assert result.high == pytest.approx(of_clients.mean() + 1.959964 * error, abs=0.08 * error)
    assert result[:4] == pytest.approx(paired(of_clients[None])[:4], rel=1e-9)


def test_few_clients_have_at_least_students_interval() -> None:
    of_clients = np.array([[0.2, -0.1, 0.5, 0.4, 0.0, 0.6]])
    error = of_clients.std(ddof=1) / math.sqrt(6)
    result = paired(of_clients, draws=100_000)
    assert result.low <= of_clients.mean() - 0.98 * T_5 * error
    assert result.high >= of_clients.mean() + 0.98 * T_5 * error


def test_skewed_clients_move_the_interval_to_the_long_tail() -> None:
    """Student's interval is even about the mean; one after bootstrap-t reaches further where few clients gain much."""
    result = paired(np.random.default_rng(0).exponential(size=(1, 30)))
    assert result.high - result.difference > 1.2 * (result.difference - result.low)


def test_p_and_interval_agree() -> None:
    stream = np.random.default_rng(4)
    agreed = 0
    for shift in stream.uniform(0, 5, 60):
        result = paired(parts(stream, 3, 25, Variances(0.3)) + shift, draws=777)
        assert (result.p < 0.05) == (result.low > 0 or result.high < 0)
        agreed += result.p < 0.05
    assert 10 < agreed < 50  # both happened


@pytest.mark.parametrize("factor", [-1.0, 1e-300, 1e308, 3.0])
def test_units_and_sides(factor: float) -> None:
    table = crossed(3, 12, ratio=1.0)
    table /= np.abs(table).max()
    plain, scaled = paired(table, draws=999), paired(factor * table, draws=999)
    assert scaled.difference == pytest.approx(factor * plain.difference, rel=1e-9)
    ends = sorted([factor * plain.low, factor * plain.high])
    assert scaled[1:] == pytest.approx((*ends, *plain[3:]), rel=1e-9)


def test_the_order_of_seeds_does_not_matter_and_a_seed_of_draws_repeats() -> None:
    table = crossed(3, 40, ratio=2.0) + 3
    assert paired(table, draws=500, seed=1) == paired(table, draws=500, seed=1)
    assert paired(table, draws=500, seed=1) != paired(table, draws=500, seed=2)
    assert paired(table[[2, 0, 1]], draws=500) == pytest.approx(paired(table, draws=500), rel=1e-9)


def test_blocks_and_kept_resamples_leave_the_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = crossed(3, 101, ratio=1.0)
    expected = paired(table, draws=700)
    monkeypatch.setattr(module, "KEPT", 0)
    assert paired(table, draws=700) == expected
    monkeypatch.setattr(module, "BLOCK", 101 * 32)  # 700 draws are 21 blocks and a part
    assert paired(table, draws=700) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(module, "BLOCK", 1)
    assert paired(table, draws=700) == pytest.approx(expected, rel=1e-9)


def test_one_seed_says_so() -> None:
    assert "one seed says nothing of other seeds" in paired(crossed(1, 9, ratio=0.0), draws=99).scope()
    assert paired(crossed(2, 9, ratio=0.0), draws=99).scope() == "other clients and other seeds"


def test_differences_that_are_all_equal() -> None:
    assert paired(np.zeros((3, 4))) == Paired(0.0, 0.0, 0.0, 1.0, 3, 4)
    assert paired(np.full((2, 4), -0.1)) == Paired(-0.1, -0.1, -0.1, 2**-3, 2, 4)  # the sign test of four clients
    assert paired(np.full((1, 30), 0.1), draws=999).p == 2 / 1000
    sparse = np.zeros((3, 20))
    sparse[:, 4] = 0.25
    result = paired(sparse)
    assert -0.1 < result.low < 0 < result.high < 1 and result.p > 0.3  # resamples without this client have no variance


@pytest.mark.parametrize(
    ("ratio", "interaction", "skewed", "clients"),
    [(0.0, 0.1, False, 24), (0.3, 0.3, True, 24), (3.0, 0.3, False, 36), (10.0, 1.0, True, 24)],
)
def test_the_level_of_whole_tables(ratio: float, interaction: float, skewed: bool, clients: int) -> None:
    """200 tables of twelve tests without a difference: five percent may have a corrected p below 0.05, 16 at the most."""
    anywhere, _ = rejections(1, 3, clients, Variances(ratio, interaction, skewed), 200, draws=1000)
    assert anywhere <= 16


@pytest.mark.parametrize(("seeds", "ratio"), [(1, 0.0), (2, 1.0), (3, 0.0), (3, 0.5), (3, 3.0), (3, 30.0), (5, 2.0)])
def test_the_level_of_one_test(seeds: int, ratio: float) -> None:
    """At most 7 % of 600: five percent and 2.2 standard errors."""
    below, _ = shares(lambda table: paired(table, draws=500).p, seeds, 20, Variances(ratio, 0.3), 0.0, 600)
    assert below <= 0.07


def test_the_simulation_catches_a_test_that_does_not_hold() -> None:
    """The plain two-level bootstrap, on the tables that the paired test is held to."""
    assert shares(pigeonhole, 3, 20, Variances(3.0, 0.3), 0.0, 300)[0] > 0.1


def test_a_planted_difference_is_found() -> None:
    """The better algorithm of three, by six standard errors; where seeds vary as much as clients, more of them find it."""
    assert rejections(2, 3, 60, Variances(0.0, 0.0), 20, shift=6.0, draws=1000)[1] >= 19
    assert rejections(2, 3, 60, Variances(0.1, 0.3), 20, shift=6.0, draws=1000)[1] >= 17
    assert rejections(2, 8, 60, Variances(1.0, 0.3), 20, shift=6.0, draws=1000)[1] >= 17
    alone, _ = shares(lambda table: paired(table, draws=500).p, 3, 60, Variances(0.3, 0.3), 4.0, 200)
    assert alone >= 0.9


def test_holm_by_hand() -> None:
    """Four tests, smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which must not be below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.2, 0.9, 0.6]) == pytest.approx([0.6, 1.0, 1.0], abs=1e-15)
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([]) == [] and holm([0.3]) == [0.3] and holm([1.0, 0.0]) == [1.0, 0.0]


def test_holm_rejects_what_the_steps_reject() -> None:
    """Holm 1979: test the k-th smallest of n against level / (n - k + 1), and stop at the first that fails."""
    draw = random.Random(0)
    for n in range(1, 9):
        for _ in range(40):
            p = [round(draw.random() ** 4, 3) for _ in range(n)]
            rejected = set()
            for step, place in enumerate(sorted(range(n), key=p.__getitem__)):
                if p[place] * (n - step) >= 0.05:
                    break
                rejected.add(place)
            assert {place for place, value in enumerate(holm(p)) if value < 0.05} == rejected


def test_worst_by_hand() -> None:
    values = np.array([[0.1, 0.5, 0.9, 0.7, 0.3], [0.3, 0.5, 0.1, 0.9, 0.1]])  # means 0.2, 0.5, 0.5, 0.8, 0.2
    assert worst(values) == pytest.approx(0.2)  # one client at least
    assert worst(values, highest_is_worst=True) == pytest.approx(0.8)
    assert worst(values, share=0.5) == pytest.approx(0.3)  # three of five: ceil
    assert worst(values, share=1.0) == pytest.approx(values.mean())
    assert worst(values, share=0.41, highest_is_worst=True) == pytest.approx((0.8 + 0.5 + 0.5) / 3)
    assert worst(np.arange(30.0)[None]) == 1.0  # three of thirty, though 0.1 * 30 is above 3
    assert worst(np.array([[4.0]])) == 4.0


def test_wins_by_hand() -> None:
    assert wins(np.array([[0.1, -0.2, 0.0, 0.4, -1.0], [0.1, 0.1, 0.0, 0.2, 0.5]])) == (0.4, 0.4)
    assert wins(np.zeros((2, 3))) == (0.0, 0.0) and wins(np.array([[2.0]])) == (1.0, 0.0)
    assert wins(np.array([[0.1, 1.0], [-0.3, 1.0], [0.2, 1.0]])) == (0.5, 0.0)  # 0.1 - 0.3 + 0.2 is 2.8e-17


FINE = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired(np.ones(3)), r"differences must be \[seeds, clients\], got shape \(3,\)"),
        (lambda: paired(np.ones((3, 1))), r"at least 1 seed and 2 clients, got shape \(3, 1\)"),
        (lambda: paired(np.ones((0, 4))), r"at least 1 seed"),
        (lambda: paired(np.array([[0.0, 1.0], [2.0, math.nan]])), r"differences\[1, 1\]=nan must be finite"),
        (lambda: paired(np.array([[-math.inf, 1.0]])), r"differences\[0, 0\]=-inf must be finite"),
        (lambda: paired(cast(Any, [["a", "b"]])), "differences must be numbers"),
        (lambda: paired(cast(Any, [[1.0, 2.0], [3.0]])), "differences must be numbers"),
        (lambda: paired(FINE, level=1.0), "level=1.0 must be above 0 and below 1"),
        (lambda: paired(FINE, level=math.nan), "level=nan"),
        (lambda: paired(FINE, draws=0), "draws must be an integer of at least 1, got 0"),
        (lambda: paired(FINE, draws=True), "draws must be an integer"),
        (lambda: paired(FINE, draws=39), "draws=39 are too few for level=0.95; give at least 40"),
        (lambda: paired(FINE, seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: paired(FINE, seed=cast(Any, 0.5)), "seed must be an integer"),
        (lambda: holm([0.1, 1.1]), r"p\[1\]=1.1 must be within 0..1"),
        (lambda: holm([math.nan]), r"p\[0\]=nan"),
        (lambda: worst(np.ones(3)), r"values must be \[seeds, clients\]"),
        (lambda: worst(np.ones((2, 0))), r"1 clients, got shape \(2, 0\)"),
        (lambda: worst(FINE, share=0.0), "share=0.0 must be above 0"),
        (lambda: worst(np.array([[math.inf]])), r"values\[0, 0\]=inf"),
        (lambda: wins(np.array([[math.nan]])), r"differences\[0, 0\]=nan"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_the_fewest_draws_that_the_message_names_are_enough() -> None:
    assert paired(crossed(2, 5, ratio=1.0), draws=40).p > 0
