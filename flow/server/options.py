"""Options of the server: what it does with the uploads of a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ServerOptions:
    """What the server does with the uploads."""

    server: Literal["average", "adam", "yogi", "adagrad"] = "average"
    """Optimiser whose gradient is the global model minus the mean of the uploads. "average" takes the mean as it is (FedAvg).
    The others are FedAdam, FedYogi and FedAdagrad (Reddi et al., ICLR 2021, Algorithm 2)."""

    server_lr: float | None = None
    """Learning rate of the server. None: 1 for "average", 0.1 for "adagrad", 0.01 for "adam" and "yogi". (Flower: 0.1 for
    FedAdagrad, 0.01 for FedYogi; google-research/federated: 10^-2 for FedYogi on StackOverflow.)"""

    beta1: float | None = None
    """Decay of the first moment; with "average" heavy-ball momentum (FedAvgM: 0.9). None: 0.9 for "adam" and "yogi", else
    0. (Flower: 0.9.)"""

    beta2: float | None = None
    """Decay of the second moment of "adam" and "yogi". None: 0.99. (Flower: 0.99.)"""

    tau: float | None = None
    """Degree of adaptivity of "adam", "yogi" and "adagrad", added to the root of the second moment. None: 1e-3. (Flower:
    1e-3.)"""

    aggregator: Literal["mean", "median", "trimmed_mean", "centered_clipping", "geometric_median", "krum"] = "mean"
    """How the server aggregates uploads. "mean" is weighted as the algorithm says. The others resist a minority of wrong
    uploads and give every client one vote. They are the coordinates' "median" or "trimmed_mean" (Yin et al., ICML 2018),
    "centered_clipping" (Karimireddy et al., ICML 2021), "geometric_median" (RFA; Pillutla et al., IEEE TSP 2022) and "krum"
    (Blanchard et al., NeurIPS 2017)."""

    bucket_size: int | None = None
    """Uploads averaged at random in groups of this size before a robust aggregator sees them (Karimireddy et al., ICLR
    2022: 2, where clients' data differ). None: 1, no buckets. (epfml/byzantine-robust-noniid-optimizer: none.)"""

    byzantine: float | None = None
    """Share of a round's clients, rounded down, that "trimmed_mean" and "krum" take to be wrong; below 0.5 / bucket_size.
    None: 0.2. (epfml: 5 of 25 in most experiments.)"""

    clip_radius: float | None = None
    """Distance from its centre to which "centered_clipping" pulls uploads in. None: 10. (epfml: 10, without momentum.)"""

    clip_steps: int | None = None
    """Steps of "centered_clipping". None: 3. (epfml: 3.)"""

    weiszfeld_steps: int | None = None
    """Steps of "geometric_median". None: 8. (epfml: 8.)"""

    weiszfeld_smoothing: float | None = None
    """Distance below which "geometric_median" weighs uploads alike. None: 0.1. (epfml: 0.1.)"""


def resolved(value: float | None) -> float:
    """An option that `flow.server.optimizers.resolve` has filled in."""
    assert value is not None, "options of the server are resolved once, when a configuration is checked"
    return value
