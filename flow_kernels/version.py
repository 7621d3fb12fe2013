"""The version of flow_kernels and flow, which are one distribution."""

__version__ = "0.1.0"
