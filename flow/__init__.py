"""Federated learning with per-instance routing between a global and a local expert."""

from flow.algorithms import register
from flow.comparison.run import Comparison, SharedOptions, compare, resume_comparison
from flow.config import Config, ModelOptions, TorchModel
from flow.data import Population
from flow.errors import Diverged, UserError
from flow.evaluation.metrics import Metric
from flow.evaluation.registry import register_metric
from flow.personal.adapting import adapt
from flow.personal.model import PersonalModel, load
from flow.presets import preset
from flow.simulation.loop import Result, resume, simulate
from flow.version import __version__

__all__ = [
    "Comparison",
    "Config",
    "Diverged",
    "Metric",
    "ModelOptions",
    "PersonalModel",
    "Population",
    "Result",
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
