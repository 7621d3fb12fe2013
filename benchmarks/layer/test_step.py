"""One step of one sequence, as in streaming: what a call costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.common.cases import Case
from benchmarks.layer.lab import Lab
from benchmarks.layer.problem import Local, Problem
from flow_kernels import routed_gru


def functional(problem: Problem) -> Sequence[Local]:
    x, h, case = problem.x.unsqueeze(0), problem.grad, problem.case
    return [Local("ours, functional", lambda: routed_gru(x, h, *problem.weights, route=case.route)[1], case.threads, False)]


@pytest.mark.parametrize("route", ["mixture", "global"])
@pytest.mark.parametrize("sizes", [(64, 64), (96, 256), (96, 670)], ids=lambda s: "I{} H{}".format(*s))
def test_step(sizes: tuple[int, int], route: str, lab: Lab, benchmark: Any) -> None:
    case = Case(1, 1, *sizes, route=route, mode="step")
    against = ("eager", "compiled eager", "jax scan") if route == "mixture" else ("eager", "jax scan")
    ours = lab.measure("step", case, against, functional)
    benchmark.extra_info |= case.as_dict()
    benchmark.pedantic(ours.call, rounds=5, iterations=20)
