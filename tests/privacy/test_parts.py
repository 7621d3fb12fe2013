"""The parts of a private round, each beside the same done naively: clipping, the clip that follows, sampling, and the tree."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flow.draws import Draw
from flow.errors import Diverged
from flow.privacy import clipping, sampling, tree


def uploads(dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-6, 3, 24)
    drawn = {"a": torch.randn(24, 5, 7, generator=generator), "b": torch.randn(24, 3, generator=generator)}
    return {name: (tensor * sizes.view(-1, *(1,) * (tensor.dim() - 1))).to(dtype) for name, tensor in drawn.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_upload_is_longer_than_the_clip_over_all_its_tensors(dtype: torch.dtype) -> None:
    changes, bound = uploads(dtype), 0.7
    sent, lengths = clipping.clipped(changes, bound)
    for n in range(24):
        own = [float(x) for tensor in changes.values() for x in tensor[n].double().flatten()]
        length = math.sqrt(math.fsum(x * x for x in own))
        assert float(lengths[n]) == pytest.approx(length, rel=1e-14)
        clipped = [float(x) for name in changes for x in sent[name][n].double().flatten()]
        assert math.sqrt(math.fsum(x * x for x in clipped)) <= bound
        shrunk = min(1.0, bound / length)
        np.testing.assert_allclose(clipped, [shrunk * x for x in own], rtol=1e-6 if dtype == torch.float32 else 1e-11)
    assert (lengths > bound).any() and (lengths < bound).any()
    assert all(tensor.dtype == dtype for tensor in sent.values())
    alone, _ = clipping.clipped({name: tensor[3:4] for name, tensor in changes.items()}, bound)
    assert all(torch.equal(alone[name][0], sent[name][3]) for name in sent), "a client's bits are its own"


def test_clipping_tensor_by_tensor_would_not_do() -> None:
    """The bound is of the whole upload: two tensors that are each as long as it are shortened together."""
    sent, lengths = clipping.clipped({"a": torch.tensor([[3.0]]), "b": torch.tensor([[4.0]])}, 2.5)
    assert float(lengths) == 5.0
    torch.testing.assert_close(sent, {"a": torch.tensor([[1.5]]), "b": torch.tensor([[2.0]])})


def test_the_clip_follows_the_quantile_of_the_norms() -> None:
    rng = np.random.default_rng(0)
    for quantile in (0.3, 0.5, 0.9):
        bound, seen = 100.0, []
        for _ in range(400):
            lengths = torch.from_numpy(rng.lognormal(0.5, 0.8, 200))
            says = clipping.below(lengths, bound)
            assert set(says.tolist()) <= {-0.5, 0.5}
            share = (float(says.sum()) + 5 * rng.standard_normal()) / 200 + 0.5
            bound = clipping.followed(bound, share, quantile, 0.2)
            seen.append(bound)
        exact = float(np.quantile(rng.lognormal(0.5, 0.8, 10**6), quantile))
        assert np.mean(seen[200:]) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_clip_that_leaves_the_numbers_ends_the_run(rate: float) -> None:
    for share in (0.0, 1.0):
        with pytest.raises(Diverged, match=r"the clip of dp_quantile=0.5 went from 1 to (inf|0), which clips nothing or all"):
            clipping.followed(1.0, share, 0.5, rate)


def test_a_count_takes_its_part_of_the_noise() -> None:
    assert clipping.noise_of_sum(1.0, 1e9) == pytest.approx(1.0)
    assert clipping.noise_of_sum(1.0, 1.0) == pytest.approx((1 - 1 / 4) ** -0.5)
    z = clipping.noise_of_sum(0.7, 0.9)
    assert z**-2 + (2 * 0.9) ** -2 == pytest.approx(0.7**-2)


def test_every_client_takes_part_with_the_same_chance_and_independently() -> None:
    clients, rounds, chance = 12, 4000, 0.15
    took = np.zeros((rounds, clients), dtype=bool)
    for round in range(rounds):
        took[round, sampling.independent(clients, chance, Draw(3, round, "cohort"))] = True
    sizes = took.sum(1)
    assert sizes.min() == 0, "a round may have nobody"
    expected = [math.comb(clients, k) * chance**k * (1 - chance) ** (clients - k) for k in range(clients + 1)]
    counts = np.bincount(sizes, minlength=clients + 1)
    groups = [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(4, clients + 1)]
    wanted = np.array([rounds * sum(expected[group]) for group in groups])
    statistic = float((((np.array([counts[group].sum() for group in groups])) - wanted) ** 2 / wanted).sum())
    assert statistic < 18.5, "chi-square with 4 degrees of freedom, a chance of 0.001"
    deviation = math.sqrt(chance * (1 - chance) / rounds)
    assert np.abs(took.mean(0) - chance).max() < 4 * deviation
    correlation = np.corrcoef(took.T) - np.eye(clients)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(rounds)


def test_a_pass_has_every_client_at_most_once_and_the_next_is_shuffled_anew() -> None:
    clients, cohort = 23, 4
    passes = [[sampling.in_turn(clients, cohort, round, 7).tolist() for round in range(1 + 5 * n, 6 + 5 * n)] for n in range(3)]
    for rounds in passes:
        members = [client for cohort_of_round in rounds for client in cohort_of_round]
        assert len(members) == len(set(members)) == 20 and all(len(own) == cohort for own in rounds)
    assert passes[0] != passes[1] and len({client for rounds in passes for own in rounds for client in own}) > 20
    assert sampling.in_turn(clients, cohort, 6, 8).tolist() != passes[1][0]
    assert sampling.place_in_pass(5, 5) == (0, 5) and sampling.place_in_pass(6, 5) == (1, 1)


def naive(step: int, name: str, draw: Draw) -> npt.NDArray[np.float64]:
    """The noise of the sum over 1 to `step`: the largest powers of two that fit, from the left."""
    total, done = np.zeros(3), 0
    while done < step:
        level = (step - done).bit_length() - 1
        done += 2**level
        total += draw.stream("node", str(level), str(done), name).standard_normal(3)
    return total


def test_the_noise_of_a_sum_is_that_of_a_tree_over_the_rounds() -> None:
    draw, total = Draw(5, 0, "privacy"), np.zeros(3)
    for step in range(1, 40):
        total = total + tree.added("w", (3,), step, draw)
        np.testing.assert_allclose(total, naive(step, "w", draw), rtol=0, atol=1e-12)
        assert len(tree.nodes(step)) == step.bit_count() <= math.ceil(math.log2(step + 1))
        covered = sorted(round for level, last in tree.nodes(step) for round in range(last - 2**level + 1, last + 1))
        assert covered == list(range(1, step + 1))


def test_the_variance_of_a_sum_grows_with_the_logarithm_and_of_a_round_it_is_in_few_nodes() -> None:
    values = {step: [] for step in (1, 7, 8, 12)}  # type: dict[int, list[float]]
    for seed in range(300):
        draw, total = Draw(seed, 0, "privacy"), np.zeros(4)
        for step in range(1, 13):
            total = total + tree.added("w", (4,), step, draw)
            if step in values:
                values[step] += total.tolist()
    for step, own in values.items():
        variance, n = float(np.var(own)), len(own)
        assert abs(variance / step.bit_count() - 1) < 4 * math.sqrt(2 / n), step
    for steps in (1, 2, 3, 4, 7, 8, 30):
        all_nodes = set().union(*(tree.nodes(step) for step in range(1, steps + 1)))
        most = max(sum(last - 2**level < round <= last for level, last in all_nodes) for round in range(1, steps + 1))
        assert most <= math.ceil(math.log2(steps + 1)), "nodes that one client's upload is in, as the accountant counts them"
