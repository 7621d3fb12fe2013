"""FedAvg by pfl: its simulated backend, in one process with so many threads, or in several of one thread that torchrun's
variables make one job. The process on the pipe is the first of them, and tells the others what it is told."""

# mypy: disallow-subclassing-any=False
# (pfl is checked for its types only where it is installed)

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from typing import IO

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])
    os.environ["PFL_PYTORCH_DEVICE"] = "cpu"
    PROCESSES = int(sys.argv[sys.argv.index("--processes") + 1])
    if PROCESSES > 1 and "RANK" not in os.environ:  # pfl joins the others when it is imported
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES)}
        os.environ |= job | {"LOCAL_WORLD_SIZE": str(PROCESSES), "TORCHELASTIC_RUN_ID": "benchmark"}
        CREW = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.simulation.pfl_app", *sys.argv[1:]],
                env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(1, PROCESSES)
        ]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    else:
        CREW = []

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.internal.ops.selector import set_framework_module
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from benchmarks.simulation.runner import Runner, Turn, arguments, serve
from benchmarks.simulation.torch_loop import Words, check_preload, loss_of
from benchmarks.simulation.workload import Plan

STOP = "stop\n"  # said, since the processes that pfl starts keep the pipes open


class Judged(Words):
    """The model with the loss that pfl asks it for."""

    def loss(self, tokens: Tensor, targets: Tensor, eval: bool = False) -> Tensor:
        return loss_of(self(tokens), targets)

    @torch.no_grad()
    def metrics(self, tokens: Tensor, targets: Tensor, eval: bool = True) -> dict[str, Weighted]:
        return {"loss": Weighted(loss_of(self(tokens), targets).item() * len(tokens), len(tokens))}


class Clock(TrainingProcessCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.start = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.seconds.append(time.perf_counter() - self.start)
        self.start = time.perf_counter()
        return False, Metrics()


def runner(plan: Plan, processes: int, others: list[IO[str]]) -> Runner:
    """others: where the other processes of the job read how many rounds to run.

    Raises:
        ValueError: the cohort cannot be divided by pfl as the plan says."""
    sizes = plan.sizes
    if sizes.cohort % processes:
        raise ValueError(f"cohort={sizes.cohort} must be a multiple of processes={processes}: pfl deals clients out one each")

    def client(visit: int) -> Dataset:
        """The client of the n-th visit of the schedule."""
        round, place = divmod(visit, sizes.cohort)
        rows = torch.from_numpy(plan.visit("order", round, place)).long()
        return Dataset([rows[:, :-1].contiguous(), rows[:, 1:].contiguous()], user_id=str(visit))

    schedules: dict[int, FederatedDataset] = {}

    def schedule(rounds: int) -> FederatedDataset:
        """The visits of so many rounds, again and again. With the sizes of clients pfl deals a cohort out so that its
        processes end together; for that it keeps a process, so a schedule is made once."""
        if rounds not in schedules:
            visits = itertools.cycle(range(rounds * sizes.cohort))
            counts = [int(n) for round in range(rounds) for n in plan.counts("order", round)]
            schedules[rounds] = FederatedDataset(
                client, lambda: next(visits), dict(enumerate(counts)) if sizes.spread else None
            )
        return schedules[rounds]

    def turn(rounds: int) -> Turn:
        for pipe in others:
            pipe.write(f"{rounds}\n")
            pipe.flush()
        module, clock = Judged(sizes), Clock()
        module.load_state_dict({name: torch.from_numpy(array) for name, array in plan.start("fedavg").items()})
        model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=sizes.cohort, val_cohort_size=0
            ),
            SimulatedBackend(training_data=schedule(rounds), val_data=None, postprocessors=[WeightByDatapoints()]),
            model,
            NNTrainHyperParams(local_num_epochs=1, local_learning_rate=sizes.lr, local_batch_size=sizes.batch),
            NNEvalHyperParams(local_batch_size=None),
            callbacks=[clock],
            send_metrics_to_platform=False,
        )
        return Turn(clock.seconds, {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()})

    return turn


if __name__ == "__main__":
    from importlib.metadata import version

    check_preload()
    torch.set_num_threads(THREADS)
    set_framework_module(pytorch_ops)
    given = arguments(sys.argv[1:])
    pipes = [process.stdin for process in CREW if process.stdin is not None]
    run = runner(given.plan, given.processes, pipes)
    if int(os.environ.get("RANK", "0")):
        for line in REQUESTS:
            if line == STOP:
                break
            run(int(line))
    else:
        serve(run, {"pfl": f"{version('pfl')} on torch {torch.__version__}"}, REQUESTS, REPLIES)
        for pipe in pipes:
            pipe.write(STOP)
            pipe.close()
        for process in CREW:
            process.wait()
