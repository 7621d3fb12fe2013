"""FedAvg in JAX: one jitted scan over a client's batches, client after client. Where clients differ in size it is one jitted
loop over as many batches as a client has, padded and masked, so that nothing is compiled twice.

JAX's CPU client takes every processor that its process may run on, so a process that is to use one is pinned to it."""

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
    """(weights by name, tokens [B, T + 1], bool [B] or None) -> mean cross-entropy in nats of the sequences that count, of all
    without a mask; `dtype` is that of factors, whose sums are float32"""
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

    def loss(weights: Tree, batch: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        scores = jax.nn.log_softmax(logits(weights, batch[:, :-1]))
        nats = -jnp.take_along_axis(scores, batch[:, 1:, None], -1)[..., 0]
        return nats.mean() if valid is None else jnp.where(valid, nats.mean(1), 0).sum() / valid.sum()

    return loss


def make(plan: Plan, algorithm: str, dtype: str = "float32") -> rounds.Train:
    import jax
    import jax.numpy as jnp
    import numpy as np

    if algorithm != "fedavg":
        raise ValueError(f"algorithm={algorithm!r}: this runner has 'fedavg' alone")
    sizes, loss = plan.sizes, make_loss(plan.sizes, dtype)
    Tree = dict[str, jax.Array]

    def descend(weights: Tree, batch: jax.Array, valid: jax.Array | None = None) -> tuple[Tree, None]:
        return jax.tree.map(lambda w, g: w - sizes.lr * g, weights, jax.grad(loss)(weights, batch, valid)), None

    def scaled(weights: Tree, share: float) -> Tree:
        terms: Tree = jax.tree.map(lambda w: share * w, weights)
        return terms

    @jax.jit
    def equal(weights: Tree, sequences: jax.Array, share: float) -> Tree:
        trained: Tree = jax.lax.scan(descend, weights, sequences.reshape(-1, sizes.batch, sizes.steps + 1))[0]
        return scaled(trained, share)

    @jax.jit
    def unequal(weights: Tree, sequences: jax.Array, share: float, count: int) -> Tree:
        def step(n: jax.Array, weights: Tree) -> Tree:
            batch = jax.lax.dynamic_slice_in_dim(sequences, n * sizes.batch, sizes.batch)
            return descend(weights, batch, n * sizes.batch + jnp.arange(sizes.batch) < count)[0]

        trained: Tree = jax.lax.fori_loop(0, -(-count // sizes.batch), step, weights)
        return scaled(trained, share)

    @jax.jit
    def add(total: Tree, term: Tree) -> Tree:
        added: Tree = jax.tree.map(jnp.add, total, term)
        return added

    longest = -(-plan.order.shape[-1] // sizes.batch) * sizes.batch

    def client(weights: Tree, round: int, place: int) -> Tree:
        sequences, share = plan.visit("order", round, place), float(plan.shares(algorithm, round)[place])
        if not sizes.spread:
            trained: Tree = equal(weights, sequences, share)
            return trained
        padded = np.zeros((longest, sizes.steps + 1), np.int32)
        padded[: len(sequences)] = sequences
        trained = unequal(weights, padded, share, len(sequences))
        return trained

    def train(weights: Weights, round: int, places: Sequence[int]) -> Weights:
        received = {name: jnp.asarray(array) for name, array in weights.items()}
        total: Tree = reduce(add, (client(received, round, place) for place in places))
        return {name: np.asarray(array) for name, array in total.items()}

    return train


if __name__ == "__main__":
    from importlib.metadata import version

    given = arguments(sys.argv[1:])
    pinned = given.processors if given.processes > 1 else ()
    turn = rounds.runner(partial(make, dtype=given.dtype), given.plan, given.algorithm, given.processes, pinned)
    serve(turn, {"jax": version("jax")}, REQUESTS, REPLIES)
