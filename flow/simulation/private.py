"""The rounds of a private run: what clients send, what the server is handed, and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flow.engine.run import RunState
from flow.privacy.accounting import ACCOUNTANTS, PACKAGE, version
from flow.privacy.mechanism import CLIP, Mechanism
from flow.server.uploads import Uploads
from flow.training.messages import Upload

if TYPE_CHECKING:
    from flow.engine.task import Task

COVERS = "it covers what the server learns in the rounds, not this evaluation"


def sent(task: Task, run: RunState, upload: Upload, round: int) -> Upload:
    """The upload of K clients as it leaves them: changes, clipped as a whole."""
    assert task.privacy is not None
    names = task.algorithm.uploaded(task.config.algorithm, run.state, round)
    return task.privacy.sent(upload, run.state, names, run.private)


def released(task: Task, run: RunState, uploads: Uploads, round: int) -> Uploads:
    """What the server is handed in the place of a round's uploads: their mean with noise.

    Every process draws the same noise, and adds it once, to the sum that they all have.
    """
    assert task.privacy is not None
    names = task.algorithm.uploaded(task.config.algorithm, run.state, round)
    mean, run.private = task.privacy.released(uploads, run.state, names, run.private, task.config.seed, round)
    return mean


def row(privacy: Mechanism | None, run: RunState, round: int) -> dict[str, Any]:
    """What a row of metrics.jsonl has more in a private run: the epsilon of all rounds so far, and the clip after it."""
    return {} if privacy is None else {"epsilon": privacy.epsilon(round), "clip": float(run.private[CLIP])}


def about(privacy: Mechanism, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What run.json says of a private run."""
    setting = privacy.setting
    return {
        "mechanism": setting.mechanism,
        "epsilon": metrics[-1]["epsilon"] if metrics else 0.0,
        "delta": privacy.delta,
        "noise": privacy.noise,
        "noise_of_sum": privacy.noise_of_sum,
        "clip": metrics[-1]["clip"] if metrics else float(privacy.start()[CLIP]),
        "clients": privacy.clients,
        "sampling": setting.sampling if setting.mechanism == "gaussian" else None,
        "rounds_of_a_pass": setting.steps if setting.mechanism == "tree" else None,
        "accountant": f"{ACCOUNTANTS[setting.mechanism]} of {PACKAGE} {version()}",
    }


def line(privacy: Mechanism, metrics: list[dict[str, Any]]) -> str:
    """The same for the terminal."""
    known = about(privacy, metrics)
    if known["epsilon"] is None:
        return "privacy: none, since there is no noise (dp_noise=0); uploads were clipped"
    return (
        f"privacy of a client: epsilon {known['epsilon']:.4g} at delta {known['delta']:.2g} ({known['mechanism']}, noise "
        f"{known['noise']:.4g} times the clip, {known['accountant']}); {COVERS}"
    )
