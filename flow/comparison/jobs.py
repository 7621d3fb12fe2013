"""One run of a comparison: started, continued, or taken from what is kept of it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms import algorithm_of
from flow.callbacks.protocol import Callback
from flow.comparison import kept
from flow.comparison.kept import Kept
from flow.comparison.plan import differences
from flow.config import Config, checked, completed, read_config
from flow.data import Population
from flow.errors import Diverged, UserError
from flow.simulation.loop import resume, simulate
from flow.storage import files, lock, run_folder


class Job(NamedTuple):
    """One run of a comparison."""

    folder: Path
    config: Config[Any]
    population: Population
    callbacks: Sequence[Callback] = ()


def kept_of(job: Job, progress: bool) -> Kept:
    """What is kept of a run, which is started or continued where that is nothing.

    Raises:
        UserError: what is kept or the run's folder is damaged or of another configuration, or the folder holds something else.
    """
    folder, path = job.folder, kept.place(job.folder)
    expected = run_folder.describe(checked(job.config), algorithm_of(job.config.algorithm).name, job.population)
    _check_run(folder, expected)
    if path.is_file():
        try:
            return kept.read(path, expected)
        except files.Damaged as error:
            if not _finished(folder):
                raise
            files.say(f"{error.reason}; it is written anew from {folder}")
    kept.write(path, folder, expected, _end_of(job, progress))
    return kept.read(path, expected)


def _check_run(folder: Path, expected: dict[str, Any]) -> None:
    """Raise UserError where a run's folder has a config.json that is not the expected one."""
    if (folder / "config.json").is_file():
        read_config(folder)  # whatever is wrong with it is said there
        stored = run_folder.read_config(folder)
        # It goes on under other versions, too, and with data that moved: comparison.json names them.
        changed = differences(kept.placeless(completed(stored)), kept.placeless(json.loads(json.dumps(expected))))
        if changed:
            raise UserError(
                f"{folder}: its config.json is not the one that this comparison wrote ({'; '.join(changed)}); put the file "
                "back, or move the folder away, and the run is done again"
            )


def _finished(folder: Path) -> bool:
    """Whether the folder of a run has all that is to come: its results, or why there are none."""
    results = all((folder / name).is_file() for name in ("evaluation.json", "report.html"))
    return (folder / "config.json").is_file() and (results or (folder / run_folder.DIVERGED).is_file())


def _end_of(job: Job, progress: bool) -> str | None:
    """Start, continue or keep a run; returns why it has no result, None where it has one.

    Raises:
        UserError: its folder holds something else than the run.
    """
    folder, config, population, callbacks = job
    if folder.exists() and not (folder / "config.json").is_file():
        _clear(folder)
    if _finished(folder):
        lock.clean_up(folder)
        return _reason(folder / run_folder.DIVERGED) if (folder / run_folder.DIVERGED).is_file() else None
    try:
        with _no_tables():
            if folder.exists():
                # Whether a user's file may be another one is asked once, for comparison.json.
                resume(folder, changed_file=True, population=population, progress=progress, callbacks=callbacks)
            else:
                simulate(config, folder, population=population, progress=progress, callbacks=callbacks)
    except Diverged as error:  # that is a result, and shown as one; the run has written it down
        return str(error)
    return None


def _reason(path: Path) -> str:
    """Why a run diverged, as it was written down.

    Raises:
        UserError: the file is damaged.
    """
    remedy = "remove the file, and the run goes on"
    content = files.read_json(path, remedy)
    if not (isinstance(content, dict) and isinstance(content.get("reason"), str)):
        raise UserError(f"{path}: does not say why the run diverged; {remedy}")
    return str(content["reason"])


def _clear(folder: Path) -> None:
    """Remove a run's folder that was made, but has no configuration yet.

    Raises:
        UserError: the folder holds something else, or is in use by another process.
    """
    if not lock.empty(folder):
        raise UserError(f"{folder}: not the folder of a run, there is no config.json; move it away, and the run is done again")
    with lock.held(folder):
        for path in files.unfinished(folder):
            path.unlink()
    folder.rmdir()


@contextlib.contextmanager
def _no_tables() -> Iterator[None]:
    """A run prints its accuracies; here the table at the end has them. Progress bars are on stderr and stay."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
