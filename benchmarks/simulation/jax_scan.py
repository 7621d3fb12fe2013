"""FedAvg in JAX: one jitted scan over a client's batches, client after client. JAX's CPU client takes every processor that its
process may run on, so a process that is to use one is pinned to it."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])

from benchmarks.simulation import rounds
from benchmarks.simulation.runner import arguments, serve
from benchmarks.simulation.workload import GRU, Plan, Sizes, Weights


def make_loss(sizes: Sizes, dtype: str = "float32") -> Any:
    """(weights by name, tokens [B, T + 1]) -> mean cross-entropy in nats; `dtype` is that of factors, whose sums are float32"""
    import jax  # not before a process among several is pinned
    import jax.numpy as jnp

    Tree = dict[str, jax.Array]

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        product: jax.Array = jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
        return product

    def logits(weights: Tree, tokens: jax.Array) -> jax.Array:
        w_ih, w_hh, b_ih, b_hh = (weights[name] for name in GRU)
        from_x = times(weights["embedding.weight"][tokens], w_ih.T) + b_ih

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            (xr, xz, xn), (hr, hz, hn) = (jnp.split(a, 3, -1) for a in (x, times(h, w_hh.T) + b_hh))
            n = jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
            h = n + jax.nn.sigmoid(xz + hz) * (h - n)
            return h, h

        h = jax.lax.scan(step, jnp.zeros((len(tokens), sizes.hidden)), from_x.transpose(1, 0, 2))[1].transpose(1, 0, 2)
        if sizes.projection:
            h = times(h, weights["projection.weight"].T) + weights["projection.bias"]
        return times(h, weights["head.weight"].T) + weights["head.bias"]

    def loss(weights: Tree, batch: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(logits(weights, batch[:, :-1]))
        return -jnp.take_along_axis(scores, batch[:, 1:, None], -1).mean()

    return loss


def make(plan: Plan, algorithm: str, dtype: str = "float32") -> rounds.Train:
    import jax
    import jax.numpy as jnp
    import numpy as np

    if algorithm != "fedavg":
        raise ValueError(f"algorithm={algorithm!r}: this runner has 'fedavg' alone")
    sizes, loss = plan.sizes, make_loss(plan.sizes, dtype)
    Tree = dict[str, jax.Array]

    def descend(weights: Tree, batch: jax.Array) -> tuple[Tree, None]:
        return jax.tree.map(lambda w, g: w - sizes.lr * g, weights, jax.grad(loss)(weights, batch)), None

    @jax.jit
    def client(weights: Tree, sequences: jax.Array) -> Tree:
        trained: Tree = jax.lax.scan(descend, weights, sequences.reshape(-1, sizes.batch, sizes.steps + 1))[0]
        return trained

    @jax.jit
    def add(total: Tree, term: Tree) -> Tree:
        added: Tree = jax.tree.map(jnp.add, total, term)
        return added

    def train(weights: Weights, round: int, places: Sequence[int]) -> Weights:
        received = {name: jnp.asarray(array) for name, array in weights.items()}
        sequences = (plan.tokens[plan.cohorts[round, place]][plan.order[round, place]] for place in places)
        total: Tree = reduce(add, (client(received, own) for own in sequences))
        return {name: np.asarray(array) for name, array in total.items()}

    return train


if __name__ == "__main__":
    from importlib.metadata import version

    given = arguments(sys.argv[1:])
    pinned = given.processors if given.processes > 1 else ()
    turn = rounds.runner(partial(make, dtype=given.dtype), given.plan, given.algorithm, given.processes, pinned)
    serve(turn, {"jax": version("jax")}, REQUESTS, REPLIES)
