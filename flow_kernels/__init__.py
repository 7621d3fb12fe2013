"""Fused kernels for the routed GRU: a GRU with a global and a local expert and a router that mixes them at every step."""

from flow_kernels.backends import status as backends
from flow_kernels.backends.cpu import instruction_sets
from flow_kernels.functional import routed_gru
from flow_kernels.modules.cell import GRUCell, RoutedGRUCell
from flow_kernels.modules.gru import GRU
from flow_kernels.modules.layer import RoutedGRU
from flow_kernels.plan import explain
from flow_kernels.version import __version__

__all__ = [
    "GRU",
    "GRUCell",
    "RoutedGRU",
    "RoutedGRUCell",
    "__version__",
    "backends",
    "explain",
    "instruction_sets",
    "routed_gru",
]
