"""Noise by tree aggregation: sums of the first t rounds have the noise of about log2(t) nodes (Kairouz et al., ICML 2021).

A node of level l stands for 2^l rounds in a row, and has a noise of its own. The rounds 1 to t are those of the nodes of which
the binary digits of t tell. Only sums of rounds are ever released, so what a round adds is the difference of two of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flow.draws import Draw

Node = tuple[int, int]
"""(level, last round)"""


def nodes(step: int) -> set[Node]:
    """Those whose rounds together are 1 to `step`; none for 0."""
    return {(level, step >> level << level) for level in range(step.bit_length()) if step >> level & 1}


def added(name: str, shape: tuple[int, ...], step: int, draw: Draw) -> npt.NDArray[np.float64]:
    """What the noise of the sum over 1 to `step` is more than that over 1 to `step - 1`; noise of a node has deviation 1.

    Args:
        name: of the tensor.
        step: round of the pass, counted from 1.
        draw: of the pass; a node's noise is drawn from it by the node alone, so nothing has to be kept.
    """
    now, before = nodes(step), nodes(step - 1)
    total = np.zeros(shape)
    for signed, some in ((1.0, now - before), (-1.0, before - now)):
        for level, last in sorted(some):
            total += signed * draw.stream("node", str(level), str(last), name).standard_normal(shape)
    return total
