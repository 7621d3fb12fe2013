"""Robust aggregation once more, number by number, from the formulas of the papers: lists of floats, one vector at a time."""

import math
from collections.abc import Sequence

from oracles import stream

Vector = list[float]


def buckets(vectors: Sequence[Vector], size: int, seed: int, round: int) -> list[Vector]:
    """Shuffle, then means of consecutive groups."""
    order = (
        [int(i) for i in stream(seed, round, "server", "bucket").permutation(len(vectors))] if size > 1 else range(len(vectors))
    )
    shuffled, means = [vectors[i] for i in order], []
    while shuffled:
        group, shuffled = shuffled[:size], shuffled[size:]
        means.append([math.fsum(numbers) / len(group) for numbers in zip(*group, strict=True)])
    return means


def median(vectors: Sequence[Vector]) -> Vector:
    medians = []
    for numbers in zip(*vectors, strict=True):
        ordered = sorted(numbers)
        half = len(ordered) // 2
        medians.append(ordered[half] if len(ordered) % 2 else 0.5 * ordered[half - 1] + 0.5 * ordered[half])
    return medians


def trimmed_mean(vectors: Sequence[Vector], wrong: int) -> Vector:
    means = []
    for numbers in zip(*vectors, strict=True):
        rest = list(numbers)
        for _ in range(wrong):
            rest.remove(max(rest))
            rest.remove(min(rest))
        means.append(math.fsum(rest) / len(rest))
    return means


def distance(a: Vector, b: Vector) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def krum(vectors: Sequence[Vector], wrong: int) -> Vector:
    """The scores of Blanchard et al. (2017): squared distances, squared once, to the n - f - 2 nearest others."""
    best: Vector = []
    least = math.inf
    for i, vector in enumerate(vectors):
        others = sorted(distance(vector, other) ** 2 for j, other in enumerate(vectors) if j != i)
        score = sum(others[: max(len(vectors) - wrong - 2, 1)])
        if score < least:
            best, least = vector, score
    return best


def centered_clipping(vectors: Sequence[Vector], center: Vector, radius: float, steps: int) -> Vector:
    for _ in range(steps):
        moves = []
        for vector in vectors:
            far = distance(vector, center)
            scale = 1.0 if far <= radius else radius / far
            moves.append([scale * (x - v) for x, v in zip(vector, center, strict=True)])
        center = [v + math.fsum(m) / len(moves) for v, m in zip(center, zip(*moves, strict=True), strict=True)]
    return center


def geometric_median(vectors: Sequence[Vector], steps: int, smoothing: float) -> Vector:
    point = [0.0] * len(vectors[0])
    for _ in range(steps):
        b = [1 / max(smoothing, distance(vector, point)) for vector in vectors]
        point = [math.fsum(w * x for w, x in zip(b, xs, strict=True)) / math.fsum(b) for xs in zip(*vectors, strict=True)]
    return point
