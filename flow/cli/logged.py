"""The option ``--log`` of `flow run` and `flow compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from flow.callbacks.registry import Name


@dataclass(frozen=True)
class Logged:
    """Which loggers are told what a run does."""

    log: Annotated[tyro.conf.UseAppendAction[tuple[Name, ...]], tyro.conf.arg(metavar="LOGGER")] = ()
    """Log every round with csv, mlflow, tensorboard, trackio or wandb; may be given several times, also beside --resume. Each
    but csv is an extra to install, such as flow-fl[tensorboard]. (In Python: callbacks.)"""


def logging_again(log: tuple[Name, ...]) -> str:
    """What stands behind ``--resume FOLDER`` so that the loggers go on."""
    return "".join(f" --log {name}" for name in dict.fromkeys(log))
