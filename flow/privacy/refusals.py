"""Which algorithms can be differentially private, and why others cannot."""

from __future__ import annotations

from typing import Any

from flow.algorithms.interface import Algorithm


def refusal(algorithm: Algorithm[Any], options: Any) -> str:
    """Why a noisy sum of clipped uploads cannot take the place of the uploads, as a clause; empty where it can."""
    if reason := algorithm.beyond_the_sum(options):
        return reason
    if not algorithm.averages:
        return "its server averages no uploads, so there is no sum that noise could hide them in"
    if not (algorithm.takes_the_mean or algorithm.changes):
        return "its server does more with the uploads than take their mean"
    return ""
