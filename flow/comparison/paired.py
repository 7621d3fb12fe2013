"""Paired tests of one algorithm against another: the same clients, in every one of several seeds.

The differences [S, C] of S seeds and C clients are crossed. Seed s moves all clients of its run together, client c is alike in
every run, and the rest is their interaction,

    d[s, c] = mean + seed[s] + client[c] + interaction[s, c].

docs/paired-tests.md derives the test, compares it with others by simulation and shows its level and its power.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow.errors import UserError

BLOCK = 1 << 20  # clients drawn at once: 8 MB an array
KEPT = 1 << 24  # clients of resamples that are kept for the next test: 16 MB
ROUNDING = 1e-12  # of a client's largest difference: a mean over seeds that is not larger counts as none


class Paired(NamedTuple):
    """What the differences [S, C] say of the true mean difference, in the unit of the differences."""

    difference: float
    """Mean over seeds and clients."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    p: float
    """Two-sided, of the null hypothesis that the true mean difference is zero; not corrected for other tests."""
    seeds: int
    clients: int

    def scope(self) -> str:
        """What the interval and p speak of, for the foot of a table."""
        if self.seeds == 1:
            return "other clients with the same seed; one seed says nothing of other seeds"
        return "other clients and other seeds"


def paired(differences: NDArray[np.float64], *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Paired:
    """Test of the mean difference by a two-level bootstrap over seeds and clients.

    Clients are resampled with replacement, the same ones for all seeds. Every resampled mean is divided by its own standard
    error (bootstrap-t: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5). A few seeds are too few to
    be resampled: normal deviates move all clients together. Their variance is the mean square of seeds over a draw of
    chi-squared / (S - 1), as in the solution of Behrens and Fisher (Fisher 1935, "The fiducial argument in statistical
    inference"). The mean square of the interaction, which the clients' variance holds already, is subtracted, down to zero at
    least. Where seeds dominate, the interval is thus Student's with S - 1 degrees of freedom. With S = 1, clients alone are
    resampled.

    A second set of draws has Student's t with C - 1 degrees of freedom in place of the resampled clients. The interval covers
    those of both sets, and p is the larger one: resampling follows skewed clients, Student's t holds for few clients and
    for heavy tails.

    Args:
        differences: [S, C], this algorithm minus the reference; S >= 1 seeds, the same C >= 2 clients in each, in one order.
        level: coverage of the interval, within 0..1.
        draws: bootstrap draws; p is at least 2 / (draws + 1).
        seed: of the draws. The same arguments give the same result.

    Returns:
        The mean difference, its interval and p. Up to rounding, p < 1 - level where the interval does not hold zero. Where all
        differences are equal there is no variance to estimate, and the interval is that value alone. Then p is 1 if the value
        is zero, and otherwise that of the sign test of C clients, 2^(1 - C).

    Raises:
        UserError: an argument is wrong, or the differences have fewer than two clients.
    """
    given = _table("differences", differences, least=2)
    tail = _tail(level, draws)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed must be an integer of at least 0, got {seed!r}; leave it out for 0")
    seeds, clients = given.shape
    scale = float(np.abs(given).max())
    if (given == given[0, 0]).all():
        p = max(2.0 ** (1 - clients), 2 / (draws + 1)) if scale else 1.0
        value = float(given[0, 0])
        return Paired(value, value, value, p, seeds, clients)
    if (given / scale).mean() < 0:  # the reverse comparison gets the reverse interval
        scale = -scale
    table = given / scale
    of_clients, of_seeds = table.mean(axis=0), table.mean(axis=1)
    mean = float(of_clients.mean())
    error = math.sqrt(float(of_clients.var(ddof=1)) / clients)
    students, shared = _streams(seed)[1:]
    moved = np.zeros(draws)  # by other seeds
    if seeds > 1:
        residuals = table - of_seeds[:, None] - of_clients + mean
        interaction = float((residuals**2).sum()) / ((seeds - 1) * (clients - 1)) / (seeds * clients)
        # (Q (S - 1) / x - interaction) z^2 of normal z, chi-squared x and t = z / sqrt(x / (S - 1)): given t,
        # x (1 + t^2 / (S - 1)) is chi-squared with S degrees of freedom
        t, chi = shared.permutation(_students(seeds - 1, draws)), shared.chisquare(seeds, draws)
        variance = float(of_seeds.var(ddof=1)) / seeds - interaction * chi / (seeds - 1 + t**2)
        moved = np.sqrt(np.maximum(variance, 0)) * t
    ends, chances = [], []
    for pivot in (_resampled(of_clients - mean, draws, seed), students.permutation(_students(clients - 1, draws))):
        values = mean - error * pivot + moved
        ends.append(np.partition(values, (tail - 1, draws - tail))[[tail - 1, draws - tail]])
        chances.append(2 * (1 + min(int((values <= 0).sum()), int((values >= 0).sum()))) / (draws + 1))
    low, high = sorted((scale * float(min(low for low, _ in ends)), scale * float(max(high for _, high in ends))))
    return Paired(scale * mean, low, high, min(1.0, max(chances)), seeds, clients)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of one family of tests, corrected so that any false rejection has at most the level's probability.

    This is the step-down procedure of Holm (1979, "A simple sequentially rejective multiple test procedure"). The k-th smallest
    of n values is multiplied by n - k + 1, is at least as large as the one before it, and is at most 1.

    Args:
        p: n p-values within 0..1; there may be none.

    Returns:
        n corrected p-values, in the given order.

    Raises:
        UserError: a value is not within 0..1.
    """
    for place, value in enumerate(p):
        if not 0 <= value <= 1:
            raise UserError(f"p[{place}]={value!r} must be within 0..1; give p-values as the tests return them")
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - rank) * float(p[place])))
        corrected[place] = largest
    return corrected


def worst(values: NDArray[np.float64], share: float = 0.1, highest_is_worst: bool = False) -> float:
    """Mean over the worst share of clients, in the unit of the values: the worst decile, unless another share is asked for.

    Args:
        values: [S, C], S seeds and the same C >= 1 clients in each; a client counts with its mean over seeds.
        share: of the clients, above 0 and at most 1; ceil(share * C) clients are taken.
        highest_is_worst: whether a high value is a bad one, as of a loss.

    Raises:
        UserError: an argument is wrong.
    """
    of_clients = np.sort(_table("values", values, least=1).mean(axis=0))
    if not 0 < share <= 1:
        raise UserError(f"share={share!r} must be above 0 and at most 1; 0.1 is the worst decile")
    count = max(1, math.ceil(round(share * of_clients.size, 9)))  # 0.1 * 30 is above 3
    return float((of_clients[-count:] if highest_is_worst else of_clients[:count]).mean())


def wins(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Shares of clients whose mean over seeds is above and below zero, both within 0..1; the rest is even.

    Args:
        differences: [S, C], S seeds and the same C >= 1 clients in each. A mean within rounding of zero counts as zero.

    Raises:
        UserError: the differences are not such a table of finite numbers.
    """
    table = _table("differences", differences, least=1)
    of_clients = table.mean(axis=0)
    known = np.abs(of_clients) > ROUNDING * np.abs(table).max(axis=0)
    return float((known & (of_clients > 0)).mean()), float((known & (of_clients < 0)).mean())


def _streams(seed: int) -> list[np.random.Generator]:
    """Of the resampled clients, of Student's t in their place, and of the seeds."""
    return np.random.default_rng(seed).spawn(3)


@lru_cache(maxsize=16)
def _students(free: int, draws: int) -> NDArray[np.float64]:
    """Quantiles of Student's t in the middle of so many equal parts, by the trapezoidal rule over asinh(t).

    In random order they stand for variates. The tails of variates would by chance be too heavy or too light, and in the same
    way for every test with one seed of draws.
    """
    y = np.linspace(0, 40, 1 << 16)
    density = np.exp(-(free + 1) / 2 * np.log1p(np.sinh(y) ** 2 / free)) * np.cosh(y)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    middle = (2 * np.arange(draws) + 1) / draws - 1
    quantiles: NDArray[np.float64] = np.sign(middle) * np.sinh(np.interp(np.abs(middle) * mass[-1], mass, y))
    quantiles.flags.writeable = False
    return quantiles


def _resampled(centred: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Resampled means of C values with mean zero, each divided by its standard error: [draws].

    A resample has at least 1 / sqrt(C) of the sample's standard error, or one of a single client repeated would have none.
    """
    count = centred.size
    powers = np.stack([centred, centred**2], axis=1)
    moments = np.concatenate([times @ powers for times in _resamples(count, draws, seed)])
    means, squares = moments.T / count
    least = powers[:, 1].sum() / (count - 1) / count
    errors = np.sqrt(np.maximum((squares - means**2) * count / (count - 1), least) / count)
    return means / errors if least else np.zeros(draws)


def _resamples(clients: int, draws: int, seed: int) -> Iterator[NDArray[np.integer]]:
    """How often every resample has every client, in blocks [b, C] of the draws; kept where that takes little memory."""
    rows = max(1, BLOCK // clients)
    if clients * draws > KEPT:
        yield from _drawn(clients, draws, seed)
        return
    kept = _kept(clients, draws, seed)
    for start in range(0, draws, rows):
        yield kept[start : start + rows]


@lru_cache(maxsize=2)  # the two sides of a table
def _kept(clients: int, draws: int, seed: int) -> NDArray[np.integer]:
    kept = np.concatenate([times.astype(np.uint8) for times in _drawn(clients, draws, seed)])
    kept.flags.writeable = False
    return kept


def _drawn(clients: int, draws: int, seed: int) -> Iterator[NDArray[np.integer]]:
    stream, rows = _streams(seed)[0], max(1, BLOCK // clients)
    for start in range(0, draws, rows):
        block = min(rows, draws - start)
        drawn = stream.integers(clients, size=(block, clients)) + clients * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * clients).reshape(block, clients)


def _table(name: str, values: ArrayLike, least: int) -> NDArray[np.float64]:
    """The values as float64 [S, C]; UserError unless they are finite, of at least one seed and of so many clients."""
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be numbers [seeds, clients], got {values!r}; give a float64 array") from error
    if table.ndim != 2:
        raise UserError(f"{name} must be [seeds, clients], got shape {table.shape}; put the values of a seed in a row")
    if table.shape[0] < 1 or table.shape[1] < least:
        raise UserError(f"{name} must have at least 1 seed and {least} clients, got shape {table.shape}; score more of them")
    if not (finite := np.isfinite(table)).all():
        s, c = np.argwhere(~finite)[0].tolist()
        raise UserError(f"{name}[{s}, {c}]={table[s, c]} must be finite; leave this client out of every seed")
    return table


def _tail(level: float, draws: int) -> int:
    """Which of the ordered draws is the lower end of the interval, counted from 1."""
    if not 0 < level < 1:
        raise UserError(f"level={level!r} must be above 0 and below 1; 0.95 is usual")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise UserError(f"draws must be an integer of at least 1, got {draws!r}; leave it out for 10000")
    tail = math.ceil(round((1 - level) / 2 * (draws + 1), 9)) - 1
    if tail < 1:
        raise UserError(f"draws={draws} are too few for level={level}; give at least {math.floor(round(2 / (1 - level), 6))}")
    return tail
