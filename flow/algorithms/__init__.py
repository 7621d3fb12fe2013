"""The algorithms, each a file of plain functions over explicit state; registry.py lists them."""

from flow.algorithms.interface import Algorithm
from flow.algorithms.registry import (
    DEFAULT,
    NAMES,
    REGISTRY,
    Name,
    algorithm_of,
    algorithms,
    code_of,
    named,
    names,
    register,
    reserve,
)

__all__ = [
    "DEFAULT",
    "NAMES",
    "REGISTRY",
    "Algorithm",
    "Name",
    "algorithm_of",
    "algorithms",
    "code_of",
    "named",
    "names",
    "register",
    "reserve",
]
