"""FedAvg by FedJAX, its jitted backend: the loss of the JAX scan, the rest its own."""

from __future__ import annotations

import sys
import time

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.simulation.jax_scan import make_loss
from benchmarks.simulation.runner import Runner, Turn, arguments, serve
from benchmarks.simulation.workload import Plan


def runner(plan: Plan) -> Runner:
    sizes, loss = plan.sizes, make_loss(plan.sizes)
    batches = fedjax.ShuffleRepeatBatchHParams(batch_size=sizes.batch, num_epochs=1, skip_shuffle=True)
    with fedjax.for_each_client_backend("jit"):
        algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            lambda weights, batch, key: jax.grad(loss)(weights, batch["tokens"]),
            fedjax.optimizers.sgd(sizes.lr),
            fedjax.optimizers.sgd(1.0),
            batches,
        )

    def turn(rounds: int) -> Turn:
        state, seconds = algorithm.init({name: jnp.asarray(array) for name, array in plan.start("fedavg").items()}), []
        for round in range(rounds):
            start = time.perf_counter()
            keys = jax.random.split(jax.random.PRNGKey(round), sizes.cohort)
            clients = [
                (place, fedjax.ClientDataset({"tokens": plan.tokens[number][plan.order[round, place]]}), keys[place])
                for place, number in enumerate(plan.cohorts[round])
            ]
            state, _ = algorithm.apply(state, clients)
            jax.block_until_ready(state.params)
            seconds.append(time.perf_counter() - start)
        return Turn(seconds, {name: np.asarray(array) for name, array in state.params.items()})

    return turn


if __name__ == "__main__":
    from importlib.metadata import version

    given = arguments(sys.argv[1:])
    serve(runner(given.plan), {"fedjax": f"{version('fedjax')} on jax {version('jax')}"}, REQUESTS, REPLIES)
