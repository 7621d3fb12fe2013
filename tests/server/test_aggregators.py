"""Robust aggregators against their oracles, in the server's step, in runs, and against uploads that are wrong."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import harness
import numpy as np
import oracles
import pytest
import torch
from comparisons import plain_fixture  # noqa: F401
from harness import ROUND, SEED, TIGHT, Bench, labelled
from optional import present
from oracles import aggregators as oracle
from torch import Tensor

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedrep import FedRepOptions
from flow.algorithms.flow import FlowOptions
from flow.draws import Draw
from flow.model.parameters import Tensors, per_client
from flow.server import aggregators
from flow.server.optimizers import OPTIMIZERS, average, resolve
from flow.server.options import ServerOptions
from flow.server.uploads import Received, Uploads, collect
from flow_kernels.training import split

DRAW = Draw(SEED, ROUND, "server")
RULES = {
    "median": ServerOptions(aggregator="median"),
    "trimmed_mean": ServerOptions(aggregator="trimmed_mean"),
    "trimmed_mean, a third": ServerOptions(aggregator="trimmed_mean", byzantine=1 / 3),
    "trimmed_mean, none": ServerOptions(aggregator="trimmed_mean", byzantine=0.0),
    "centered_clipping": ServerOptions(aggregator="centered_clipping"),
    "centered_clipping, near": ServerOptions(aggregator="centered_clipping", clip_radius=0.7, clip_steps=2),
    "geometric_median": ServerOptions(aggregator="geometric_median"),
    "geometric_median, exact": ServerOptions(aggregator="geometric_median", weiszfeld_steps=200, weiszfeld_smoothing=1e-9),
    "krum": ServerOptions(aggregator="krum"),
    "krum, a third": ServerOptions(aggregator="krum", byzantine=1 / 3),
}
ALL = pytest.mark.parametrize("server_options", RULES.values(), ids=RULES)


def bucketing(options: ServerOptions, size: int) -> ServerOptions:
    """The same rule behind buckets of this size, of which as many may be wrong."""
    byzantine = resolve(options).byzantine
    return dataclasses.replace(options, bucket_size=size, byzantine=None if byzantine is None else byzantine / size)


def uploads(vectors: list[oracle.Vector], weights: Sequence[float] | None = None) -> Uploads:
    """Uploads of two tensors, [n, 2, 2] and [n, 3], out of n rows of seven numbers."""
    table = torch.tensor(vectors, dtype=torch.float64)
    each = {"a": table[:, :4].view(-1, 2, 2), "b/c": table[:, 4:]}
    counts = torch.ones(len(table)) if weights is None else torch.tensor(weights)
    return Uploads(each=each, rows=np.arange(len(table)), weights=counts.double())


def flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensors["a"].flatten(), tensors["b/c"]])


def expected(
    vectors: list[oracle.Vector],
    options: ServerOptions,
    origin: Sequence[float] = (0.0,) * 7,
    center: Sequence[float] = (0.0,) * 7,
) -> Tensor:
    """What the oracle makes of the vectors; origin and centre for the rules that have one."""
    options = resolve(options)
    wrong = math.floor(options.byzantine * len(vectors) + 1e-9) if options.byzantine is not None else 0
    vectors = oracle.buckets(vectors, present(options.bucket_size), SEED, ROUND)
    if options.aggregator == "median":
        aggregate = oracle.median(vectors)
    elif options.aggregator in ("trimmed_mean", "krum"):
        aggregate = getattr(oracle, options.aggregator)(vectors, wrong)
    else:
        away = [[x - o for x, o in zip(vector, origin, strict=True)] for vector in vectors]
        if options.aggregator == "geometric_median":
            aggregate = oracle.geometric_median(away, present(options.weiszfeld_steps), present(options.weiszfeld_smoothing))
        else:
            aggregate = oracle.centered_clipping(away, list(center), present(options.clip_radius), present(options.clip_steps))
        aggregate = [x + o for x, o in zip(aggregate, origin, strict=True)]
    return torch.tensor(aggregate, dtype=torch.float64)


def draws(n: int, kind: str, seed: int = 0) -> list[oracle.Vector]:
    """n vectors: of continuous values, of small integers with many ties, all but some alike, or a few of them far off."""
    rng = np.random.default_rng([seed, n])
    if kind == "ties":
        table = rng.integers(-1, 2, (n, 7)).astype(float)
    elif kind == "alike":
        table = np.where(np.arange(n)[:, None] % 3 == 2, rng.normal(size=(n, 7)), np.arange(7.0))
    else:
        table = rng.normal(size=(n, 7))
    if kind == "outliers":
        table[: n // 4] *= 1e6
    return [[float(x) for x in vector] for vector in table]


@pytest.mark.parametrize("kind", ["random", "ties", "alike", "outliers"])
@pytest.mark.parametrize("size", [1, 2, 3])
@ALL
def test_against_the_oracle(server_options: ServerOptions, size: int, kind: str) -> None:
    """One client, two, even and odd counts, buckets that come out even and that do not."""
    server_options = bucketing(server_options, size)
    for n in (1, 2, 3, 4, 5, 8, 11, 16):
        vectors = draws(n, kind)
        aggregate, moments = aggregators.aggregate(uploads(vectors), {"m/a": torch.ones(1)}, resolve(server_options), DRAW)
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if kind == "outliers" else TIGHT
        torch.testing.assert_close(
            flat(aggregate), expected(vectors, server_options), **tolerance, msg=labelled(f"{n} clients")
        )
        assert set(moments) == {
            "m/a",
            *(("center/a", "center/b/c") if server_options.aggregator == "centered_clipping" else ()),
        }


@ALL
def test_one_client_is_its_own_aggregate(server_options: ServerOptions) -> None:
    """But for clipping, which goes towards it by three radii at most."""
    vector = [3.0, -1.0, 0.5, 0.0, 2.0, 2.0, 7.0]
    aggregate = flat(aggregators.aggregate(uploads([vector]), {}, resolve(server_options), DRAW)[0])
    steps, radius = resolve(server_options).clip_steps, resolve(server_options).clip_radius
    length = math.dist(vector, [0.0] * 7)
    reach = min(1.0, steps * present(radius) / length) if steps else 1.0
    torch.testing.assert_close(aggregate, reach * torch.tensor(vector, dtype=torch.float64), **TIGHT)


def test_medians_of_even_and_odd_numbers() -> None:
    values = [[5.0] * 7, [1.0] * 7, [2.0] * 7, [100.0] * 7]
    for n, middle in ((1, 5.0), (2, 3.0), (3, 2.0), (4, 3.5)):
        median = aggregators.aggregate(uploads(values[:n]), {}, resolve(ServerOptions(aggregator="median")), DRAW)[0]
        assert flat(median).tolist() == [middle] * 7


def test_krum_takes_the_first_of_equals_and_squares_once() -> None:
    krum = ServerOptions(aggregator="krum", byzantine=0.0)
    twice = [[1.0] * 7, [0.0] * 7]
    assert flat(aggregators.aggregate(uploads(twice), {}, resolve(krum), DRAW)[0]).tolist() == twice[0]
    # Sums of squares to the three nearest: 406, 118, 126, 125, 429; of squares of squares 67186, 7858, 10626, 6017, 71073.
    line = torch.tensor([[0.0], [9.0], [10.0], [15.0], [23.0]], dtype=torch.float64)
    assert aggregators.krum({"w": line}, 0)["w"].tolist() == [9.0]


@ALL
@pytest.mark.parametrize("size", [1, 2])
def test_every_client_has_one_vote_whatever_weight_it_claims(server_options: ServerOptions, size: int) -> None:
    server_options = bucketing(server_options, size)
    vectors = draws(9, "random")
    plain = flat(aggregators.aggregate(uploads(vectors), {}, resolve(server_options), DRAW)[0])
    claimed = flat(aggregators.aggregate(uploads(vectors, [1e9, *range(1, 9)]), {}, resolve(server_options), DRAW)[0])
    assert torch.equal(plain, claimed)
    left = flat(aggregators.aggregate(uploads([*vectors, [1e3] * 7], [1] * 9 + [0]), {}, resolve(server_options), DRAW)[0])
    assert torch.equal(plain, left)


@ALL
def test_what_is_not_finite_has_no_vote(server_options: ServerOptions) -> None:
    vectors = draws(7, "random")
    plain = flat(aggregators.aggregate(uploads(vectors), {}, resolve(server_options), DRAW)[0])
    for wrong in (math.nan, math.inf, -math.inf):
        spoiled = [*vectors, [0.0] * 6 + [wrong]]
        assert torch.equal(plain, flat(aggregators.aggregate(uploads(spoiled), {}, resolve(server_options), DRAW)[0]))
        nothing = flat(aggregators.aggregate(uploads([[wrong] * 7]), {}, resolve(server_options), DRAW)[0])
        assert not nothing.isfinite().any()


def test_buckets_are_means_of_random_groups_and_change_with_the_round() -> None:
    vectors = {"w": torch.arange(10, dtype=torch.float64).view(10, 1)}
    seen = set()
    for round in range(20):
        bucketed = aggregators.buckets(vectors, 3, Draw(SEED, round, "server"))["w"].flatten()
        order = oracles.stream(SEED, round, "server", "bucket").permutation(10)
        groups = [order[i : i + 3] for i in range(0, 10, 3)]
        assert bucketed.tolist() == [pytest.approx(float(np.mean(group))) for group in groups] and len(bucketed) == 4
        seen.add(tuple(bucketed.tolist()))
    assert len(seen) > 15


def test_the_mean_of_single_uploads_is_that_of_their_sum() -> None:
    vectors, weights = draws(6, "random"), [1.0, 2.0, 5.0, 0.5, 3.0, 9.0]
    weighted = uploads(vectors, weights)
    total = Uploads(
        total={n: split((t * per_client(weighted.weights, t)).sum(0)) for n, t in weighted.each.items()},
        weights=weighted.weights,
    )
    options = ServerOptions()
    for name, tensor in aggregators.aggregate(total, {}, resolve(options), DRAW)[0].items():
        torch.testing.assert_close(aggregators.aggregate(weighted, {}, resolve(options), DRAW)[0][name], tensor, **TIGHT)


@ALL
def test_in_the_step_of_the_server_differences_are_taken_from_its_state(server_options: ServerOptions) -> None:
    """Moving the model and all uploads by the same vector moves the next model by it; the centre is carried over rounds."""
    state = {"a": torch.full((2, 2), 2.0).double(), "b/c": torch.tensor([1.0, -2.0, 3.0]).double(), "kept": torch.ones(1)}
    moments, center = dict[str, Tensor](), [0.0] * 7
    for seed in range(3):
        vectors = draws(8, "random", seed)
        origin = flat(state).tolist()
        wanted = expected(vectors, server_options, origin, center)
        state, moments = average(None, state, moments, uploads(vectors), resolve(server_options), DRAW)
        torch.testing.assert_close(flat(state), wanted, **TIGHT)
        if server_options.aggregator == "centered_clipping":
            center = flat({n.removeprefix("center/"): t for n, t in moments.items()}).tolist()
            torch.testing.assert_close(
                torch.tensor(center, dtype=torch.float64), wanted - torch.tensor(origin, dtype=torch.float64), **TIGHT
            )
    assert torch.equal(state["kept"], torch.ones(1))


# ---- against wrong uploads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [-1.0, -1e4, 1e4, 0.0])
@ALL
def test_a_minority_cannot_pull_the_aggregate_away(server_options: ServerOptions, attack: float) -> None:
    """15 of 20 vectors near one point, five at its multiple; the mean follows them."""
    if resolve(server_options).byzantine == 0.0:
        return
    rng = np.random.default_rng(3)
    point = rng.normal(size=7)
    honest = [(point + 0.01 * rng.normal(size=7)).tolist() for _ in range(15)]
    wrong = [(attack * point).tolist() for _ in range(5)]
    if server_options.byzantine is None and "byzantine" in aggregators.AGGREGATORS[server_options.aggregator].defaults:
        server_options = dataclasses.replace(server_options, byzantine=0.3)
    moments: Tensors = {}
    for round in range(12):  # clipping walks to the point from where it was
        aggregate, moments = aggregators.aggregate(
            uploads(honest + wrong), moments, resolve(server_options), Draw(SEED, round, "server")
        )
    error = float(torch.dist(flat(aggregate), torch.from_numpy(point)))
    mean = float(torch.dist(torch.tensor(honest + wrong).double().mean(0), torch.from_numpy(point)))
    # What clipping lets through is a radius for every wrong vector: it tells far from near, not right from wrong.
    radius = resolve(server_options).clip_radius
    bound = {"centered_clipping": (5 / 15) * radius + 0.05} if radius else {}
    assert error < bound.get(server_options.aggregator, 0.4 * mean), (error, mean)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_ones() -> None:
    assert resolve(ServerOptions(aggregator="median")).bucket_size == 1
    resolved = [resolve(ServerOptions(aggregator=cast(Any, name))) for name in aggregators.AGGREGATORS]
    chosen = {
        options.aggregator: (options.byzantine, options.clip_radius, options.clip_steps, options.weiszfeld_steps)
        for options in resolved
    }
    assert chosen["trimmed_mean"] == chosen["krum"] == (0.2, None, None, None)
    assert chosen["centered_clipping"] == (None, 10.0, 3, None) and chosen["geometric_median"] == (None, None, None, 8)
    assert resolve(ServerOptions(aggregator="geometric_median")).weiszfeld_smoothing == 0.1
    assert all(resolve(options) == options for options in resolved)
    assert {options.server_lr for options in resolved} == {OPTIMIZERS["average"].defaults["server_lr"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"bucket_size": 2},
            "bucket_size=2 is an option of median and trimmed_mean and centered_clipping and geometric_median",
        ),
        (
            {"aggregator": "median", "byzantine": 0.1},
            "byzantine=0.1 is an option of trimmed_mean and krum, not of aggregator='m",
        ),
        ({"aggregator": "krum", "byzantine": 0.5}, r"byzantine=0.5 times bucket_size=1 must be below 0.5: .*; lower either"),
        ({"aggregator": "krum", "bucket_size": 3}, r"byzantine=0.2 times bucket_size=3 must be below 0.5"),
        ({"aggregator": "krum", "byzantine": -0.1}, "byzantine must be a finite number at least 0, got -0.1"),
        ({"aggregator": "median", "bucket_size": 0}, "bucket_size must be a finite number at least 1, got 0"),
        ({"aggregator": "centered_clipping", "clip_radius": 0.0}, "clip_radius must be above 0, got 0.0; .* default, 10.0"),
        ({"aggregator": "centered_clipping", "clip_steps": 0}, "clip_steps must be a finite number at least 1, got 0"),
        (
            {"aggregator": "geometric_median", "weiszfeld_smoothing": float("nan")},
            "weiszfeld_smoothing must be a finite number",
        ),
        (
            {"aggregator": "geometric_median", "weiszfeld_steps": -1},
            "weiszfeld_steps must be a finite number at least 1, got -1",
        ),
    ],
)
def test_wrong_options_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(ServerOptions(**options))


# ---- with the algorithms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FedAvgOptions(lr=0.5), FlowOptions(lr=0.5), FedRepOptions(lr=0.5)])
@ALL
def test_an_algorithm_that_averages_takes_any_aggregator(options: Any, server_options: ServerOptions) -> None:
    """One round: the server's step of the algorithm on its clients' uploads, against the oracle."""
    server_options = bucketing(server_options, 2)
    bench = Bench(options)
    clients = bench.able()
    arrived = collect([Received(bench.members(clients).rows, bench.local(clients), 0)], aggregators.one_by_one(server_options))
    draw = Draw(SEED, ROUND, "server")
    state, _ = bench.algorithm.server_step(bench.options, bench.state, {}, arrived, resolve(server_options), draw)
    names = list(arrived.each)
    vectors = torch.cat([arrived.each[name].flatten(1) for name in names], 1).tolist()
    origin = torch.cat([bench.state[name].flatten() for name in names]).tolist()
    wanted = expected(vectors, server_options, origin, [0.0] * len(origin))
    torch.testing.assert_close(torch.cat([state[name].flatten() for name in names]), wanted, **TIGHT)


@pytest.mark.parametrize(
    "server_options", [RULES["centered_clipping"], RULES["median"], RULES["krum"]], ids=["clipping", "median", "krum"]
)
@pytest.mark.parametrize("optimizer", ["average", "yogi"])
def test_a_run_resumes_with_what_its_aggregator_carries(
    server_options: ServerOptions, optimizer: Any, tmp_path: Path, plain: None
) -> None:
    server_options = dataclasses.replace(bucketing(server_options, 2), server=optimizer)
    config = Config(
        algorithm=FedAvgOptions(lr=0.5),
        server=server_options,
        model=ModelOptions(embedding_dim=3, hidden_size=4),
        rounds=4,
        cohort=5,
        evaluate_every=0,
        checkpoint_every=2,
    )
    whole = simulate(config, tmp_path / "run", population=harness.POPULATION, progress=False)
    (tmp_path / "run" / "checkpoints" / "round_000004.safetensors").unlink()
    broken = resume(tmp_path / "run", population=harness.POPULATION, progress=False)
    other = simulate(
        dataclasses.replace(config, server=ServerOptions(optimizer)), None, population=harness.POPULATION, progress=False
    )
    for key, tensor in whole.state.items():
        assert torch.equal(tensor, broken.state[key]) and not torch.equal(tensor, other.state[key])


@pytest.mark.parametrize("name", ["geometric_median", "median"])
def test_how_clients_are_grouped_changes_an_aggregate_only_to_rounding(name: str) -> None:
    config = Config(
        algorithm=FedAvgOptions(lr=0.5),
        server=bucketing(RULES[name], 2),
        rounds=2,
        cohort=5,
        evaluate_every=0,
        model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    )
    by_one, by_five = (
        simulate(dataclasses.replace(config, chunk=chunk), None, population=harness.POPULATION, progress=False).state
        for chunk in (1, 5)
    )
    for key, tensor in by_one.items():
        torch.testing.assert_close(by_five[key], tensor, rtol=1e-9, atol=1e-10)
