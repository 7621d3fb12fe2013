"""flow_kernels.GRU and GRUCell take the place of torch.nn.GRU and GRUCell: numbers, gradients, state_dicts, transforms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import CASES, PACKED, Case, caught, close, packed_input
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import PackedSequence

import flow_kernels
from flow_kernels import GRU, GRUCell, RoutedGRU, RoutedGRUCell


def pair(case: Case, **options: Any) -> tuple[Any, Any]:
    """Ours and torch's after the same seed."""
    made = []
    for kind, more in ((GRU, options), (nn.GRU, {})):
        torch.manual_seed(case.seed)
        made.append(kind(**case.options(), **more))
    return made[0], made[1]


@settings(max_examples=60, deadline=None)
@given(case=CASES, form=st.sampled_from(["padded", "unbatched", "packed", "packed unsorted"]))
def test_numbers_and_gradients_are_those_of_torch_gru(case: Case, form: str) -> None:
    results = []
    for module in pair(case):
        x, hx = case.data()
        hx = None if hx is None else hx.requires_grad_()
        x = x.requires_grad_()
        input: Any = case.turn(x)
        given = hx
        if form == "unbatched":
            input, given = x[:, 0], None if hx is None else hx[:, 0]
        elif form != "padded":
            input = packed_input(case, x, ordered=form == "packed")[0]
        output, h_n = module(input, given)
        data = output.data if isinstance(output, PackedSequence) else output
        assert type(output) is type(input)
        (data.square().sum() + h_n.sin().sum()).backward()
        results.append([data, h_n, x.grad, None if hx is None else hx.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            close(ours, theirs)


@pytest.mark.parametrize(("batch", "steps", "inputs", "hidden"), [(1, 1, 1, 1), (3, 7, 5, 17), (17, 20, 9, 65)])
def test_float32_is_as_exact_as_torch_gru(batch: int, steps: int, inputs: int, hidden: int) -> None:
    """Against float64: at most twice the error of torch.nn.GRU in float32 over several draws, gradients too."""
    errors: dict[str, list[float]] = {}
    for seed in range(6):
        torch.manual_seed(seed)
        theirs = nn.GRU(inputs, hidden)
        ours = GRU(inputs, hidden)
        ours.load_state_dict(theirs.state_dict())
        exact = copy.deepcopy(theirs).double()
        x = torch.randn(steps, batch, inputs)
        results: list[dict[str, Any]] = []
        for module, dtype in ((ours, torch.float32), (theirs, torch.float32), (exact, torch.float64)):
            leaf = x.to(dtype).detach().clone().requires_grad_()
            output, h_n = module(leaf)
            (output.square().sum() + h_n.sum()).backward()
            named = {n: p.grad for n, p in module.named_parameters()}
            results.append({"output": output.detach(), "h_n": h_n.detach(), "x": leaf.grad, **named})
        for name, want in results[2].items():
            sums = errors.setdefault(name, [0.0, 0.0, 0.0])
            for side in (0, 1):
                sums[side] += float((results[side][name].double() - want).square().mean())
            sums[2] = max(sums[2], float(want.abs().max()))
    for name, (mine, other, scale) in errors.items():
        assert mine <= (2 * other**0.5 + 4 * 6**0.5 * torch.finfo(torch.float32).eps * scale) ** 2, name


def test_the_same_seed_gives_the_same_parameters_and_the_same_state_dict() -> None:
    for options in ({}, {"bias": False}, {"num_layers": 3, "bidirectional": True}):
        torch.manual_seed(4)
        ours: Any = GRU(3, 4, **options)
        torch.manual_seed(4)
        theirs: Any = nn.GRU(3, 4, **options)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert repr(ours) == repr(theirs)
        assert [[w.shape for w in ws] for ws in ours.all_weights] == [[w.shape for w in ws] for ws in theirs.all_weights]
    torch.manual_seed(4)
    cell = GRUCell(3, 4)
    torch.manual_seed(4)
    other = nn.GRUCell(3, 4)
    assert list(cell.state_dict()) == list(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(cell.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_go_both_ways_in_silence(assign: bool, recwarn: pytest.WarningsRecorder) -> None:
    ours, theirs = GRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict(), assign=assign)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    third = nn.GRU(3, 4, 2, bidirectional=True)
    third.load_state_dict(ours.state_dict(), assign=assign)
    assert torch.equal(third(x)[0], theirs(x)[0])
    assert not recwarn.list


def test_checkpoints_between_one_expert_and_two() -> None:
    routed: Any = RoutedGRU(3, 4)
    plain: Any = GRU(3, 4)
    warning = "GRU: the checkpoint is one of a RoutedGRU or RoutedGRUCell, with two experts and a router"
    with pytest.warns(UserWarning, match=warning), pytest.raises(RuntimeError, match=r"Unexpected key.*local_weight_ih_l0"):
        plain.load_state_dict(routed.state_dict())
    plain.load_state_dict({n: v for n, v in routed.state_dict().items() if not n.startswith(("local_", "router_"))})
    x = torch.randn(5, 2, 3)
    assert torch.equal(plain(x)[0], routed(x, route="global")[0])
    with pytest.warns(UserWarning, match=warning):
        plain.load_state_dict(routed.state_dict(), strict=False)
    with pytest.warns(UserWarning, match="plain GRU"):
        RoutedGRU(3, 4).load_state_dict(plain.state_dict())
    with pytest.warns(UserWarning, match="GRUCell: the checkpoint is"), pytest.raises(RuntimeError, match="Unexpected key"):
        GRUCell(3, 4).load_state_dict(RoutedGRUCell(3, 4).state_dict())
    many: Any = GRU(3, 4, num_clients=3)
    with pytest.warns(UserWarning, match="GRU: the checkpoint holds one model; each of the 3 clients"):
        many.load_state_dict(plain.state_dict())
    assert torch.equal(many(torch.stack([x] * 3))[0][1], plain(x)[0])


def test_every_parameter_gets_a_gradient() -> None:
    """The recipe that fails where a route leaves parameters out."""
    layer = GRU(3, 4)
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    with torch.no_grad():
        for p in layer.parameters():
            assert p.grad is not None
            p.add_(p.grad, alpha=-0.1)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_vmap_over_stacked_weights_and_per_sample_gradients(options: dict[str, Any]) -> None:
    layer = GRU(3, 5, dtype=torch.float64, **options)
    oracle = nn.GRU(3, 5, dtype=torch.float64, **options)
    stacked = {n: torch.stack([p.detach() * (1 + 0.1 * k) for k in range(3)]) for n, p in layer.named_parameters()}
    xs = torch.randn(3, 4, 2, 3, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output, h_n = functional_call(layer, parameters, (x,))
        value: Tensor = output.square().sum() + h_n.sum()
        return value

    outputs = vmap(lambda p, x: functional_call(layer, p, (x,)))(stacked, xs)
    many = vmap(grad(loss))(stacked, xs)
    shared = {n: p.detach() for n, p in layer.named_parameters()}
    each = vmap(grad(loss), in_dims=(None, 0))(shared, xs)
    for k in range(3):
        for weights, gradients in (({n: p[k] for n, p in stacked.items()}, many), (shared, each)):
            oracle.load_state_dict(weights)
            oracle.zero_grad()
            output, h_n = oracle(xs[k])
            (output.square().sum() + h_n.sum()).backward()
            for name, parameter in oracle.named_parameters():
                close(gradients[name][k], parameter.grad)
            if weights is not shared:
                close(outputs[0][k], output.detach())
                close(outputs[1][k], h_n.detach())


def test_clients_are_layers_of_torch_side_by_side() -> None:
    torch.manual_seed(0)
    many = GRU(3, 5, num_clients=4, batch_first=True, bidirectional=True, dtype=torch.float64)
    torch.manual_seed(0)
    single = [nn.GRU(3, 5, batch_first=True, bidirectional=True, dtype=torch.float64) for _ in range(4)]
    x = torch.randn(4, 2, 6, 3, dtype=torch.float64)
    output, h_n = many(x)
    for k, gru in enumerate(single):
        want, state = gru(x[k])
        close(output[k], want)
        close(h_n[k], state)


def test_lengths_are_those_of_a_packed_sequence() -> None:
    layer = GRU(3, 4, bidirectional=True)
    lengths = torch.tensor([1, 4])
    padded, lens = nn.utils.rnn.pad_packed_sequence(PACKED)
    assert torch.equal(lens, lengths)
    output, h_n = layer(padded, lengths=lengths)
    want, state = layer(PACKED)
    torch.testing.assert_close(output, nn.utils.rnn.pad_packed_sequence(want)[0])
    torch.testing.assert_close(h_n, state)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiled_and_exported(backend: str) -> None:
    torch._dynamo.reset()
    layer = GRU(3, 4, backend=backend).eval()
    x = torch.randn(3, 2, 3)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], layer(x)[0])
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x)[0], layer(x)[0])


def test_copies_autocast_and_dropout() -> None:
    layer = GRU(3, 4, 2, dropout=0.5, dtype=torch.float64)
    gru = nn.GRU(3, 4, 2, dropout=0.5, dtype=torch.float64)
    gru.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    got = layer(x)[0]
    torch.manual_seed(1)
    close(got, gru(x)[0])
    assert torch.equal(copy.deepcopy(layer).eval()(x)[0], layer.eval()(x)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(x.float())[0].dtype == torch.bfloat16
    layer.flatten_parameters()


@pytest.mark.parametrize("bias", [True, False, 1, 0])
def test_cell_is_torch_gru_cell(bias: Any) -> None:
    ours, theirs = GRUCell(3, 4, bias, dtype=torch.float64), nn.GRUCell(3, 4, bias, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, h = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    for args in ((x, h), (x,), (x[0], h[0]), (x[0],)):
        close(ours(*args), theirs(*args))
    got = torch.autograd.grad(ours(x, h).square().sum(), [x, h, *ours.parameters()])
    want = torch.autograd.grad(theirs(x, h).square().sum(), [x, h, *theirs.parameters()])
    for a, b in zip(got, want, strict=True):
        close(a, b)


def test_cell_from_a_layer() -> None:
    layer = GRU(3, 4, 2, bidirectional=True, backend="reference")
    cell = GRUCell.from_layer(layer, 1, reverse=True)
    assert repr(cell) == "GRUCell(8, 4, backend=reference)"
    assert torch.equal(cell.get_parameter("weight_hh"), layer.get_parameter("weight_hh_l1_reverse"))
    routed = RoutedGRU(3, 4)
    x = torch.randn(2, 3)
    torch.testing.assert_close(GRUCell.from_layer(routed)(x), routed(x.unsqueeze(0), route="global")[0][0])
    with pytest.raises(TypeError, match=r"RoutedGRUCell.from_layer: layer is a GRU without 'temperature'; pass a .*RoutedGRU"):
        RoutedGRUCell.from_layer(layer)
    with pytest.raises(TypeError, match=r"GRUCell.from_layer: layer is a GRU without 'num_clients'; pass a flow_kernels.GRU"):
        GRUCell.from_layer(nn.GRU(3, 4))


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": 0},
        {"hidden_size": 0},
        {"hidden_size": "4"},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"bias": 1},
        {"proj_size": 2},
        {"batch_first": "yes"},
    ],
    ids=str,
)
def test_constructor_errors_are_those_of_torch_gru(options: dict[str, Any]) -> None:
    options = {"input_size": 3, "hidden_size": 4} | options
    ours, theirs = caught(lambda: GRU(**options)), caught(lambda: nn.GRU(**options))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


def test_options_of_routing_are_not_for_one_expert() -> None:
    with pytest.raises(TypeError, match="GRU has no argument 'temperature'; the options of routing belong to RoutedGRU"):
        GRU(3, 4, temperature=1.0)
    with pytest.raises(ValueError, match="num_clients must be None or an integer >= 1, got 0"):
        GRU(3, 4, num_clients=0)
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 2, 4\), got \[1, 3, 4\]"):
        GRU(3, 4)(torch.randn(5, 2, 3), torch.randn(1, 3, 4))
    assert {"GRU", "GRUCell"} <= set(flow_kernels.__all__)
