"""Tables of differences with known variances: what the paired tests are held to, and the numbers of docs/paired-tests.md.

    python tests/support/simulated_tables.py single | tables | others

prints one table of the page each; `others` needs SciPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow.comparison.paired import holm, paired

Array = NDArray[np.float64]
ALGORITHMS, SIDES, MEASURES = 3, 2, 2
RATIOS = (0.0, 0.3, 1.0, 3.0, 10.0)


class Variances(NamedTuple):
    """Of differences [S, C], in units of the standard error that the clients' own differences give the mean."""

    ratio: float
    """Standard deviation of a seed, which moves all clients of a run together."""
    interaction: float = 1.0
    """Standard deviation of client by seed over that of clients."""
    skewed: bool = False
    """Clients' differences are exponential, and clients with few tokens have more interaction; otherwise all is normal."""

    def error(self, seeds: int) -> float:
        """Standard error of the grand mean, were there no variance of seeds."""
        return float(np.sqrt(1 + self.interaction**2 / seeds))


def parts(stream: np.random.Generator, seeds: int, clients: int, of: Variances, shared: Array | None = None) -> Array:
    """Values [S, C] with mean zero. `shared` [S, 1] are effects of seeds drawn before, such as by the same run elsewhere."""
    root = float(np.sqrt(clients))
    own: Array = stream.standard_normal((seeds, 1)) * of.ratio if shared is None else shared
    if not of.skewed:
        mixed = stream.standard_normal((seeds, clients)) * of.interaction
        return own + root * (stream.standard_normal(clients) + mixed)
    share = 1 / np.ceil(stream.lognormal(1.5, 1.0, clients))  # of a token
    noise = stream.standard_normal((seeds, clients)) * of.interaction * np.sqrt(share / 0.27452)  # their expectation
    return own + root * (stream.exponential(size=clients) - 1 + noise)


def table(stream: np.random.Generator, seeds: int, clients: int, of: Variances, shift: float = 0.0) -> Iterator[Array]:
    """Differences [S, C] of every cell: three algorithms on two sides in two measures, all against one reference.

    The sides have clients of their own and share the runs. The measures correlate by 0.8, the algorithms by 0.36, through the
    reference. The first algorithm is better everywhere, by `shift` times the standard error that no variance of seeds leaves.
    """
    runs = stream.standard_normal((MEASURES, 1 + ALGORITHMS, seeds, 1)) * of.ratio
    for _ in range(SIDES):
        first, other = (np.stack([parts(stream, seeds, clients, of, run) for run in measure]) for measure in runs)
        for scores in (first, 0.8 * first + 0.6 * other):
            for algorithm in range(ALGORITHMS):
                differences = 0.8 * scores[1 + algorithm] + 0.6 * scores[0]
                yield differences + (shift * of.error(seeds) if algorithm == 0 else 0.0)


def rejections(
    seed: int, seeds: int, clients: int, of: Variances, count: int, *, shift: float = 0.0, draws: int = 10_000
) -> tuple[int, int]:
    """Of so many tables, those with any Holm-corrected p < 0.05, and those where it is one of the first algorithm."""
    stream = np.random.default_rng(seed)
    anywhere = planted = 0
    for _ in range(count):
        corrected = holm([paired(cell, draws=draws).p for cell in table(stream, seeds, clients, of, shift)])
        anywhere += min(corrected) < 0.05
        planted += min(corrected[::ALGORITHMS]) < 0.05
    return anywhere, planted


Test = Callable[[Array], float]


def chosen(differences: Array) -> float:
    """p of the paired test."""
    return paired(differences).p


def fewer_draws(differences: Array) -> float:
    """p of the paired test, where 0.05 is all that it is compared with."""
    return paired(differences, draws=2000).p


def pigeonhole(differences: Array) -> float:
    """p of the plain two-level bootstrap: seeds and clients resampled, percentiles (Owen 2007, Ann. Appl. Stat. 1)."""
    (seeds, clients), stream, draws = differences.shape, np.random.default_rng(0), 2000
    rows = stream.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    columns = stream.multinomial(clients, np.full(clients, 1 / clients), draws) / clients
    means = ((rows @ differences) * columns).sum(axis=1)
    return float(min(1.0, 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (draws + 1)))


def _squares(differences: Array) -> tuple[float, float, float, float]:
    """Mean, and the mean squares of seeds, clients and interaction, over S * C."""
    (seeds, clients), mean = differences.shape, differences.mean()
    of_seeds, of_clients = differences.mean(axis=1), differences.mean(axis=0)
    left = differences - of_seeds[:, None] - of_clients + mean
    mixed = (left**2).sum() / ((seeds - 1) * (clients - 1)) / differences.size
    return mean, of_seeds.var(ddof=1) / seeds, of_clients.var(ddof=1) / clients, mixed


def satterthwaite(differences: Array) -> float:
    """p of Student's t on the unbiased variance, with the degrees of freedom of Satterthwaite (1946)."""
    from scipy import stats

    seeds, clients = differences.shape
    mean, rows, columns, mixed = _squares(differences)
    variance = max(rows + columns - mixed, 1e-12)
    free = variance**2 / (rows**2 / (seeds - 1) + columns**2 / (clients - 1) + mixed**2 / ((seeds - 1) * (clients - 1)))
    return float(2 * stats.t.sf(abs(mean) / np.sqrt(variance), free))


def cochran(differences: Array) -> float:
    """p where the critical value is the mean of both t's, weighted by their variances (Cochran and Cox 1950)."""
    from scipy import optimize, stats

    seeds, clients = differences.shape
    mean, rows, columns, _ = _squares(differences)
    reached = abs(mean) / np.sqrt(rows + columns)

    def excess(log_p: float) -> float:
        t = [stats.t.isf(np.exp(log_p) / 2, free) for free in (seeds - 1, clients - 1)]
        return float((rows * t[0] + columns * t[1]) / (rows + columns) - reached)

    return float(np.exp(optimize.brentq(excess, np.log(1e-12), 0.0)))


def shares(test: Test, seeds: int, clients: int, of: Variances, shift: float, count: int) -> tuple[float, float]:
    """Of so many tables of differences, the shares with p < 0.05 and with p < 0.05 / 12."""
    stream = np.random.default_rng(1)
    p = np.array([test(parts(stream, seeds, clients, of) + shift * of.error(seeds)) for _ in range(count)])
    return float((p < 0.05).mean()), float((p < 0.05 / 12).mean())


def _single(case: tuple[int, int, bool]) -> str:
    seeds, clients, skewed = case
    cells = []
    for ratio in RATIOS:
        of = Variances(ratio, skewed=skewed)
        null, planted = (shares(fewer_draws, seeds, clients, of, shift, 1000)[0] for shift in (0.0, 4.0))
        cells.append(f"{100 * null:.1f} / {100 * planted:.0f}")
    return f"| {seeds} | {clients} | {'skewed' if skewed else 'normal'} | {' | '.join(cells)} |"


def _tables(case: tuple[int, int, bool, float]) -> str:
    seeds, clients, skewed, interaction = case
    cells = []
    for ratio in RATIOS:
        of = Variances(ratio, interaction, skewed)
        wrong = rejections(1, seeds, clients, of, 200)[0]
        planted = rejections(2, seeds, clients, of, 100, shift=6.0)[1]
        cells.append(f"{wrong} / {planted}")
    return f"| {seeds} | {clients} | {'skewed' if skewed else 'normal'} | {interaction:g} | {' | '.join(cells)} |"


def _others(case: tuple[Test, float, float]) -> str:
    test, interaction, shift = case
    cells = []
    for ratio in RATIOS:
        rejected = shares(test, 3, 100, Variances(ratio, interaction), shift, 2000)
        cells.append(" / ".join(f"{100 * share:.1f}" for share in rejected))
    return f"| {test.__name__} | {interaction:g} | {shift:g} | {' | '.join(cells)} |"


def main(which: str) -> None:
    """Print one table of the page."""
    ratios = " | ".join(f"{ratio:g}" for ratio in RATIOS)
    heads = {
        "single": "seeds | clients | kind",
        "tables": "seeds | clients | kind | interaction",
        "others": "test | interaction | difference",
    }
    print(f"| {heads[which]} | {ratios} |\n|{'---|' * (heads[which].count('|') + 1 + len(RATIOS))}")
    with ProcessPoolExecutor(2) as pool:
        lines: Iterator[str]
        if which == "single":
            lines = pool.map(_single, [(s, c, k) for s in (2, 3, 5) for c in (20, 100, 600) for k in (False, True)])
        elif which == "tables":
            sizes = ((3, 20), (3, 300), (5, 100))
            lines = pool.map(_tables, [(*size, skewed, e) for size in sizes for skewed in (False, True) for e in (0.3, 1.0)])
        else:
            tests = (pigeonhole, satterthwaite, cochran, chosen)
            lines = pool.map(_others, [(test, e, shift) for e in (0.3, 1.0) for shift in (0.0, 4.0) for test in tests])
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
