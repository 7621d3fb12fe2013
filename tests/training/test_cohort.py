"""The engine: who shares a cohort changes nothing, frozen parameters stay, every sequence is visited once per epoch."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch.func import functional_call

from flow.data import Client
from flow.data.corpus import cut_windows
from flow.data.tokens import BOS, EOS
from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Route, Tensors, names_of, stack
from flow.training.autograd import objective
from flow.training.batches import batches, gather, groups, split
from flow.training.descent import descend
from flow.training.messages import Personal
from flow.training.predict import predict
from flow.training.sgd import Sgd, Update
from flow.training.work import train

DRAW = Draw(4, 3, "train")
CLIENTS = oracles.population().clients[:7]


def build(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[LanguageModel, Tensors]:
    model = LanguageModel(oracles.VOCABULARY, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0), **options)
    generator = torch.Generator().manual_seed(1)
    return model, {n: torch.randn(p.shape, generator=generator, dtype=dtype) for n, p in model.named_parameters()}


@pytest.mark.parametrize(("size", "workers", "count"), [(3, 1, 3), (7, 1, 1), (7, 2, 2), (4, 2, 2), (1, 2, 7), (100, 16, 7)])
def test_groups_hold_every_client_once_and_cost_about_the_same(size: int, workers: int, count: int) -> None:
    grouped = groups(CLIENTS, size, workers)
    assert len(grouped) == count and all(1 <= len(group) <= size for group in grouped)
    assert sorted(client.id for group in grouped for client in group) == sorted(client.id for client in CLIENTS)
    sizes = [[len(client.train) for client in group] for group in grouped]
    assert all(group == sorted(group, reverse=True) for group in sizes)
    loads = [sum(costs) for costs in sizes]
    if size > 3:  # no group is full: none is lighter than another without its smallest client
        assert max(sum(costs) - costs[-1] for costs in sizes) <= min(loads) + len(CLIENTS)


def test_groups_of_nobody() -> None:
    assert groups([], 3, 2) == []


def test_streams_follow_the_documented_derivation() -> None:
    for labels in ((), ("split", "client 1"), ("shuffle", "local", "Ünïcode")):
        expected = oracles.stream(4, 3, "train", *labels).integers(0, 1 << 60, 5)
        assert (DRAW.stream(*labels).integers(0, 1 << 60, 5) == expected).all()
    seen = {
        Draw(seed, round, purpose).stream(label).integers(0, 1 << 62)
        for seed in (0, 1)
        for round in (0, 1)
        for purpose in ("a", "b")
        for label in ("a", "b")
    }
    assert len(seen) == 16


def test_halves_are_disjoint_complete_and_fixed_by_seed_round_and_client() -> None:
    data = gather(CLIENTS, "train", "cpu")
    first, second = split(data, DRAW, rule="random")
    for own, a, b in zip(data.rows, first.rows, second.rows, strict=True):
        assert sorted([*a, *b]) == sorted(own)
        assert len(a) == len(own) // 2
    shuffled = gather(CLIENTS[::-1], "train", "cpu")
    first_shuffled = split(shuffled, DRAW, rule="random")[0]
    for k, client in enumerate(shuffled.ids):
        origin, mine = data.rows[data.ids.index(client)][0], shuffled.rows[k][0]
        assert [row - mine for row in first_shuffled.rows[k]] == [row - origin for row in first.rows[data.ids.index(client)]]
    other = split(data, DRAW._replace(round=4), rule="random")[0]
    assert any(list(a) != list(b) for a, b in zip(first.rows, other.rows, strict=True))


def texts_of(client: Client) -> list[list[int]]:
    """The training sequences of every text, by their numbers."""
    texts: list[list[int]] = []
    for number, tokens in enumerate(client.train.tokens):
        if tokens[0] == BOS or not texts:
            texts.append([])
        texts[-1].append(number)
    return texts


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75, 0.99])
def test_older_and_newer_texts_are_whole(share: float) -> None:
    clients = [client for client in written(np.random.default_rng(3)) if len(client.train)]
    data, several = gather(clients, "train", "cpu"), 0
    first, second = split(data, DRAW, share)
    for client, own, a, b in zip(clients, data.rows, first.rows, second.rows, strict=True):
        assert [*a, *b] == list(own), "in the order of time"
        texts = texts_of(client)
        if len(own) > 1:
            assert len(a) and len(b)
        several += len(texts) > 1
        ends = np.cumsum([len(text) for text in texts])[:-1] if len(texts) > 1 else range(1, len(own))
        if len(ends):
            assert len(a) in ends
            assert abs(len(a) - share * len(own)) == min(abs(end - share * len(own)) for end in ends)
    assert several > 20
    again = split(data, DRAW._replace(round=9, seed=5), share)[0]
    assert all(np.array_equal(x, y) for x, y in zip(again.rows, first.rows, strict=True)), "nothing is drawn"


def written(rng: np.random.Generator) -> Iterator[Client]:
    """Clients of texts that were cut into windows of 4 targets; every fourth one is a single stream."""
    for number in range(60):
        texts = [rng.integers(4, 9, rng.integers(1, 14)) for _ in range(rng.integers(0, 9))]
        if number % 4 == 0:
            texts = [np.concatenate([*texts, [5]])]
        streams = [np.array([BOS, *text, EOS], np.int32) for text in texts]
        train = cut_windows(streams, 4)
        yield Client(f"c{number:02}", "", False, len(texts), train, train)


def test_every_sequence_is_visited_once_per_epoch_and_clients_drop_out_as_they_finish() -> None:
    clients = groups(CLIENTS, 7)[0]
    data = gather(clients, "train", "cpu")
    epochs, size, filler = 3, 2, len(data.lengths) - 1
    visits = np.zeros((epochs, filler), int)
    step_of_client = [0] * len(clients)
    for batch in batches(data, size, epochs, [DRAW.stream(c) for c in data.ids]):
        k = len(batch.rows)
        assert k == sum(step < epochs * -(-len(rows) // size) for step, rows in zip(step_of_client, data.rows, strict=True))
        for client in range(k):
            rows = [int(row) for row in batch.rows[client] if row != filler]
            epoch = step_of_client[client] // -(-len(data.rows[client]) // size)
            step_of_client[client] += 1
            visits[epoch, rows] += 1
            for b, row in enumerate(rows):
                length = int(data.lengths[row])
                assert batch.valid[client, b].tolist() == [t < length for t in range(batch.valid.shape[2])]
                assert batch.inputs[client, b, :length].tolist() == data.tokens[row, :length].tolist()
                assert batch.targets[client, b, :length].tolist() == data.tokens[row, 1 : length + 1].tolist()
            assert not batch.valid[client, len(rows) :].any()
            assert batch.lengths[client, len(rows) :].eq(1).all()
    assert (visits == 1).all()


def test_order_of_batches_differs_between_epochs_rounds_and_clients() -> None:
    data = gather([CLIENTS[2], CLIENTS[2]], "train", "cpu")

    def order(stream: np.random.Generator) -> list[int]:
        return torch.cat([b.rows[0] for b in batches(data._replace(rows=data.rows[:1]), 1, 2, [stream])]).flatten().tolist()

    order_of_a = order(DRAW.stream("a"))
    assert order_of_a[:11] != order_of_a[11:]
    assert order(DRAW.stream("a")) == order_of_a != order(DRAW.stream("b"))


@pytest.mark.parametrize(
    ("group", "route"), [("local", "local"), ("global", "global"), ("router", "mixture"), ("global", "mixture")]
)
def test_only_what_an_update_names_moves(group: str, route: Route) -> None:
    model, single = build()
    data = gather(CLIENTS[2:4], "train", "cpu")
    parameters = stack(single, 2)
    train(model, parameters, data, [Update(names_of(single, group), route)], Sgd(0.1, 1, 4, 0.0), DRAW, "x")
    for name, tensor in parameters.items():
        assert torch.equal(tensor, single[name].expand_as(tensor)) == (name not in names_of(single, group)), name


def test_a_client_without_sequences_stays_as_it_is() -> None:
    model, single = build()
    data = gather(CLIENTS[2:4], "train", "cpu")
    data = data._replace(rows=(data.rows[0][:0], data.rows[1]))
    parameters = stack(single, 2)
    update = Update(names_of(single, "global", "router"), "mixture", 0.1)
    work = train(model, parameters, data, [update], Sgd(0.1, 2, 4, 1.0), DRAW, "x")
    assert work.tokens[0] == work.nats[0] == 0
    for name, tensor in parameters.items():
        assert torch.equal(tensor[0], single[name])


@pytest.mark.parametrize("clip", [0.05, 1.0])
def test_clipping_bounds_each_clients_step_by_its_own_norm(clip: float) -> None:
    model, single = build()
    data = gather(CLIENTS[2:5], "train", "cpu")
    names = names_of(single, "global")
    steps = {}
    for bound in (0.0, clip):
        parameters = stack(single, 3)
        for batch in list(batches(data, 20))[:1]:
            descend(model, parameters, batch, Update(names, "global"), Sgd(1.0, 1, 20, bound))
        steps[bound] = torch.cat([(parameters[n] - single[n]).flatten(1) for n in names], 1)
    norms = steps[0.0].norm(dim=1)
    torch.testing.assert_close(steps[clip].norm(dim=1), norms.clamp_max(clip))
    torch.testing.assert_close(steps[clip] / steps[clip].norm(dim=1, keepdim=True), steps[0.0] / norms.unsqueeze(1))


def test_the_regulariser_is_the_mean_log_of_the_global_weight_over_layers_and_tokens() -> None:
    model, single = build()
    data = gather(CLIENTS[:1], "train", "cpu")
    (batch,) = batches(data, 99)
    parameters = stack(single, 1)
    with torch.no_grad():
        target, loss = objective(model, parameters, batch, Update((), "mixture", 0.7))
        sequences = [(data.tokens[row].numpy(), int(data.lengths[row])) for row in data.rows[0]]
        expected, regularised = oracles.batch_loss(single, sequences, "mixture", 1.0, 0.7)
    torch.testing.assert_close(loss[0], expected)
    torch.testing.assert_close(target[0], regularised)
    assert target[0] > loss[0]


@pytest.mark.parametrize("logits", [1, 1000, 1 << 22])
def test_predictions_are_those_of_every_sequence_alone(logits: int) -> None:
    model, single = build()
    data = gather(CLIENTS, "test", "cpu")
    generator = torch.Generator().manual_seed(9)
    parameters = {n: torch.randn(7, *t.shape, generator=generator, dtype=t.dtype) for n, t in single.items()}
    guess = predict(model, Personal(parameters, "mixture", "hard"), data, logits=logits)
    for k, client in enumerate(CLIENTS):
        own = {n: t[k] for n, t in parameters.items()}
        for row, tokens, length in zip(data.rows[k], client.test.tokens, client.test.lengths, strict=True):
            out = functional_call(model, own, (torch.from_numpy(tokens[None, :length]).long(),), {"routing": "hard"})
            assert guess.tokens[row, :length].tolist() == out.logits[0].argmax(-1).tolist()
            assert (guess.tokens[row, length:] == -1).all()
            assert guess.local_weight[row, :length].tolist() == out.gru_routing[0, :, 1].tolist()
            p = [probabilities.tolist() for probabilities in out.logits[0].softmax(-1)]
            nats = [-math.log(p[t][int(tokens[t + 1])]) for t in range(length)]
            np.testing.assert_allclose(guess.nats[row, :length], nats, rtol=1e-6)
            np.testing.assert_allclose(guess.probability[row, :length], list(map(max, p)), rtol=1e-6)
            assert not guess.nats[row, length:].any() and not guess.probability[row, length:].any()
