"""`adam_` against torch.optim.Adam on the same parameters: `python -m benchmarks.layer.adam` prints a table, half a minute.

One client's step at a time on one thread, as a worker of a simulation takes it: every client has an optimiser of its own. The
parameters are those of a model for words, and the gradients of its embedding are of the words that a batch has. Rivals of one
client get them dense. Clipping is left out, or torch.nn.utils.clip_grad_norm_ goes before a rival's step.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.markdown import table
from benchmarks.common.timing import Effort, compare
from benchmarks.layer.problem import Local
from flow_kernels.training import Moments, Step, adam_, sgd_

EFFORT, QUICK = Effort(seconds=0.03, turns=(7, 15), budget=2.0), Effort(seconds=0.002, turns=(1, 1), budget=0.0)
SIZES = {
    "Shakespeare's default": (90, 32, 128, None, 8, 80),
    "2,000 words": (2_000, 32, 128, None, 8, 20),
    "StackOverflow's preset": (10_004, 96, 670, 96, 16, 20),
}
"""V, E, H, projection, B and T."""
CLIP = 1.0


def shapes(vocabulary: int, width: int, hidden: int, projection: int | None) -> list[tuple[int, ...]]:
    """Of the parameters of one client, the embedding first."""
    features = projection or hidden
    of_gru = [(3 * hidden, width), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)]
    of_projection = [] if projection is None else [(projection, hidden), (projection,)]
    return [(vocabulary, width), *of_gru, *of_projection, (vocabulary, features), (vocabulary,)]


class Problem:
    """One client's parameters and gradients, and ways to step."""

    def __init__(self, size: str) -> None:
        v, e, h, projection, batch, steps = SIZES[size]
        g = torch.Generator().manual_seed(0)
        self.parameters = [torch.randn(1, *shape, generator=g) for shape in shapes(v, e, h, projection)]
        self.gradients = [torch.randn(t.shape, generator=g) * 1e-3 for t in self.parameters]
        # words as rare as in a text: the numbers of a geometric draw, most of them small
        self.rows = (torch.rand(1, batch * steps, generator=g) ** 4 * v).long()
        self.looked_up = torch.randn(1, batch * steps, e, generator=g) * 1e-3
        self.gradients[0].zero_()[0].index_add_(0, self.rows[0], self.looked_up[0])
        self.numbers = sum(t.numel() for t in self.parameters)

    def ours(self, clip: float) -> Any:
        parameters = [t.clone() for t in self.parameters]
        moments, taken = [Moments.of(t) for t in parameters], torch.zeros(1, dtype=torch.int64)
        steps = [Step(parameters[0], self.looked_up, rows=self.rows)]
        steps += [Step(p, g) for p, g in zip(parameters[1:], self.gradients[1:], strict=True)]
        return Local("ours", lambda: adam_(steps, moments, taken, lr=1e-4, clip=clip), 1)

    def sgd(self, clip: float) -> Any:
        parameters = [t.clone() for t in self.parameters]
        steps = [Step(parameters[0], self.looked_up, rows=self.rows)]
        steps += [Step(p, g) for p, g in zip(parameters[1:], self.gradients[1:], strict=True)]
        return Local("our SGD", lambda: sgd_(steps, lr=1e-4, clip=clip), 1)

    def rival(self, name: str, clip: float, **options: Any) -> Any:
        leaves = [t[0].clone().requires_grad_() for t in self.parameters]
        optimizer = torch.optim.Adam(leaves, lr=1e-4, **options)
        gradients: list[Tensor] = [g[0].clone() for g in self.gradients]

        def step() -> None:
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            if clip:
                torch.nn.utils.clip_grad_norm_(leaves, clip)
            optimizer.step()

        return Local(name, step, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few samples: does it work? Not to be quoted")
    effort = QUICK if parser.parse_args().quick else EFFORT
    torch.set_num_threads(1)
    lines = []
    for size in SIZES:
        for clip in (0.0, CLIP):
            problem = Problem(size)
            others = [
                problem.rival("fused", clip, fused=True),
                problem.rival("foreach", clip, foreach=True),
                problem.rival("one by one", clip, foreach=False),
                problem.sgd(clip),
            ]
            result = compare(problem.ours(clip), others, effort)["contenders"]
            ratios = [f"{result[other.name]['ratio']['median']:.2f}" for other in others]
            ours = f"{1e6 * result['ours']['seconds']['median']:.0f}"
            lines.append([size, f"{problem.numbers:,}", "yes" if clip else "no", ours, *ratios])
    head = ["parameters of", "numbers", "clipped", "ours, us", "fused", "foreach", "one by one", "our SGD"]
    print("\n".join(table(head, lines)))


if __name__ == "__main__":
    main()
