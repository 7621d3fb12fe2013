"""Federated learning with per-instance routing between a global and a local expert."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow.algorithms import register
    from flow.callbacks.protocol import Callback
    from flow.comparison.run import Comparison, SharedOptions, compare, resume_comparison
    from flow.config import Config, ModelOptions, TorchModel
    from flow.data import Population
    from flow.errors import Diverged, UserError
    from flow.evaluation.metrics import Metric
    from flow.evaluation.registry import register_metric
    from flow.personal.adapting import adapt
    from flow.personal.model import PersonalModel, load
    from flow.presets import preset
    from flow.privacy.options import PrivacyOptions
    from flow.server.schedules import ScheduleOptions
    from flow.simulation.loop import Result, resume, simulate
    from flow.version import __version__

_PLACES = {
    "flow.algorithms": ("register",),
    "flow.callbacks.protocol": ("Callback",),
    "flow.comparison.run": ("Comparison", "SharedOptions", "compare", "resume_comparison"),
    "flow.config": ("Config", "ModelOptions", "TorchModel"),
    "flow.data": ("Population",),
    "flow.errors": ("Diverged", "UserError"),
    "flow.evaluation.metrics": ("Metric",),
    "flow.evaluation.registry": ("register_metric",),
    "flow.personal.adapting": ("adapt",),
    "flow.personal.model": ("PersonalModel", "load"),
    "flow.presets": ("preset",),
    "flow.privacy.options": ("PrivacyOptions",),
    "flow.server.schedules": ("ScheduleOptions",),
    "flow.simulation.loop": ("Result", "resume", "simulate"),
    "flow.version": ("__version__",),
}
"""Where what this package offers is defined: it is loaded when it is asked for, so that a command that needs no torch starts at
once."""

__all__ = [
    "Callback",
    "Comparison",
    "Config",
    "Diverged",
    "Metric",
    "ModelOptions",
    "PersonalModel",
    "Population",
    "PrivacyOptions",
    "Result",
    "ScheduleOptions",
    "SharedOptions",
    "TorchModel",
    "UserError",
    "__version__",
    "adapt",
    "compare",
    "load",
    "preset",
    "register",
    "register_metric",
    "resume",
    "resume_comparison",
    "simulate",
]

if not TYPE_CHECKING:  # type checkers know the names from above, and refuse all others

    def __getattr__(name: str) -> object:
        for module, names in _PLACES.items():
            if name in names:
                value = getattr(importlib.import_module(module), name)
                globals()[name] = value
                return value
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"flow.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"flow.{name}":
                    raise
        raise AttributeError(f"module 'flow' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
