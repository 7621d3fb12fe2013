"""Which backend a problem gets, and why: a pure function of the problem and of what can run here."""

from __future__ import annotations

from typing import NamedTuple

import torch

from flow_kernels.backends import NAMES, refusal

# Fastest first; "reference" runs everything.
ORDER = ("cpu", "reference")


class Plan(NamedTuple):
    """The chosen backend and the reason in words."""

    backend: str
    reason: str


def choose(
    *,
    clients: int,
    batch: int,
    steps: int,
    inputs: int,
    hidden: int,
    dtype: torch.dtype,
    device: torch.device,
    backend: str = "auto",
) -> Plan:
    """Choose a backend for K=clients, B=batch, T=steps, I=inputs, H=hidden.

    Raises:
        RuntimeError: a backend was asked for by name and cannot run this problem here. Only ``"auto"`` falls back.
        ValueError: no backend has that name.
    """
    if backend != "auto":
        if backend not in NAMES:
            names = ", ".join(map(repr, ("auto", *NAMES)))
            raise ValueError(f"backend must be one of {names}, got {backend!r}")
        why_not = refusal(backend, dtype, device)
        if why_not:
            raise RuntimeError(
                f"backend={backend!r} cannot run here: {why_not}; use backend='auto' to let it fall back"
            )
        return Plan(backend, "asked for by name")
    skipped: list[str] = []
    for name in ORDER:
        why_not = refusal(name, dtype, device)
        if not why_not:
            return Plan(name, "; ".join([*skipped, f"{name}: fastest that runs"]))
        skipped.append(f"{name}: {why_not}")
    raise AssertionError("the reference backend runs everything")
