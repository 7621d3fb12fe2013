"""The count of operations against those that torch counts for a step written out product by product."""

import harness
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.model.flops import per_token
from flow.model.language_model import LanguageModel
from flow.model.parameters import body_of, head_of, initial, names_of

V, E, H = 11, 3, 5


def counted(model, route, trained):
    """Operations of one token in the middle of a sequence: its products forward, and backward what autograd needs."""
    p = {
        name: tensor.clone().requires_grad_(name in trained)
        for name, tensor in initial(model, "global", "local", "router").items()
    }
    below = "embedding.weight" in trained
    x = torch.randn(1, E, requires_grad=below)
    h = torch.randn(1, H, requires_grad=below or any(name.startswith("gru.") for name in trained))
    outs = []
    experts = {"global": [""], "local": ["local_"], "mixture": ["", "local_"]}[route]
    with FlopCounterMode(display=False) as counter:
        for own in experts:
            outs += [x @ p[f"gru.{own}weight_ih_l0"].T, h @ p[f"gru.{own}weight_hh_l0"].T]
        if route == "mixture":
            wide = p["gru.router_weight_l0"]
            outs += [x @ wide[:, :E].T, h @ wide[:, E:].T]
        # The head reads this token's state, which depends on all of the above and on nothing else that costs.
        state = sum(out.sum() for out in outs) + torch.zeros(1, H)
        for own in experts if model.routed_head else [""]:
            outs.append(state @ p[f"head.{own}weight"].T)
        if route == "mixture" and model.routed_head:
            outs.append(state @ p["head.router_weight"].T)
        total = sum(out.sum() for out in outs)
        if trained:
            total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("routed_head", [False, True])
@pytest.mark.parametrize("route", ["global", "local", "mixture"])
def test_the_count_is_that_of_the_products(route, routed_head):
    model = LanguageModel(V, E, H, routed_head=routed_head)
    everything = dict(model.named_parameters())
    choices = [(), names_of(everything, "global"), names_of(everything, "local"), names_of(everything, "router")]
    choices += [body_of(everything), head_of(everything), ("embedding.weight",), tuple(everything)]
    used = {"global": ("global",), "local": ("local", "global"), "mixture": ("global", "local", "router")}[route]
    for trained in choices:
        trained = [name for name in trained if name in names_of(everything, *used)]
        trained = [n for n in trained if "bias" not in n and not (route == "local" and n.startswith("gru.w"))]
        assert per_token(model, route, trained) == counted(model, route, trained), (route, trained)


def test_tags_do_not_matter():
    model = LanguageModel(V, E, H)
    names = names_of(dict(model.named_parameters()), "global")
    assert per_token(model, "global", names) == per_token(model, "global", ["v/" + name for name in names])


def test_work_counts_what_was_done():
    bench = harness.Bench(FedAvgOptions(epochs=3, batch_size=2))
    (work,) = bench.local(harness.TRAINING).phases
    tokens = torch.tensor([3 * int(client.train.lengths.sum()) for client in harness.TRAINING], dtype=torch.float64)
    assert torch.equal(work.flops, tokens * per_token(bench.model, "global", bench.state))
    twice = harness.Bench(DittoOptions(epochs=3, batch_size=2)).local(harness.TRAINING).phases
    assert torch.equal(sum(one.flops for one in twice), 2 * work.flops)


def test_flow_costs_what_its_phases_cost():
    bench = harness.Bench(FlowOptions(epochs=2, batch_size=2))
    clients = bench.able()
    first, second = bench.local(clients).phases
    names = {group: names_of(bench.initial, group) for group in ("global", "local", "router")}
    assert torch.equal(first.flops, first.tokens * per_token(bench.model, "local", names["local"]))
    both = sum(per_token(bench.model, "mixture", names[group]) for group in ("router", "global"))
    assert torch.equal(second.flops, second.tokens * both)
