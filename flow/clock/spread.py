"""Devices drawn from a built-in spread, for runs without profiles of their own.

Speeds and bandwidths are lognormal, and fit to no trace. FedScale (Lai et al., ICML 2022) has traces of both, by AI Benchmark
and MobiPerf. Bonawitz et al. (MLSys 2019, section 9) report that more devices can be reached at night than by day.
"""

from __future__ import annotations

import numpy as np

from flow.clock.devices import DAY, Devices, windows
from flow.draws import Draw

MEGABIT = 125_000
"""Bytes."""
SPEED, SPEED_SPREAD = 10.0, 0.9
"""Median in sequences a second, and the standard deviation of its natural logarithm."""
DOWNLOAD, DOWNLOAD_SPREAD = 10.0 * MEGABIT, 1.2
"""Median in bytes a second, and the standard deviation of its natural logarithm."""
UPLOAD = 0.4
"""A device's upload as a share of its download."""
EVENING, EVENING_SPREAD = 22.0, 2.0
"""When a device can be reached from: mean hour of the day, and standard deviation."""
NIGHT, NIGHT_SPREAD, SHORTEST, LONGEST = 7.0, 2.0, 2.0, 12.0
"""For how many hours: mean, standard deviation and limits."""


def drawn(count: int, seed: int, nights: bool) -> Devices:
    """The devices of so many clients; nights: whether each can be reached in one window around the night alone."""
    draw = Draw(seed, 0, "clock")
    speed = SPEED * np.exp(SPEED_SPREAD * draw.stream("speed").standard_normal(count))
    download = DOWNLOAD * np.exp(DOWNLOAD_SPREAD * draw.stream("network").standard_normal(count))
    if not nights:
        return Devices(speed, download, UPLOAD * download, *windows([[(0, DAY)]] * count))
    hours = draw.stream("nights").standard_normal((2, count))
    begin = np.round(3600 * (EVENING + EVENING_SPREAD * hours[0])) % DAY
    length = np.round(3600 * np.clip(NIGHT + NIGHT_SPREAD * hours[1], SHORTEST, LONGEST))
    over = begin + length - DAY  # what of a window lies behind midnight
    opens = np.stack((begin, np.where(over > 0, 0.0, DAY)), axis=1)
    closes = np.stack((np.minimum(begin + length, DAY), np.where(over > 0, over, DAY)), axis=1)
    return Devices(speed, download, UPLOAD * download, opens, closes)
