"""What changes in a run from round to round, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flow.config import size_of
from flow.draws import Draw
from flow.engine import flights
from flow.engine.task import Task
from flow.errors import UserError
from flow.model.parameters import Rows, Tensors, nbytes
from flow.parallel.processes import Ranks
from flow.resources import Need, require_disk, require_memory
from flow.server.optimizers import OPTIMIZERS
from flow.server.uploads import all_finite
from flow.storage import files, metrics, run_folder
from flow.storage.client_states import ClientStates

MOMENTS = ("m/", "v/", "center/")
"""Before the name of a tensor of the server: the first and the second moment of its optimiser, the centre of its aggregator."""
PARTS = ("moments:", "clients:", "residuals:", "flights:", "privacy:")
"""Before the names of a checkpoint's tensors that are not of the server's state."""


def client_states(task: Task, state: Tensors, folder: Path | None, digest: str) -> ClientStates:
    """Where the clients of a run keep their states: in memory, or in its folder where they may outgrow the bound.

    Raises:
        UserError: they may, and there is no folder; neither the memory nor the disk is large enough.
    """
    if task.algorithm.fresh is None:
        return ClientStates(like={})
    draw = Draw(task.config.seed, 0, "train")
    like = task.visit(task.model, state, ClientStates(), task.clients[:1], draw, "train").kept.tensors
    return _store(task, like, folder, digest, "clients")


def residuals(task: Task, state: Tensors, folder: Path | None, digest: str) -> ClientStates:
    """Where clients keep what compression left out of their uploads, as :func:`client_states`; nowhere without compression.

    Raises:
        UserError: as :func:`client_states`.
    """
    if not task.config.compress:
        return ClientStates(like={})
    return _store(task, {name: torch.zeros_like(tensor[None]) for name, tensor in state.items()}, folder, digest, "residuals")


def _store(task: Task, like: Tensors, folder: Path | None, digest: str, name: str) -> ClientStates:
    """A store of what clients keep, in memory or in a folder of this name in the run's.

    like: [1, ..], what a new client starts from.
    """
    config = task.config
    nowhere, size = ClientStates(like=like, clients=len(task.clients)), nbytes(like)
    clients = min(len(task.clients), config.cohort * config.rounds)
    on_disk = folder is not None and (folder / name).exists()  # a run that goes on with fewer rounds keeps them there
    decide = (("cohort", config.cohort), ("rounds", config.rounds), size_of(config.model))
    need = Need(f"what {clients} clients keep", size * clients, decide)
    if size * clients <= config.client_memory * 2**20 and not on_disk:
        require_memory([need])
        return nowhere
    if folder is None:
        raise UserError(
            f"client_memory={config.client_memory} MB does not hold what {clients} clients keep, "
            f"{size * clients / 2**20:.0f} MB; give the run a folder, where it is kept on disk, or raise client_memory"
        )
    if not on_disk:
        require_disk([need], folder, ", or put the run's folder on a larger disk")
    return ClientStates(folder / name, digest, like, len(task.clients))


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
    adaptive: bool = False
    """Whether the server's optimiser keeps second moments too."""
    identity: str | None = None
    """By which rows and results say of which run they are, see :func:`flow.storage.run_folder.identity`."""
    sums: Tensors = field(default_factory=dict)
    """Memory for the sums of a round's uploads, used again in the next."""
    residuals: ClientStates = field(default_factory=lambda: ClientStates(like={}))
    """What compression left out of the clients' uploads."""
    flights: Tensors = field(default_factory=dict)
    """Of an asynchronous run, the clients at work as the checkpoint has them that the run goes on from."""
    private: Tensors = field(default_factory=dict)
    """What a private run carries from round to round, see :meth:`flow.privacy.mechanism.Mechanism.start`."""
    asynchronous: bool = False
    clients: int = 0
    """How many may train."""

    def labelled(self, content: dict[str, Any]) -> dict[str, Any]:
        """A row or results, with the run that they are of."""
        return content if self.identity is None else {**content, files.RUN: self.identity}

    def keep(self, rows: Rows, kept: Tensors | None, left_out: Tensors | None, round: int) -> None:
        """Set aside what these clients keep from this round on, [n, ..]; None: what they had."""
        for store, own in ((self.states, kept), (self.residuals, left_out)):
            if own is not None:
                store.write(rows, own, round)

    def share(self, parts: Sequence[Rows]) -> None:
        """Have all processes know what any of them set aside.

        parts: by process, the numbers of the clients for which it did.
        """
        self.states.share(self.ranks, parts)
        if self.residuals.like:
            self.residuals.share(self.ranks, parts)

    def commit(self, round: int) -> None:
        """The round is complete: what was set aside is what is read from now on."""
        self.states.commit(round)
        self.residuals.commit(round)

    def save(self, round: int, at_work: Tensors | None = None) -> None:
        """Write a checkpoint; only then may files of clients go that no checkpoint counts on any more.

        The first process writes it for all.

        at_work: of an asynchronous run, what :func:`flow.engine.flights.packed` gives.
        """
        assert self.folder is not None
        stores = (self.states, self.residuals)
        if not self.ranks.first:
            for store in stores:
                store.forget([], remove=False)
            return
        run_folder.sync_metrics(self.folder)
        checkpoints = self.folder / "checkpoints"
        others = (self.moments, *(store.save() for store in stores), at_work or {}, self.private)
        parts = {"": self.state, **dict(zip(PARTS, others, strict=True))}
        everything = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
        run_folder.save(checkpoints, everything, round, self.digest)
        for store in stores:
            store.forget(run_folder.rounds(checkpoints))

    def go_back(self, device: str = "cpu") -> list[dict[str, Any]]:
        """Go back to the newest checkpoint that is whole, and covered by rows of metrics.jsonl and by files of client states.

        Without any checkpoint the run starts again. The first process leaves the folder as it was at that checkpoint. A line on
        stderr says so where something newer was damaged or missing. Rounds that came later are computed again.

        Returns:
            The rows up to the checkpoint.

        Raises:
            UserError: there are checkpoints, and none that is whole and covered; a checkpoint is of another run, or whole and
                not what this run writes.
        """
        assert self.folder is not None
        known, folder = metrics.read(self.folder, self.identity), self.folder / "checkpoints"
        done, reason, damaged = self._restored(run_folder.stored(folder), known, device)
        if self.ranks.first:
            run_folder.say_unchecked(self.folder, known)
            if reason:
                bad = known.damage or reason == known.end()
                copies = [metrics.keep_damaged(known)] if bad else []
                copies += [run_folder.set_aside(path) for path in damaged]
                kept = f"; kept as {', '.join(copy.name for copy in copies)}" if copies else ""
                files.say(f"went back to {f'round {done}' if done else 'the start'}: {reason}{kept}")
            run_folder.remove_later(folder, done)
            metrics.cut(known, done)
        return known.until(done)

    def look(self, device: str = "cpu") -> int:
        """Take over the newest checkpoint and leave the folder as it is, for whoever uses the run and does not go on with it.

        Returns:
            The checkpoint's round.

        Raises:
            UserError: there is none, or it is damaged or of another run.
        """
        assert self.folder is not None
        stored = run_folder.stored(self.folder / "checkpoints")
        if not stored:
            raise UserError(
                f"{self.folder}: the run has no checkpoint yet; let it go on with `flow run --resume {self.folder}`"
            )
        round, clients, left_out = self._load(stored[-1], device)
        for store, saved in ((self.states, clients), (self.residuals, left_out)):
            store.restore(saved, round, verify=False, remove=False)
        return round

    def _restored(self, checkpoints: Sequence[Path], known: metrics.Metrics, device: str) -> tuple[int, str, list[Path]]:
        """Take over the newest checkpoint that can be.

        Returns:
            Its round; what kept from newer rounds, if anything; the newer checkpoints that are damaged.
        """
        reason = known.end() if known.damage else ""
        if not checkpoints:
            for store in (self.states, self.residuals):
                store.restore({}, 0)
            self.flights = {}
            return 0, reason or ("there is no checkpoint" if known.rows else ""), []
        newest = run_folder.round_of(checkpoints[-1])
        covered = [path for path in checkpoints if run_folder.round_of(path) <= len(known.rows)]
        if not covered:
            with suppress(files.Damaged):  # rows of another run may mean that config.json is another run's
                self._load(checkpoints[-1], device)
            raise UserError(
                f"{known.path}: does not hold rounds 1 to {newest}, which the checkpoint has behind it, nor those of an older "
                f"checkpoint: {known.end()}; put back the file, or start a new run in another folder"
            )
        if covered[-1] != checkpoints[-1]:
            reason = known.end()
        lost: list[files.Damaged] = []
        damaged: list[Path] = []
        for path in reversed(covered):
            try:
                round, clients, left_out = self._load(path, device)
            except files.Damaged as error:
                lost.append(error)
                damaged.append(path)
                continue
            try:
                for store, saved in ((self.states, clients), (self.residuals, left_out)):
                    store.restore(saved, round, verify=self.ranks.first)
            except files.Damaged as error:
                lost.append(error)
            else:
                return round, lost[0].reason if lost else reason, damaged
        raise lost[0]

    def _load(self, path: Path, device: str) -> tuple[int, Tensors, Tensors]:
        """Take over the server's part of a checkpoint; returns its round, the clients' part, and what compression left out.

        Raises:
            UserError: it is damaged, of another run, or has other tensors than this run's.
        """
        everything, round = run_folder.load(path, self.digest, device)
        moments, clients, left_out, at_work, private = (
            {name.removeprefix(prefix): tensor for name, tensor in everything.items() if name.startswith(prefix)}
            for prefix in PARTS
        )
        state = {name: tensor for name, tensor in everything.items() if not name.startswith(PARTS)}
        reason = (
            files.unlike(state, self.state)
            or _wrong_moments(moments, self.state, self.adaptive)
            or self.states.wrong(clients, round)
            or self.residuals.wrong(left_out, round)
            or self._wrong_flights(at_work, round)
            or self._wrong_private(private)
        )
        if not reason and not all_finite(state.values()):
            reason = "it holds numbers that are not finite"
        if reason:
            raise UserError(
                f"{path}: not a checkpoint of this run, {reason}; put the right file back, or move this one out of the folder, "
                f"and `flow run --resume {self.folder}` goes on from what is older"
            )
        # In the order of the start, not of the file: sums over parameters depend on it in the last bit.
        self.state, self.moments, self.flights = {name: state[name] for name in self.state}, moments, at_work
        self.private = private
        return round, clients, left_out

    def _wrong_private(self, private: Tensors) -> str:
        """What keeps a checkpoint's tensors from being those that this run's privacy carries; empty where nothing does."""
        if reason := files.unlike(private, self.private):
            return f"of its privacy {reason}"
        good = all(bool(tensor.isfinite()) and float(tensor) > 0 for tensor in private.values())
        return "" if good else "its clip is not above 0"

    def _wrong_flights(self, at_work: Tensors, round: int) -> str:
        """What keeps a checkpoint's tensors from being clients at work of this run; empty where nothing does."""
        if not self.asynchronous:
            return "it has clients at work, which rounds that are waited for have not" if at_work else ""
        return flights.wrong(at_work, self.state, self.states.like, bool(self.residuals.like), self.clients, round)


def _wrong_moments(moments: Tensors, state: Tensors, adaptive: bool) -> str:
    """What keeps tensors from being moments of a server with this state; empty where nothing does.

    Every one belongs to a tensor of the state: under its name, or in float64 under its name after one of MOMENTS. An adaptive
    server keeps a first and a second moment of the same tensors.
    """
    expected: Tensors = {}
    for name, tensor in moments.items():
        for prefix in ("", *MOMENTS):
            of = state.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if of is not None:
                own = of.dtype if not prefix and tensor.dtype != torch.float64 else torch.float64
                expected[name] = of.new_empty(of.shape, dtype=own)
    if reason := files.unlike(moments, expected):
        return f"among its moments {reason}"
    first, second = ({name[2:] for name in moments if name.startswith(prefix)} for prefix in ("m/", "v/"))
    if not adaptive and second:
        return f"among its moments it has 'v/{min(second)}', which this run's server does not keep"
    missing = [f"m/{name}" for name in second - first] + [f"v/{name}" for name in first - second if adaptive]
    return f"among its moments it has no {min(missing)!r}" if missing else ""


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
    states = client_states(task, state, folder, digest)
    left_out = residuals(task, state, folder, digest)
    if folder is not None and stored is None:  # two are kept, and a third one is written before the first goes
        need = Need("three checkpoints", 3 * nbytes(state), (size_of(task.config.model),))
        require_disk([need], folder, ", or put the run's folder on a larger disk")
    adaptive = OPTIMIZERS[task.config.server.server].second_moment is not None
    run = RunState(folder, digest, state, {}, states, ranks or Ranks(), adaptive, run_folder.identity(described))
    run.private = {} if task.privacy is None else task.privacy.start()
    run.residuals, run.asynchronous, run.clients = left_out, bool(task.config.async_buffer), len(task.clients)
    return run
