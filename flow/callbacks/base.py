"""What the loggers share: where they write, and what they must remember of a run that goes on."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from flow.callbacks.protocol import Callback, Data
from flow.data.readers.needs import package
from flow.errors import UserError
from flow.storage import files

FOLDER = "logs"
"""In the folder of a run: what loggers write."""
RECORD = "comparison.json"
"""In the folder of a comparison, whose runs lie two folders below it."""


class Logger(Callback):
    """A callback of flow itself."""

    name: ClassVar[str]
    """Behind ``--log``; of its extra too."""
    writes: ClassVar[bool] = False
    """Whether it can write nowhere but into a folder."""

    def __init__(self, folder: Path | str | None = None) -> None:
        """folder: in which every run gets a folder of its name for what the logger writes; None: logs/ in the run's folder.

        Raises:
            UserError: the library of the logger is not installed.
        """
        self._given = None if folder is None else Path(folder)

    def check(self, folder: Path | None) -> None:
        """Refuse a run in memory alone where the logger needs a folder.

        Args:
            folder: of the run.

        Raises:
            UserError: there is no folder.
        """
        if self.writes and folder is None and self._given is None:
            raise UserError(
                f"callbacks has {self.name!r}, which writes into the run's folder, and folder is None; give the run a folder, "
                f"or the logger its own, as in flow.callbacks.{type(self).__name__}(FOLDER)"
            )

    def place(self, run: Data) -> Path | None:
        """The folder for what the logger writes of this run, which need not exist. None: there is none."""
        return own_folder(run) if self._given is None else self._given / run["name"]

    def library(self, module: str = "") -> Any:
        """A module of the logger's library.

        Raises:
            UserError: it is not installed.
        """
        return package(module or self.name, self.name, f"log={self.name!r}", "a logger")


class Memory:
    """What a logger has to know when a run goes on: logs/LOGGER.json in the run's folder, or nothing where there is no folder.

    Where there is no such file, it begins with a random ``id``, and with ``logged`` 0, the last round that was logged.
    """

    def __init__(self, name: str, run: Data) -> None:
        """Read the file, unless it is damaged.

        Args:
            name: of the logger.
            run: what the logger is told when the run starts.
        """
        place = own_folder(run)
        self._path = None if place is None else place / f"{name}.json"
        self.content: dict[str, Any] = {"id": uuid.uuid4().hex[:12], "logged": 0}
        self.known = False
        if self._path is not None and self._path.is_file():
            with suppress(ValueError):
                content = json.loads(self._path.read_text(encoding="utf-8"))
                if isinstance(content, dict) and {"id", "logged"} <= content.keys():
                    self.known, self.content = True, content

    def keep(self, **values: Any) -> None:
        """Write these beside what is there."""
        self.content |= values
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write(self._path, json.dumps(self.content).encode())

    def missing(self, rows: list[Data]) -> list[Data]:
        """Those of the rows that are not logged yet."""
        return [row for row in rows if row["round"] > self.content["logged"]]


def own_folder(run: Data) -> Path | None:
    """The folder of the loggers in that of a run, which need not exist; None without one."""
    return None if run["folder"] is None else Path(run["folder"]) / FOLDER


def name_of(folder: Path | None, algorithm: str) -> str:
    """The name of a run: that of its folder, after that of its comparison if there is one; without a folder the algorithm's."""
    if folder is None:
        return algorithm
    folder = folder.absolute()
    comparison = shelf(folder)
    if comparison == folder.parent:
        return folder.name
    parts = folder.relative_to(comparison).parts
    return "/".join((comparison.name, *(part for part in parts if part != "runs")))


def shelf(folder: Path) -> Path:
    """Where a run's folder lies: in that of its comparison, or in its parent."""
    folder = folder.absolute()
    above = folder.parents[1] if len(folder.parents) > 1 else folder.parent
    return above if (above / RECORD).is_file() else folder.parent
