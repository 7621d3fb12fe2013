"""Numbers as text, for the terminal and for all pages. What does not exist, or is not finite, is a dash."""

from __future__ import annotations

import math
from typing import TypeGuard

from flow.evaluation.metrics import Metric

DASH = "\N{EN DASH}"  # of pages
HYPHEN = "-"  # of the terminal
BYTES = ("B", "kB", "MB", "GB", "TB")
BYTES_IN_FULL = ("bytes", *BYTES[1:])
FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether a value exists and is finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 2, scale: float = 1.0, missing: str = DASH) -> str:
    """A number times `scale`, with so many digits after the point."""
    return f"{scale * value:.{digits}f}" if finite(value) else missing


def metric_value(value: float | None, metric: Metric, missing: str = DASH) -> str:
    """A summary of a metric, without its unit."""
    return number(value, metric.digits, metric.scale, missing)


def percent(value: float | None, digits: int = 2) -> str:
    """A share in 0..1: "12.34 %"."""
    return f"{number(value, digits, 100)} %" if finite(value) else DASH


def points(value: float | None) -> str:
    """A difference of shares as signed percentage points; never a signed zero."""
    if not finite(value):
        return DASH
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """A whole number, its thousands set apart."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if finite(value) else DASH


def with_spread(mean: float | None, spread: float | None, digits: int = 2, scale: float = 1.0, missing: str = DASH) -> str:
    """A mean and its standard deviation, where it has one: "29.16 ± 0.12"."""
    text = number(mean, digits, scale, missing)
    return f"{text} ± {number(spread, digits, scale)}" if finite(mean) and finite(spread) else text


def scaled(value: float | None, units: tuple[str, ...] = BYTES, missing: str = DASH) -> str:
    """A number of at least 0 with its decimal unit, three digits: "1.45 MB"."""
    if not finite(value):
        return missing
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or power == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[power]}"


def capitalized(text: str) -> str:
    """The text with a capital at its beginning; those within, as in "macro-F1", stay."""
    return text[:1].upper() + text[1:]


def duration(seconds: float | None, missing: str = DASH) -> str:
    """A time in seconds, minutes or hours."""
    if not finite(seconds):
        return missing
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
