"""From a run to one client: `flow.adapt`. The run's folder is read and stays as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from flow.config import TorchModel
from flow.data import Client, Population
from flow.data.by_client import ClientTexts, joined
from flow.data.population import Indexed, scored_targets
from flow.data.streams import Part
from flow.draws import Draw
from flow.engine.resumption import reopened
from flow.engine.run import RunState, begin
from flow.engine.task import Task
from flow.errors import UserError, plural
from flow.evaluation.gather import company
from flow.evaluation.registry import chosen, sources
from flow.evaluation.score import Score, personalized, scores_of_group
from flow.evaluation.summaries import client_rows
from flow.personal import folder as folders
from flow.personal import report
from flow.personal.model import PersonalModel, load
from flow.personal.texts import FILE, Columns, Cutting, NoTexts, cutting_of, read_file
from flow.storage import run_folder
from flow.training.fused import refusal
from flow.training.messages import Personal
from flow.training.threads import one_thread
from flow.version import __version__

NEW = "me"
"""The id of a client whose texts are given without one."""


class _Adapted(NamedTuple):
    personal: Personal
    score: Score | None
    """None where no token of the last fifth can be scored."""


def adapt(
    run: Path | str,
    out: Path | str,
    *,
    texts: Path | str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    client: str | None = None,
    client_column: str | None = None,
    text_column: str | None = None,
    time_column: str | None = None,
    label_column: str | None = None,
    data: Path | str | None = None,
    changed_file: bool = False,
    population: Population | None = None,
    progress: bool = True,
) -> PersonalModel:
    """Personalize the model of a run for one client, by the run's own algorithm, and write a folder that is private to it.

    The first four fifths of the client's texts adapt the model, and the last fifth measures what that gained. The newest
    checkpoint of the run is taken. Nothing is written to the run's folder.

    Args:
        run: the folder of a run.
        out: a folder that does not exist yet.
        texts: of a new client, in the order of time: a list of them, or the path of a .txt, .jsonl or .csv file. None: those
            that a client of the run has.
        labels: the class of every text of a list, where the run classifies texts.
        client: the id of a client of the run, which has what it kept; beside `texts`, which client of the file, or the name of
            the new client.
        client_column, text_column, time_column, label_column: of a table, see :class:`flow.data.DataOptions`.
        data, changed_file, population, progress: see :func:`flow.resume`.

    Raises:
        UserError: an argument is wrong; the folder is no run or has no checkpoint; the run's data are gone or others; the
            client has too few texts; or the algorithm's way of predicting cannot be stored.
    """
    path, place = Path(run), Path(out)
    _check_run(path)
    folders.check_new(place, "out")  # before anything is read: a large run takes a while
    folders.check_outside(place, "out", path, "the run's own folder")
    own = _given(texts, labels, client, Columns(client_column, text_column, time_column, label_column))
    try:
        task, content = reopened(path, None if data is None else str(data), None, population, progress, changed_file, sources())
    except UserError as error:  # which says with what command to go on with the run
        raise UserError(str(error).replace(f"`flow run --resume {path}", f"`flow adapt {path}")) from error
    metrics = chosen(task.config.metric, bool(task.population.classes))
    state = begin(task, path, stored=content)
    round = state.look(task.config.model.device)
    if own is None:
        assert client is not None
        target = _known(task.population, client, path)
        cutting = _cutting_of_known(task, population is not None)
    else:
        cutting = cutting_of(task.population, task.config.data, population is not None)
        target = _new(own, cutting)
        task = task._replace(population=replace(task.population, clients=(target,), validation_share=0.0))
    adapted = _adapted(task, state, target)
    tensors, holds = folders.tensors_of(adapted.personal, task.algorithm.name)
    settings = {
        "flow": __version__,
        "algorithm": {"name": task.algorithm.name, **asdict(task.config.algorithm)},
        "run": {"round": round, "rounds": task.config.rounds, "run": run_folder.identity(content)},
        "data": {"name": task.population.name, "about": task.population.about},
        "client": {"id": target.id, "of_the_run": own is None},
        "model": folders.described(task.model, task.config.model, task.config.seed),
        "predicts": {name: getattr(adapted.personal, name) for name in ("route", "routing", "alone")},
        "texts": cutting.described(),
        "private": report.privacy(holds),
    }
    row = None if adapted.score is None else client_rows([adapted.score], metrics)[0]
    gains = report.content(settings, target, row)
    tokenizer = Path(str(task.config.data.tokenizer)) if cutting.tokenizer == FILE else None
    folders.write(place, settings, cutting, tensors, gains, report.page(gains), tokenizer)
    model = task.config.model
    return load(place, model if isinstance(model, TorchModel) else None)


def _check_run(folder: Path) -> None:
    """Raise UserError unless there is a folder of a run."""
    if not os.path.lexists(folder):
        raise UserError(f"run={str(folder)!r}: there is no such folder; give that of a run")
    run_folder.read_config(folder)


def _given(
    texts: Path | str | Sequence[str] | None, labels: Sequence[str] | None, client: str | None, columns: Columns
) -> ClientTexts | None:
    """The texts of a new client; None where a client of the run is named."""
    if texts is None:
        if client is None:
            raise UserError(
                "texts=None and client=None name nobody; give texts of a new client, or the id of a client of the run"
            )
        if labels is not None or any(columns):
            raise UserError(f"labels and columns do nothing beside client={client!r} without texts; leave them out")
        return None
    if isinstance(texts, str | Path):
        if labels is not None:
            raise UserError(f"labels do nothing beside texts={str(texts)!r}, a file; name its column with label_column")
        return read_file(Path(texts), client, columns)
    if any(columns):
        raise UserError("columns are those of a file, and texts is a list; leave them out")
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"texts={texts!r} must be a list of strings in the order of time, or the path of a file; give these")
    if labels is not None and len(labels) != len(texts):
        raise UserError(f"labels are {len(labels)} and must be {len(texts)}, one for every text; give these")
    name = client or NEW
    return joined(name, [Part(name, list(texts), labels=labels)])


def _known(population: Population, client: str, run: Path) -> Client:
    """The client of the run with this id."""
    clients = population.clients
    try:
        if isinstance(clients, Indexed):
            return clients[clients.position(client)]
        return next(own for own in clients if own.id == client)
    except (KeyError, StopIteration):
        few = ", ".join(repr(own.id) for own in clients[:3])
        raise UserError(
            f"client={client!r} is none of the {len(clients)} clients of the run in {run}, such as {few}; give one of these "
            "ids, or texts of a new client"
        ) from None


def _cutting_of_known(task: Task, given: bool) -> Cutting:
    """How the run cut its texts; of data that are numbers, how a user's text that names tokens is cut."""
    try:
        return cutting_of(task.population, task.config.data, given)
    except NoTexts:
        population = task.population
        return Cutting(population.vocabulary, "spaces", population.sequence_length, population.classes)


def _new(own: ClientTexts, cutting: Cutting) -> Client:
    """A client that the run does not know, its texts cut as the run's were."""
    if cutting.classes and not own.train_labels:
        raise UserError(
            "the run classifies texts, and the texts have no classes; name their column with label_column, or give labels"
        )
    if own.train_labels and not cutting.classes:
        raise UserError("the run predicts the next token, and has no classes; leave the labels out")
    if cutting.classes:
        train, test = cutting.rows(own.train, own.train_labels), cutting.rows(own.test, own.test_labels)
    else:
        train, test = cutting.windows(own.train), cutting.windows(own.test)
    return Client(own.id, own.group, True, len(own.train) + len(own.test), train, test)


def _adapted(task: Task, run: RunState, client: Client) -> _Adapted:
    """Personalize for one client and score it, as the final evaluation of the run does."""
    sequences = len(client.train)
    if sequences < task.minimum:
        raise UserError(
            f"client {client.id!r} has {sequences} training {plural(sequences, 'sequence')}, and {task.algorithm.name} needs "
            f"{task.minimum}; give more text"
        )
    draw = Draw(task.config.seed, task.config.rounds, "evaluation")
    with one_thread():
        visit, personal = personalized(task, task.model, run.state, run.states, [client], draw)
        score = None
        if scored_targets(client.test, task.population.scored):
            group, own = [client], (visit, personal)
            if refusal(task.model, dict(task.model.named_parameters())):
                group = company(task, run, client)
                own = personalized(task, task.model, run.state, run.states, group, draw)
            scores = scores_of_group(task, task.model, run.state, group, *own)
            score = next(score for score in scores if score.id == client.id)
        if personal is None:
            personal = task.algorithm.general(task.config.algorithm, task.model, run.state)
    assert personal is not None, "an algorithm without a personal model has a general one"
    return _Adapted(personal, score)
