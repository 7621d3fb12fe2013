"""A GPU on paper: its rates, all of them assumptions. Nothing here was measured on a GPU. Plain Python."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """A GPU by its rates, in bytes, operations and seconds; the defaults are an H200's."""

    bandwidth: float = 4.8e12
    """As published."""
    half: float = 790e12
    """Large products of 16 bits as torch reaches them; published: 989e12."""
    tf32: float = 395e12
    """Half of that."""
    ieee: float = 60e12
    """float32 without tensor cores; published: 67e12."""
    share: float = 0.4
    """What products of small tiles reach of these rates."""
    library: float = 0.6
    """What those of cuBLAS reach of them."""
    node: float = 1.7e-6
    """Between two kernels of a CUDA graph."""
    launch: float = 12e-6
    """Of a launch from Python, without a graph."""
    step: float = 4e-6
    """A step of the recurrence at least: a launch that waits for the one before, loads and multiplies."""
    memory: int = 141_000_000_000

    def rate(self, products: str, library: bool = False) -> float:
        """Operations a second of products "half", "tf32" or "ieee"."""
        share = self.library if library else self.share
        return share * {"half": self.half, "tf32": self.tf32, "ieee": self.ieee}[products]


H200 = Device()
