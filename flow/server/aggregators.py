"""How the uploads of a round become the one target that the server's optimiser steps towards.

Beside the weighted mean the rules that a minority of wrong uploads cannot pull away, each with bucketing in front if asked.
Those give every client one vote: a weight is what a client says of itself. A client takes part if its weight is above 0 and
all it sent is finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.server.options import ServerOptions, resolved
from flow.server.uploads import Uploads, weighted_mean, weighted_sum


class Votes(NamedTuple):
    """What a robust rule is given: one vote of every client, or of every bucket of clients."""

    vectors: Tensors
    """float64 [n, ..]"""
    wrong: int
    """How many clients are taken to be wrong."""
    start: Tensors
    """float64: what the clients started from."""
    moments: Tensors
    """What the rule carries from round to round."""
    options: ServerOptions

    def differences(self) -> Tensors:
        """The vectors minus their start."""
        return {name: tensor - self.start[name] for name, tensor in self.vectors.items()}


class Aggregator(NamedTuple):
    """How the uploads of a round become one target."""

    defaults: dict[str, float]
    """Of its options; an int for one that counts."""
    combine: Callable[[Votes], tuple[Tensors, Tensors]] | None
    """votes -> (target, next moments); None: the weighted mean, for which uploads are summed as they come."""


def _median(votes: Votes) -> tuple[Tensors, Tensors]:
    return median(votes.vectors), votes.moments


def _trimmed_mean(votes: Votes) -> tuple[Tensors, Tensors]:
    return trimmed_mean(votes.vectors, votes.wrong), votes.moments


def _krum(votes: Votes) -> tuple[Tensors, Tensors]:
    return krum(votes.vectors, votes.wrong), votes.moments


def _geometric_median(votes: Votes) -> tuple[Tensors, Tensors]:
    options = votes.options
    steps, smoothing = int(resolved(options.weiszfeld_steps)), resolved(options.weiszfeld_smoothing)
    moved = geometric_median(votes.differences(), steps, smoothing)
    return {name: votes.start[name] + tensor for name, tensor in moved.items()}, votes.moments


def _centered_clipping(votes: Votes) -> tuple[Tensors, Tensors]:
    options = votes.options
    radius, steps = resolved(options.clip_radius), int(resolved(options.clip_steps))
    center = {name: votes.moments.get(f"center/{name}", torch.zeros_like(t)) for name, t in votes.start.items()}
    moved = centered_clipping(votes.differences(), center, radius, steps)
    moments = {**votes.moments, **{f"center/{name}": tensor for name, tensor in moved.items()}}
    return {name: votes.start[name] + tensor for name, tensor in moved.items()}, moments


BUCKETS = {"bucket_size": 1}
AGGREGATORS: dict[str, Aggregator] = {
    "mean": Aggregator({}, None),
    "median": Aggregator({**BUCKETS}, _median),
    "trimmed_mean": Aggregator({**BUCKETS, "byzantine": 0.2}, _trimmed_mean),
    "centered_clipping": Aggregator({**BUCKETS, "clip_radius": 10.0, "clip_steps": 3}, _centered_clipping),
    "geometric_median": Aggregator({**BUCKETS, "weiszfeld_steps": 8, "weiszfeld_smoothing": 0.1}, _geometric_median),
    "krum": Aggregator({**BUCKETS, "byzantine": 0.2}, _krum),
}


def resolve(options: ServerOptions) -> ServerOptions:
    """The options with nothing left open that the aggregator uses.

    Raises:
        UserError: an option out of range, or one that this aggregator does not have.
    """
    used = AGGREGATORS[options.aggregator].defaults
    for name in {name: None for aggregator in AGGREGATORS.values() for name in aggregator.defaults}:
        given = getattr(options, name)
        if given is None:
            continue
        if name not in used:
            users = " and ".join(other for other, aggregator in AGGREGATORS.items() if name in aggregator.defaults)
            raise UserError(f"{name}={given!r} is an option of {users}, not of aggregator={options.aggregator!r}; leave it out")
        check_number(name, given, 1 if isinstance(used[name], int) else 0)
        if name in ("clip_radius", "weiszfeld_smoothing") and given == 0:
            raise UserError(f"{name} must be above 0, got {given!r}; leave it out for the default, {used[name]!r}")
    missing: dict[str, Any] = {name: value for name, value in used.items() if getattr(options, name) is None}
    options = replace(options, **missing)
    if options.byzantine is not None and options.byzantine * resolved(options.bucket_size) >= 0.5:
        raise UserError(
            f"byzantine={options.byzantine!r} times bucket_size={options.bucket_size} must be below 0.5: one wrong upload "
            "spoils its bucket, and most buckets must be good; lower either"
        )
    return options


def one_by_one(options: ServerOptions) -> bool:
    """Whether the aggregator needs every single upload."""
    return AGGREGATORS[options.aggregator].combine is not None


def aggregate(
    uploads: Uploads, moments: Tensors, options: ServerOptions, draw: Draw, origin: Tensors | None = None
) -> tuple[Tensors, Tensors]:
    """(target in float64, next moments): the uploads combined.

    Args:
        uploads: of the round; their single tensors are there where :func:`one_by_one` asked for them.
        moments: of the server; centred clipping carries its centre in them, as "center/<name>".
        draw: for random choices of the server; buckets come from ``draw.stream("bucket")``.
        origin: what the clients started from, under the names of the uploads and possibly more. Centred clipping and the
            geometric median start from zero, so they get the differences from it. None: the uploads are differences.
    """
    combine = AGGREGATORS[options.aggregator].combine
    if combine is None:
        return weighted_mean(uploads.each, uploads.weights) if uploads.each else uploads.mean(), moments
    voters = voting(uploads)
    if not bool(voters.any()):
        return weighted_mean(uploads.each, uploads.weights), moments  # nothing finite: the run ends here, and says so
    vectors = {name: tensor[voters.to(tensor.device)].double() for name, tensor in uploads.each.items()}
    wrong = int(resolved(options.byzantine) * int(voters.sum()) + 1e-9) if options.byzantine is not None else 0
    vectors = buckets(vectors, int(resolved(options.bucket_size)), draw)
    start = {name: origin[name].double() if origin else torch.zeros_like(tensor[0]) for name, tensor in vectors.items()}
    return combine(Votes(vectors, wrong, start, moments, options))


def voting(uploads: Uploads) -> Tensor:
    """bool [n]: the clients that robust aggregators listen to."""
    votes = uploads.weights > 0
    for tensor in uploads.each.values():
        votes = votes & tensor.flatten(1).isfinite().all(1).cpu()
    return votes


def buckets(vectors: Tensors, size: int, draw: Draw) -> Tensors:
    """Means of random groups of `size` (Karimireddy et al., ICLR 2022): [n, ..] -> [ceil(n / size), ..].

    The last bucket may hold fewer.
    """
    if size == 1:
        return vectors
    order = torch.from_numpy(draw.stream("bucket").permutation(count(vectors)))
    parts = torch.split(order, size)
    return {n: torch.stack([tensor[part.to(tensor.device)].mean(0) for part in parts]) for n, tensor in vectors.items()}


def median(vectors: Tensors) -> Tensors:
    """The median of every coordinate (Yin et al., ICML 2018); of an even number the mean of the two in the middle."""
    n = count(vectors)
    ordered = {name: tensor.sort(dim=0).values for name, tensor in vectors.items()}
    return {name: (tensor[(n - 1) // 2] + tensor[n // 2]) / 2 for name, tensor in ordered.items()}


def trimmed_mean(vectors: Tensors, wrong: int) -> Tensors:
    """The mean of every coordinate without its `wrong` largest and smallest values (Yin et al., ICML 2018)."""
    rest = slice(wrong, count(vectors) - wrong)
    return {name: tensor.sort(dim=0).values[rest].mean(0) for name, tensor in vectors.items()}


def krum(vectors: Tensors, wrong: int) -> Tensors:
    """The one of n vectors with the least sum of squared distances to its n - wrong - 2 nearest ones (Blanchard et al., NeurIPS
    2017). At least one neighbour counts, and of equals the first is taken. The paper's guarantee asks for n > 2 wrong + 2."""
    n = count(vectors)
    squares = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n - 1):
        squares[i, i + 1 :] = norms({name: tensor[i + 1 :] - tensor[i] for name, tensor in vectors.items()}).cpu() ** 2
    squares += squares.T.clone()
    nearest = squares.sort(dim=1).values[:, 1 : 1 + max(n - wrong - 2, 1)]  # the first is the vector itself
    scores = nearest.sum(1).tolist()
    best = scores.index(min(scores))
    return {name: tensor[best] for name, tensor in vectors.items()}


def centered_clipping(vectors: Tensors, center: Tensors, radius: float, steps: int) -> Tensors:
    """v <- v + mean_i min(1, radius / |x_i - v|) (x_i - v), some steps from the centre (Karimireddy et al., ICML 2021)."""
    for _ in range(steps):
        away = {name: tensor - center[name] for name, tensor in vectors.items()}
        share = radius / norms(away).clamp_min(radius)
        center = {name: center[name] + tensor / count(vectors) for name, tensor in weighted_sum(away, share).items()}
    return center


def geometric_median(vectors: Tensors, steps: int, smoothing: float) -> Tensors:
    """Smoothed Weiszfeld steps from zero towards the point with the least sum of distances (Pillutla et al., IEEE TSP 2022). A
    step is v <- sum b_i x_i / sum b_i with b_i = 1 / max(smoothing, |x_i - v|)."""
    point = {name: torch.zeros_like(tensor[0]) for name, tensor in vectors.items()}
    for _ in range(steps):
        share = 1 / norms({name: tensor - point[name] for name, tensor in vectors.items()}).clamp_min(smoothing)
        point = weighted_sum(vectors, share / share.sum())
    return point


def count(vectors: Tensors) -> int:
    """How many there are."""
    return len(next(iter(vectors.values())))


def norms(vectors: Tensors) -> Tensor:
    """Euclidean norm of each of n vectors over all its tensors, [n]."""
    parts = [torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in vectors.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return total
