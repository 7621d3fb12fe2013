"""RoutedGRU computes what torch.nn.GRU and a naive float64 loop compute."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from layer_cases import CASES, LENGTHS, PLAIN, ROTATED, Case, close, naive, packed_input, plain_gru
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from flow_kernels.modules.layer import RoutedGRU

# ---------------------------------------------------------------- against torch.nn.GRU


@settings(max_examples=60, deadline=None)
@given(case=CASES, form=st.sampled_from(["padded", "unbatched", "packed", "packed unsorted"]))
@example(case=ROTATED, form="packed unsorted")
def test_route_global_is_torch_gru(case: Case, form: str) -> None:
    layer = case.layer()
    gru = plain_gru(layer)
    x, hx = case.data()
    input: Any
    if form == "padded":
        input = case.turn(x)
    elif form == "unbatched":
        input, hx = x[:, 0], None if hx is None else hx[:, 0]
    else:
        input = packed_input(case, x, ordered=form == "packed")[0]
    (output, h_n), (expected, h_expected) = layer(input, hx, route="global"), gru(input, hx)
    if isinstance(expected, PackedSequence):
        assert isinstance(output, PackedSequence)
        close(output.data, expected.data)
        for mine, theirs in zip(output[1:], expected[1:], strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs is None or torch.equal(mine, theirs)
    else:
        close(output, expected)
    close(h_n, h_expected)


@pytest.mark.parametrize("form", ["padded", "packed unsorted"])
@pytest.mark.parametrize("with_hx", [False, True])
def test_gradients_of_route_global_are_those_of_torch_gru(form: str, with_hx: bool) -> None:
    grads = []
    layer = PLAIN.layer()
    for module, route in ((layer, {"route": "global"}), (plain_gru(layer), {})):
        x, hx = (a.requires_grad_() for a in PLAIN.data() if a is not None)
        input = x if form == "padded" else packed_input(PLAIN, x, ordered=False)[0]
        output, h_n = module(input, hx if with_hx else None, **route)
        data = output if form == "padded" else output.data
        (data.square().sum() + h_n.sin().sum()).backward()
        named = {n: p.grad for n, p in module.named_parameters() if not n.startswith(("local_", "router_"))}
        grads.append({"x": x.grad, "hx": hx.grad, **named})
    assert grads[0].keys() == grads[1].keys()
    for name, theirs in grads[1].items():
        assert (grads[0][name] is None) == (theirs is None), name
        if theirs is not None:
            close(grads[0][name], theirs)
    assert layer.local_weight_ih_l0.grad is None
    assert layer.router_weight_l0.grad is None


def test_float32_is_as_exact_as_torch_gru() -> None:
    """Against float64, summed over examples: at most twice the error of torch.nn.GRU in float32."""
    ours = theirs = 0.0
    for seed in range(8):
        layer = Case(16, 24, 2, True, False, True, (20,) * 6, True, seed).layer()
        x, hx = Case(16, 24, 2, True, False, True, (20,) * 6, True, seed).data()
        assert hx is not None
        layer, x, hx = layer.float(), x.float(), hx.float()
        gru = plain_gru(layer)
        exact = copy.deepcopy(gru).double()(x.double(), hx.double())[0]
        ours += float((layer(x, hx, route="global")[0] - exact).square().sum().detach())
        theirs += float((gru(x, hx)[0] - exact).square().sum().detach())
    assert ours <= 2**2 * theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_same_seed_same_global_expert(bias: bool, bidirectional: bool) -> None:
    torch.manual_seed(3)
    gru = nn.GRU(3, 5, 2, bias=bias, bidirectional=bidirectional)
    torch.manual_seed(3)
    layer: Any = RoutedGRU(3, 5, 2, bias=bias, bidirectional=bidirectional)
    ours, theirs = layer.state_dict(), gru.state_dict()
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    drawn = torch.cat([p.flatten() for n, p in layer.named_parameters() if n not in theirs])
    assert len(set(drawn.tolist())) > 0.9 * drawn.numel()
    assert drawn.abs().max() <= 5**-0.5
    assert drawn.abs().max() > 0.95 * 5**-0.5


def test_dropout_in_training_is_that_of_torch_gru() -> None:
    layer = RoutedGRU(3, 4, 3, dropout=0.5, bidirectional=True, dtype=torch.float64)
    gru, x = plain_gru(layer), torch.randn(5, 2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    expected = gru(x)[0]
    torch.manual_seed(1)
    close(layer(x, route="global")[0], expected)
    assert not torch.equal(layer(x, route="global")[0], expected)
    layer.eval()
    close(layer(x, route="global")[0], gru.eval()(x)[0])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extreme_dropout(p: float) -> None:
    """1 feeds zeros to the second layer, 0 changes nothing; the last layer's output is never dropped."""
    layer = RoutedGRU(3, 4, 2, dropout=p, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    second = RoutedGRU(4, 4, dtype=torch.float64)
    second.load_state_dict({n.replace("_l1", "_l0"): v for n, v in layer.state_dict().items() if n.endswith("_l1")})
    first = RoutedGRU(3, 4, dtype=torch.float64)
    first.load_state_dict({n: v for n, v in layer.state_dict().items() if n.endswith("_l0")})
    close(layer(x)[0], second(first(x)[0] * (1 - p))[0])
    layer.dropout = 0.0
    close(layer(x)[0], second(first(x)[0])[0])


# ---------------------------------------------------------------- against the naive loop


@settings(max_examples=60, deadline=None)
@given(
    case=CASES,
    route=st.sampled_from(["mixture", "mixture", "mixture", "local"]),
    routing=st.sampled_from(["soft", "hard", "straight_through"]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    form=st.sampled_from(["lengths", "packed", "packed unsorted", "unbatched"]),
)
@example(case=ROTATED, route="mixture", routing="soft", temperature=1.0, form="packed unsorted")
def test_layer_is_the_naive_loop(case: Case, route: str, routing: str, temperature: float, form: str) -> None:
    layer = case.layer(routing=routing, temperature=temperature)
    x, hx = case.data()
    input: Any
    if form == "unbatched":
        expected = naive(layer, x[:, :1], None if hx is None else hx[:, :1], [len(x)], route)
        output, h_n, q = layer(x[:, 0], None if hx is None else hx[:, 0], route=route, return_routing=True)
        for mine, theirs in zip((output, h_n, q), (a.squeeze(-2) for a in expected), strict=True):
            close(mine, theirs)
        return
    lengths, input, more = case.lengths, case.turn(x), {"lengths": torch.tensor(case.lengths)}
    if form != "lengths":
        input, lengths = packed_input(case, x, ordered=form == "packed")
        more = {}
    output, h_n, q = layer(input, hx, route=route, return_routing=True, **more)
    if form == "lengths":
        output, q = case.turn(output), case.turn(q)
    else:
        output = pad_packed_sequence(output)[0]
    for mine, theirs in zip((output, h_n, q), naive(layer, x, hx, list(lengths), route), strict=True):
        close(mine, theirs)


def test_forward_returns_two_or_three() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    two, three = layer(x, hx), layer(x, hx, return_routing=True)
    assert len(two) == 2
    assert len(three) == 3
    assert torch.equal(two[0], three[0])
    assert three[2].shape == (4, 5, 4, 2)
    close(three[2].sum(-1), torch.ones(4, 5, 4, dtype=torch.float64))


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_lies_past_a_length_is_never_read(batch_first: bool) -> None:
    case = Case(3, 4, 2, True, batch_first, True, LENGTHS, True, 5)
    layer, (x, hx) = case.layer(), case.data()
    padding = torch.arange(5)[:, None] >= torch.tensor(LENGTHS)
    results = []
    for filler in (0.0, float("nan"), 1e9):
        filled = case.turn(torch.where(padding[..., None], filler, x)).requires_grad_()
        output, h_n, q = layer(filled, hx, lengths=torch.tensor(LENGTHS), return_routing=True)
        gradient = torch.autograd.grad(output.sum() + h_n.sum() + q[..., 0].sum(), filled)[0]
        results.append((case.turn(output), h_n, case.turn(q), case.turn(gradient)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    output, _, q, gradient = results[0]
    assert not output[padding].any()
    assert not q[:, padding].any()
    assert not gradient[padding].any()
    assert gradient[~padding].all()


def test_gradients_of_the_mixture() -> None:
    case = Case(2, 3, 2, True, True, True, (1, 3), True, 2)
    layer, (x, hx) = case.layer(temperature=0.7), case.data()
    assert hx is not None
    names = [name for name, _ in layer.named_parameters()]

    def run(*tensors: Tensor) -> Any:
        weights = dict(zip(names, tensors[2:], strict=True))
        options = {"lengths": torch.tensor(case.lengths), "return_routing": True}
        return torch.func.functional_call(layer, weights, tensors[:2], options)

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, (case.turn(x).requires_grad_(), hx.requires_grad_(), *parameters))


def test_hx_none_is_zeros_and_inputs_stay_untouched() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    assert hx is not None
    assert torch.equal(layer(x)[0], layer(x, torch.zeros_like(hx))[0])
    kept = x.clone(), hx.clone()
    wide = torch.randn(4, 4, 8, dtype=torch.float64)
    layer(x, hx)
    assert torch.equal(x, kept[0])
    assert torch.equal(hx, kept[1])
    close(layer(x, wide[..., ::2])[0], layer(x, wide[..., ::2].contiguous())[0])
    far = torch.randn(4, 5, 6, dtype=torch.float64).permute(1, 0, 2)[..., ::2]
    close(layer(far, hx)[0], layer(far.contiguous(), hx)[0])


def test_temperature_and_routing_may_change_later() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    layer.temperature, layer.routing = 0.25, "hard"
    close(layer(x, hx)[0], naive(layer, x, hx, [5] * 4, "mixture")[0])
    layer.temperature = 0.0
    with pytest.raises(ValueError, match=r"temperature must be a finite number > 0, got 0\.0"):
        layer(x, hx)


# ---------------------------------------------------------------- many clients


@settings(max_examples=25, deadline=None)
@given(case=CASES, clients=st.integers(1, 4), route=st.sampled_from(["mixture", "global"]), padded=st.booleans())
def test_clients_are_layers_side_by_side(case: Case, clients: int, route: str, padded: bool) -> None:
    """Same seed, same parameters and same numbers as K layers made one after the other."""
    many = case.layer(num_clients=clients)
    torch.manual_seed(case.seed)
    single = [RoutedGRU(**case.options()) for _ in range(clients)]
    for name, parameter in many.named_parameters():
        assert torch.equal(parameter, torch.stack([getattr(layer, name) for layer in single])), name
    x, hx = case.data()
    xs = torch.stack([case.turn(x) * (k + 1) for k in range(clients)])
    hxs = None if hx is None else torch.stack([hx * (k - 1) for k in range(clients)])
    lengths = torch.stack([torch.tensor(case.lengths).roll(k) for k in range(clients)]) if padded else None
    result = many(xs, hxs, route=route, return_routing=True, lengths=lengths)
    for k, layer in enumerate(single):
        own = None if lengths is None else lengths[k]
        expected = layer(xs[k], None if hxs is None else hxs[k], route=route, return_routing=True, lengths=own)
        for mine, theirs in zip(result, expected, strict=True):
            close(mine[k], theirs)


def test_clients_do_not_touch_each_other() -> None:
    layer = RoutedGRU(3, 4, num_clients=3)
    x = torch.randn(3, 5, 2, 3, requires_grad=True)
    layer(x)[0][1].sum().backward()
    for parameter in (*layer.parameters(), x):
        assert parameter.grad is not None
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.randn(5, 2, 3),), ValueError, "Expected input to be 4D with num_clients=2, .* got 3D"),
        ((torch.randn(3, 5, 2, 3),), RuntimeError, r"input.size\(0\) must be equal to num_clients. Expected 2, got 3"),
        ((torch.randn(2, 5, 2, 7),), RuntimeError, "Expected 3, got 7"),
        ((torch.randn(2, 5, 2, 3), torch.randn(1, 2, 4)), RuntimeError, "hx should also be 4-D but got 3-D"),
        (
            (torch.randn(2, 5, 2, 3), torch.randn(2, 1, 3, 4)),
            RuntimeError,
            r"Expected hidden size \(2, 1, 2, 4\), got \[2, 1, 3, 4\]",
        ),
        ((pack_sequence([torch.randn(5, 3)]),), ValueError, "PackedSequence cannot .* num_clients=2"),
    ],
)
def test_errors_with_clients(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RoutedGRU(3, 4, num_clients=2)(*args)
