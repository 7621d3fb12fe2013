"""How the uploads of a round become the one target that the server's optimiser steps towards.

Beside the weighted mean the rules that a minority of wrong uploads cannot pull away, each with bucketing in front if asked.
Those give every client one vote: a weight is what a client says of itself. A client takes part if its weight is above 0 and
all it sent is finite.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.server.uploads import Uploads

if TYPE_CHECKING:
    from flow.server.options import ServerOptions

BUCKETS = {"bucket_size": 1}
DEFAULTS: dict[str, dict[str, float]] = {
    "mean": {},
    "median": {**BUCKETS},
    "trimmed_mean": {**BUCKETS, "byzantine": 0.2},
    "centered_clipping": {**BUCKETS, "clip_radius": 10.0, "clip_steps": 3},
    "geometric_median": {**BUCKETS, "weiszfeld_steps": 8, "weiszfeld_smoothing": 0.1},
    "krum": {**BUCKETS, "byzantine": 0.2},
}
"""What each aggregator has for options."""


def resolve(options: ServerOptions) -> ServerOptions:
    """The options with nothing left open that the aggregator uses.

    Raises:
        UserError: an option out of range, or one that this aggregator does not have.
    """
    used = DEFAULTS[options.aggregator]
    for name in {name: None for defaults in DEFAULTS.values() for name in defaults}:
        given = getattr(options, name)
        if given is None:
            continue
        if name not in used:
            users = " and ".join(other for other, defaults in DEFAULTS.items() if name in defaults)
            raise UserError(f"{name}={given!r} is an option of {users}, not of aggregator={options.aggregator!r}; leave it out")
        check_number(name, given, 1 if isinstance(used[name], int) else 0)
        if name in ("clip_radius", "weiszfeld_smoothing") and given == 0:
            raise UserError(f"{name} must be above 0, got {given!r}; leave it out for the default, {used[name]!r}")
    missing: dict[str, Any] = {name: value for name, value in used.items() if getattr(options, name) is None}
    options = replace(options, **missing)
    if options.byzantine is not None and options.byzantine * _chosen(options.bucket_size) >= 0.5:
        raise UserError(
            f"byzantine={options.byzantine!r} times bucket_size={options.bucket_size} must be below 0.5: one wrong upload "
            "spoils its bucket, and most buckets must be good; lower either"
        )
    return options


def one_by_one(how: ServerOptions) -> bool:
    """Whether the aggregator needs every single upload."""
    return how.aggregator != "mean"


def aggregate(
    uploads: Uploads, moments: Tensors, how: ServerOptions, draw: Draw, origin: Tensors | None = None
) -> tuple[Tensors, Tensors]:
    """(target in float64, next moments): the uploads combined.

    Args:
        uploads: of the round; their single tensors are there where :func:`one_by_one` asked for them.
        moments: of the server; centred clipping carries its centre in them, as "center/<name>".
        draw: for random choices of the server; buckets come from ``draw.stream("bucket")``.
        origin: what the clients started from, under the names of the uploads and possibly more. Centred clipping and the
            geometric median start from zero, so they get the differences from it. None: the uploads are differences.
    """
    if how.aggregator == "mean":
        return (weighted if uploads.each else Uploads.mean)(uploads), moments
    how = resolve(how)
    votes = voting(uploads)
    if not bool(votes.any()):
        return weighted(uploads), moments  # nothing finite: the run ends here, and says so
    vectors = {name: tensor[votes.to(tensor.device)].double() for name, tensor in uploads.each.items()}
    wrong = int(_chosen(how.byzantine) * int(votes.sum()) + 1e-9) if how.byzantine is not None else 0
    vectors = buckets(vectors, int(_chosen(how.bucket_size)), draw)
    if how.aggregator == "median":
        return median(vectors), moments
    if how.aggregator == "trimmed_mean":
        return trimmed_mean(vectors, wrong), moments
    if how.aggregator == "krum":
        return krum(vectors, wrong), moments
    start = {name: origin[name].double() if origin else torch.zeros_like(tensor[0]) for name, tensor in vectors.items()}
    vectors = {name: tensor - start[name] for name, tensor in vectors.items()}
    if how.aggregator == "geometric_median":
        found = geometric_median(vectors, int(_chosen(how.weiszfeld_steps)), _chosen(how.weiszfeld_smoothing))
    else:
        center = {name: moments.get(f"center/{name}", torch.zeros_like(tensor)) for name, tensor in start.items()}
        found = centered_clipping(vectors, center, _chosen(how.clip_radius), int(_chosen(how.clip_steps)))
        moments = {**moments, **{f"center/{name}": tensor for name, tensor in found.items()}}
    return {name: start[name] + tensor for name, tensor in found.items()}, moments


def weighted(uploads: Uploads) -> Tensors:
    """The weighted mean of single uploads, in float64."""
    share = uploads.weights / uploads.weights.sum()
    return {n: torch.tensordot(share.to(tensor.device), tensor.double(), dims=1) for n, tensor in uploads.each.items()}


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
    """The one of n vectors with the least sum of squared distances to its n - wrong - 2 nearest, at least to one (Blanchard et
    al., NeurIPS 2017); of equals the first. Their guarantee asks for n > 2 wrong + 2."""
    n = count(vectors)
    squares = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n - 1):
        squares[i, i + 1 :] = lengths({name: tensor[i + 1 :] - tensor[i] for name, tensor in vectors.items()}).cpu() ** 2
    squares += squares.T.clone()
    nearest = squares.sort(dim=1).values[:, 1 : 1 + max(n - wrong - 2, 1)]  # the first is the vector itself
    scores = nearest.sum(1).tolist()
    best = scores.index(min(scores))
    return {name: tensor[best] for name, tensor in vectors.items()}


def centered_clipping(vectors: Tensors, center: Tensors, radius: float, steps: int) -> Tensors:
    """v <- v + mean_i min(1, radius / |x_i - v|) (x_i - v), some steps from the centre (Karimireddy et al., ICML 2021)."""
    for _ in range(steps):
        away = {name: tensor - center[name] for name, tensor in vectors.items()}
        share = radius / lengths(away).clamp_min(radius)
        center = {name: center[name] + tensor / count(vectors) for name, tensor in combined(away, share).items()}
    return center


def geometric_median(vectors: Tensors, steps: int, smoothing: float) -> Tensors:
    """Smoothed Weiszfeld steps from zero towards the point with the least sum of distances (Pillutla et al., IEEE TSP 2022):
    v <- sum b_i x_i / sum b_i with b_i = 1 / max(smoothing, |x_i - v|)."""
    point = {name: torch.zeros_like(tensor[0]) for name, tensor in vectors.items()}
    for _ in range(steps):
        share = 1 / lengths({name: tensor - point[name] for name, tensor in vectors.items()}).clamp_min(smoothing)
        point = combined(vectors, share / share.sum())
    return point


def count(vectors: Tensors) -> int:
    """How many there are."""
    return len(next(iter(vectors.values())))


def lengths(vectors: Tensors) -> Tensor:
    """Euclidean norm of each of n vectors over all its tensors, [n]."""
    parts = [torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in vectors.values()]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms


def combined(vectors: Tensors, share: Tensor) -> Tensors:
    """Sum of n vectors, each times its share."""
    return {name: torch.tensordot(share.to(tensor.device), tensor, dims=1) for name, tensor in vectors.items()}


def _chosen(value: Any) -> float:
    assert value is not None, "resolve() fills in what the aggregator uses"
    return float(value)
