"""What the clients of a node keep from round to round: a file for each on the node's own disk, which never leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flow.errors import UserError
from flow.model.parameters import Rows, Tensors
from flow.storage import files
from flow.storage.client_states import ClientStates

REMEDY = "put the file back from a copy, or start a new run"


class NodeStates:
    """The states of a node's clients, by their numbers.

    Args:
        folder: of the run on this node; it is made when the first state is written.
        digest: of the app, which every file names.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest

    def read(self, rows: Rows, round: int) -> ClientStates:
        """What these clients have kept, as of the end of the last round in which they took part.

        Raises:
            UserError: a file is damaged, of another app, or of this round or a later one.
        """
        states = ClientStates()
        for row in rows.tolist():
            path = self._path(row)
            if not path.is_file():
                continue
            tensors, labels = files.read_tensors(path, self._digest, lambda: REMEDY)
            if labels.client != row or labels.round >= round:
                raise UserError(
                    f"{path}: is of client {labels.client} after round {labels.round}, and client {row} is asked for round "
                    f"{round}; {REMEDY}"
                )
            states.write(np.array([row]), {name: tensor[None] for name, tensor in tensors.items()}, labels.round)
            states.commit(labels.round)
        return states

    def write(self, rows: Rows, kept: Tensors, round: int) -> None:
        """Keep the next states [n, ..] of these clients; every file is written whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for place, row in enumerate(rows.tolist()):
            own = {name: tensor[place].detach().cpu().contiguous().clone() for name, tensor in kept.items()}
            files.write_tensors(self._path(row), own, round, self._digest, row)

    def _path(self, row: int) -> Path:
        return self._folder / f"{row:07d}.safetensors"
