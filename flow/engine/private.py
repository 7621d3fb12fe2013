"""Differential privacy of a run: with which options and algorithms it goes, its noise, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flow.algorithms import Algorithm
from flow.config import Config
from flow.errors import UserError
from flow.privacy import accounting
from flow.privacy import mechanism as mechanisms
from flow.privacy.mechanism import Mechanism
from flow.privacy.refusals import refusal


def check(config: Config[Any], algorithm: Algorithm[Any]) -> None:
    """Raise UserError where a private run cannot have an algorithm or another option, or dp-accounting is not installed."""
    privacy = config.privacy
    if not privacy.on:
        return
    if reason := refusal(algorithm, config.algorithm):
        raise UserError(
            f"{privacy.given} cannot be with {algorithm.name}: {reason}; take another algorithm, such as fedavgft, or leave it "
            "out"
        )
    if config.async_buffer:
        raise UserError(
            f"async_buffer={config.async_buffer} lets the clients' work decide who is in a step, and {privacy.given} needs "
            "rounds whose clients are drawn; leave either out"
        )
    if config.clock:
        raise UserError(
            f"clock={config.clock!r} lets the clients' work decide when a round begins and who is late, and {privacy.given} "
            "needs rounds whose clients are drawn; leave either out"
        )
    if config.server.aggregator != "mean":
        raise UserError(
            f"aggregator={config.server.aggregator!r} needs every single upload, and {privacy.given} hands over their sum with "
            "noise alone; leave either out"
        )
    accounting.library()


def mechanism(config: Config[Any], algorithm: Algorithm[Any], clients: int) -> Mechanism | None:
    """The privacy of a run; None where it has none.

    clients: how many may train, at least the cohort.

    Raises:
        UserError: see :func:`flow.privacy.mechanism.made`.
    """
    if not config.privacy.on:
        return None
    return mechanisms.made(config.privacy, config.cohort, clients, config.rounds, algorithm.changes)


def as_recorded(config: Config[Any], content: dict[str, Any], folder: Path) -> Config[Any]:
    """The configuration of a run that goes on, with the noise that it was started with.

    content: of config.json.

    Raises:
        UserError: the run is private, and the file does not say with which noise.
    """
    if not config.privacy.on:
        return config
    recorded = content.get("noise")
    try:
        assert isinstance(recorded, dict)
        values = {f"dp_{name}": recorded[name] for name in ("noise", "delta", "count_noise")}
        numbers = [value for name, value in values.items() if name != "dp_count_noise" or value is not None]
        assert all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    except (AssertionError, KeyError) as error:
        raise UserError(
            f"{folder / 'config.json'}: does not say with which noise the private run was started; put back the file that the "
            "run was started with"
        ) from error
    return replace(config, privacy=replace(config.privacy, **values))
