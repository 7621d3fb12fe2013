"""FedAvg by FedJAX: the loss of the JAX scan, the rest its own. Its jitted backend takes one client after the other. Where more
processes are asked for, its pmap backend has as many devices of one thread, which take clients side by side."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])
    DEVICES = int(sys.argv[sys.argv.index("--processes") + 1])
    if DEVICES > 1:  # read when JAX is imported
        devices = f"--xla_force_host_platform_device_count={DEVICES}"
        os.environ["XLA_FLAGS"] = f"{devices} --xla_cpu_multi_thread_eigen=false"

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.simulation.jax_scan import make_loss
from benchmarks.simulation.runner import Runner, Turn, arguments, serve
from benchmarks.simulation.workload import Plan


class Padded(fedjax.ClientDataset):  # type: ignore[misc]  # fedjax is checked for its types only where it is installed
    """A client whose last batch is padded and masked. FedJAX's own batches for training fill it with repeated sequences, which
    is another computation."""

    def shuffle_repeat_batch(self, hparams: Any = None, **more: Any) -> Any:
        return self.padded_batch(batch_size=hparams.batch_size)


def runner(plan: Plan, devices: int) -> Runner:
    sizes, loss = plan.sizes, make_loss(plan.sizes)
    batches = fedjax.ShuffleRepeatBatchHParams(batch_size=sizes.batch, num_epochs=1, skip_shuffle=True)
    dataset = Padded if sizes.spread else fedjax.ClientDataset

    def gradient(weights: Any, batch: Any, key: Any) -> Any:
        return jax.grad(loss)(weights, batch["tokens"], batch.get(fedjax.EXAMPLE_MASK_KEY))

    jax.config.update(
        "jax_pmap_no_rank_reduction", False
    )  # as in the versions of JAX that FedJAX's pmap backend was written for
    with fedjax.for_each_client_backend("pmap" if devices > 1 else "jit"):
        algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            gradient, fedjax.optimizers.sgd(sizes.lr), fedjax.optimizers.sgd(1.0), batches
        )

    def turn(rounds: int) -> Turn:
        state, seconds = algorithm.init({name: jnp.asarray(array) for name, array in plan.start("fedavg").items()}), []
        for round in range(rounds):
            start = time.perf_counter()
            keys = jax.random.split(jax.random.PRNGKey(round), sizes.cohort)
            clients = [
                (place, dataset({"tokens": plan.visit("order", round, place)}), keys[place]) for place in range(sizes.cohort)
            ]
            state, _ = algorithm.apply(state, clients)
            jax.block_until_ready(state.params)
            seconds.append(time.perf_counter() - start)
        return Turn(seconds, {name: np.asarray(array) for name, array in state.params.items()})

    return turn


if __name__ == "__main__":
    from importlib.metadata import version

    given = arguments(sys.argv[1:])
    serve(runner(given.plan, DEVICES), {"fedjax": f"{version('fedjax')} on jax {version('jax')}"}, REQUESTS, REPLIES)
