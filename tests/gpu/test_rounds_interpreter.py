"""Whole rounds by the kernels of a GPU, in Triton's interpreter, beside those of the C++ kernels: the same states.

test_training_on_gpu.py runs this file in a process with TRITON_INTERPRET=1; on a GPU the model lies on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import oracles
import pytest
import torch
from harness import Bench, labelled
from optional import present
from torch import Tensor

from flow.algorithms.apfl import APFLOptions
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedprox import FedProxOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.ngram import NGramOptions
from flow.algorithms.shared import gate_at_once
from flow.data import Client, Sequences
from flow.draws import Draw
from flow.model.parameters import Route, names_of, stack
from flow.training import fused
from flow.training.batches import batches, gather
from flow.training.descent import Descent
from flow.training.predict import predict
from flow.training.sgd import Sgd, Update
from flow.training.work import train
from flow_kernels.backends.gpu import triton
from flow_kernels.training import Replayed

INTERPRETED = triton.interpreted()
if INTERPRETED:
    import quick_interpreter

    quick_interpreter.install()
pytestmark = [
    pytest.mark.gpu(stand_in=INTERPRETED), pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETED, reason="rounds of the bench lie on the CPU, where only the interpreter runs"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of what masks leave out
]  # fmt: skip
SMALL: dict[str, Any] = {"lr": 0.5, "batch_size": 2, "epochs": 1}
ADAM: dict[str, Any] = {"lr": 0.05, "batch_size": 2, "epochs": 2, "client_epsilon": 1e-2}
CASES: dict[str, Any] = {
    "fedavg": FedAvgOptions(**SMALL, momentum=0.5),
    "fedprox": FedProxOptions(**SMALL, mu=0.3),
    "fedprox, adamw": FedProxOptions(**ADAM, personal_lr=0.05, client_optimizer="adamw", weight_decay=0.1, mu=0.3),
    "fedavg, adam": FedAvgOptions(**ADAM, client_optimizer="adam"),
    "ditto": DittoOptions(**SMALL, lam=0.4),
    "apfl": APFLOptions(**SMALL, adaptive=True, alpha=0.4),
    "flow": FlowOptions(**SMALL, personal_epochs=1),
    "flow, cell": FlowOptions(**SMALL, personal_epochs=1, gate="cell", gamma=0.05, clip=0.2),
    "flow, constant": FlowOptions(**SMALL, personal_epochs=1, gate="constant"),
    "flow, neurips, projection": FlowOptions(**SMALL, variant="neurips", temperature=0.7),
    "flow, workshop": FlowOptions(**SMALL, variant="workshop"),
    "flow, instance": FlowOptions(**SMALL, variant="neurips", ablation="instance"),
    "flow, client": FlowOptions(**SMALL, variant="neurips", ablation="client"),
    "flow, output": FlowOptions(**SMALL, personal_epochs=1, gate="output", router_epochs=2, momentum=0.5, clip=0.05),
    "flow, memory": FlowOptions(**SMALL, personal_epochs=1, gate="both", memory=True, memory_tokens=5),
    "flow, local": FlowOptions(**SMALL, personal_epochs=1, gate="local", memory=True, adapt_epochs=1),
    "ngram": NGramOptions(**SMALL),
    "fedavg, two layers, projection": FedAvgOptions(**SMALL),
    "flow, two layers, projection": FlowOptions(**SMALL, personal_epochs=1),
    "flow, projection": FlowOptions(**SMALL, personal_epochs=1, gamma=0.05),
    "flow, neurips, two layers, projection": FlowOptions(**SMALL, variant="neurips"),
    "flow, workshop, two layers, projection": FlowOptions(**SMALL, variant="workshop"),
    "fedavg, labels": FedAvgOptions(**SMALL),
    "flow, labels": FlowOptions(**SMALL, personal_epochs=1),
    "flow, labels, two layers, projection": FlowOptions(**SMALL, personal_epochs=1),
    "flow, neurips, labels, two layers": FlowOptions(**SMALL, variant="neurips"),
}
CLASSES = 3
LONG = (
    "flow, local", "flow, projection", "flow, neurips, two layers, projection", "flow, workshop, two layers, projection",
    "flow, labels", "flow, neurips, labels, two layers", "flow, two layers, projection", "flow, labels, two layers, projection",
    "ngram",
)  # fmt: skip
"""What is left to `make gpu-check`: all that these are made of, others test as well."""


def model_of(name: str) -> dict[str, Any]:
    """The model that a case trains."""
    return {
        "num_layers": 2 if "two layers" in name else 1, "projection_dim": 3 if "projection" in name else None,
        "classes": CLASSES if "labels" in name else 0,
    }  # fmt: skip


def few(name: str = "") -> list[Client]:
    """Two clients of three and two short sequences, with labels where the case has some."""

    def cut(own: Sequences) -> Sequences:
        short = dataclasses.replace(own, tokens=own.tokens[:, :5].copy(), lengths=own.lengths.clip(1, 4))
        if "labels" not in name:
            return short
        short.tokens[:, -1] = np.arange(len(short)) % CLASSES
        return dataclasses.replace(short, labelled=True)

    clients = [c for c in oracles.population(sizes=(3, 2), held_out=(2,), seed=5).clients if not c.held_out]
    return [dataclasses.replace(client, train=cut(client.train), test=cut(client.test)) for client in clients]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in CASES])
def test_a_round_and_predictions_are_those_of_the_cpu(name: str) -> None:
    clients, benches, guesses = few(name), [], []
    for backend in ("cpu", "triton"):
        bench = Bench(CASES[name], torch.float32, backend, **model_of(name))
        uploads = bench.round(clients, 1)
        own = bench.personalize(clients) if bench.algorithm.personalize is not None else None
        if own is not None:
            guesses.append(predict(bench.model, own, gather(clients, "test", "cpu"), ranked=True))
        benches.append((bench, uploads))
    (by_cpu, first), (by_triton, second) = benches
    assert by_cpu.state.keys() == by_triton.state.keys() and second.finite
    moved = 0.0
    for name, tensor in by_cpu.state.items():
        torch.testing.assert_close(by_triton.state[name], tensor, rtol=1e-5, atol=1e-5, msg=labelled(name))
        moved = max(moved, float((tensor - by_cpu.initial[name]).abs().max()) if name in by_cpu.initial else 0.0)
    assert moved > 1e-3, "the round moved the model"
    torch.testing.assert_close(second.client_nats, first.client_nats, rtol=1e-5, atol=1e-5)
    rows = by_cpu.states.rows()
    if len(rows):
        for name, tensor in by_cpu.states.read(rows).items():
            torch.testing.assert_close(present(by_triton.states.read(rows))[name], tensor, rtol=1e-5, atol=1e-5)
    if guesses:
        for field in ("nats", "probability", "local_weight"):
            left, right = (torch.from_numpy(getattr(guess, field)) for guess in guesses)
            torch.testing.assert_close(right, left, rtol=1e-5, atol=1e-5)
        for field in ("tokens", "rank"):
            assert np.array_equal(*(getattr(guess, field) for guess in guesses)), field


def test_a_round_with_rounded_products() -> None:
    """--dtype bfloat16, for which the interpreter takes float16: the state of float32 to some thousandths."""
    states = []
    for mixed in (False, True):
        bench = Bench(FlowOptions(**SMALL, variant="neurips"), torch.float32, "triton" if mixed else "cpu")
        bench.model.mixed_precision = mixed
        uploads = bench.round(few(), 1)
        states.append(bench.state)
        assert uploads.finite and all(tensor.dtype == torch.float32 for tensor in bench.state.values())
    exact, rounded = states
    assert any(not torch.equal(rounded[name], tensor) for name, tensor in exact.items())
    for name, tensor in exact.items():
        torch.testing.assert_close(rounded[name], tensor, rtol=0, atol=5e-3, msg=labelled(name))


@pytest.mark.parametrize(
    ("route", "options"), [("global", Sgd(0.5, 2, 2)), ("mixture", Sgd(0.5, 1, 2, 0.1, 0.5, 0.01))], ids=["plain", "pulled"]
)
def test_a_phase_waits_for_nothing(route: Route, options: Sgd) -> None:
    """The tables of all epochs are sent at once; from then on the host reads no number from the device and copies none."""
    from triton.runtime.interpreter import GridExecutor
    from waiting import counted

    bench = Bench(FlowOptions(**SMALL, variant="neurips"), torch.float32, "triton")
    data, parameters = gather(few(), "train", "cpu"), stack(bench.initial, 2)
    names = names_of(parameters, *(("global", "router") if route == "mixture" else ("global",)))
    update = Update(names, route, gamma=0.1, mu=options.momentum, anchor=stack(bench.initial, 2))
    train(bench.model, parameters, data, [update], options, Draw(1, 1, "train"), "warm")  # tables of addresses are sent once
    with counted(GridExecutor) as counts:
        train(bench.model, parameters, data, [update], options, Draw(1, 1, "train"), "global")
    launches, updates = counts.pop("launches"), 2 * options.epochs
    assert counts == {"to": 1}
    assert 12 * updates < launches <= 35 + updates * (110 if route == "mixture" else 75)
    with counted(GridExecutor) as counts:  # what is looked for would be seen
        kept = parameters["head.bias"]
        assert kept[kept > 0].sum().item() != kept.sum().to("cpu")
    assert counts["item"] == counts["to"] == 1 and counts["index by a mask"] == 1 and counts["__bool__"] == 1


GATED: dict[str, dict[str, Any]] = {
    "both": {"gate": "both"}, "output": {"gate": "output", "momentum": 0.5}, "memory": {"gate": "both", "memory": True},
    "local": {"gate": "local", "memory": True}, "cell": {"gate": "cell"}, "constant": {"gate": "constant"},
    "neurips": {"variant": "neurips"}, "workshop": {"variant": "workshop"},
}  # fmt: skip


def routed(name: str) -> Bench:
    """Flow with one of these options on the kernels of a GPU."""
    own: dict[str, Any] = {} if "variant" in GATED[name] else {"personal_epochs": 1}
    return Bench(FlowOptions(**SMALL, **own, **GATED[name]), torch.float32, "triton")


@pytest.mark.parametrize("name", [n if n == "memory" else pytest.param(n, marks=pytest.mark.slow) for n in GATED])
def test_a_round_of_flow_waits_for_nothing(name: str) -> None:
    """All of a round's phases, those of the gate at the output among them: index tables are sent, and nothing comes back."""
    from triton.runtime.interpreter import GridExecutor
    from waiting import counted

    bench = routed(name)
    visit = bench.visit(few())
    with counted(GridExecutor) as counts:
        upload = bench.algorithm.local(bench.options, bench.model, visit)
    assert counts.pop("launches") > 50 and set(counts) == {"to"}, counts
    phases = len(upload.phases)
    assert phases <= counts["to"] <= phases + 3, counts  # the gate's texts, its counts of sequences, and its second plan


@pytest.mark.parametrize(
    "name", [n if n == "both" else pytest.param(n, marks=pytest.mark.slow) for n in GATED if n != "workshop"]
)
def test_predictions_and_ranks_wait_at_the_end_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches there are, the tables come back once, and so does the largest number of a token."""
    from triton.runtime.interpreter import GridExecutor
    from waiting import counted

    bench = routed(name)
    personal, data, read = bench.personalize(few()), gather(few(), "test", "cpu"), []
    for answered, logits in ((8, 1 << 22), (1, 1)):
        monkeypatch.setattr("flow.training.predict.ANSWERED", answered)
        with counted(GridExecutor) as counts:
            predict(bench.model, personal, data, ranked=True, logits=logits)
        read.append((counts.pop("launches"), counts))
    (fewer, once), (more, again) = read
    assert more > 2 * fewer and once == again
    assert once.keys() <= {"to", "cpu", "numpy", "__int__", "_local_scalar_dense"} and once["numpy"] == once["cpu"] == 5, once


def test_operations_of_the_gate_do_not_depend_on_how_many_clients_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how many they are: docs/gpu-kernels.md and the model on paper have the numbers."""
    from triton.runtime.interpreter import GridExecutor
    from waiting import counted

    from flow.algorithms.shared import decoupled, gate
    from flow.algorithms.shared.two_experts import start
    from flow_kernels.training import plan

    launches, bench = {}, routed("both")
    for together in (True, False):
        monkeypatch.setattr(gate_at_once, "able", lambda experts, together=together: together)
        for clients in (2, 3):
            visit = bench.visit([dataclasses.replace(few()[1], id=f"client {number}") for number in range(clients)])
            parameters = start(bench.model, visit.received)
            gates = {name: tensor.clone() for name, tensor in decoupled.parts(visit.received).gate.items()}
            experts = decoupled.experts(bench.options, bench.model, parameters, visit.data)
            with counted(GridExecutor) as counts:
                gate.train(gates, experts, visit.data, Sgd(0.5, 1, 2), visit.draw)
            launches[together, clients] = counts["launches"]
    assert launches[True, 2] == launches[True, 3] == plan.GATE_OPERATIONS, launches
    assert launches[False, 3] - launches[False, 2] > 150, "each client had its own"


class Stub:
    """In the place of a CUDA graph: to record changes nothing, and to replay is to do the work on what its inputs hold."""

    made: ClassVar[list[Stub]] = []

    def __init__(self, work: Callable[[], Tensor], changed: list[Tensor]) -> None:
        before = [t.clone() for t in changed]
        self.work, self.result, self.replays = work, work(), 0
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(old)
        self.made.append(self)

    def replay(self) -> None:
        """The result comes where it came when the work was recorded."""
        self.replays += 1
        self.result.copy_(self.work())


def test_recorded_updates_are_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several shapes in turn, replayed on the memory that the first of each left behind."""
    options = Sgd(0.5, 1, 1, 0.1, 0.5)
    bench, data, results = Bench(FedAvgOptions(**SMALL), torch.float32, "triton"), gather(few(), "train", "cpu"), []
    for recorded in (False, True):
        parameters = stack(bench.initial, 2)
        update = Update(tuple(names_of(parameters, "global")), "global")
        run = Descent(bench.model, parameters, options)
        if recorded:
            monkeypatch.setattr(fused, "replays", lambda _: True)

            def record(work: Callable[[], Tensor], run: Descent = run) -> tuple[Stub, Tensor]:
                stub = Stub(work, [*run.parameters.values(), *run._momenta.values()])
                return stub, stub.result

            run.replayed = Replayed(record)
        losses = [run.step(batch, update).clone() for batch in batches(data, 1, 3)]
        results.append((losses, parameters))
    (losses, plain), (others, replayed) = results
    assert all(torch.equal(a, b) for a, b in zip(losses, others, strict=True))
    assert all(torch.equal(plain[name], replayed[name]) for name in plain)
    assert Stub.made and sum(stub.replays for stub in Stub.made) > len(Stub.made)
    Stub.made.clear()
