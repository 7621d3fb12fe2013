"""The version of flow_kernels and flow, which are released together."""

__version__ = "0.2.0"
