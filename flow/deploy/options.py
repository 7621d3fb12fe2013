"""The options of a deployment, which stand beside a run's configuration; Flower calls them the run config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from flow.checks import check_number, typed
from flow.errors import UserError


@dataclass(frozen=True)
class Deployment:
    """How rounds are carried to the nodes."""

    folder: str = "run"
    """New folder on the server's machine for configuration, metrics and checkpoints."""

    nodes: int = 3
    """Nodes that the first round waits for. Their clients are the clients of the run; a node that joins later takes no part."""

    wait: float = 600.0
    """Seconds that the server waits for them."""

    timeout: float = 600.0
    """Seconds after which a round goes on without the nodes that have not answered."""

    secagg: bool = False
    """Whether uploads are added up by Flower's SecAgg+, so that the server sees their weighted mean and no single one."""

    secagg_clip: float = 8.0
    """With secagg: the largest change of a parameter in a round; a node refuses to send a larger one. The quantisation of the
    mean is in proportion to it."""


def read(run_config: Mapping[str, Any]) -> Deployment:
    """The options of a run.

    Raises:
        UserError: one is missing, unknown, of another type or out of range.
    """
    known = {field.name for field in fields(Deployment)}
    if unknown := set(run_config) - known:
        raise UserError(
            f"run config {min(unknown)}={run_config[min(unknown)]!r} is no option of a deployment; the options are "
            f"{', '.join(sorted(known))}"
        )
    given: dict[str, Any] = {
        name: float(value) if name in ("wait", "timeout", "secagg_clip") else value for name, value in run_config.items()
    }
    return check(Deployment(**given))


def check(deployment: Deployment) -> Deployment:
    """The options, typed.

    Raises:
        UserError: one is of another type or out of range.
    """
    deployment = typed(deployment)
    if not deployment.folder.strip():
        raise UserError("folder='' names nothing; give the name of a folder that does not exist yet")
    if deployment.nodes < 1:
        raise UserError(f"nodes must be at least 1, got {deployment.nodes}; give the number of nodes that take part")
    for name in ("wait", "timeout", "secagg_clip"):
        check_number(name, getattr(deployment, name), 1e-3)
    if deployment.secagg and deployment.nodes < LEAST:
        raise UserError(
            f"nodes={deployment.nodes} must be at least {LEAST} with secagg=True, as one of two nodes learns the other's "
            "upload from their sum; take more nodes, or leave secagg out"
        )
    return deployment


LEAST = 3
"""Nodes of a round with secure aggregation."""
