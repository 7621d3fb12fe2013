"""Ten seconds of measuring: a large product of torch as the yardstick, and beside it kernels and a round of training.

A kernel's share is its rate of multiply-adds divided by that of the product, measured right before and after it. What else
slows a machine down for a moment slows both, so a share says more of the kernels than seconds do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

SIZE = 1024
"""Rows and columns of the yardstick's matrices."""
COPIED = 1 << 27
"""Bytes that are copied, more than caches hold."""
ROUNDS = 5
"""How often everything is measured; the median counts."""
SHORTEST = 0.03
"""Seconds of one measurement, at least."""
BATCH, STEPS, INPUTS, HIDDEN = 16, 20, 96, 256
"""Of the layer that is measured."""
CLIENTS = 16
"""Of the round that is measured, with eight sequences each."""
VOCABULARY = 2000
"""Of the head that is measured."""


def measured(threads: int) -> dict[str, float]:
    """All measures with one thread and with so many, by name: gflop_per_second, copied_gb_per_second and sequences_per_second
    are absolute, those that end in _share are shares of the product's rate; behind each is the number of threads.

    A measure that the kernels cannot make here is left out.
    """
    import torch

    before = torch.get_num_threads()
    try:
        result: dict[str, float] = {}
        for count in dict.fromkeys((1, threads)):
            torch.set_num_threads(count)
            result |= {f"{name}_{count}": value for name, value in _with(count).items()}
        return result
    finally:
        torch.set_num_threads(before)


def _with(threads: int) -> dict[str, float]:
    """All measures with the threads that torch has now."""
    import torch

    left, right, product = (torch.rand(SIZE, SIZE) for _ in range(3))
    source = torch.zeros(COPIED // 4)
    target = torch.empty_like(source)
    yardstick, flop = (lambda: torch.mm(left, right, out=product)), 2 * SIZE**3
    kernels = _kernels()
    values: dict[str, list[float]] = {}
    for call in (yardstick, *(call for call, _ in kernels.values())):
        call()  # memory is touched, and code loaded
    for _ in range(ROUNDS):
        rates = [flop / _seconds(yardstick)]
        work = {name: amount / _seconds(call) for name, (call, amount) in kernels.items()}
        rate, sequences = _round_of_training(threads)
        work["training_round"] = rate
        rates.append(flop / _seconds(yardstick))
        mean = statistics.mean(rates)
        once = {
            "gflop_per_second": mean / 1e9,
            "copied_gb_per_second": 2 * COPIED / _seconds(lambda: target.copy_(source)) / 1e9,
        }
        once |= {f"{name}_share": own / mean for name, own in work.items()} | {"sequences_per_second": sequences}
        for name, value in once.items():
            values.setdefault(name, []).append(value)
    return {name: statistics.median(own) for name, own in values.items()}


def _seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call, the mean over as many as take long enough to be measured."""
    number, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SHORTEST or not number:
        call()
        number += 1
    return passed / number


def _kernels() -> dict[str, tuple[Callable[[], Any], float]]:
    """What is called, and the floating-point operations of its products."""
    import torch

    import flow_kernels
    from flow_kernels.training import Head, head_loss, multiplies_bfloat16, refusal

    weights = (2 * 3 * HIDDEN + 2) * (INPUTS + HIDDEN)
    result: dict[str, tuple[Callable[[], Any], float]] = {}
    formats = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if multiplies_bfloat16() else {})
    for name, dtype in formats.items():
        layer = flow_kernels.RoutedGRU(INPUTS, HIDDEN, dtype=dtype)
        x = torch.randn(STEPS, BATCH, INPUTS, dtype=dtype, requires_grad=True)
        gradient = torch.randn(STEPS, BATCH, HIDDEN, dtype=dtype)
        result[f"layer_{name}"] = _training_step(layer, x, gradient), 3.0 * 2 * BATCH * STEPS * weights
    if not refusal(torch.float32, torch.device("cpu")):
        features = torch.randn(1, BATCH * STEPS, HIDDEN)
        head = Head(None, None, torch.randn(1, VOCABULARY, HIDDEN), torch.zeros(1, VOCABULARY))
        targets = torch.arange(BATCH * STEPS).view(1, -1) % VOCABULARY
        out = (None, None, torch.empty_like(head.weight), torch.empty_like(head.bias), None, None)
        flop = 3.0 * 2 * BATCH * STEPS * VOCABULARY * HIDDEN
        result["head"] = (lambda: head_loss(features, targets, head, x_grad=True, out=out)), flop
    return result


def _training_step(layer: Any, x: Any, gradient: Any) -> Callable[[], Any]:
    """Forward and backward, with all gradients."""
    import torch

    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x)[0], leaves, gradient)


def _round_of_training(threads: int) -> tuple[float, float]:
    """Floating-point operations and client sequences a second of a round of FedAvg, one group of clients on every core."""
    from flow.algorithms import REGISTRY
    from flow.config import Config, ModelOptions
    from flow.data import Population
    from flow.simulation.loop import simulate

    clients = {f"client{number:02}": {"train": _tokens(number, 8), "test": _tokens(number, 1)} for number in range(CLIENTS)}
    config: Config[Any] = Config(
        algorithm=REGISTRY["fedavg"].options(batch_size=8, epochs=1),
        model=ModelOptions(embedding_dim=INPUTS, hidden_size=HIDDEN),
        rounds=2,  # the second one is measured
        cohort=CLIENTS,
        evaluate_every=0,
        final_clients=1,
        min_texts=0,
        validation_share=0.0,
        threads=threads,
    )
    population = Population.from_arrays(clients, vocabulary=VOCABULARY)
    last = simulate(config, population=population, progress=False).metrics[-1]
    return last["flops"] / last["seconds"], last["sequences_per_second"]


def _tokens(client: int, rows: int) -> Any:
    """int64 [rows, STEPS + 1], other tokens for every client; the first four of the vocabulary are special."""
    import numpy as np

    return 4 + (np.arange(rows * (STEPS + 1)) * (client + 3) % (VOCABULARY - 4)).reshape(rows, STEPS + 1)
