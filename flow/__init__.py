"""Federated learning with per-instance routing between a global and a local expert."""

from flow.config import Config, ModelOptions
from flow.errors import Diverged, UserError
from flow.simulate import Result, resume, simulate

__all__ = ["Config", "Diverged", "ModelOptions", "Result", "UserError", "resume", "simulate"]
