"""Options of user-level differential privacy, and which of them go together."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from flow.checks import check_number
from flow.errors import UserError

MechanismName = Literal["gaussian", "tree"]
LEAST_NOISE = 0.3
"""Noise multiplier; with less the accountant's distributions do not fit into memory, and epsilon protects nobody."""


@dataclass(frozen=True)
class PrivacyOptions:
    """User-level differential privacy (docs/privacy.md); on where dp_epsilon or dp_noise is given."""

    dp_epsilon: float | None = None
    """User-level differential privacy: the most epsilon that all rounds together cost, from which the noise follows
    (docs/privacy.md; needs the extra privacy). None: no privacy, unless dp_noise is given."""

    dp_delta: float | None = None
    """The delta of that epsilon, below 1 / N for N clients that may train. None: N^-1.1. (McMahan et al., ICLR 2018.)"""

    dp_noise: float | None = None
    """Noise multiplier: standard deviation of the noise on the sum of uploads, over the clip. None: the least that keeps
    dp_epsilon. 0: clipping without noise, and no guarantee; else at least 0.3."""

    dp_clip: float | None = None
    """Largest norm of a client's whole upload, over all its tensors; with dp_quantile the first one. None: 1."""

    dp_quantile: float | None = None
    """Adaptive clipping: the clip follows this quantile of the norms, 0 to 1. None: the clip is fixed. (Andrew et al., NeurIPS
    2021: 0.5.)"""

    dp_clip_lr: float | None = None
    """With dp_quantile: how fast the clip follows. None: 0.2. (Andrew et al. 2021: 0.2.)"""

    dp_count_noise: float | None = None
    """With dp_quantile: standard deviation of the noise on the number of uploads below the clip. None: a 20th of the cohort, at
    least the noise multiplier. (Andrew et al. 2021: a 20th of the cohort.)"""

    dp_mechanism: MechanismName = "gaussian"
    """"gaussian": every client takes part in a round with the same chance, and every round has noise of its own (DP-FedAvg;
    McMahan et al., ICLR 2018). "tree": shuffled passes over the clients, and noise added by a tree over the rounds of a pass
    (DP-FTRL; Kairouz et al., ICML 2021)."""

    @property
    def on(self) -> bool:
        """Whether a run is private."""
        return self.dp_epsilon is not None or self.dp_noise is not None

    @property
    def given(self) -> str:
        """The option that turned it on, for messages."""
        return f"dp_noise={self.dp_noise!r}" if self.dp_epsilon is None else f"dp_epsilon={self.dp_epsilon!r}"


def resolve(options: PrivacyOptions) -> PrivacyOptions:
    """The options with nothing left open that does not depend on the data.

    Raises:
        UserError: an option out of range, or one that does nothing.
    """
    if not options.on:
        for field in fields(options):
            value = getattr(options, field.name)
            if value != field.default:
                raise UserError(
                    f"{field.name}={value!r} does nothing without dp_epsilon or dp_noise; add either, or leave it out"
                )
        return options
    if options.dp_epsilon is not None and not 0 < options.dp_epsilon < math.inf:
        raise UserError(f"dp_epsilon must be a finite number above 0, got {options.dp_epsilon!r}; leave it out for no privacy")
    if options.dp_delta is not None and not 0 < options.dp_delta < 1:
        raise UserError(f"dp_delta must be above 0 and below 1, got {options.dp_delta!r}; leave it out for N^-1.1")
    noise = options.dp_noise
    if noise is not None and not (noise == 0 or LEAST_NOISE <= noise < math.inf):
        raise UserError(
            f"dp_noise must be 0 or a finite number of at least {LEAST_NOISE}, got {noise!r}; less protects nobody, and 0 "
            "clips without noise"
        )
    if noise == 0 and options.dp_epsilon is not None:
        raise UserError(f"dp_noise=0 guarantees nothing, and dp_epsilon={options.dp_epsilon!r} asks for it; leave either out")
    clip = 1.0 if options.dp_clip is None else options.dp_clip
    if not 0 < clip < math.inf:
        raise UserError(f"dp_clip must be a finite number above 0, got {clip!r}; leave it out for the default, 1")
    return _resolved_quantile(replace(options, dp_clip=clip))


def _resolved_quantile(options: PrivacyOptions) -> PrivacyOptions:
    """The options of adaptive clipping, checked and filled in."""
    if options.dp_quantile is None:
        for name in ("dp_clip_lr", "dp_count_noise"):
            if getattr(options, name) is not None:
                raise UserError(
                    f"{name}={getattr(options, name)!r} does nothing without dp_quantile; add dp_quantile, or leave it out"
                )
        return options
    check_number("dp_quantile", options.dp_quantile, 0, 1)
    if options.dp_mechanism == "tree":
        raise UserError(
            f"dp_quantile={options.dp_quantile!r} moves the clip from round to round, and the noise of dp_mechanism='tree' "
            "holds for one clip over a whole pass; leave either out"
        )
    rate = 0.2 if options.dp_clip_lr is None else options.dp_clip_lr
    check_number("dp_clip_lr", rate, 0)
    if options.dp_count_noise is not None:
        check_number("dp_count_noise", options.dp_count_noise, 0)
    return replace(options, dp_clip_lr=rate)
