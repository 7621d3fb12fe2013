"""FedAvg by pfl: its simulated backend, one process with so many threads."""

# mypy: disallow-subclassing-any=False
# (pfl is checked for its types only where it is installed)

from __future__ import annotations

import itertools
import os
import sys
import time

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])
    os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import torch
from pfl.aggregate.simulate import SimulatedBackend
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
from benchmarks.simulation.torch_loop import Words, loss_of
from benchmarks.simulation.workload import Plan


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


def runner(plan: Plan) -> Runner:
    sizes = plan.sizes

    def client(visit: int) -> Dataset:
        """The client of the n-th visit of the schedule."""
        round, place = divmod(visit, sizes.cohort)
        rows = torch.from_numpy(plan.tokens[plan.cohorts[round, place]][plan.order[round, place]]).long()
        return Dataset([rows[:, :-1].contiguous(), rows[:, 1:].contiguous()], user_id=str(visit))

    def turn(rounds: int) -> Turn:
        module, clock = Judged(sizes), Clock()
        module.load_state_dict({name: torch.from_numpy(array) for name, array in plan.start("fedavg").items()})
        model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
        visits = itertools.chain(range(rounds * sizes.cohort), itertools.repeat(0))  # it may look further than it trains
        data = FederatedDataset(client, lambda: next(visits))
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=sizes.cohort, val_cohort_size=0
            ),
            SimulatedBackend(training_data=data, val_data=None),
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

    torch.set_num_threads(THREADS)
    set_framework_module(pytorch_ops)
    given = arguments(sys.argv[1:])
    serve(runner(given.plan), {"pfl": f"{version('pfl')} on torch {torch.__version__}"}, REQUESTS, REPLIES)
