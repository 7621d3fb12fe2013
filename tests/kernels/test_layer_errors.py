"""RoutedGRU refuses what torch.nn.GRU refuses, with the same words, and its own wrong arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import PACKED, caught
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from flow_kernels.modules.cell import RoutedGRUCell
from flow_kernels.modules.layer import RoutedGRU

WIDE = pack_sequence([torch.randn(4, 7)])


def shapes(args: tuple[Any, ...]) -> str:
    """Names of the cases: the numbers in them are random."""
    return " ".join(f"{type(a).__name__} {list(getattr(a, 'data', a).shape)}" for a in args)


@pytest.mark.parametrize(
    "args",
    [
        (torch.randn(2),),
        (torch.randn(2, 2, 2, 3),),
        (torch.randn(2, 2, 7),),
        (torch.randn(2, 7),),
        (torch.randn(0, 2, 3),),
        (torch.randn(0, 3),),
        (torch.randn(2, 2, 3, dtype=torch.float64),),
        (torch.ones(2, 2, 3, dtype=torch.int64),),
        (torch.randn(2, 2, 3), torch.randn(1, 3, 4)),
        (torch.randn(2, 2, 3), torch.randn(1, 2, 5)),
        (torch.randn(2, 2, 3), torch.randn(2, 2, 4)),
        (torch.randn(2, 2, 3), torch.randn(2, 4)),
        (torch.randn(2, 3), torch.randn(1, 1, 4)),
        (torch.randn(2, 3), torch.randn(2, 4)),
        (WIDE,),
        (PACKED.to(torch.float64),),
        (PACKED, torch.randn(2, 2, 4)),
        (PackedSequence(torch.randn(4, 2, 3), torch.tensor([4])),),
    ],
    ids=shapes,
)
def test_forward_errors_are_those_of_torch_gru(args: tuple[Any, ...]) -> None:
    ours, theirs = caught(lambda: RoutedGRU(3, 4)(*args)), caught(lambda: nn.GRU(3, 4)(*args))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


@pytest.mark.parametrize(
    "args",
    [
        (torch.randn(2, 2, 3), torch.randn(1, 2, 4, dtype=torch.float64)),
        (torch.randn(2, 2, 3), torch.randn(1, 2, 4, device="meta")),
        (torch.randn(2, 2, 3, device="meta"),),
        (PACKED, torch.randn(1, 1, 4)),
        (PACKED, torch.randn(2, 4)),
    ],
)
def test_further_forward_errors_have_the_type_of_torch_gru(args: tuple[Any, ...]) -> None:
    assert type(caught(lambda: RoutedGRU(3, 4)(*args))) is type(caught(lambda: nn.GRU(3, 4)(*args)))


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": 0},
        {"input_size": -1},
        {"input_size": 3.0},
        {"hidden_size": 0},
        {"hidden_size": "4"},
        {"num_layers": 0},
        {"num_layers": -2},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"dropout": True},
        {"bias": 1},
        {"batch_first": "yes"},
    ],
)
def test_constructor_errors_are_those_of_torch_gru(options: dict[str, Any]) -> None:
    options = {"input_size": 3, "hidden_size": 4} | options
    ours, theirs = caught(lambda: RoutedGRU(**options)), caught(lambda: nn.GRU(**options))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


def test_dropout_of_a_single_layer_warns_like_torch_gru() -> None:
    with pytest.warns(UserWarning, match="dropout") as theirs:
        nn.GRU(3, 4, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout") as ours:
        RoutedGRU(3, 4, dropout=0.5)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
    assert ours[0].filename == __file__


@pytest.mark.parametrize("make", [lambda **o: RoutedGRU(3, 4, **o), lambda **o: RoutedGRUCell(3, 4, **o)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": -1}, "temperature must be a finite number > 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be a finite number > 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number > 0, got inf"),
        ({"routing": "top1"}, "routing must be one of 'soft', 'hard', 'straight_through', got 'top1'"),
        ({"num_clients": 0}, "num_clients must be None or an integer >= 1, got 0"),
        ({"num_clients": True}, "num_clients must be None or an integer >= 1, got True"),
        ({"num_clients": 2.0}, "num_clients must be None or an integer >= 1, got 2.0"),
        ({"backend": "quantum"}, "backend must be one of 'auto', .*, got 'quantum'"),
    ],
)
def test_constructor_errors_of_our_own(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"route": "server"}, ValueError, "route must be one of 'mixture', 'global', 'local', got 'server'"),
        ({"lengths": torch.tensor([1, 6])}, ValueError, "every length must lie in 1..T = 1..5, got 6"),
        ({"lengths": torch.tensor([0, 5])}, ValueError, "every length must lie in 1..T = 1..5, got 0"),
        ({"lengths": torch.tensor([1])}, RuntimeError, "lengths has dtype torch.int64 and shape"),
        ({"lengths": torch.tensor([1.0, 2.0])}, RuntimeError, "lengths has dtype torch.float32"),
    ],
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_forward_errors_of_our_own(options: dict[str, Any], error: type[Exception], message: str, bidirectional: bool) -> None:
    with pytest.raises(error, match=message):
        RoutedGRU(3, 4, bidirectional=bidirectional)(torch.randn(5, 2, 3), **options)


@pytest.mark.parametrize(("input", "message"), [(torch.randn(5, 3), "unbatched 2-D"), (PACKED, "PackedSequence")])
def test_lengths_go_with_padded_batches_only(input: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutedGRU(3, 4)(input, lengths=torch.tensor([1, 2]))
