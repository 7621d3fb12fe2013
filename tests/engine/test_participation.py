"""Dropouts and stragglers: who is lost, what is counted, what is kept; and a round in which everybody is lost."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from optional import present
from small_runs import BASE, CLIENTS, NAMES, POPULATION

from flow import UserError, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.pfedhn import PFedHNOptions
from flow.data import Client
from flow.engine.participation import grouped, turnout
from flow.engine.task import prepare
from flow.model.parameters import Tensors
from flow.server.options import ServerOptions
from flow.simulation.loop import Result


def run(**changes: Any) -> Result:
    return simulate(dataclasses.replace(BASE, **changes), population=POPULATION, progress=False)


def cohort(round: int, size: int = 5) -> list[str]:
    return [NAMES[i] for i in oracles.stream(0, round, "cohort").choice(len(NAMES), size, replace=False)]


def chances(round: int, id: str) -> npt.NDArray[np.float64]:
    return oracles.stream(0, round, "participation", id).random(3)


def lost(round: int, dropout: float = 0.0, stragglers: float = 0.0) -> tuple[list[str], list[str]]:
    """Ids of a round's cohort: (dropped, late)."""
    drawn = {id: chances(round, id) for id in cohort(round)}
    dropped = [id for id, u in drawn.items() if u[0] < dropout]
    return dropped, [id for id, u in drawn.items() if u[1] < stragglers and id not in dropped]


def oracle(
    rounds: int, dropout: float = 0.0, stragglers: float = 0.0, late: Literal["drop", "partial"] = "drop"
) -> list[Tensors]:
    """The states of FedAvg after every round, one client at a time."""
    task = prepare(BASE, POPULATION)
    state, states = task.algorithm.init(BASE.algorithm, task.model, 0, len(NAMES)), []
    for round in range(1, rounds + 1):
        dropped, slow = lost(round, dropout, stragglers)
        uploads = []
        for id in cohort(round):
            epochs = 2
            if id in slow and late == "partial":
                epochs = 1 + int(2 * chances(round, id)[2])
            elif id in dropped or id in slow:
                continue
            options = vars(dataclasses.replace(BASE.algorithm, epochs=epochs))
            parameters, weight, _ = oracles.fedavg(state, CLIENTS[id], options, 0, round)
            uploads.append(({name: parameters[name] for name in state}, weight))
        state = oracles.weighted_mean(uploads) if uploads else state
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("dropout", "stragglers", "late"),
    [(0.5, 0.0, "drop"), (0.0, 0.5, "drop"), (0.3, 0.4, "drop"), (0.0, 0.7, "partial")],
)
def test_the_loop_with_losses_matches_the_oracle(dropout: float, stragglers: float, late: Literal["drop", "partial"]) -> None:
    result = run(dropout=dropout, stragglers=stragglers, late=late)
    expected = oracle(4, dropout, stragglers, late)[-1]
    for name, tensor in expected.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-11, atol=1e-12)
    assert not all(torch.allclose(tensor, expected[name]) for name, tensor in run().state.items()), "nobody was lost"


def test_what_is_lost_is_counted_as_received_and_computed_but_not_as_sent() -> None:
    result, whole = run(dropout=0.3, stragglers=0.3), run()
    sent = sum(tensor.numel() * 8 for tensor in result.state.values())
    totals = Counter[str]()
    for row, other in zip(result.metrics, whole.metrics, strict=True):
        dropped, late = lost(row["round"], 0.3, 0.3)
        totals.update(dropped=len(dropped), late=len(late))
        assert (row["dropped"], row["late"], row["clients"]) == (len(dropped), len(late), 5 - len(dropped) - len(late))
        assert (row["skipped"], row["upload_bytes"]) == (0, sent * row["clients"])
        assert [row[name] for name in ("sequences", "flops", "download_bytes")] == [
            other[name] for name in ("sequences", "flops", "download_bytes")
        ]
    assert totals["dropped"] and totals["late"]


def test_slow_clients_that_count_do_less_and_all_are_there() -> None:
    rows, whole = run(stragglers=1.0, late="partial").metrics, run().metrics
    assert all((row["clients"], row["dropped"], row["late"]) == (5, 0, 0) for row in rows)
    sequences = [
        sum((1 + int(2 * chances(row["round"], id)[2])) * len(CLIENTS[id].train) for id in cohort(row["round"])) for row in rows
    ]
    assert [row["sequences"] for row in rows] == sequences != [row["sequences"] for row in whole]


@pytest.mark.parametrize(
    ("algorithm", "server"),
    [
        (BASE.algorithm, ServerOptions()),
        (BASE.algorithm, ServerOptions("adam")),
        (PFedHNOptions(lr=0.5, steps=2, batch_size=4, hyper_width=5), ServerOptions()),
    ],
    ids=["fedavg", "fedadam", "pfedhn"],
)
def test_a_round_whose_uploads_are_all_lost_changes_nothing(
    algorithm: object, server: ServerOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(BASE, algorithm=algorithm, server=server, dropout=1.0)
    result = simulate(config, population=POPULATION)
    task = prepare(config, POPULATION)
    start = task.algorithm.init(task.config.algorithm, task.model, 0, len(NAMES))
    assert all(torch.equal(tensor, result.state[name]) for name, tensor in start.items())
    assert all((row["loss"], row["clients"], row["dropped"], row["upload_bytes"]) == (None, 0, 5, 0) for row in result.metrics)
    assert all(row["sequences"] and row["download_bytes"] for row in result.metrics)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(
        "4 of 4 rounds changed nothing: every upload was lost (dropout=1.0, stragglers=0.0); lower these"
    )


def test_what_a_client_keeps_it_keeps_though_its_upload_is_lost() -> None:
    result = run(algorithm=DittoOptions(lr=0.5, epochs=2, batch_size=4), dropout=1.0, rounds=1)
    assert result.metrics[0]["client_state_bytes"] == 5 * sum(tensor.numel() * 8 for tensor in result.state.values())


def test_fates_depend_on_nobody_else() -> None:
    config = dataclasses.replace(BASE, dropout=0.4, stragglers=0.4)
    everybody = [CLIENTS[id] for id in NAMES]

    def fates(clients: Sequence[Client], processes: int) -> dict[str, list[bool]]:
        who = turnout(config, clients, 1, POPULATION.numbers(clients), 3, processes)
        return {client.id: pair for client, *pair in zip(who.able, who.dropped.tolist(), who.late.tolist(), strict=True)}

    whole = fates(everybody, 1)
    assert whole == fates(everybody[::-1], 3)
    assert fates(everybody[2:4], 2) == {id: whole[id] for id in NAMES[2:4]}


def test_every_client_is_in_one_group_of_one_process() -> None:
    config = dataclasses.replace(BASE, dropout=0.4, stragglers=0.8, late="partial")
    everybody = [CLIENTS[id] for id in NAMES]
    who = turnout(config, everybody, 2, POPULATION.numbers(everybody), 3, 3)
    assert [client.id for client in who.idle] == ["client 1"]
    groups = [group for rank in range(3) for group in grouped(config, who, rank, 2, 1)]
    assert Counter(client.id for group in groups for client in group.clients) == Counter(client.id for client in who.able)
    lost_ones = {client.id for client, is_lost in zip(who.able, who.lost.tolist(), strict=True) if is_lost}
    for group in groups:
        assert [client.id in lost_ones for client in group.clients] == group.lost.tolist()
        for client in group.clients:
            place = [other.id for other in who.able].index(client.id)
            assert group.options.epochs == present(who.epochs)[place]
    assert np.concatenate(who.arrived()).tolist() != np.concatenate(who.trained()).tolist()
    assert sorted(np.concatenate(who.trained()).tolist()) == who.rows.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.5}, "dropout must be a finite number from 0 to 1, got 1.5"),
        ({"stragglers": -0.1}, "stragglers must be a finite number from 0 to 1, got -0.1"),
        ({"late": "never"}, "late must be 'drop' or 'partial', got 'never'"),
        (
            {"algorithm": PFedHNOptions(), "stragglers": 0.5, "late": "partial"},
            "late='partial' has slow clients do fewer epochs, and this algorithm counts its work in none; choose 'drop'",
        ),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**changes)
