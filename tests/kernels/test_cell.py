"""RoutedGRUCell: the layer step by step, and torch.nn.GRUCell."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from layer_cases import CASES, Case, caught, close
from torch import nn
from torch.nn.utils import parametrizations

from flow_kernels.modules.cell import RoutedGRUCell
from flow_kernels.modules.layer import RoutedGRU


@settings(max_examples=25, deadline=None)
@given(case=CASES, clients=st.sampled_from([None, 2]), route=st.sampled_from(["mixture", "global", "local"]))
def test_stepping_the_cell_is_the_layer(case: Case, clients: int | None, route: str) -> None:
    layer = case.layer(num_clients=clients, temperature=0.8)
    x, hx = case.data()
    if clients:
        x, hx = torch.stack([x, -x]), None if hx is None else torch.stack([hx, 2 * hx])
    output, h_n, q = layer(case.turn(x), hx, route=route, return_routing=True)
    output, q = case.turn(output), case.turn(q)
    directions = 2 if case.bidirectional else 1
    below = x
    for n in range(case.layers):
        above = []
        for d in range(directions):
            cell = RoutedGRUCell.from_layer(layer, n, reverse=d == 1)
            h = None if hx is None else hx.select(-3, n * directions + d)
            states = {}
            for t in range(x.shape[-3])[:: -1 if d else 1]:
                h, mix = cell(below.select(-3, t), h, route=route, return_routing=True)
                close(mix, q.select(-4, n * directions + d).select(-3, t))
                states[t] = h
            close(h, h_n.select(-3, n * directions + d))
            above.append(torch.stack([states[t] for t in sorted(states)], -3))
        below = torch.cat(above, -1)
    close(below, output)


@pytest.mark.parametrize("bias", [False, True])
def test_cell_with_route_global_is_torch_gru_cell(bias: bool) -> None:
    torch.manual_seed(0)
    gru = nn.GRUCell(3, 4, bias, dtype=torch.float64)
    torch.manual_seed(0)
    cell = RoutedGRUCell(3, 4, bias, dtype=torch.float64)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for args in ((x, h), (x,), (x[0], h[0]), (x[0],)):
        close(cell(*args, route="global"), gru(*args))
    for name, value in gru.named_parameters():
        assert torch.equal(getattr(cell, name), value)
    assert (cell.bias_ih is None) == (gru.bias_ih is None) == (cell.router_bias is None) == (not bias)
    state, q = cell(x[0], h[0], return_routing=True)
    assert state.shape == (4,)
    assert q.shape == (2,)
    with pytest.warns(UserWarning, match="RoutedGRUCell: the checkpoint is one of a plain GRU"):
        cell.load_state_dict(gru.state_dict())
    close(cell(x, h), gru(x, h))


def test_cell_from_layer_is_a_copy() -> None:
    layer: Any = RoutedGRU(3, 4, 2, bidirectional=True, temperature=0.5, routing="hard", backend="reference").eval()
    layer.local_weight_hh_l1.requires_grad_(False)
    parametrizations.weight_norm(layer, "weight_ih_l1")
    state = torch.get_rng_state()
    cell: Any = RoutedGRUCell.from_layer(layer, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert repr(cell) == "RoutedGRUCell(8, 4, temperature=0.5, routing=hard, backend=reference)"
    assert not cell.training
    assert not cell.local_weight_hh.requires_grad
    assert len(list(cell.parameters())) == 10
    torch.testing.assert_close(cell.weight_ih, layer.weight_ih_l1)
    with torch.no_grad():
        cell.weight_hh.zero_()
    assert layer.weight_hh_l1.any()
    with pytest.raises(ValueError, match=r"layer_index must lie in 0..1, got 2"):
        RoutedGRUCell.from_layer(layer, 2)
    with pytest.raises(ValueError, match="bidirectional=True"):
        RoutedGRUCell.from_layer(RoutedGRU(3, 4), reverse=True)


@pytest.mark.parametrize(
    "args",
    [
        (torch.randn(2, 7),),
        (torch.randn(2, 2, 3),),
        (torch.tensor(1.0),),
        (torch.randn(2, 3), torch.randn(3, 4)),
        (torch.randn(2, 3), torch.randn(2, 5)),
        (torch.randn(2, 3), torch.randn(2, 3, 4)),
    ],
)
def test_cell_errors_are_those_of_torch_gru_cell(args: tuple[Any, ...]) -> None:
    ours, theirs = caught(lambda: RoutedGRUCell(3, 4)(*args)), caught(lambda: nn.GRUCell(3, 4)(*args))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


@pytest.mark.parametrize(
    ("clients", "args", "error", "message"),
    [
        (None, (torch.randn(2, 3), torch.randn(4)), RuntimeError, "For 2-D input, hx should also be 2-D but got 1-D"),
        (None, (torch.randn(3), torch.randn(1, 4)), RuntimeError, "For 1-D input, hx should also be 1-D but got 2-D"),
        (None, (torch.randn(2, 3).double(),), RuntimeError, "dtype"),
        (2, (torch.randn(2, 3),), ValueError, "Expected input to be 3D with a leading num_clients=2"),
        (2, (torch.randn(3, 2, 3),), ValueError, r"leading num_clients=2, got \[3, 2, 3\]"),
        (2, (torch.randn(2, 2, 3), torch.randn(2, 4)), ValueError, "Expected hidden to be 3D"),
    ],
)
def test_cell_errors_of_our_own(clients: int | None, args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RoutedGRUCell(3, 4, num_clients=clients)(*args)
