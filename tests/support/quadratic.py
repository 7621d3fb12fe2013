"""The quadratic problem of the notebooks that FFGG was published with (Rustem-Islamov/FL_representations), and its figure.

    f_m(theta, w) = 1/2 |H_m theta - b_m|^2 + 1/2 |A_m theta + B_m w - y_m|^2,    b_m = H_m theta*,  y_m = A_m theta* + B_m w*_m

with entries of H_m and A_m uniform in [0, 1/d_theta], of B_m in [0, 1/d_w], theta* and w*_m normal: no noise, so theta* is
best for every client, each with its own w. The clients' side is computed here; the server is the one of `flow run`.

    PYTHONPATH=. python tests/support/quadratic.py docs/images/ffgg-quadratic.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.algorithms import NAMES
from flow.algorithms.ffgg import FFGGOptions, remember
from flow.draws import Draw
from flow.server.optimizers import resolve
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.storage.client_states import ClientStates
from flow.training.messages import Members

FFGG, FEDAVG = NAMES["ffgg"].algorithm, NAMES["fedavg"].algorithm
NO_MODEL: Any = None
"""The algorithms ask a model nothing here."""
MEAN = resolve(ServerOptions())
MEDIAN = resolve(ServerOptions(aggregator="median"))
ROBUST = resolve(ServerOptions(aggregator="median", bucket_size=2))


class Problem:
    """M clients by their Gram matrices, from which every gradient follows: hessian [M, D, D] and slope [M, D] of f_m in
    (theta, w), D = d_theta + d_w."""

    def __init__(self, clients: int = 32, shared: int = 100, private: int = 50, rows: int = 10_000, seed: int = 42) -> None:
        rng = np.random.default_rng(seed)
        self.clients, self.shared = clients, shared
        theta = rng.normal(size=shared)
        hessians, slopes = [], []
        for _ in range(clients):
            h = np.hstack([rng.uniform(size=(rows, shared)) / shared, np.zeros((rows, private))])
            a = np.hstack([rng.uniform(size=(rows, shared)) / shared, rng.uniform(size=(rows, private)) / private])
            best = np.concatenate([theta, rng.normal(size=private)])
            hessians.append(h.T @ h + a.T @ a)
            slopes.append(hessians[-1] @ best)
        self.best = torch.from_numpy(theta)
        self.hessian, self.slope = (torch.from_numpy(np.stack(matrices)) for matrices in (hessians, slopes))
        tt, tw = self.hessian[:, :shared, :shared], self.hessian[:, :shared, shared:]
        ww = self.hessian[:, shared:, shared:]
        reduced = torch.linalg.eigvalsh(tt - tw @ torch.linalg.solve(ww, tw.mT))  # of min_w f_m
        mean = torch.linalg.eigvalsh((tt - tw @ torch.linalg.solve(ww, tw.mT)).mean(0))
        self.smooth, self.convex = float(reduced.max()), float(mean.min())
        """L, the largest over clients, and mu of the mean of min_w f_m."""
        self.smooth_jointly = float(torch.linalg.eigvalsh(self.hessian).max())
        self.smooth_private = float(torch.linalg.eigvalsh(ww).max())

    def gradient(self, point: Tensor, who: Tensor) -> Tensor:
        """Of f_m at (theta, w) [n, D], for the clients `who` [n]."""
        return (self.hessian[who] @ point.unsqueeze(-1)).squeeze(-1) - self.slope[who]

    def fitted(self, theta: Tensor, who: Tensor) -> Tensor:
        """(theta, argmin_w f_m), [n, D], for theta [n, d_theta]."""
        d = self.shared
        right = self.slope[who, d:] - (self.hessian[who, d:, :d] @ theta.unsqueeze(-1)).squeeze(-1)
        return torch.cat([theta, torch.linalg.solve(self.hessian[who, d:, d:], right)], 1)

    def tuned(self, theta: Tensor, who: Tensor, steps: int, rng: np.random.Generator) -> Tensor:
        """(theta, w) after some gradient steps on w from a normal draw."""
        d = self.shared
        own = self.hessian[who, d:, d:]
        right = self.slope[who, d:] - (self.hessian[who, d:, :d] @ theta.unsqueeze(-1)).squeeze(-1)
        w = torch.from_numpy(rng.normal(size=right.shape))
        for _ in range(steps):
            w -= ((own @ w.unsqueeze(-1)).squeeze(-1) - right) / self.smooth_private
        return torch.cat([theta, w], 1)

    def error(self, theta: Tensor) -> float:
        """|theta - theta*| / |theta*|"""
        return float(torch.dist(theta, self.best) / self.best.norm())


@dataclass
class Setting:
    """How a problem is solved, from theta = 0."""

    rounds: int
    cohort: int
    pairs: int = 1
    steps: int | None = None
    """Gradient steps of the fine-tuning; None: solved exactly."""
    delay: int = 0
    """Above 0: asynchronous."""
    byzantine: int = 0
    """Wrong clients beside the cohort."""
    strength: float = 1
    """They send their gradient times minus this."""
    server_options: ServerOptions = MEAN
    seed: int = 0


def ffgg(problem: Problem, setting: Setting) -> npt.NDArray[np.float64]:
    """Relative error of theta at the start and after every round."""
    fastest = 1 / problem.smooth
    # A gradient is stale by up to 2 delay - 2 steps, and a delayed step must be that much shorter.
    rate = fastest / (2 * setting.delay) if setting.delay else fastest
    options = FFGGOptions(shared_lr=rate, pairs=setting.pairs, asynchronous=setting.delay > 0, delay=setting.delay or 1)
    theta = torch.zeros_like(problem.best)
    state, moments = {"theta": theta}, dict[str, Tensor]()
    if setting.delay:
        state |= remember([state] * setting.delay)
    errors = [problem.error(theta)]
    for round in range(1, setting.rounds + 1):
        draw = Draw(setting.seed, round, "train")
        who = cohort(problem, setting, round)
        to = Members(tuple(f"client {m}" for m in who.tolist()), who.numpy(), ClientStates(), draw, "train")
        received = FFGG.download(options, NO_MODEL, state, to).tensors["theta"]
        sent = [uploaded(problem, setting, options, received, who, draw.stream("start"))]
        if setting.byzantine:
            wrong = torch.from_numpy(draw.stream("wrong").choice(problem.clients, setting.byzantine, replace=False))
            point = problem.fitted(state["theta"].expand(len(wrong), -1), wrong)
            sent.append(-setting.strength * problem.gradient(point, wrong)[:, : problem.shared])
        uploads = gathered({"theta": torch.cat(sent)})
        server = Draw(setting.seed, round, "server")
        state, moments = FFGG.server_step(options, state, moments, uploads, setting.server_options, server)
        errors.append(problem.error(state["theta"]))
    return np.array(errors)


def uploaded(
    problem: Problem, setting: Setting, options: FFGGOptions, received: Tensor, who: Tensor, rng: np.random.Generator
) -> Tensor:
    """Sums [n, d_theta] of the clients' gradients, each at a fitted w."""
    theta, total = received.clone(), torch.zeros_like(received)
    for _ in range(setting.pairs):
        steps = setting.steps
        point = problem.fitted(theta, who) if steps is None else problem.tuned(theta, who, steps, rng)
        g = problem.gradient(point, who)[:, : problem.shared]
        total += g
        theta -= options.shared_lr * g
    return total


def fedavg(problem: Problem, setting: Setting, local_steps: int = 10) -> npt.NDArray[np.float64]:
    """The same for FedAvg: local gradient steps on (theta, w), both averaged."""
    state, moments = {"all": torch.zeros(len(problem.slope[0]), dtype=torch.float64)}, dict[str, Tensor]()
    errors = [problem.error(state["all"][: problem.shared])]
    for round in range(1, setting.rounds + 1):
        who = cohort(problem, setting, round)
        point = state["all"].expand(len(who), -1).clone()
        for _ in range(local_steps):
            point -= problem.gradient(point, who) / problem.smooth_jointly
        draw = Draw(setting.seed, round, "server")
        uploads = gathered({"all": point})
        state, moments = FEDAVG.server_step(None, state, moments, uploads, setting.server_options, draw)
        errors.append(problem.error(state["all"][: problem.shared]))
    return np.array(errors)


def cohort(problem: Problem, setting: Setting, round: int) -> Tensor:
    """The round's clients, in the order of their numbers."""
    drawn = Draw(setting.seed, round, "cohort").stream().choice(problem.clients, setting.cohort, replace=False)
    return torch.from_numpy(np.sort(drawn))


def gathered(each: dict[str, Tensor]) -> Uploads:
    n = len(next(iter(each.values())))
    return Uploads(each=each, rows=np.arange(n), weights=torch.ones(n, dtype=torch.float64))


def figure(path: str, rounds: int = 3000) -> None:
    """Both panels at the notebooks' size; some minutes on one core. Prints the errors after 1000 rounds and at the end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    problem = Problem()
    few: dict[str, Any] = {"cohort": 32, "byzantine": 32 // 3}
    third: dict[str, Any] = {"cohort": 32, "byzantine": 16}
    # Okabe and Ito's colours, told apart by dashes and marks too.
    left = {
        "all 32 clients": ("#0072B2", "-", "o", ffgg(problem, Setting(rounds, 32))),
        "8 of 32 clients": ("#E69F00", "--", "s", ffgg(problem, Setting(rounds, 8))),
        "8 of 32, asynchronous": ("#009E73", "-.", "^", ffgg(problem, Setting(rounds, 8, delay=8))),
        "8 of 32, local, 5 pairs": ("#CC79A7", ":", "D", ffgg(problem, Setting(rounds, 8, pairs=5))),
        "FedAvg, 8 of 32, 10 local steps": ("#000000", "-", "x", fedavg(problem, Setting(rounds, 8))),
    }
    right = {
        "buckets of 2, median; 10 of 42 flip": (
            "#0072B2",
            "-",
            "o",
            ffgg(problem, Setting(rounds, **few, server_options=ROBUST)),
        ),
        "the same, flipped 4 times as long": (
            "#E69F00",
            "--",
            "s",
            ffgg(problem, Setting(rounds, **few, strength=4, server_options=ROBUST)),
        ),
        "median; 16 of 48, 4 times": (
            "#CC79A7",
            ":",
            "D",
            ffgg(problem, Setting(rounds, **third, strength=4, server_options=MEDIAN)),
        ),
        "mean; 10 of 42 flip": ("#009E73", "-.", "^", ffgg(problem, Setting(rounds, **few))),
        "mean; 10 of 42, 4 times": ("#000000", "-", "x", ffgg(problem, Setting(rounds, **few, strength=4))),
    }
    with matplotlib.rc_context({"font.size": 11}):
        drawn = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.subplots(1, 2, sharey=True)
        titles = ("no attack", "32 honest clients and some that flip their gradients")
        for axis, lines, title in zip(axes, (left, right), titles, strict=True):
            for n, (name, (colour, dash, mark, errors)) in enumerate(lines.items()):
                every, width = (n * rounds // 40, rounds // 8), 2 if n else 4  # the first two lines lie on each other
                axis.semilogy(errors, color=colour, linestyle=dash, marker=mark, markevery=every, label=name, linewidth=width)
            axis.set(xlabel="round", title=title, ylim=(1e-17, 1e8), xlim=(0, rounds))
            axis.grid(color="0.9")
            axis.legend(loc="upper right", fontsize=9.5)
        axes[0].set_ylabel(r"$\|\theta - \theta^*\| \,/\, \|\theta^*\|$")
        drawn.savefig(path, dpi=110)
    for name, (*_, errors) in (left | right).items():
        print(f"{name:40} {errors[1000]:9.2e} {errors[-1]:9.2e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    figure(sys.argv[1])
