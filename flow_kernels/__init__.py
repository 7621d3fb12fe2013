"""Fused kernels for the routed GRU: a GRU with a global and a local expert and a router that mixes them at every step."""

from flow_kernels.backends import status as backends
from flow_kernels.functional import routed_gru

__all__ = ["backends", "routed_gru"]
