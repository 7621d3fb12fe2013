"""Real processes of Flower on the loopback: TLS, keys of nodes, wrong ones, secure aggregation, and a node that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from algorithm_cases import CASES
from deployed_cases import NODES, difference, node_files, seed_where, written
from flower_federation import CONNECTION, Certificates, Federation, checkpoint, need_flower, node_key

import flow
from flow.deploy import application
from flow.deploy.node import NodeOptions
from flow.deploy.options import Deployment

pytestmark = pytest.mark.flower
WAIT = 150
"""Seconds for a run of two rounds on two slow cores: every message starts a process at its node."""
TLS = Deployment(nodes=NODES)


def state_after(folder: Path, round: int, names: Any) -> Any:
    """The server's state in the checkpoint after a round."""
    from safetensors.torch import load_file

    tensors = load_file(checkpoint(folder, round))
    return {name: tensors[name] for name in names}


def started(folder: Path, secure: bool) -> tuple[Federation, list[NodeOptions]]:
    """A SuperLink; and the options of nodes, which are not started yet."""
    certificates = Certificates(folder / "certificates") if secure else None
    return Federation(folder / "federation", certificates), node_files(folder)


@pytest.fixture(scope="module", name="place")
def place_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_flower()
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module", name="federation")
def federation_fixture(place: Path) -> Iterator[Federation]:
    """Three nodes over TLS, each with a key that the SuperLink knows. Two more are refused: one trusts another authority and so
    takes the SuperLink for a stranger, one has a key that nobody registered."""
    federation, own = started(place, secure=True)
    with federation:
        for number, options in enumerate(own):
            private, public = node_key(place / "keys", f"node{number}")
            federation.flwr("supernode", "register", public, CONNECTION)
            federation.node(f"node{number}", options, private)
        other = Certificates(place / "others")
        stranger, _ = node_key(place / "keys", "stranger")
        known, public = node_key(place / "keys", "known")
        federation.flwr("supernode", "register", public, CONNECTION)
        federation.node("wrong-certificate", own[0], known, other.authority)
        federation.node("wrong-key", own[1], stranger)
        yield federation


def compared(federation: Federation, tmp_path: Path, options: Any, deployment: Deployment = TLS, **changes: Any) -> float:
    """The largest difference of the server's state from that of a simulation."""
    run, app = written(tmp_path, options, deployment, **{"rounds": 2, **changes})
    assert app.config.rounds == run.rounds
    result, folder = flow.simulate(run, progress=False), tmp_path / "run"
    federation.run(tmp_path / "app", folder=str(folder))
    federation.wait_for(lambda: checkpoint(folder, run.rounds).exists(), f"round {run.rounds}", WAIT)
    return difference(result.state, state_after(folder, run.rounds, result.state))


@pytest.mark.parametrize("name", ["fedavg", "flow", "ditto"])
def test_the_state_of_the_server_is_that_of_a_simulation(name: str, federation: Federation, tmp_path: Path) -> None:
    """To 1e-6, and in fact to the bit, although two nodes are refused while it runs."""
    assert compared(federation, tmp_path, CASES[name]) <= 1e-6
    for node in range(NODES):
        assert "Sending: train.clear message" in federation.log(f"node{node}")


def test_secure_aggregation_has_the_mean_of_a_simulation(federation: Federation, tmp_path: Path) -> None:
    secure = replace(TLS, secagg=True)
    assert compared(federation, tmp_path, CASES["fedavg"], secure, rounds=1, cohort=18) <= 1e-6


def test_a_wrong_certificate_and_a_wrong_key_are_refused(federation: Federation) -> None:
    """Neither node ever got a number or a message; what each of them says is Flower's own."""
    for name in ("wrong-certificate", "wrong-key"):
        federation.wait_for(lambda name=name: federation.ended(name), f"{name} is refused", 60)  # type: ignore[misc]
        assert "SuperNode ID:" not in federation.log(name) and "Receiving:" not in federation.log(name)
        assert "Failed to initialize the connection to the SuperLink" in federation.log(name)
    assert "CERTIFICATE_VERIFY_FAILED" in federation.log("wrong-certificate")
    assert "CERTIFICATE_VERIFY_FAILED" not in federation.log("wrong-key")


def test_a_node_that_is_killed_in_a_round_is_survived(place: Path, federation: Federation, tmp_path: Path) -> None:
    """With SIGKILL, when it has the message of round 2. The oracle is a simulation that drops exactly its clients then. It is
    the last test, as the node is gone for good."""
    run, _ = written(tmp_path, CASES["fedavg"], TLS, rounds=2, cohort=6, seed=seed_where([None, 0], 6, 0.3))
    result, folder = flow.simulate(replace(run, dropout=0.3), progress=False), tmp_path / "run"
    before = federation.log("node0").count("Receiving: train.clear message")
    federation.run(tmp_path / "app", folder=str(folder), timeout=40.0)

    def asked_in_round_2() -> bool:
        return federation.log("node0").count("Receiving: train.clear message") == before + 2

    federation.wait_for(asked_in_round_2, "node 0 has the message of round 2", WAIT)
    federation.kill("node0")
    federation.wait_for(lambda: checkpoint(folder, 2).exists(), "round 2 without node 0", WAIT)
    assert difference(result.state, state_after(folder, 2, result.state)) <= 1e-6
    assert application.read(tmp_path / "app").config.dropout == 0
