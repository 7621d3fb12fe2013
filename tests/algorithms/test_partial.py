"""FedSim, FedAlt and PartialFed against their oracles, and what they share with other algorithms."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import harness
import oracles
import pytest
import torch
from baseline_rounds import BASE, CLIENTS, EVERYBODY, FIRST, SECOND, TUNED, two_rounds
from harness import SEED, TIGHT, Bench, close, row
from optional import present
from oracles import partial

from flow import Config, ModelOptions, simulate
from flow.algorithms import algorithm_of
from flow.algorithms.fedalt import FedAltOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.algorithms.fedper import FedPerOptions
from flow.algorithms.fedsim import FedSimOptions
from flow.algorithms.lgfedavg import LGFedAvgOptions
from flow.algorithms.partialfed import PartialFedOptions, temperature_of
from flow.algorithms.shared.private_part import part_of
from flow.data import Client
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, nbytes

PARTS = pytest.mark.parametrize("private", ["head", "gru", "embedding", "body"])
DIVIDED = pytest.mark.parametrize("kind", [FedSimOptions, FedAltOptions])
SHORT: dict[str, Any] = {"lr": 0.4, "batch_size": 3, "epochs": 1, "personal_lr": 0.25, "personal_epochs": 2}
CHOOSING: dict[str, Any] = {
    **SHORT,
    "lr": 1.0,
    "strategy_lr": 5.0,
    "strategy_epochs": 2,
    "temperature": 1.4,
    "temperature_decay": 0.6,
}


def names_in(tensors: Iterable[str], part: str) -> list[str]:
    """The oracle's names of a part, of those that there are."""
    return [name for name in partial.part(part) if name in tensors]


def size(tensors: Tensors, names: Iterable[str]) -> int:
    return nbytes({name: tensors[name] for name in names})


def with_projection(bench: Bench) -> Bench:
    """The bench with a model that has a linear layer between GRU and head."""
    bench.model = LanguageModel(
        oracles.VOCABULARY,
        3,
        4,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(4),
        projection_dim=2,
        routed_head=False,
        backend=bench.backend,
    )
    bench.state = bench.algorithm.init(bench.options, bench.model, SEED, len(CLIENTS))
    return bench


# ---- FedSim and FedAlt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "private", "clip"),
    [
        (FedSimOptions, "head", 0.3),
        (FedSimOptions, "gru", 0.0),
        (FedSimOptions, "embedding", 0.3),
        (FedAltOptions, "head", 0.0),
        (FedAltOptions, "embedding", 0.0),
        (FedAltOptions, "body", 0.3),
    ],
)
def test_fedsim_and_fedalt(kind: Any, private: Any, clip: float) -> None:
    more = {"private_lr": 0.7, "private_epochs": 2} if kind is FedAltOptions else {}
    bench = Bench(kind(**SHORT, clip=clip, pretrain_rounds=0, private=private, **more))
    own_names = names_in(bench.state, private)
    step = partial.fedalt if more else partial.fedsim

    def work(received: Tensors, kept: Any, client: Client, round: int) -> Any:
        shared, own = step(received, kept, own_names, client, bench.plain, SEED, round)
        return shared, len(client.train), own

    state, kept = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        start = {**state, **kept.get(client.id, {})}
        close(row(own.parameters, k), partial.tuned(start, own_names, client, bench.plain, SEED, 2), client.id)
        for name in set(state) - set(own_names):
            assert torch.equal(own.parameters[name][k], bench.state[name])
    sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(EVERYBODY)).nbytes
    whole, less = nbytes(bench.state), nbytes(bench.state) - size(bench.state, own_names)
    assert sent == [less if client.id in kept else whole for client in EVERYBODY] and less < whole


@PARTS
@DIVIDED
def test_fedsim_and_fedalt_begin_with_fedavg(kind: Any, private: Any) -> None:
    bench, plain = Bench(kind(**BASE, pretrain_rounds=1, private=private)), Bench(FedAvgOptions(**BASE))
    own_names = names_in(bench.state, private)
    before = bench.personalize(EVERYBODY, round=1).parameters
    assert all(torch.equal(before[name][0], bench.state[name]) != (name in own_names) for name in bench.state)
    uploads, same = bench.round(FIRST, 1), plain.round(FIRST, 1)
    assert all(torch.equal(tensor, plain.state[name]) for name, tensor in bench.state.items()), "another model than FedAvg's"
    assert uploads.upload_bytes == same.upload_bytes and not len(bench.states.rows())
    after = bench.round(SECOND, 2)
    assert after.upload_bytes == len(SECOND) * (nbytes(bench.state) - size(bench.state, own_names))
    kept = bench.visit(EVERYBODY, "evaluation").kept
    assert kept.known.tolist() == [client in SECOND for client in EVERYBODY] and list(kept.tensors) == own_names
    for name in own_names:
        assert torch.equal(bench.state[name], plain.state[name]), "a private part was averaged"
        left = kept.tensors[name][~kept.known]
        assert torch.equal(left, bench.state[name].expand_as(left)), "a new client starts from another part"
    for name in set(bench.state) - set(own_names):
        assert not torch.equal(bench.state[name], plain.state[name])


def test_fedsim_is_lgfedavg_and_fedper_up_to_what_these_have_of_their_own() -> None:
    """LG-FedAvg counts all clients alike, FedPer sends its heads, too; both train what FedSim trains."""
    private: Literal["body", "head"]
    for private, options in (("body", LGFedAvgOptions(**BASE, pretrain_rounds=0)), ("head", FedPerOptions(**BASE))):
        fedsim, other = Bench(FedSimOptions(**BASE, pretrain_rounds=0, private=private)), Bench(options)
        ours, theirs = fedsim.local(CLIENTS), other.local(CLIENTS)
        close(ours.kept, theirs.kept)
        close(ours.tensors, {name: theirs.tensors[name] for name in ours.tensors})
        assert ours.weights == [len(client.train) for client in CLIENTS]
        assert theirs.weights == ([1] * len(CLIENTS) if private == "body" else ours.weights)


def test_fedalt_trains_both_parts_alike_where_nothing_else_is_said() -> None:
    left_out = Bench(FedAltOptions(**BASE, pretrain_rounds=0, private="gru"))
    explicit = Bench(
        FedAltOptions(**BASE, pretrain_rounds=0, private="gru", private_lr=BASE["lr"], private_epochs=BASE["epochs"])
    )
    assert left_out.options == explicit.options
    assert left_out.options.private_lr == 0.4 and left_out.options.private_epochs == 2
    first, then = left_out.local(CLIENTS).phases
    tokens = torch.tensor([2.0 * int(client.train.lengths.sum()) for client in CLIENTS], dtype=torch.float64)
    gru = names_in(left_out.state, "gru")
    assert torch.equal(first.flops, tokens * per_token(left_out.model, "global", gru))
    assert torch.equal(then.flops, tokens * per_token(left_out.model, "global", set(left_out.state) - set(gru)))


@DIVIDED
def test_pretraining_takes_half_of_the_run(kind: Any) -> None:
    resolve = algorithm_of(kind()).resolve
    assert [resolve(kind(), rounds).pretrain_rounds for rounds in (1, 2, 7, 80)] == [0, 1, 3, 40]
    assert resolve(kind(pretrain_rounds=0), 80).pretrain_rounds == 0


def test_a_projection_is_private_with_the_whole_body_alone() -> None:
    state = with_projection(Bench(FedSimOptions())).state
    parts = {part: part_of(part, state) for part in ("head", "gru", "embedding", "body")}
    assert parts == {part: tuple(names_in(state, part)) for part in parts}
    assert set(parts["body"]) | set(parts["head"]) == set(state) and "projection.weight" in parts["body"]


# ---- PartialFed -------------------------------------------------------------------------------------------------


def rounds_of(
    bench: Bench, states: Callable[[Tensors, Any, Client, int], tuple[Tensors, Any]]
) -> tuple[Tensors, dict[str, Any]]:
    """Three rounds of the bench beside those of the oracle; returns the oracle's state and what every client kept."""
    state, kept = dict(bench.state), dict[str, Any]()
    for round, clients in ((1, FIRST), (2, SECOND), (3, CLIENTS)):
        upload = bench.local(clients, round)
        results = [states(state, kept.get(client.id), client, round) for client in clients]
        for k, (model, _) in enumerate(results):
            close(row(upload.tensors, k), model, f"round {round}, {clients[k].id}")
        assert list(upload.weights) == [len(client.train) for client in clients]
        bench.round(clients, round, group=3)
        state = oracles.weighted_mean([(model, len(c.train)) for c, (model, _) in zip(clients, results, strict=True)])
        close(bench.state, state, f"after round {round}")
        kept |= {client.id: own for client, own in zip(clients, results, strict=True)}
    return state, kept


@pytest.mark.parametrize(
    ("clip", "backend", "projection"), [(0.0, "auto", False), (0.3, "auto", True), (0.1, "reference", False)]
)
def test_partialfed(clip: float, backend: str, projection: bool) -> None:
    bench = Bench(PartialFedOptions(**CHOOSING, clip=clip), backend=backend)
    bench = with_projection(bench) if projection else bench

    def work(received: Tensors, kept: Any, client: Client, round: int) -> Any:
        return partial.partialfed(received, kept, client, bench.plain, SEED, round)

    state, kept = rounds_of(bench, work)
    rows = bench.states.read(bench.states.rows())
    layers = ["embedding", "gru", *(["projection"] if projection else []), "head"]
    choices = set()
    for n, client_id in enumerate(sorted(kept)):
        model, scores = kept[client_id]
        close({name: rows["own/" + name][n] for name in model}, model, client_id)
        assert list(scores) == layers
        for layer, pair in scores.items():
            torch.testing.assert_close(rows["choice/" + layer][n], pair, **TIGHT)
            choices.add(bool(pair[0] >= pair[1]))
    assert choices == {True, False}, "all layers were chosen alike"
    own = bench.personalize(EVERYBODY, round=3)
    for k, client in enumerate(EVERYBODY):
        expected = partial.partialfed_personal(state, kept.get(client.id), client, bench.plain, SEED, 3)
        close(row(own.parameters, k), expected, client.id)
    sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(EVERYBODY)).nbytes
    assert set(sent) == {nbytes(bench.state)}, "either layer may be chosen, so all are sent"


@pytest.mark.parametrize(("private", "clip"), [("head", 0.0), ("gru", 0.3), ("embedding", 0.0), ("body", 0.3)])
def test_partialfed_with_given_layers(private: Any, clip: float) -> None:
    bench = Bench(PartialFedOptions(**SHORT, clip=clip, strategy=private))
    own_names = names_in(bench.state, private)

    def work(received: Tensors, kept: Any, client: Client, round: int) -> Any:
        start = {**received, **({name: kept[0][name] for name in own_names} if kept else {})}
        partial.descend(start, list(start), client, bench.plain, SEED, round, "train", "global")
        return start, None

    state, kept = rounds_of(bench, work)
    rows = bench.states.read(bench.states.rows())
    assert list(rows) == ["own/" + name for name in own_names]
    own = bench.personalize(EVERYBODY, round=3)
    for k, client in enumerate(EVERYBODY):
        model = kept[client.id][0] if client.id in kept else {}
        start = {**state, **{name: model[name] for name in own_names if model}}
        close(row(own.parameters, k), partial.tuned(start, start, client, bench.plain, SEED, 3), client.id)
    sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(EVERYBODY)).nbytes
    less = nbytes(bench.state) - size(bench.state, own_names)
    assert sent == [less if client.id in kept else nbytes(bench.state) for client in EVERYBODY]


@pytest.mark.parametrize("strategy", ["adaptive", "head"])
def test_a_client_that_is_new_to_partialfed_does_what_one_of_fedavg_does(strategy: Any) -> None:
    bench, plain = Bench(PartialFedOptions(**TUNED, strategy=strategy)), Bench(FedAvgFTOptions(**TUNED))
    close(bench.personalize(EVERYBODY).parameters, plain.personalize(EVERYBODY).parameters)
    close(bench.local(CLIENTS).tensors, plain.local(CLIENTS).tensors)


def test_partialfed_counts_the_choice_of_those_that_choose() -> None:
    """It needs the gradient of every layer, for clients that have two models to choose from."""
    bench = Bench(PartialFedOptions(**CHOOSING))
    bench.round(FIRST, 1)
    choice, training = bench.local(CLIENTS).phases
    for k, client in enumerate(CLIENTS):
        tokens, cost = int(client.train.lengths.sum()), per_token(bench.model, "global", tuple(bench.state))
        assert float(choice.flops[k]) == (2 * tokens * cost if client in FIRST else 0)
        assert float(training.flops[k]) == tokens * cost
    assert choice.sequences == 2 * sum(len(client.train) for client in FIRST)


def test_partialfeds_choice_moves_neither_model() -> None:
    bench = Bench(PartialFedOptions(**CHOOSING))
    bench.round(CLIENTS, 1)
    visit = bench.visit(CLIENTS, "evaluation")
    given = [{name: tensor.clone() for name, tensor in part.items()} for part in (visit.received, visit.kept.tensors)]
    present(bench.algorithm.personalize)(bench.options, bench.model, visit)
    for part, before in zip((visit.received, visit.kept.tensors), given, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in part.items())


def test_the_temperature_falls_to_a_tenth() -> None:
    options = PartialFedOptions(temperature=4.0, temperature_decay=0.5)
    assert [temperature_of(options, round) for round in (1, 2, 3, 6, 7, 90)] == [4.0, 2.0, 1.0, 0.125, 0.1, 0.1]
    assert temperature_of(PartialFedOptions(temperature_decay=1.0), 500) == 5.0
    assert temperature_of(PartialFedOptions(temperature=3.0, temperature_decay=0.0), 1) == 3.0


# ---- all three --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FedAltOptions(**BASE, private="body"), PartialFedOptions(**BASE)])
def test_a_run_whose_uploads_get_lost(options: Any) -> None:
    """What clients keep and what the server has need not be of the same rounds."""
    config = Config(
        algorithm=options,
        model=ModelOptions(embedding_dim=3, hidden_size=4, projection_dim=2, dtype="float64"),
        rounds=4,
        cohort=5,
        evaluate_every=0,
        validation_share=0.0,
        dropout=0.4,
        stragglers=0.5,
        late="partial",
        min_texts=1,
    )
    result = simulate(config, None, population=harness.POPULATION, progress=False)
    assert sum(row["dropped"] for row in result.metrics) > 0
    assert all(tensor.isfinite().all() for tensor in result.state.values())
    assert result.metrics[-1]["client_state_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FedSimOptions(pretrain_rounds=-1), "pretrain_rounds must be a finite number at least 0, got -1; leave it out"),
        (FedAltOptions(pretrain_rounds=-2), "pretrain_rounds must be a finite number at least 0, got -2"),
        (FedSimOptions(personal_epochs=0), "personal_epochs must be a finite number at least 1, got 0"),
        (FedAltOptions(private_lr=0.0), "private_lr must be a finite number above 0, got 0.0; leave it out"),
        (FedAltOptions(private_epochs=0), "private_epochs must be a finite number at least 1, got 0"),
        (PartialFedOptions(strategy_lr=float("nan")), "strategy_lr must be a finite number above 0, got nan"),
        (PartialFedOptions(strategy_epochs=0), "strategy_epochs must be a finite number at least 1, got 0"),
        (PartialFedOptions(temperature=0.05), "temperature must be a finite number at least 0.1, got 0.05"),
        (PartialFedOptions(temperature_decay=1.5), "temperature_decay must be a finite number from 0 to 1, got 1.5; 1 keeps"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_options_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        algorithm_of(options).check(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FedSimOptions(private=cast(Any, "tail")), "private must be 'head' or 'gru' or 'embedding' or 'body', got 'tail'"),
        (PartialFedOptions(strategy=cast(Any, "fix")), "strategy must be 'adaptive' or 'head' or 'gru' .*, got 'fix'"),
    ],
)
def test_parts_that_no_model_has_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        simulate(Config(algorithm=options, rounds=1), None, population=harness.POPULATION, progress=False)
