"""The count of operations against those that torch counts while the model itself runs."""

from collections.abc import Collection
from typing import Any

import harness
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.model.flops import per_token
from flow.model.language_model import LanguageModel
from flow.model.parameters import Route, Tensors, body_of, head_of, initial, names_of

V, E, H = 11, 3, 5


def counted(model: LanguageModel, route: Route, trained: Collection[str], steps: int) -> int:
    """Operations of the model forward, and backward where parameters are trained, over a sequence, as torch counts them."""
    parameters = {
        name: tensor.clone().requires_grad_(name in trained)
        for name, tensor in initial(model, "global", "local", "router").items()
    }
    with FlopCounterMode(display=False) as counter:
        tokens = torch.zeros(1, steps, dtype=torch.long)
        out = torch.func.functional_call(model, parameters, (tokens,), {"route": route})
        if trained:
            out.logits.sum().backward()
    return int(counter.get_total_flops())


def beyond_the_count(model: LanguageModel, route: Route, trained: Collection[str]) -> int:
    """What torch computes for a token as a product beside those of the weights with what they read."""
    if route != "mixture":
        return 0
    below = [name for name in trained if not name.startswith("head.")]
    extra = 0
    layers = [int(name.rpartition("_l")[2]) for name in below if name.startswith("gru.")]
    if layers and "embedding.weight" not in below:
        extra += 4 * (H if min(layers) else E)  # the router reads [x ; h] as one tensor, and so x gets a gradient with h
    if model.routed_head:  # q @ [bias, local_bias], and its gradients by q and by the biases
        reaches_q = bool(below) or "head.router_weight" in trained
        extra += 4 * V * (1 + reaches_q + ("head.bias" in trained or "head.local_bias" in trained))
        if reaches_q and not below:
            extra += 4 * model.feature_size * V  # the gradient of q goes through that of the features times q
    return extra


@pytest.mark.parametrize(("num_layers", "projection_dim"), [(1, None), (1, 4), (2, None), (3, 4)])
@pytest.mark.parametrize("routed_head", [False, True])
@pytest.mark.parametrize("route", ["global", "local", "mixture"])
def test_the_count_is_what_torch_counts_for_one_more_token(
    route: Route, routed_head: bool, num_layers: int, projection_dim: int | None
) -> None:
    sizes: dict[str, Any] = {"num_layers": num_layers, "projection_dim": projection_dim}
    model = LanguageModel(V, E, H, routed_head=routed_head, backend="reference", **sizes)
    everything: Tensors = dict(model.named_parameters())
    choices: list[tuple[str, ...]] = [
        (),
        names_of(everything, "global"),
        names_of(everything, "local"),
        names_of(everything, "router"),
    ]
    choices += [body_of(everything), head_of(everything), ("embedding.weight",), tuple(everything)]
    for layer in range(num_layers):
        choices.append(tuple(name for name in everything if name.startswith("gru.") and name.endswith(f"_l{layer}")))
    used = {"global": ("global",), "local": ("local", "global"), "mixture": ("global", "local", "router")}[route]
    unused = ("gru.w", "gru.b", *(("head.w", "head.b") if routed_head else ())) if route == "local" else ()
    for names in choices:
        trained = [name for name in names if name in names_of(everything, *used) and not name.startswith(unused or ("-",))]
        token = counted(model, route, trained, 4) - counted(model, route, trained, 3)
        assert token == per_token(model, route, trained) + beyond_the_count(model, route, trained), trained


def test_tags_do_not_matter() -> None:
    model = LanguageModel(V, E, H)
    names = names_of(dict(model.named_parameters()), "global")
    assert per_token(model, "global", names) == per_token(model, "global", ["v/" + name for name in names])


def test_work_counts_what_was_done() -> None:
    bench = harness.Bench(FedAvgOptions(epochs=3, batch_size=2))
    (work,) = bench.local(harness.TRAINING).phases
    tokens = torch.tensor([3 * int(client.train.lengths.sum()) for client in harness.TRAINING], dtype=torch.float64)
    assert torch.equal(work.flops, tokens * per_token(bench.model, "global", bench.state))
    twice = harness.Bench(DittoOptions(epochs=3, batch_size=2)).local(harness.TRAINING).phases
    assert torch.equal(sum((phase.flops for phase in twice), torch.zeros(())), 2 * work.flops)


def test_flow_costs_what_its_phases_cost() -> None:
    bench = harness.Bench(FlowOptions(variant="neurips", epochs=2, batch_size=2))
    clients = bench.able()
    first, second = bench.local(clients).phases
    names = {group: names_of(bench.initial, group) for group in ("global", "local", "router")}
    assert torch.equal(first.flops, first.tokens * per_token(bench.model, "local", names["local"]))
    both = sum(per_token(bench.model, "mixture", names[group]) for group in ("router", "global"))
    assert torch.equal(second.flops, second.tokens * both)
