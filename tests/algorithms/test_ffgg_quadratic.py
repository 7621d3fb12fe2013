"""The quadratic problem: FFGG reaches the exact solution at a constant step where averaging does not.

The server's side is the one of `flow run`: FFGG's download and step, FedAvg's average, the aggregators.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from quadratic import MEAN, MEDIAN, ROBUST, Problem, Setting, fedavg, ffgg
from torch import Tensor

ROUNDS = 400


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.set_num_threads(1)
    return Problem(clients=24, shared=20, private=10, rows=400)


def rate(errors: npt.NDArray[np.float64], start: int = 50, least: float = 1e-13) -> tuple[float, float]:
    """The mean factor per round past the fast first directions, and how straight the logarithm is (R squared)."""
    logs = np.log(errors[start:][errors[start:] > least])
    rounds = np.arange(len(logs))
    slope, intercept = np.polyfit(rounds, logs, 1)
    rest = logs - (slope * rounds + intercept)
    return float(np.exp(slope)), float(1 - rest.var() / logs.var())


def test_the_problem_is_the_published_one(problem: Problem) -> None:
    """theta* solves every client's problem with its own w; the gradient at the best w is that of min_w f_m."""
    who = torch.arange(problem.clients)
    theta = problem.best.expand(problem.clients, -1)
    assert problem.gradient(problem.fitted(theta, who), who).abs().max() < 1e-9
    start = theta + torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def best_value(theta: Tensor) -> Tensor:
        point = problem.fitted(theta, who)
        return ((problem.hessian @ point.unsqueeze(-1)).squeeze(-1) / 2 - problem.slope).mul(point).sum(1)

    gradient = problem.gradient(problem.fitted(start, who), who)
    for i in (0, 7, 19):
        step = torch.zeros_like(start)
        step[:, i] = 1e-4
        slope = (best_value(start + step) - best_value(start - step)) / 2e-4
        torch.testing.assert_close(gradient[:, i], slope, rtol=1e-5, atol=1e-6)
    assert problem.smooth > problem.convex > 0


def test_all_clients_no_slower_than_the_bound(problem: Problem) -> None:
    """Gradient descent on the mean of min_w f_m: every step by 1 - mu / L or better, to the last digit."""
    errors = ffgg(problem, Setting(1000, 24))
    bound = 1 - problem.convex / problem.smooth
    alive = errors[:-1] > 1e-13
    assert (errors[1:][alive] <= (bound + 1e-9) * errors[:-1][alive]).all()
    assert errors[-1] < 1e-11


@pytest.mark.parametrize("cohort", [1, 6])
def test_under_client_sampling_convergence_stays_linear(problem: Problem, cohort: int) -> None:
    """Even one client of 24 a round: at theta* no client pulls away, so the step need not shrink."""
    errors = ffgg(problem, Setting(ROUNDS, cohort))
    factor, straight = rate(errors)
    assert factor < 1 - 0.8 * problem.convex / problem.smooth and straight > 0.999
    assert errors[-1] < 2e-5 and ffgg(problem, Setting(1000, cohort))[-1] < 1e-11


def test_asynchronous_convergence_is_linear(problem: Problem) -> None:
    """Six steps a round, each by a gradient up to ten steps old, 1/12 as long."""
    errors = ffgg(problem, Setting(2 * ROUNDS, 6, delay=6))
    factor, straight = rate(errors)
    assert factor < 1 - 0.8 * 6 / 12 * problem.convex / problem.smooth and straight > 0.999
    assert errors[-1] < 2e-5


def test_local_pairs_converge_to_the_exact_solution_in_fewer_rounds(problem: Problem) -> None:
    errors = ffgg(problem, Setting(ROUNDS, 6, pairs=5))
    factor, straight = rate(errors)
    assert factor < (1 - 0.8 * problem.convex / problem.smooth) ** 5 and straight > 0.99
    assert errors[-1] < 1e-13


def test_fedavg_stalls_where_ffgg_goes_on(problem: Problem) -> None:
    """It averages w as well, which no two clients share: with all clients it stops at a wrong theta, with few it wanders."""
    for cohort in (24, 6):
        errors = fedavg(problem, Setting(ROUNDS, cohort))
        assert errors[ROUNDS // 2 :].min() > 1e-2
        assert np.mean(errors[-100:]) > 0.7 * np.mean(errors[-200:-100])
    still = fedavg(problem, Setting(ROUNDS, 24))
    assert abs(still[-1] / still[ROUNDS // 2] - 1) < 1e-3
    assert ffgg(problem, Setting(ROUNDS, 6))[-1] < 1e-3 * still[-1]


def test_fine_tuning_cut_short_leaves_an_error_that_shrinks_geometrically_with_its_steps(problem: Problem) -> None:
    floors = [np.median(ffgg(problem, Setting(ROUNDS, 6, steps=steps))[-100:]) for steps in (50, 100, 150)]
    assert floors[0] < 1e-2
    assert floors[1] < 0.3 * floors[0] and floors[2] < 0.3 * floors[1]


# ---- wrong clients, as in the notebook a third as many as honest ones --------------------------------------------------


@pytest.mark.parametrize("strength", [1, 4])
def test_buckets_and_median_hold_against_flipped_gradients(problem: Problem, strength: float) -> None:
    """Eight of 32 uploads, so at most 8 of 16 buckets are wrong, and the constant step stays."""
    errors = ffgg(problem, Setting(2 * ROUNDS, 24, byzantine=8, strength=strength, server_options=ROBUST))
    factor, straight = rate(errors)
    assert factor < 1 - 0.3 * problem.convex / problem.smooth and straight > 0.99
    assert errors[-1] < 5e-6


def test_plain_averaging_is_slowed_by_flipped_gradients_and_diverges_where_they_are_longer(problem: Problem) -> None:
    """A quarter of equal length takes half of the step away; four times as long they turn it round."""
    slow = ffgg(problem, Setting(ROUNDS, 24, byzantine=8, server_options=MEAN))
    robust = ffgg(problem, Setting(ROUNDS, 24, byzantine=8, server_options=ROBUST))
    assert robust[-1] < 0.1 * slow[-1] and slow[-1] < 1e-2
    away = ffgg(problem, Setting(100, 24, byzantine=8, strength=4, server_options=MEAN))
    assert away[-1] > 1e3 and (np.diff(away[20:]) > 0).all()


def test_of_all_uploads_a_third_the_median_bears_and_buckets_of_two_do_not(problem: Problem) -> None:
    """12 of 36: without buckets a majority is right; two thirds of buckets of two may be wrong, beyond what they promise."""
    errors = ffgg(problem, Setting(ROUNDS, 24, byzantine=12, strength=4, server_options=MEDIAN))
    factor, straight = rate(errors)
    assert factor < 1 - 0.5 * problem.convex / problem.smooth and straight > 0.999
    assert errors[-1] < 1e-4
    assert ffgg(problem, Setting(60, 24, byzantine=12, strength=4, server_options=ROBUST))[-1] > 1e3
