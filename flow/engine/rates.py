"""The learning rates of a round, by the schedules of the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flow.algorithms import Algorithm, algorithm_of
from flow.config import Config
from flow.errors import UserError
from flow.server import schedules
from flow.server.options import resolved


def check(config: Config[Any], algorithm: Algorithm[Any]) -> None:
    """Raise UserError for a schedule of a rate that the algorithm does not have."""
    chosen = config.schedule
    if schedules.on(chosen, "lr") and not _of_clients(config):
        raise UserError(
            f"{_given(chosen, 'lr')} needs a learning rate of the clients, and {algorithm.name} has no "
            f"{' or '.join(algorithm.rates)}; leave it out"
        )
    if schedules.on(chosen, "server_lr") and not algorithm.averages:
        raise UserError(f"{_given(chosen, 'server_lr')} needs uploads to average, and {algorithm.name} has none; leave it out")


def _given(chosen: schedules.ScheduleOptions, rate: schedules.Rate) -> str:
    """What puts the schedule of a rate on, "lr_schedule='cosine'" or "lr_warmup=3"."""
    name = f"{rate}_warmup" if getattr(chosen, f"{rate}_schedule") == "constant" else f"{rate}_schedule"
    return f"{name}={getattr(chosen, name)!r}"


def in_round(config: Config[Any], round: int) -> Config[Any]:
    """A checked configuration with the learning rates of a round, counted from 1; the same where no schedule is on."""
    if schedules.on(config.schedule, "lr"):
        factor = schedules.factor(config.schedule, "lr", round)
        own = {name: factor * rate for name, rate in _of_clients(config).items()}
        config = replace(config, algorithm=replace(config.algorithm, **own))
    if schedules.on(config.schedule, "server_lr"):
        rate = schedules.factor(config.schedule, "server_lr", round) * resolved(config.server.server_lr)
        config = replace(config, server=replace(config.server, server_lr=rate))
    return config


def row(config: Config[Any]) -> dict[str, float]:
    """What a row of metrics.jsonl says of the rates of its round, by :func:`in_round`: those that a schedule changes."""
    rates: dict[str, float] = {}
    if schedules.on(config.schedule, "lr"):
        rates["lr"] = next(iter(_of_clients(config).values()))
    if schedules.on(config.schedule, "server_lr"):
        rates["server_lr"] = resolved(config.server.server_lr)
    return rates


def _of_clients(config: Config[Any]) -> dict[str, float]:
    """The rates that the schedule of the clients multiplies."""
    named = {name: getattr(config.algorithm, name, None) for name in algorithm_of(config.algorithm).rates}
    return {name: rate for name, rate in named.items() if rate is not None}
