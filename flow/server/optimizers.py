"""The server's step: the uploads of a round become one target, and an optimiser steps towards it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.server import aggregators
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads

ADAPTIVE = {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
DEFAULTS: dict[str, dict[str, float | None]] = {
    "average": {"server_lr": 1.0, "beta1": 0.0, "beta2": None, "tau": None},
    "adam": {**ADAPTIVE},
    "yogi": {**ADAPTIVE},
    "adagrad": {**ADAPTIVE, "server_lr": 0.1, "beta1": 0.0, "beta2": None},
}


def resolve(options: ServerOptions) -> ServerOptions:
    """The options with nothing left open that the optimiser and the aggregator use.

    Raises:
        UserError: an option out of range, or one that this optimiser or aggregator does not have.
    """
    options = aggregators.resolve(options)
    chosen: dict[str, Any] = {}
    for name, value in DEFAULTS[options.server].items():
        given = getattr(options, name)
        if value is None and given is not None:
            users = " and ".join(other for other, defaults in DEFAULTS.items() if defaults[name] is not None)
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
    options: Any, state: Tensors, moments: Tensors, uploads: Uploads, how: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """The server step of every algorithm that averages what clients upload: (next state, next moments).

    Args:
        options: the algorithm's.
        state: the global model, and whatever else the algorithm's server keeps; changed is what was uploaded.
        moments: of the server optimiser.
        draw: for random choices of the server.
    """
    target, moments = aggregators.aggregate(uploads, moments, how, draw, state)
    return step(state, moments, target, how)


def step(state: Tensors, moments: Tensors, target: Tensors, how: ServerOptions) -> tuple[Tensors, Tensors]:
    """One step of the server optimiser from the state towards the target, for every tensor of the target.

    With Delta = target - state, elementwise (Reddi et al. 2021, Algorithm 2, no bias correction):

        m <- beta1 m + (1 - beta1) Delta                       ("average": m <- beta1 m + Delta)
        v <- v + Delta^2                                        adagrad
        v <- beta2 v + (1 - beta2) Delta^2                      adam
        v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)          yogi
        state <- state + server_lr m / (sqrt(v) + tau)         ("average": + server_lr m)

    from m = 0, v = tau^2. "average" with server_lr 1 and beta1 0 takes the target itself.
    """
    how = resolve(how)
    rate, beta1 = _chosen(how.server_lr), _chosen(how.beta1)
    state, moments = dict(state), dict(moments)
    for name, goal in target.items():
        old = state[name].double()
        if how.server == "average" and rate == 1 and beta1 == 0:
            state[name] = goal.to(state[name].dtype)
            continue
        delta = goal - old
        plain = how.server == "average"
        m = (delta if plain else (1 - beta1) * delta) + beta1 * moments.get(f"m/{name}", torch.zeros_like(delta))
        change = m
        if how.server != "average":
            tau, square = _chosen(how.tau), delta**2
            v = moments.get(f"v/{name}", torch.full_like(square, tau**2))
            if how.server == "adagrad":
                v = v + square
            elif how.server == "adam":
                v = _chosen(how.beta2) * v + (1 - _chosen(how.beta2)) * square
            else:
                v = v - (1 - _chosen(how.beta2)) * square * torch.sign(v - square)
            change = m / (v.sqrt() + tau)
            moments[f"v/{name}"] = v
        moments[f"m/{name}"] = m
        state[name] = (old + rate * change).to(state[name].dtype)
    return state, moments


def _chosen(value: float | None) -> float:
    assert value is not None, "resolve() fills in what the optimiser uses"
    return value
