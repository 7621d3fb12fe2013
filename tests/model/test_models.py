"""The language model: its parts against torch's own layers, its forms against each other."""

import math
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from flow.model.language_model import LanguageModel, mixed_linear
from flow.model.parameters import Route, Tensors, global_name, group_of, names_of

V, E, H = 13, 4, 6


def model(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> LanguageModel:
    return LanguageModel(V, E, H, dtype=dtype, generator=torch.Generator().manual_seed(seed), **options)


def random_parameters(like: LanguageModel, seed: int = 1, clients: int | None = None) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    leading = () if clients is None else (clients,)
    return {name: torch.randn(*leading, *p.shape, generator=generator, dtype=p.dtype) for name, p in like.named_parameters()}


def random_tokens(*shape: int, seed: int = 2) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_are_grouped_by_name() -> None:
    names = [name for name, _ in model().named_parameters()]
    groups = {group: [n for n in names if group_of(n) == group] for group in ("global", "local", "router")}
    assert len(groups["global"]) == 7
    assert groups["router"] == [
        "gru.router_weight_l0",
        "gru.router_bias_l0",
        "head.router_weight",
        "head.router_bias",
    ]
    assert [global_name(n) for n in groups["local"]] == [n for n in groups["global"] if n != "embedding.weight"]
    assert names_of(dict.fromkeys(names, torch.zeros(0)), "global", "router") == tuple(n for n in names if "local_" not in n)
    assert not any("local_" in n or "router_" in n for n, _ in model(routed_head=False).head.named_parameters())


def test_initial_values_are_those_of_torchs_layers_in_distribution() -> None:
    big = LanguageModel(400, 50, 80, generator=torch.Generator().manual_seed(0))
    own = dict(big.named_parameters())
    # Standard deviations of nn.Embedding (1) and of nn.GRU and nn.Linear, uniform in +-1/sqrt(80).
    bound = 1 / math.sqrt(80)
    for name, expected in (
        ("embedding.weight", 1.0),
        ("gru.weight_ih_l0", bound / 3**0.5),
        ("head.weight", bound / 3**0.5),
    ):
        assert abs(own[name].std().item() / expected - 1) < 0.03, name
    assert own["gru.weight_hh_l0"].abs().max() <= bound
    assert own["head.bias"].abs().max() <= bound
    for name, parameter in own.items():
        if group_of(name) == "local":
            assert torch.equal(parameter, own[global_name(name)])
        if group_of(name) == "router":
            assert not parameter.any()


def test_the_generator_alone_decides_the_initial_values() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = model(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    for a, b, c in zip(first.parameters(), model(seed=3).parameters(), model(seed=4).parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.any() or not torch.equal(a, c)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_one_route_is_embedding_gru_and_linear_of_torch(num_layers: int) -> None:
    ours = model(num_layers=num_layers)
    parameters = random_parameters(ours)
    tokens = random_tokens(3, 5)
    for route, prefix in (("global", ""), ("local", "local_")):
        gru, head = nn.GRU(E, H, num_layers, batch_first=True, dtype=torch.float64), nn.Linear(H, V, dtype=torch.float64)
        gru.load_state_dict({n: parameters[f"gru.{prefix}{n}"] for n in gru.state_dict()})
        head.load_state_dict({n: parameters[f"head.{prefix}{n}"] for n in head.state_dict()})
        with torch.no_grad():
            expected = head(gru(nn.functional.embedding(tokens, parameters["embedding.weight"]))[0])
            out = functional_call(ours, parameters, (tokens,), {"route": route})
        torch.testing.assert_close(out.logits, expected)
        assert out.gru_routing[..., int(route == "local")].eq(1).all()
        assert out.head_routing is None


def test_local_expert_of_an_unrouted_head_is_the_global_head() -> None:
    ours = model(routed_head=False)
    parameters = random_parameters(ours)
    out = functional_call(ours, parameters, (random_tokens(2, 3),), {"route": "local"})
    moved = functional_call(
        ours, {**parameters, "head.bias": parameters["head.bias"] + 1}, (random_tokens(2, 3),), {"route": "local"}
    )
    torch.testing.assert_close(moved.logits, out.logits + 1)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("routing", ["soft", "hard", "straight_through"])
@pytest.mark.parametrize("routed_head", [True, False])
def test_stacked_clients_are_single_models_side_by_side(routing: str, routed_head: bool, num_layers: int) -> None:
    clients = 3
    ours = model(routed_head=routed_head, temperature=0.7, num_layers=num_layers)
    stacked = random_parameters(ours, clients=clients)
    tokens, lengths = random_tokens(clients, 4, 5), torch.tensor([[5, 1, 3, 2], [1, 1, 1, 1], [5, 5, 4, 4]])
    out = functional_call(ours, stacked, (tokens, lengths), {"routing": routing})
    side_by_side = model(routed_head=routed_head, temperature=0.7, num_clients=clients, num_layers=num_layers)
    side_by_side.load_state_dict(stacked)
    torch.testing.assert_close(side_by_side(tokens, lengths, routing=routing).logits, out.logits)
    assert out.logits.shape == (clients, 4, 5, V)
    for k in range(clients):
        single = functional_call(ours, {n: p[k] for n, p in stacked.items()}, (tokens[k], lengths[k]), {"routing": routing})
        for field in ("logits", "gru_routing", *(["head_routing"] if routed_head else [])):
            torch.testing.assert_close(getattr(out, field)[k], getattr(single, field))


@pytest.mark.parametrize("route", ["mixture", "global", "local"])
@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_layers_are_stacked_as_the_oracle_stacks_them(route: Route, routing: str) -> None:
    ours = model(num_layers=3, temperature=0.7)
    parameters, tokens, lengths = random_parameters(ours), random_tokens(4, 6), torch.tensor([6, 1, 4, 3])
    out = functional_call(ours, parameters, (tokens, lengths), {"route": route, "routing": routing})
    for row, length in enumerate(lengths.tolist()):
        logits, gates = oracles.run(parameters, tokens[row].numpy(), length, route, 0.7, hard=routing == "hard")
        torch.testing.assert_close(out.logits[row, :length], logits)
        if route == "mixture":
            for ours_q, expected in zip((*out.layer_routing, out.head_routing), gates, strict=True):
                torch.testing.assert_close(ours_q[row, :length], expected)
            torch.testing.assert_close(out.gru_routing[row, :length], torch.stack(gates[:3]).mean(0))


def test_head_mixes_by_its_own_router() -> None:
    ours = model(temperature=0.5)
    parameters = random_parameters(ours)
    tokens = random_tokens(2, 4)
    soft = functional_call(ours, parameters, (tokens,))
    hard = functional_call(ours, parameters, (tokens,), {"routing": "hard"})
    assert soft.head_routing.sum(-1).sub(1).abs().max() < 1e-12
    assert set(hard.head_routing.unique().tolist()) <= {0.0, 1.0}
    # With both experts of the head equal the routing cannot matter; with the router far to one side it decides alone.
    for side, prefix in ((0, "head."), (1, "head.local_")):
        pushed = {
            **parameters,
            "head.router_bias": torch.tensor([1e4, 0.0] if side == 0 else [0.0, 1e4], dtype=torch.float64),
        }
        only = {
            **pushed,
            **{f"head.{n}": parameters[prefix + n] for n in ("weight", "bias")},
            **{f"head.local_{n}": parameters[prefix + n] for n in ("weight", "bias")},
        }
        torch.testing.assert_close(
            functional_call(ours, pushed, (tokens,)).logits, functional_call(ours, only, (tokens,)).logits
        )


def test_a_router_at_zero_is_undecided_and_hard_routing_then_takes_the_global_expert() -> None:
    ours = model()
    out = ours(random_tokens(2, 3))
    assert out.gru_routing.eq(0.5).all()
    assert out.head_routing.eq(0.5).all()
    assert ours(random_tokens(2, 3), routing="hard").head_routing[..., 0].eq(1).all()


def test_mixed_linear_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, q, w, b, wl, bl = normal(2, 3, H), normal(2, 3, 2), normal(2, V, H), normal(2, V), normal(2, V, H), normal(2, V)
    for k in range(2):
        for n in range(3):
            expected = q[k, n, 0] * (w[k] @ x[k, n] + b[k]) + q[k, n, 1] * (wl[k] @ x[k, n] + bl[k])
            torch.testing.assert_close(mixed_linear(x, q, w, b, wl, bl)[k, n], expected)


def test_clients_side_by_side_start_from_the_same_draw() -> None:
    alone = dict(model(seed=5).named_parameters())
    for name, parameter in model(seed=5, num_clients=3).named_parameters():
        assert torch.equal(parameter, alone[name].expand_as(parameter))


def test_float32_is_float32() -> None:
    out = model(dtype=torch.float32)(random_tokens(2, 3))
    assert out.logits.dtype == out.gru_routing.dtype == torch.float32
