"""FedAvg in Flower's simulation (ServerApp, ClientApp, Ray): one actor for every process asked for, each with one thread. An
actor keeps its data and its model; Flower moves the weights and takes the mean."""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False
# (flwr is checked for its types only where it is installed)

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1"}

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.simulation.runner import Turn, arguments, serve
from benchmarks.simulation.torch_loop import Words, batches, check_preload, loss_of
from benchmarks.simulation.workload import Plan

_LOADED: dict[str, tuple[Plan, Words]] = {}
client_app = ClientApp()


def _loaded(path: str) -> tuple[Plan, Words]:
    """The actor's plan and model, made once."""
    if path not in _LOADED:
        check_preload()
        torch.set_num_threads(1)
        plan = Plan.load(Path(path))
        _LOADED[path] = plan, Words(plan.sizes)
    return _LOADED[path]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    order = message.content["config"]
    plan, model = _loaded(str(order["plan"]))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    round, place = int(order["round"]), int(order["place"])
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.sizes.lr)
    sequences = plan.visit("order", round, place)
    for inputs, targets in batches(sequences, plan.sizes.batch):
        optimizer.zero_grad()
        loss_of(model(inputs), targets).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(sequences)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


class Scheduled(FedAvg):
    """FedAvg with the cohorts of the plan."""

    def __init__(self, plan: Plan, path: str) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.plan, self.path = plan, path
        self.seconds: list[float] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        nodes = sorted(grid.get_node_ids())
        while len(nodes) < self.plan.sizes.clients:  # they come up one by one
            time.sleep(0.05)
            nodes = sorted(grid.get_node_ids())
        self.begun = time.perf_counter()
        messages = []
        for place, number in enumerate(self.plan.cohorts[server_round - 1]):
            order = ConfigRecord({"plan": self.path, "round": server_round - 1, "place": place})
            content = RecordDict({"arrays": arrays, "config": order})
            messages.append(Message(content, message_type="train", dst_node_id=nodes[number]))
        return messages

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        done = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self.begun)
        return done

    def configure_evaluate(self, *given: Any, **more: Any) -> list[Message]:
        return []


if __name__ == "__main__":
    from importlib.metadata import version

    given = arguments(sys.argv[1:])
    path = sys.argv[sys.argv.index("--plan") + 1]
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        def turn(rounds: int) -> Turn:
            strategy = Scheduled(given.plan, path)
            start = {name: torch.from_numpy(array.copy()) for name, array in given.plan.start("fedavg").items()}
            result = strategy.start(grid=grid, initial_arrays=ArrayRecord(start), num_rounds=rounds)
            if len(strategy.seconds) != rounds:
                raise RuntimeError(f"{len(strategy.seconds)} of {rounds} rounds were done")
            final = result.arrays.to_torch_state_dict()
            return Turn(strategy.seconds, {name: tensor.numpy() for name, tensor in final.items()})

        versions = {"flwr": f"{version('flwr')} on ray {version('ray')}, torch {torch.__version__}"}
        serve(turn, versions, REQUESTS, REPLIES)

    actors = {"num_cpus": given.processes, "include_dashboard": False}
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": actors}
    run_simulation(server_app, client_app, num_supernodes=given.plan.sizes.clients, backend_config=backend)
