"""The server's step: the uploads of a round become one target, and an optimiser steps towards it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.server import aggregators
from flow.server.options import ServerOptions, resolved
from flow.server.uploads import Uploads

ADAPTIVE: dict[str, float | None] = {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}


class Optimizer(NamedTuple):
    """A server optimiser."""

    defaults: dict[str, float | None]
    """Of its options; None for one that it does not have."""
    second_moment: Callable[[Tensor, Tensor, ServerOptions], Tensor] | None = None
    """(v, Delta^2, options) -> the next v; None: the optimiser is not adaptive."""


def _adam(v: Tensor, square: Tensor, options: ServerOptions) -> Tensor:
    beta2 = resolved(options.beta2)
    return beta2 * v + (1 - beta2) * square


def _yogi(v: Tensor, square: Tensor, options: ServerOptions) -> Tensor:
    return v - (1 - resolved(options.beta2)) * square * torch.sign(v - square)


def _adagrad(v: Tensor, square: Tensor, options: ServerOptions) -> Tensor:
    return v + square


OPTIMIZERS: dict[str, Optimizer] = {
    "average": Optimizer({"server_lr": 1.0, "beta1": 0.0, "beta2": None, "tau": None}),
    "adam": Optimizer(ADAPTIVE, _adam),
    "yogi": Optimizer(ADAPTIVE, _yogi),
    "adagrad": Optimizer({**ADAPTIVE, "server_lr": 0.1, "beta1": 0.0, "beta2": None}, _adagrad),
}


def resolve(options: ServerOptions) -> ServerOptions:
    """The options with nothing left open that the optimiser and the aggregator use; called once, by `flow.config.checked`.

    Raises:
        UserError: an option out of range, or one that this optimiser or aggregator does not have.
    """
    options = aggregators.resolve(options)
    chosen: dict[str, Any] = {}
    for name, value in OPTIMIZERS[options.server].defaults.items():
        given = getattr(options, name)
        if value is None and given is not None:
            users = " and ".join(other for other, optimizer in OPTIMIZERS.items() if optimizer.defaults[name] is not None)
            raise UserError(f"{name}={given!r} is an option of {users}, not of server={options.server!r}; leave it out")
        if value is not None and given is not None:
            check_number(name, given, 0, 1 if name.startswith("beta") else float("inf"))
            if name.startswith("beta") and given == 1:
                raise UserError(f"{name} must be below 1, got {given!r}; leave it out for the default, {value!r}")
            if name in ("server_lr", "tau") and given == 0:
                raise UserError(f"{name} must be above 0, got {given!r}; leave it out for the default, {value!r}")
        chosen[name] = value if given is None else given
    return replace(options, **chosen)


def average(
    options: Any, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """The server step of every algorithm that averages what clients upload: (next state, next moments).

    Args:
        options: the algorithm's.
        state: the global model, and whatever else the algorithm's server keeps; changed is what was uploaded.
        moments: of the server optimiser.
        draw: for random choices of the server.
    """
    target, moments = aggregators.aggregate(uploads, moments, server_options, draw, state)
    return step(state, moments, target, server_options)


def step(state: Tensors, moments: Tensors, target: Tensors, options: ServerOptions) -> tuple[Tensors, Tensors]:
    """One step of the server optimiser from the state towards the target, for every tensor of the target.

    With Delta = target - state, elementwise (Reddi et al. 2021, Algorithm 2, no bias correction):

        m <- beta1 m + (1 - beta1) Delta                       ("average": m <- beta1 m + Delta)
        v <- v + Delta^2                                        adagrad
        v <- beta2 v + (1 - beta2) Delta^2                      adam
        v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)          yogi
        state <- state + server_lr m / (sqrt(v) + tau)         ("average": + server_lr m)

    from m = 0, v = tau^2. "average" with server_lr 1 and beta1 0 takes the target itself.
    """
    optimizer, rate, beta1 = OPTIMIZERS[options.server], resolved(options.server_lr), resolved(options.beta1)
    adapts = optimizer.second_moment
    state, moments = dict(state), dict(moments)
    for name, goal in target.items():
        old = state[name].double()
        if adapts is None and rate == 1 and beta1 == 0:
            state[name] = goal.to(state[name].dtype)
            continue
        delta = goal - old
        m = (delta if adapts is None else (1 - beta1) * delta) + beta1 * moments.get(f"m/{name}", torch.zeros_like(delta))
        change = m
        if adapts is not None:
            tau, square = resolved(options.tau), delta**2
            v = adapts(moments.get(f"v/{name}", torch.full_like(square, tau**2)), square, options)
            change = m / (v.sqrt() + tau)
            moments[f"v/{name}"] = v
        moments[f"m/{name}"] = m
        state[name] = (old + rate * change).to(state[name].dtype)
    return state, moments
