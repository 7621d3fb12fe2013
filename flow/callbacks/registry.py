"""The loggers by name, each imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Literal, get_args

from flow.callbacks.base import Logger
from flow.errors import UserError

Name = Literal["csv", "mlflow", "tensorboard", "trackio", "wandb"]
"""What stands behind ``--log``."""
NAMES: tuple[Name, ...] = get_args(Name)
LOGGERS = dict(zip(NAMES, ("CSV", "MLflow", "TensorBoard", "Trackio", "WandB"), strict=True))
"""The class of each, which lies in the module of the logger's name."""


def logger(name: str) -> Logger:
    """The logger of this name, with everything left as its page says (docs/callbacks.md).

    Raises:
        UserError: there is none of this name, or its library is not installed.
    """
    if name not in LOGGERS:
        raise UserError(
            f"callbacks has {name!r}, which is no logger; give one of {', '.join(NAMES)}, or a Callback of your own"
        )
    made: Logger = getattr(importlib.import_module(f"flow.callbacks.{name}"), LOGGERS[name])()
    return made
