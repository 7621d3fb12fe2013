"""What changes in a run from round to round, and how it is saved and restored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow.draws import Draw
from flow.engine.task import Task
from flow.errors import UserError
from flow.model.parameters import Tensors, nbytes
from flow.parallel.processes import Ranks
from flow.storage import run_folder
from flow.storage.client_states import ClientStates


def client_states(task: Task, state: Tensors, folder: Path | None, digest: str) -> ClientStates:
    """Where the clients of a run keep their states: in memory, or in its folder where they may outgrow the bound.

    Raises:
        UserError: they may, and there is no folder.
    """
    config, algorithm, nowhere = task.config, task.algorithm, ClientStates()
    if algorithm.fresh is None:
        return nowhere
    draw = Draw(config.seed, 0, "train")
    one = nbytes(task.visit(task.model, state, nowhere, task.clients[:1], draw, "train").kept.tensors)
    clients = min(len(task.clients), config.cohort * config.rounds)
    on_disk = folder is not None and (folder / "clients").exists()  # a run that goes on with fewer rounds keeps them there
    if one * clients <= config.client_memory * 2**20 and not on_disk:
        return nowhere
    if folder is None:
        raise UserError(
            f"client_memory={config.client_memory} MB does not hold what {clients} clients keep, "
            f"{one * clients / 2**20:.0f} MB; give the run a folder, where it is kept on disk, or raise client_memory"
        )
    return ClientStates(folder / "clients", digest)


@dataclass
class RunState:
    """What changes from round to round."""

    folder: Path | None
    digest: str
    """Ties what is written to the configuration and the data that it was made with."""
    state: Tensors
    """Of the server."""
    moments: Tensors
    """Of the server's optimiser and aggregator."""
    states: ClientStates
    ranks: Ranks

    def save(self, round: int) -> None:
        """Write a checkpoint; only then may files of clients go that no checkpoint counts on any more.

        The first process writes it for all.
        """
        assert self.folder is not None
        if not self.ranks.first:
            return self.states.forget([], remove=False)
        checkpoints = self.folder / "checkpoints"
        parts = {"": self.state, "moments:": self.moments, "clients:": self.states.save()}
        everything = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
        run_folder.save(checkpoints, everything, round, self.digest)
        self.states.forget(run_folder.rounds(checkpoints))

    def load(self, path: Path | None, device: str = "cpu") -> int:
        """Go back to a checkpoint, None: to the start; returns the round after which it was made."""
        if path is None:
            self.states.restore({}, 0)
            return 0
        everything, round = run_folder.load(path, self.digest, device)
        # In the order of the start, not of the file: sums over parameters depend on it in the last bit.
        self.state = {name: everything[name] for name in self.state}
        self.moments, clients = (
            {name.removeprefix(prefix): tensor for name, tensor in everything.items() if name.startswith(prefix)}
            for prefix in ("moments:", "clients:")
        )
        self.states.restore(clients, round)
        return round


def begin(task: Task, folder: Path | None, ranks: Ranks | None = None, stored: dict[str, Any] | None = None) -> RunState:
    """The start of a run; nothing is written.

    Args:
        ranks: the processes that share the run; None for one.
        stored: the content of config.json, where the run goes on; its files are tied to the keys that it has, so that a
            build which knows more options reads them too. None: what the configuration says now.
    """
    options = task.config.algorithm
    described = run_folder.describe(task.config, task.algorithm.name, task.population) if stored is None else stored
    digest = run_folder.digest(described, task.population)
    state = task.algorithm.init(options, task.model, task.config.seed, len(task.clients))
    return RunState(folder, digest, state, {}, client_states(task, state, folder, digest), ranks or Ranks())
