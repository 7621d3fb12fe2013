"""What a server or a node refuses, each in one sentence that names both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adapted_cases import CLIENTS
from algorithm_cases import CASES
from deployed_cases import NODES, QUICK, SHARES, Exchange, deployed, node_files, written

from flow.algorithms import algorithm_of
from flow.deploy import application, options
from flow.deploy.application import Application
from flow.deploy.node import Node, NodeOptions, options_of
from flow.deploy.packet import DESCRIBE, TRAIN, Packet, sentence
from flow.deploy.roster import question
from flow.errors import UserError
from flow.privacy.options import PrivacyOptions
from flow.version import __version__

OTHERS = sorted(name for name, case in CASES.items() if not algorithm_of(case).averages)


@pytest.fixture(name="app")
def app_fixture(tmp_path: Path) -> Application:
    return written(tmp_path, CASES["ditto"])[1]


@pytest.mark.parametrize("name", OTHERS)
def test_an_algorithm_that_averages_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="averages no uploads, and a deployment does nothing else with them"):
        written(tmp_path, CASES[name])
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.1}, {"stragglers": 0.1}, {"clock": "spread"}, {"async_buffer": 2}, {"compress": "int8"}]
)
def test_options_of_a_simulation(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))}=.* is for simulations"):
        written(tmp_path, CASES["fedavg"], **changes)


def test_differential_privacy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dp_noise=1.0 is for simulations: no node of this version clips its upload"):
        written(tmp_path, CASES["fedavg"], privacy=PrivacyOptions(dp_noise=1.0))


def test_another_version_and_another_app(app: Application, tmp_path: Path) -> None:
    node = Node(app, node_files(tmp_path)[0], "7")
    with pytest.raises(UserError, match=f"this node has flow {__version__} and the server flow 0.0.1, .*; install"):
        node.answer(DESCRIBE, Packet({**question(app).fields, "flow": "0.0.1"}, {}))
    with pytest.raises(UserError, match=f"the app {app.digest[:12]} and the server the app 0123456789ab, with another"):
        node.answer(TRAIN, Packet({**question(app).fields, "app": "0123456789abcdef"}, {}))


def test_a_refused_node_is_named_and_the_run_goes_on(app: Application, tmp_path: Path) -> None:
    """A fourth node of another version; without it the three others are enough, and four are too many to ask for."""
    exchange = Exchange(app, [*node_files(tmp_path), NodeOptions(texts=str(tmp_path / "none.jsonl"), clients="x")])
    server, lines = deployed(app, exchange, tmp_path / "run")
    assert len(set(server.roster.node_of.values())) == NODES
    assert sum("node 3 takes no part: texts=" in line for line in lines) == 1
    with pytest.raises(UserError, match=r"nodes=4 have to answer before the first round, and 3 did in wait=0.01 s; node 3"):
        deployed(app, exchange, tmp_path / "other", nodes=4, wait=0.01)
    assert not (tmp_path / "other").exists()


def test_two_nodes_with_one_client(app: Application, tmp_path: Path) -> None:
    shares = [SHARES[0], SHARES[1], {**SHARES[2], "c00": CLIENTS["c00"]}]
    with pytest.raises(UserError, match=r"client 'c00' is on node 0 and on node 2, .*; rename one"):
        deployed(app, Exchange(app, node_files(tmp_path, shares)), tmp_path / "run")


def test_a_folder_that_exists(app: Application, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    exchange = Exchange(app, node_files(tmp_path))
    with pytest.raises(UserError, match="exists already and is left as it is"):
        deployed(app, exchange, tmp_path / "run")
    assert not exchange.asked


def test_data_with_another_vocabulary(tmp_path: Path) -> None:
    _, app = written(tmp_path, CASES["fedavg"])
    Node(app, NodeOptions(data=str(tmp_path / "all.jsonl"), clients="c01, c02"), "7")  # the same file has the same
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "a", "texts": ["one two three", "four five six"]}\n', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"data='.*other.jsonl' of this node have 7 tokens, .* the app of the server has 17 tokens"
    ):
        Node(app, NodeOptions(data=str(other)), "7")
    with pytest.raises(UserError, match=r"clients='nobody' is no client of data="):
        Node(app, NodeOptions(data=str(tmp_path / "all.jsonl"), clients="nobody"), "7")


def test_whose_texts_a_file_has(tmp_path: Path) -> None:
    """A .jsonl file has those of several clients, a .txt file and a table those of one."""
    _, app = written(tmp_path, CASES["fedavg"])
    path = node_files(tmp_path)[0].texts
    assert [client.id for client in Node(app, NodeOptions(texts=path), "7").clients] == sorted(SHARES[0])
    assert [client.id for client in Node(app, NodeOptions(texts=path, clients="c03, c00"), "7").clients] == ["c00", "c03"]
    with pytest.raises(UserError, match=r"own.jsonl' has no client 'c01'; correct clients in --node-config"):
        Node(app, NodeOptions(texts=path, clients="c00,c01"), "7")
    (tmp_path / "ann.txt").write_text("the lazy dog\n\nevery child sleeps\n\na quick fox\n", encoding="utf-8")
    (tmp_path / "all.csv").write_text("user,text\nann,the lazy dog\nbob,a fox\nann,every child\n", encoding="utf-8")
    [ann] = Node(app, NodeOptions(texts=str(tmp_path / "ann.txt")), "7").clients
    assert (ann.id, ann.texts, len(ann.train)) == ("ann", 3, 2)
    [bob, *_] = Node(app, NodeOptions(texts=str(tmp_path / "all.csv"), clients="ann,bob"), "7").clients[1:]
    assert (bob.id, bob.texts) == ("bob", 1)


def test_nowhere_to_keep_a_state(app: Application, tmp_path: Path) -> None:
    """The node is left out of every round, and says why."""
    own = [replace(options, state="") if place == 1 else options for place, options in enumerate(node_files(tmp_path))]
    _, lines = deployed(app, Exchange(app, own), tmp_path / "run")
    assert any("goes on without node 1: state='': the clients of ditto keep a state" in line for line in lines)


def test_a_state_of_a_later_round(app: Application, tmp_path: Path) -> None:
    """A node that is asked for a round twice does not train on what it kept from the first time."""
    exchange = Exchange(app, node_files(tmp_path))
    server, _ = deployed(app, exchange, tmp_path / "run")
    asked = next(number for what, number, round in exchange.asked if what == TRAIN and round == 2)
    clients = server.cohort(2, [asked]).clients[asked]
    with pytest.raises(UserError, match=r"after round 2, and client \d+ is asked for round 2"):
        Node(app, exchange.options[asked], "7").answer(TRAIN, server.question(2, clients))


def test_single_uploads_from_a_node_that_wants_secure_aggregation(app: Application, tmp_path: Path) -> None:
    own = [replace(options, secagg=place == 2) for place, options in enumerate(node_files(tmp_path))]
    _, lines = deployed(app, Exchange(app, own), tmp_path / "run")
    assert any("without node 2: secagg=true in the configuration of this node" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "texts='', data='': exactly one of them"),
        ({"texts": "a.jsonl", "data": "b.jsonl"}, "exactly one of them"),
        ({"text": "a.jsonl"}, "text='a.jsonl' is no option of a node; the options are texts, data"),
        ({"texts": 3}, "texts=3 must be a string"),
        ({"texts": "a.jsonl", "secagg": "yes"}, "secagg='yes' must be true or false"),
    ],
)
def test_the_configuration_of_a_node(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options_of(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 0}, "nodes must be at least 1, got 0"),
        ({"node": 3}, "node=3 is no option of a deployment; the options are folder, nodes"),
        ({"timeout": 0}, "timeout must be a finite number"),
        ({"folder": " "}, "folder='' names nothing"),
        ({"secagg": True, "nodes": 2}, "nodes=2 must be at least 3 with secagg=True"),
    ],
)
def test_the_options_of_a_deployment(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options.read(given)
    assert options.read({"nodes": 3, "timeout": 5}) == replace(options.Deployment(), nodes=3, timeout=5.0)


def test_an_app_that_was_changed(app: Application, tmp_path: Path) -> None:
    path = tmp_path / "app" / "vocabulary.json"
    path.write_text(path.read_text().replace("quick", "slow"), encoding="utf-8")
    with pytest.raises(UserError, match=r"vocabulary.json: damaged or changed, .*; write the app again with `flow deploy`"):
        application.read(tmp_path / "app")
    path.unlink()
    with pytest.raises(UserError, match=r"has no vocabulary.json; write the app again"):
        application.read(tmp_path / "app")
    with pytest.raises(UserError, match="exists already"):
        application.write(tmp_path / "app", app.config, QUICK)


def test_the_sentence_of_an_error_that_a_node_sends() -> None:
    assert sentence("<class 'flow.errors.UserError'>:<'lr=-1 is too small'>") == "lr=-1 is too small"
    assert sentence("The FAB could not be verified.") == "The FAB could not be verified."
