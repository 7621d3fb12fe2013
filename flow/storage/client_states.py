"""What clients keep from one round to the next: in memory, or in one memory-mapped file for every client.

The states that clients write in a round are set aside. They can be read only when the round is complete, so every client sees
the end of the last round, in whichever order groups are computed.

A run that stops anywhere goes on with the states that belong to its checkpoint. In memory that is simple: they are part of the
checkpoint. On disk a file is never changed. A client that trains in round r writes a new file, named by its number and r. The
file is complete and on the disk before the checkpoint that needs it. The file itself says the same number and r, and a file
that says another is refused. The state of a client at a checkpoint is its file with the largest round up to the checkpoint's.
The checkpoint holds these rounds, so that a missing file is noticed. A file is removed only when none of the kept checkpoints
needs it any more. When a run goes on from a checkpoint, later files are removed before it starts, and are computed again to the
same numbers.

Where a run has several processes, each writes what the clients that it trained keep. In memory every process holds the
states of all clients, brought together at the end of a round; on disk all read the same files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from flow.errors import UserError
from flow.model.parameters import Rows, Tensors, moved, nbytes
from flow.storage import files
from flow.training.messages import ClientState

if TYPE_CHECKING:
    from flow.parallel.processes import Ranks

FOLDER_SIZE = 1000  # clients whose files share a folder
NAMED = re.compile(r"(\d+)-(\d+)\.safetensors")
REMEDY = "put the file back from a copy, or start a new run in another folder"


class ClientStates:
    """The states of all clients that may train, by their numbers.

    Args:
        folder: where the files go; None keeps everything in memory.
        digest: of the run, see :func:`flow.storage.run_folder.digest`; files of another run are refused.
        like: [1, ..]: what a new client starts from, whose names, shapes and dtypes every state must have; None: anything.
        clients: how many clients there are; None: any number.
    """

    def __init__(
        self, folder: Path | None = None, digest: str = "", like: Tensors | None = None, clients: int | None = None
    ) -> None:
        self._folder, self._digest = folder, digest
        self._like = None if like is None else {name: tensor[0] for name, tensor in like.items()}
        self._clients = clients
        self._rows: dict[int, Tensors] = {}  # in memory: a client's state
        self._rounds: dict[int, list[int]] = {}  # on disk: the rounds of a client's files, oldest first
        self._pending: dict[int, Tensors | None] = {}
        self._row_bytes = 0

    @property
    def like(self) -> Tensors:
        """[..]: names, shapes and dtypes of a state; empty where clients keep nothing, or anything."""
        return self._like or {}

    @property
    def nbytes(self) -> int:
        """Size of the states of all clients that have one."""
        return self._row_bytes * len(self._rows if self._folder is None else self._rounds)

    def rows(self) -> Rows:
        """The numbers of the clients that have a state, in order."""
        return np.array(sorted(self._rows if self._folder is None else self._rounds), dtype=np.int64)

    def known(self, rows: Rows) -> torch.Tensor:
        """bool [n]: whether these clients have a state."""
        having = self._rows if self._folder is None else self._rounds
        return torch.tensor([int(row) in having for row in rows], dtype=torch.bool)

    def read(self, rows: Rows, device: torch.device | str = "cpu") -> Tensors:
        """[n, ..]: the states of clients that have one, as of the end of the last round.

        Raises:
            UserError: a file is missing, damaged, or of another client, round or run.
            KeyError: a client has no state.
        """
        states = [self._row(int(row)) for row in rows]
        return moved({name: torch.stack([row[name] for row in states]) for name in (states[0] if states else {})}, device)

    def of(self, rows: Rows, fresh: Tensors) -> ClientState:
        """What these clients kept; for a new client its row of `fresh` [n, ..]."""
        known = self.known(rows)
        if not (fresh and known.any()):
            return ClientState(fresh, known)
        places, device = np.flatnonzero(known.numpy()), next(iter(fresh.values())).device
        kept, index = self.read(rows[places], device), torch.from_numpy(places).to(device)
        return ClientState({name: tensor.index_copy(0, index, kept[name]) for name, tensor in fresh.items()}, known.to(device))

    def write(self, rows: Rows, tensors: Tensors, round: int) -> None:
        """Set the next states [n, ..] of these clients aside; may be called by several threads for different clients."""
        tensors = moved({name: tensor.detach() for name, tensor in tensors.items()}, "cpu")
        for n, row in enumerate(rows.tolist()):
            own = {name: tensor[n].clone() for name, tensor in tensors.items()}
            self._row_bytes = nbytes(own)
            if self._folder is None:
                self._pending[row] = own
            else:
                path = self._path(row, round)
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_tensors(path, own, round, self._digest, row)
                self._pending[row] = None

    def share(self, ranks: Ranks, parts: Sequence[Rows]) -> None:
        """Have all processes know what any of them set aside; by one exchange where states are in memory.

        Args:
            ranks: the processes of the run.
            parts: by process, the clients that it trained in this round.
        """
        if ranks.size == 1:
            return
        own = parts[ranks.rank]
        kept: Tensors = {}
        if self._folder is None and self._pending:
            pending = [self._pending[row] or {} for row in own.tolist()]
            kept = {name: torch.stack([state[name] for state in pending]) for name in pending[0]}
        elif self._pending:
            kept = {"bytes": torch.full((len(own),), self._row_bytes)}
        kept = ranks.gather(kept, [len(rows) for rows in parts])
        if not kept:  # the algorithm's clients keep nothing
            return
        rows = np.concatenate(parts).tolist()
        if self._folder is None:
            self._pending = {row: {name: tensor[n].clone() for name, tensor in kept.items()} for n, row in enumerate(rows)}
            self._row_bytes = nbytes({name: tensor[:1] for name, tensor in kept.items()})
        else:
            self._pending, self._row_bytes = dict.fromkeys(rows), int(kept["bytes"][0])

    def commit(self, round: int) -> None:
        """The round is complete: what was set aside is what is read from now on."""
        for row, own in self._pending.items():
            if own is not None:
                self._rows[row] = own
            else:
                self._rounds.setdefault(row, []).append(round)
        self._pending.clear()

    def save(self) -> Tensors:
        """What a checkpoint must hold for :meth:`restore`."""
        rows = self.rows()
        if not len(rows):
            return {}
        if self._folder is None:
            return {"rows": torch.from_numpy(rows)} | {"kept/" + name: tensor for name, tensor in self.read(rows).items()}
        rounds = [self._rounds[row][-1] for row in rows.tolist()]
        return {"rows": torch.from_numpy(rows), "rounds": torch.tensor(rounds), "row_bytes": torch.tensor(self._row_bytes)}

    def wrong(self, saved: Tensors, round: int) -> str:
        """What keeps tensors of a checkpoint of this round from being what :meth:`save` returned; empty where nothing does."""
        if not saved:
            return ""
        if "rows" not in saved:
            return "it has no 'rows'"
        on_disk, count = "rounds" in saved, saved["rows"].numel()
        row, whole = torch.zeros((), dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        expected = {"rows": whole} | ({"rounds": whole, "row_bytes": row} if on_disk else {})
        if not on_disk and self._like is not None:
            expected |= {f"kept/{name}": tensor.expand(count, *tensor.shape) for name, tensor in self._like.items()}
        known = {name: tensor for name, tensor in saved.items() if self._like is not None or not name.startswith("kept/")}
        if reason := files.unlike(known, expected):
            return reason
        rows = saved["rows"]
        if not count or (rows.diff() <= 0).any() or rows[0] < 0 or (self._clients is not None and rows[-1] >= self._clients):
            return "its 'rows' are not clients of the run"
        if on_disk and ((saved["rounds"] < 1).any() or (saved["rounds"] > round).any()):
            return f"its 'rounds' are not from 1 to {round}"
        size = None if self._like is None else nbytes(self._like)
        if on_disk and (saved["row_bytes"] < 0 or size not in (None, int(saved["row_bytes"]))):
            rule = "at least 0" if size is None else str(size)
            return f"its 'row_bytes' are {int(saved['row_bytes'])} and must be {rule}"
        return ""

    def restore(self, saved: Tensors, round: int, verify: bool = True, remove: bool = True) -> None:
        """Go back to the states of a checkpoint that was made after this round; 0 and nothing saved: to the start.

        Every file is checked before the first one is removed. Of several processes the first goes ahead: it removes the files
        that came later.

        Args:
            saved: what :meth:`save` returned, see :meth:`wrong`.
            round: after which the checkpoint was made.
            verify: whether to read the content of all files that the checkpoint counts on.
            remove: whether files that came later are removed. False leaves the folder as it is: nothing is written either, and
                states that the checkpoint itself holds are kept in memory.

        Raises:
            Damaged: a file that the checkpoint counts on is missing or damaged; an older checkpoint may do without it.
            UserError: a file is not one of this run's.
        """
        rows = saved["rows"].tolist() if saved else []
        if not remove and saved and "rounds" not in saved:
            self._folder = None
        if self._folder is None:
            kept = {name.removeprefix("kept/"): tensor.cpu() for name, tensor in saved.items() if name != "rows"}
            self._rows = {row: {name: tensor[n].clone() for name, tensor in kept.items()} for n, row in enumerate(rows)}
            self._row_bytes = nbytes(self._rows[rows[0]]) if rows else 0
            return
        stored, later = list(self._stored()), []
        from_memory = bool(saved) and "rounds" not in saved  # before more rounds made the memory too small
        last = {} if from_memory else dict(zip(rows, saved["rounds"].tolist() if saved else [], strict=True))
        self._rounds = {}
        for row, written, path in stored:
            if written > round:
                later.append(path)
            elif not from_memory and written > last.get(row, 0):
                raise UserError(f"{path}: unknown to the checkpoint of round {round}; move the file out of the run's folder")
            else:
                self._rounds.setdefault(row, []).append(written)
        if from_memory:
            for path in later:
                path.unlink(missing_ok=True)
            self._rounds = {}
            kept = {name.removeprefix("kept/"): tensor for name, tensor in saved.items() if name != "rows"}
            self.write(np.array(rows), kept, round)
            return self.commit(round)
        self._row_bytes = int(saved["row_bytes"]) if saved else 0
        for row, written in last.items():
            if self._rounds.get(row, [None])[-1] != written:
                raise files.Damaged(f"{self._path(row, written)}: missing", REMEDY)
            if verify:
                self._row(row)
        for path in later if remove else ():
            path.unlink(missing_ok=True)

    def forget(self, kept: Sequence[int], remove: bool = True) -> None:
        """Remove the files on which none of the checkpoints of these rounds counts, nor the next round.

        remove: False in all processes but one, where only what is known of them goes.
        """
        for row, written in self._rounds.items():  # none in memory
            if len(written) == 1:
                continue
            needed = {max((r for r in written if r <= round), default=0) for round in kept} | {written[-1]}
            for old in set(written) - needed if remove else ():
                self._path(row, old).unlink()
            self._rounds[row] = [r for r in written if r in needed]

    def _row(self, row: int) -> Tensors:
        if self._folder is None:
            return self._rows[row]
        round = self._rounds[row][-1]
        path = self._path(row, round)
        tensors, labels = files.read_tensors(path, self._digest, lambda: REMEDY)
        _check(path, labels, row, round)
        if self._like is not None and (reason := files.unlike(tensors, self._like)):
            raise UserError(f"{path}: not what a client of this run keeps, {reason}; {REMEDY}")
        return tensors

    def _stored(self) -> Iterator[tuple[int, int, Path]]:
        """Client, round and path of every file, the rounds of a client ascending.

        Raises:
            UserError: a file is of another client, round or run than its place says, or its name is none of this run's.
        """
        assert self._folder is not None
        for path in _visible(self._folder):
            for inner in _visible(path) if path.is_dir() else (path,):
                name = NAMED.fullmatch(inner.name)
                row, round = (int(name[1]), int(name[2])) if name else (0, 0)
                if inner != self._path(row, round):
                    raise UserError(
                        f"{inner}: no file of what a client keeps has this name; move the file out of the run's folder"
                    )
                self._check_labels(inner, row, round)
                yield row, round, inner

    def _check_labels(self, path: Path, row: int, round: int) -> None:
        """Raise UserError where a file says that it is another client's, round's or run's; a damaged one says nothing."""
        try:
            labels = files.read_labels(path, REMEDY)
        except files.Damaged:  # named when a checkpoint counts on it
            return
        _check(path, labels, row, round)
        files.check_run(path, labels, self._digest)

    def _path(self, row: int, round: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{row // FOLDER_SIZE:04d}" / f"{row:07d}-{round:06d}.safetensors"


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, in order; systems keep hidden files of their own there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _check(path: Path, labels: files.Labels, row: int, round: int) -> None:
    """Raise UserError unless a file belongs to this client and round; those of older builds say only the round."""
    if labels.round != round or labels.client not in (None, row):
        own = f"round {labels.round}" if labels.client is None else f"client {labels.client} in round {labels.round}"
        raise UserError(
            f"{path}: holds the state of {own}, not that of client {row} in round {round} as its name says; {REMEDY}"
        )
