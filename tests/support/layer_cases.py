"""What the tests of the layer share: a naive float64 layer, the cases and small helpers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from flow_kernels.call import Weights
from flow_kernels.modules.layer import RoutedGRU

NAMES = Weights._fields
# float64: some thousand units in the last place of 1, for at most 45 steps of dot products of 15 terms
ROUNDING = 1e-12


def _sigmoid(a: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-a))


def _expert(x: np.ndarray, h: np.ndarray, w: dict[str, np.ndarray], kind: str) -> Any:
    n = len(h)
    a = w[kind + "weight_ih"] @ x + w.get(kind + "bias_ih", 0)
    b = w[kind + "weight_hh"] @ h + w.get(kind + "bias_hh", 0)
    r, z = _sigmoid(a[:n] + b[:n]), _sigmoid(a[n : 2 * n] + b[n : 2 * n])
    return (1 - z) * np.tanh(a[2 * n :] + r * b[2 * n :]) + z * h


def _router(x: np.ndarray, h: np.ndarray, w: dict[str, np.ndarray], routing: str, temperature: float) -> Any:
    s = (w["router_weight"] @ np.concatenate([x, h]) + w.get("router_bias", 0)) / temperature
    soft = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
    return soft if routing == "soft" else np.array([1.0, 0.0] if s[0] >= s[1] else [0.0, 1.0])


def naive(
    layer: RoutedGRU, x: Tensor, hx: Tensor | None, lengths: list[int], route: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [T, B, I] -> output [T, B, D * H], h_n [L * D, B, H], q [L * D, T, B, 2]"""
    state = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    directions, hidden = 2 if layer.bidirectional else 1, layer.hidden_size
    below, (steps, batch, _) = x.double().numpy(), x.shape
    h_n = np.zeros((layer.num_layers * directions, batch, hidden))
    q = np.zeros((layer.num_layers * directions, steps, batch, 2))
    for n in range(layer.num_layers):
        above = np.zeros((steps, batch, directions * hidden))
        for d in range(directions):
            suffix = f"_l{n}" + ("_reverse" if d else "")
            w = {name: state[name + suffix] for name in NAMES if name + suffix in state}
            for b in range(batch):
                h = np.zeros(hidden) if hx is None else hx[n * directions + d, b].double().numpy()
                for t in range(lengths[b])[:: -1 if d else 1]:
                    mix = {"global": np.array([1.0, 0.0]), "local": np.array([0.0, 1.0])}.get(route)
                    if mix is None:
                        mix = _router(below[t, b], h, w, layer.routing, layer.temperature)
                    h = mix[0] * _expert(below[t, b], h, w, "") + mix[1] * _expert(below[t, b], h, w, "local_")
                    above[t, b, d * hidden : (d + 1) * hidden] = h
                    q[n * directions + d, t, b] = mix
                h_n[n * directions + d, b] = h
        below = above
    return below, h_n, q


@dataclass(frozen=True)
class Case:
    inputs: int
    hidden: int
    layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    lengths: tuple[int, ...]  # of the batch; the longest is T
    with_hx: bool
    seed: int

    def options(self) -> dict[str, Any]:
        return {
            "input_size": self.inputs,
            "hidden_size": self.hidden,
            "num_layers": self.layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "bidirectional": self.bidirectional,
            "dtype": torch.float64,
        }

    def layer(self, **options: Any) -> Any:
        torch.manual_seed(self.seed)
        return RoutedGRU(**self.options(), **options)

    def data(self) -> tuple[Tensor, Tensor | None]:
        """x [T, B, I] and hx [L * D, B, H]"""
        torch.manual_seed(self.seed + 1)
        x = torch.randn(max(self.lengths), len(self.lengths), self.inputs, dtype=torch.float64)
        shape = (self.layers * (2 if self.bidirectional else 1), len(self.lengths), self.hidden)
        return x, torch.randn(shape, dtype=torch.float64) if self.with_hx else None

    def turn(self, x: Tensor) -> Tensor:
        """[.., T, B, C] to the order of the layer's input, and back"""
        return x.transpose(-3, -2).contiguous() if self.batch_first else x


CASES = st.builds(
    Case,
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 5),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    with_hx=st.booleans(),
    seed=st.integers(0, 2**31),
)
LENGTHS = (3, 5, 1, 5)
# sorting these is a rotation: unlike for an exchange, the permutation and its inverse differ
ROTATED = Case(3, 4, 2, True, True, True, (1, 3, 2), True, 11)
PLAIN = Case(3, 4, 2, True, False, True, LENGTHS, True, 7)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=ROUNDING)


def plain_gru(layer: RoutedGRU) -> nn.GRU:
    """A torch.nn.GRU with the global expert's weights."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    gru = nn.GRU(**{name: getattr(layer, name) for name in names}, dtype=layer.weight_ih_l0.dtype)
    gru.load_state_dict({name: layer.state_dict()[name] for name in gru.state_dict()})
    return gru.train(layer.training)


def packed_input(case: Case, x: Tensor, ordered: bool) -> tuple[PackedSequence, tuple[int, ...]]:
    lengths = tuple(sorted(case.lengths, reverse=True)) if ordered else case.lengths
    return pack_padded_sequence(case.turn(x), torch.tensor(lengths), case.batch_first, enforce_sorted=ordered), lengths


PACKED = pack_sequence([torch.randn(1, 3), torch.randn(4, 3)], enforce_sorted=False)


def caught(action: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - which one is what the caller compares
        action()
    return info.value
