"""Client-sequences a second of flow.simulate on the device, on the CPU, and of plain PyTorch on the device:
`python -m benchmarks.gpu.federated FILE SECONDS`

FedAvg runs against a loop over clients, batches and SGD steps with torch.nn.GRU, which must end with the same loss. Flow runs
against the same schedule one client at a time on the reference backend, a PyTorch loop over time. The tokens are random: speed
does not depend on them. What FILE holds from an earlier call is not measured again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import flow
import flow_kernels
from benchmarks.gpu import device
from benchmarks.gpu.device import first_line
from benchmarks.gpu.rivals import gru
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.data import Client, Population, Sequences, Vocabulary
from flow.data.tokens import SPECIALS
from flow.draws import Draw
from flow.engine.run import begin
from flow.engine.task import prepare
from flow.simulation.loop import sample
from flow.storage.files import write_json

AGREE = 1e-3  # of the mean loss of a round


@dataclass(frozen=True)
class Size:
    """Clients with so many sequences of T tokens, of whom a cohort trains in each round; E and H of the model."""

    vocabulary: int = 2000
    embedding: int = 96
    hidden: int = 256
    steps: int = 20
    clients: int = 128
    sequences: int = 64
    cohort: int = 64
    batch: int = 16
    rounds: int = 4  # the first is not counted


TINY = Size(vocabulary=30, embedding=3, hidden=4, steps=5, clients=5, sequences=4, cohort=3, batch=2, rounds=2)


def population(size: Size) -> Population:
    rng = np.random.default_rng(0)

    def sequences(n: int) -> Sequences:
        tokens = rng.integers(len(SPECIALS), size.vocabulary, (n, size.steps + 1)).astype(np.int32)
        return Sequences(tokens, np.full(n, size.steps, np.int32))

    clients = [Client(f"c{n:05d}", "made up", False, 1, sequences(size.sequences), sequences(1)) for n in range(size.clients)]
    words = (*SPECIALS, *(f"w{n}" for n in range(size.vocabulary - len(SPECIALS))))
    return Population("random tokens", tuple(clients), Vocabulary(words, "word"), size.steps, "made up")


def config(algorithm: Any, size: Size, where: torch.device, **model: Any) -> flow.Config[Any]:
    """No evaluation: with fewer texts than min_texts nobody is scored."""
    options = flow.ModelOptions(embedding_dim=size.embedding, hidden_size=size.hidden, device=str(where), **model)
    return flow.Config(
        algorithm=algorithm,
        model=options,
        rounds=size.rounds,
        cohort=size.cohort,
        validation_share=0.0,
        evaluate_every=0,
        min_texts=2,
    )


def on_kernels(configuration: flow.Config[Any], size: Size) -> dict[str, Any]:
    """flow.simulate on a kernel: with it, how that goes about a batch of the cohort."""
    model = configuration.model
    assert isinstance(model, flow.ModelOptions)
    plan = flow_kernels.explain(
        batch_size=size.batch,
        seq_len=size.steps,
        input_size=size.embedding,
        hidden_size=size.hidden,
        num_clients=size.cohort,
        device=model.device,
        backend=model.backend,
    )
    return {"plan": str(device.planned(plan))} | simulated(configuration, size)


def simulated(configuration: flow.Config[Any], size: Size) -> dict[str, Any]:
    """flow.simulate: seconds and loss of each round."""
    rows = flow.simulate(configuration, population=population(size), progress=False).metrics
    return speed([row["seconds"] for row in rows], rows[-1]["sequences"], [row["loss"] for row in rows])


def speed(seconds: list[float], sequences: int, losses: list[float]) -> dict[str, Any]:
    return {"sequences_per_second": sequences / statistics.median(seconds[1:]), "seconds": seconds, "losses": losses}


class Net(torch.nn.Module):
    """Embedding, nn.GRU and a linear head with the global weights of a server's state."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(state["embedding.weight"].clone(), freeze=False)
        self.gru = gru([state[f"gru.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")])
        vocabulary, hidden = state["head.weight"].shape
        self.head = torch.nn.Linear(hidden, vocabulary, device=state["head.weight"].device, dtype=state["head.weight"].dtype)
        with torch.no_grad():
            self.head.weight.copy_(state["head.weight"])
            self.head.bias.copy_(state["head.bias"])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, V]"""
        logits: torch.Tensor = self.head(self.gru(self.embedding(tokens.t()))[0]).transpose(0, 1)
        return logits


def plain_fedavg(size: Size, where: torch.device, options: FedAvgOptions) -> dict[str, Any]:
    """The rounds of FedAvg as one writes them in PyTorch, from the same start, with the same cohorts and batches."""
    task = prepare(config(options, size, where), population(size))
    net, seed = Net(begin(task, None).state), task.config.seed
    optimizer = torch.optim.SGD(net.parameters(), lr=options.lr)
    seconds, mean_losses = [], []
    for number in range(1, size.rounds + 1):
        started = time.perf_counter()
        start = [p.detach().clone() for p in net.parameters()]
        total = [torch.zeros_like(p) for p in start]
        losses = []
        cohort = sample(task.clients, size.cohort, Draw(seed, number, "cohort"))
        for client in cohort:
            with torch.no_grad():
                for parameter, value in zip(net.parameters(), start, strict=True):
                    parameter.copy_(value)
            for inputs, targets in own_batches(client, where, options, Draw(seed, number, "train")):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(inputs).flatten(0, 1), targets.flatten())
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            for sum_, parameter in zip(total, net.parameters(), strict=True):
                sum_ += parameter.detach()
        with torch.no_grad():
            for parameter, sum_ in zip(net.parameters(), total, strict=True):
                parameter.copy_(sum_ / len(cohort))
        mean_losses.append(float(torch.stack(losses).mean()))  # waits for the device
        seconds.append(time.perf_counter() - started)
    return speed(seconds, size.cohort * size.sequences * options.epochs, mean_losses)


def own_batches(client: Client, where: torch.device, options: FedAvgOptions, draw: Draw) -> Iterator[tuple[torch.Tensor, ...]]:
    """(inputs, targets), each [B, T]; all sequences here are of full length."""
    tokens = torch.from_numpy(client.train.tokens).long().to(where)
    stream = draw.stream("shuffle", "global", client.id)
    for _ in range(options.epochs):
        for rows in torch.from_numpy(stream.permutation(len(tokens))).to(where).split(options.batch_size):
            yield tokens[rows, :-1], tokens[rows, 1:]


def main(file: Path, seconds: float) -> int:
    where, gpu = device.device(), device.NAME == "cuda"
    size = Size() if gpu else TINY
    cpu = torch.device("cpu")
    few = replace(size, rounds=2)
    fedavg = FedAvgOptions(lr=0.1, epochs=1, batch_size=size.batch, clip=0.0)
    routed = FlowOptions(variant="neurips", lr=0.1, epochs=1, batch_size=size.batch, clip=0.0)
    one_by_one = replace(config(routed, few, where, backend="reference"), chunk=1)
    todo: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
        "fedavg": {
            "ours": lambda: on_kernels(config(fedavg, size, where, backend=device.BACKEND), size),
            "PyTorch loop": lambda: plain_fedavg(size, where, fedavg),
            "ours on the CPU": lambda: on_kernels(config(fedavg, few, cpu), few),
        },
        "flow": {
            "ours": lambda: on_kernels(config(routed, size, where, backend=device.BACKEND), size),
            "PyTorch loop": lambda: simulated(one_by_one, few),
            "ours on the CPU": lambda: on_kernels(config(routed, few, cpu), few),
        },
    }
    report: dict[str, Any] = {"size": vars(size), "algorithms": {}, "failed": []}
    earlier = json.loads(file.read_text())["algorithms"] if file.exists() else {}
    deadline = time.monotonic() + seconds
    for algorithm, ways in todo.items():
        by_way = report["algorithms"][algorithm] = dict(earlier.get(algorithm, {}))
        for name, way in ways.items():
            if name in by_way:
                continue
            if time.monotonic() > deadline:
                report["failed"].append(f"{algorithm}, {name}: no time left")
                continue
            try:
                by_way[name] = way()
            except (RuntimeError, flow.UserError) as error:
                report["failed"].append(f"{algorithm}, {name}: {first_line(error)}")
            write_json(file, report)
        report["failed"] += disagreements(algorithm, by_way)
        write_json(file, report)
    for algorithm, by_way in report["algorithms"].items():
        for name, result in by_way.items():
            print(f"{algorithm}, {name}: {result['sequences_per_second']:.0f}/s, losses {result['losses']}")
    print(*report["failed"], sep="\n")
    return 1 if report["failed"] else 0


def disagreements(algorithm: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """Whoever had another loss than ours after as many rounds as both ran."""
    ours = results.get("ours", {"losses": []})["losses"]
    wrong = []
    for name, other in results.items():
        for number, (loss, own) in enumerate(zip(other["losses"], ours, strict=False), 1):
            if not abs(loss - own) <= AGREE * own:
                wrong.append(f"{algorithm}, {name}: in round {number} the loss is {loss}, ours {own}")
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else math.inf))
