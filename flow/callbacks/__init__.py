"""Callbacks: what is told of a run while it goes on, and the loggers that pass it on to other tools."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from flow.callbacks.protocol import Callback, Data
from flow.callbacks.registry import LOGGERS, logger

if TYPE_CHECKING:
    from flow.callbacks.csv import CSV
    from flow.callbacks.mlflow import MLflow
    from flow.callbacks.tensorboard import TensorBoard
    from flow.callbacks.trackio import Trackio
    from flow.callbacks.wandb import WandB

__all__ = ["CSV", "LOGGERS", "Callback", "Data", "MLflow", "TensorBoard", "Trackio", "WandB", "logger"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A logger's class, whose module is imported when it is asked for."""
        if name in LOGGERS.values():
            module = next(module for module, known in LOGGERS.items() if known == name)
            return getattr(importlib.import_module(f"flow.callbacks.{module}"), name)
        raise AttributeError(f"module 'flow.callbacks' has no attribute {name!r}")
