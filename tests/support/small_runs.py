"""Runs of FedAvg that take a moment, on the clients of the oracles: what tests change a little and run."""

from __future__ import annotations

from typing import Any

import oracles

from flow import Config, ModelOptions
from flow.algorithms.fedavg import FedAvgOptions

POPULATION = oracles.population()
CLIENTS = {client.id: client for client in POPULATION.clients}
NAMES = sorted(client.id for client in POPULATION.clients if not client.held_out)
BASE: Config[Any] = Config(
    algorithm=FedAvgOptions(lr=0.5, epochs=2, batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=4,
    cohort=5,
    evaluate_every=0,
    chunk=2,
    validation_share=0.0,
)
