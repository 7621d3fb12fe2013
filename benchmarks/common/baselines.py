"""The routed GRU as a PyTorch user would write it, in three ways. Each takes the weights of one layer in the order of its
parameters: w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H] of every expert, then, with two experts, the router's weight
[2, I + H] and bias [2]; its own parameters come in the same order. With one expert nothing is routed: an ordinary GRU.

All: x [T, B, I] -> [T, B, H], starting from zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

GRU_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class CellLoop(nn.Module):
    """A loop over time of one GRUCell for each expert and a linear router."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs, self.hidden = weights[0].shape[1], weights[1].shape[1]
        experts = [weights[n : n + 4] for n in range(0, 8 if len(weights) > 4 else 4, 4)]
        self.experts = nn.ModuleList(nn.GRUCell(self.inputs, self.hidden, dtype=w[0].dtype) for w in experts)
        self.router = nn.Linear(self.inputs + self.hidden, 2, dtype=weights[0].dtype) if len(weights) > 4 else None
        copy(self, weights)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """x [B, I], h [B, H] -> the next h."""
        if self.router is None:
            state: Tensor = self.experts[0](x, h)
            return state
        q = torch.softmax(self.router(torch.cat([x, h], dim=1)), dim=1)
        mixed: Tensor = q[:, :1] * self.experts[0](x, h) + q[:, 1:] * self.experts[1](x, h)
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[1], self.hidden)
        out = []
        for xt in x.unbind(0):
            h = self.step(xt, h)
            out.append(h)
        return torch.stack(out)


class HoistedLoop(CellLoop):
    """The same with the fewest possible products. One product before the loop computes the input's share of every gate of both
    experts and of the router for all steps. One product a step computes the state's share.

    The hoisted product is unbound, not indexed by t: the gradient of each index would be a tensor of its full size."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, count = self.hidden, len(self.experts)
        w_ih, w_hh, b_ih, b_hh = ([getattr(e, name) for e in self.experts] for name in GRU_NAMES)
        if self.router is not None:
            w_ih.append(self.router.weight[:, : self.inputs])
            w_hh.append(self.router.weight[:, self.inputs :])
            b_ih.append(self.router.bias)
            b_hh.append(torch.zeros_like(self.router.bias))
        from_x = linear(x, torch.cat(w_ih), torch.cat(b_ih))
        weight, bias, gates = torch.cat(w_hh).t(), torch.cat(b_hh), 3 * hidden * count
        h = x.new_zeros(x.shape[1], hidden)
        out = []
        for a in from_x.unbind(0):
            b = torch.addmm(bias, h, weight)
            ax, bh = (s[:, :gates].unflatten(1, (count, 3, hidden)) for s in (a, b))
            r, z = torch.sigmoid(ax[:, :, :2] + bh[:, :, :2]).unbind(2)
            n = torch.tanh(ax[:, :, 2] + r * bh[:, :, 2])
            mixed = n + z * (h.unsqueeze(1) - n)  # [B, experts, H]
            if self.router is None:
                h = mixed[:, 0]
            else:
                q = torch.softmax(a[:, gates:] + b[:, gates:], dim=1)
                h = (q.unsqueeze(2) * mixed).sum(1)
            out.append(h)
        return torch.stack(out)


class PlainGRUs(nn.Module):
    """torch.nn.GRU once for each expert, outputs summed. Nothing is mixed inside the recurrence, so with two experts this is
    another function: what routing would cost at least if torch's own layer did it."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        inputs, hidden, dtype = weights[0].shape[1], weights[1].shape[1], weights[0].dtype
        self.layers = nn.ModuleList(nn.GRU(inputs, hidden, dtype=dtype) for _ in range(2 if len(weights) > 4 else 1))
        copy(self, weights[: 4 * len(self.layers)])

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [layer(x)[0] for layer in self.layers]
        return outputs[0] + outputs[1] if len(outputs) > 1 else outputs[0]


class PerClient(nn.Module):
    """One module for each client: x [K, T, B, I] -> [K, T, B, H]. Weights come with a leading K."""

    def __init__(self, kind: Callable[[Sequence[Tensor]], nn.Module], weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.clients = nn.ModuleList(kind([w[k] for w in weights]) for k in range(len(weights[0])))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([client(xk) for client, xk in zip(self.clients, x.unbind(0), strict=True)])


def copy(module: nn.Module, weights: Sequence[Tensor]) -> None:
    """Fill the module's parameters, in their order."""
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)


KINDS = {"eager": CellLoop, "hoisted": HoistedLoop, "GRU": PlainGRUs}


def build(kind: str, weights: Sequence[Tensor]) -> nn.Module:
    """The baseline of that name over these weights; with a leading K on them, one for each client."""
    return PerClient(KINDS[kind], weights) if weights[0].dim() == 3 else KINDS[kind](weights)


def task(
    module: Callable[..., Tensor], parameters: Sequence[Tensor], x: Tensor, grad: Tensor, mode: str
) -> Callable[[], list[Tensor]]:
    """The function that is timed. Mode "training" gives the output, the gradient of x and those of the parameters, and
    "forward" the output. "step" gives the state after one step, where `grad` is the state before it and `module` has a step(x,
    h)."""
    if mode == "step":
        step = module.step if isinstance(module, CellLoop) else module
        return lambda: [step(x, grad)]
    if mode == "forward":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [module(x)]

        return forward
    x = x.detach().requires_grad_()
    leaves = [x, *parameters]

    def training() -> list[Tensor]:
        out = module(x)
        return [out, *torch.autograd.grad(out, leaves, grad)]

    return training
