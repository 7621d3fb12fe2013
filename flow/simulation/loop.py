"""The federated loop: sample a cohort, train it, aggregate, evaluate, save. It knows no algorithm by name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flow.algorithms import code_of
from flow.callbacks.calls import Calls
from flow.callbacks.protocol import Callback
from flow.config import Config, code_of_model, files_again
from flow.data import Client, Population
from flow.draws import Draw
from flow.engine import rates
from flow.engine.participation import Group, Turnout, grouped, turnout
from flow.engine.resumption import record, reopened
from flow.engine.run import RunState, begin
from flow.engine.task import Task, prepare
from flow.errors import Diverged
from flow.evaluation.gather import evaluate, final_evaluation
from flow.evaluation.registry import chosen, sources, sources_of
from flow.evaluation.select import choose_clients
from flow.model.interface import Model
from flow.model.parameters import Tensors, nbytes
from flow.parallel.processes import joined
from flow.parallel.workers import Workers
from flow.server import aggregators
from flow.server.uploads import Received, Uploads, all_finite, collect, combine
from flow.simulation import frames, private, summary, timing, virtual
from flow.simulation.asynchronous import Asynchronous
from flow.simulation.partial_work import until_deadline
from flow.storage import files, run_folder, user_files
from flow.terminal.looks import aside
from flow.terminal.progress import Progress
from flow.training import compression
from flow.training.fused import refusal
from flow.training.messages import Upload, Visit
from flow_kernels.training import finish

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    config: Config[Any]
    state: Tensors
    """The server's last state."""
    metrics: list[dict[str, Any]]
    """One object per round, the rows of metrics.jsonl."""
    evaluation: dict[str, Any]
    """The content of evaluation.json."""
    folder: Path | None
    report: Path | None
    run: dict[str, Any]
    """The content of run.json: time by part, client-sequences per second, peak memory."""

    @property
    def rounds(self) -> pandas.DataFrame:
        """The rows of metrics.jsonl as a new DataFrame: one row per round, the index is ``round``.

        Columns have the names of docs/files.md: those of an evaluation begin with ``evaluation.seen.`` or
        ``evaluation.unseen.``, and are NaN in a round without one.

        Raises:
            UserError: pandas is not installed.
        """
        return frames.of_rounds(self.metrics)

    @property
    def clients(self) -> pandas.DataFrame:
        """The clients that the final evaluation scored as a new DataFrame: one row each, the index is ``id``.

        Columns are the fields of ``clients`` in evaluation.json, and for every model what its counts give per token:
        ``personal_accuracy`` (0 to 1), ``personal_loss`` (nats a token), ``personal_perplexity``. A model that the algorithm
        does not have is NaN.

        Raises:
            UserError: pandas is not installed.
        """
        return frames.of_clients(self.evaluation)


def simulate(
    config: Config[Any] | None = None,
    folder: Path | str | None = None,
    *,
    population: Population | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback | str] = (),
) -> Result:
    """Train and evaluate from the start; under torchrun on all of its processes, see docs/simulation.md.

    Args:
        config: None means all defaults: Flow on Shakespeare.
        folder: a folder that does not exist yet, for configuration, metrics, checkpoints, evaluation and report; None
            keeps everything in memory.
        population: clients to train on instead of loading ``config.data``.
        progress: whether to draw progress bars on stderr, print the accuracies at the end, and where the time went.
        callbacks: objects that are told what happens, or names of loggers, see docs/callbacks.md.

    Raises:
        UserError: an option, a callback, the data or the folder is wrong, training diverged, or another process of the run
            ended; the message says what to do.
    """
    ranks = joined()
    path = None if folder is None else Path(folder)

    def start() -> tuple[Task, RunState]:
        task = prepare(Config() if config is None else config, population, progress and ranks.first)
        code = _code(task)  # before anything is written, as it refuses metrics that there are not
        run = begin(task, path, ranks)
        if path is not None and ranks.first:
            run_folder.create(
                path, {**run_folder.describe(task.config, task.algorithm.name, task.population, code), **task.known_by()}
            )
        return task, run

    own = run_folder.started(folder) if folder is not None and ranks.first else nullcontext()
    with ranks.together(partial(_remedy, folder)), own, Calls(callbacks, path, ranks.first) as calls:
        task, run = ranks.in_turn(start)
        return _run(task, run, [], progress and ranks.first, calls)


def resume(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    rounds: int | None = None,
    changed_file: bool = False,
    population: Population | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback | str] = (),
) -> Result:
    """Go on after the last checkpoint of a run, on any number of processes; the numbers are those of a run that was never
    interrupted.

    Args:
        folder: of the run.
        data: the path to which the run's file moved, which must give the same population; None: the file is where it was.
        rounds: the number of rounds that the run has from now on, at least those of its last checkpoint; options that were
            resolved from the number before stay as they are. None: as many as before.
        changed_file: whether to go on where the file of the run's algorithm, model or metric was changed. config.json then gets
            the new SHA-256 and keeps the old one.
        population: clients to train on instead of loading the run's data.
        progress: as in :func:`simulate`, likewise `callbacks`, which are not kept from before.

    Raises:
        UserError: as :func:`simulate`; the folder holds no run, its files were damaged or belong to other data, or its
            algorithm or a metric is not registered in this process or is of a changed file.
    """
    path, ranks = Path(folder), joined()

    def start() -> tuple[Task, RunState, list[dict[str, Any]]]:
        place = None if data is None else str(data)
        task, content = reopened(path, place, rounds, population, progress and ranks.first, changed_file, sources())
        chosen(task.config.metric, bool(task.population.classes))
        run = begin(task, path, ranks, content)
        rows = run.go_back(task.config.model.device)
        if ranks.first:
            record(path, content)
        return task, run, rows

    own = run_folder.reopened(path) if ranks.first else nullcontext()
    with ranks.together(partial(_remedy, folder)), own, Calls(callbacks, path, ranks.first) as calls:
        return _run(*ranks.in_turn(start), progress and ranks.first, calls)


def _run(task: Task, run: RunState, metrics: list[dict[str, Any]], progress: bool, calls: Calls) -> Result:
    """The rounds that are left, then the full evaluation."""
    config, algorithm, ranks = task.config, task.algorithm, run.ranks
    folder = run.folder if ranks.first else None  # the others write nothing
    ranks.agree("a configuration, data or code", f"{run.digest} {_code(task)}")
    curve = choose_clients(task, config.evaluate_clients, "curve")
    if calls:
        calls.begin(algorithm.name, run_folder.options(run_folder.describe(config, algorithm.name, task.population)), metrics)
    name = algorithm.name if folder is None else str(folder)
    bar = Progress[None](what=name, unit="round", total=config.rounds, before=len(metrics), visible=progress)
    with Workers(task.model, task.workers) as workers, bar:
        steps = _asynchronous(task, run, workers)
        for round in range(len(metrics) + 1, config.rounds + 1):
            ranks.where, started = f"round {round}", time.perf_counter()
            now = task.in_round(round)
            if steps is None:
                begins = virtual.begin(metrics, run.folder) if task.devices is not None else 0.0
                uploads, counts, more = _round(now, run, workers, round, begins)
            else:
                uploads, counts, more = steps.round(round)
            aggregating = time.perf_counter()
            taken = uploads if task.privacy is None else private.released(now, run, uploads, round)
            if taken.clients:
                draw = Draw(config.seed, round, "server")
                run.state, run.moments = algorithm.server_step(
                    now.config.algorithm, run.state, run.moments, taken, now.config.server, draw
                )
            _check_finite(uploads, run.state, round, run.folder, ranks.first)
            run.commit(round)
            uploads.aggregation_seconds += time.perf_counter() - aggregating
            trained, kept = time.perf_counter(), run.states.nbytes + run.residuals.nbytes
            row = summary.row(round, uploads, counts, kept, trained - started, ranks.size * workers.count)
            row |= rates.row(now.config) | more | private.row(task.privacy, run, round)
            if config.evaluate_every and round % config.evaluate_every == 0:
                row["evaluation"], _ = evaluate(task, workers, run, curve, Draw(config.seed, round, "curve"))
                row["evaluation_seconds"] = time.perf_counter() - trained
            metrics.append(row)
            if folder is not None:
                run_folder.append_metrics(folder, run.labelled(row))
            if run.folder is not None and (round % config.checkpoint_every == 0 or round == config.rounds):
                run.save(round, None if steps is None else steps.at_work())
            calls.round(row)
            bar.say(summary.progress_fields(row))
            bar.update()
        bar.close()
        ranks.where, started = "the final evaluation", time.perf_counter()
        evaluation = final_evaluation(task, workers, run, progress)
        slow = refusal(task.model, dict(task.model.named_parameters()))
        about = timing.run_summary(ranks, metrics, time.perf_counter() - started, workers.count, slow)
        if task.devices is not None:
            about |= timing.on_the_clock(metrics, config.target)
        if task.privacy is not None:
            about["privacy"] = private.about(task.privacy, metrics)
    if folder is not None:
        files.write_json(folder / "evaluation.json", files.with_checksum(run.labelled(evaluation)))
        files.write_json(folder / "run.json", files.with_checksum(run.labelled(about)))
    report = None if folder is None else _write_report(folder)
    calls.end(evaluation, about)
    if progress:  # after everything is on disk: the streams may be full or closed
        print("\n".join([*summary.final_lines(task, metrics, evaluation), *calls.warnings]))
        print(timing.timing_lines(about), file=aside(), flush=True)
    return Result(config, run.state, metrics, evaluation, run.folder, report, about)


def _code(task: Task) -> dict[user_files.Key, user_files.Source | None]:
    """The users' files that take part, as config.json records them.

    Raises:
        UserError: there is no metric of a name that the configuration has.
    """
    config = task.config
    own = sources_of(chosen(config.metric, bool(task.population.classes)))
    return {
        user_files.ALGORITHM: code_of(task.algorithm),
        user_files.MODEL: code_of_model(config.model),
        **{(user_files.METRIC, name): source for name, source in own.items()},
    }


def _round(
    task: Task, run: RunState, workers: Workers, round: int, now: float
) -> tuple[Uploads, summary.Counts, dict[str, Any]]:
    """A round in which the server waits for its cohort: what came in, and what its row of metrics.jsonl has more with a clock.

    now: virtual seconds at which it begins.
    """
    config, draw, devices = task.config, Draw(task.config.seed, round, "cohort"), task.devices
    if task.privacy is not None:
        cohort = [task.clients[number] for number in task.privacy.drawn(config.seed, round).tolist()]
    elif devices is None:
        cohort = sample(task.clients, config.cohort, draw)
    else:
        opening = devices.opening(now, np.ones(len(task.clients), dtype=np.bool_), config.cohort)
        assert opening is not None, "refused when the task was prepared"
        now, where = opening, np.flatnonzero(devices.available(opening))
        cohort = [task.clients[int(where[i])] for i in draw.stream().choice(len(where), config.cohort, replace=False)]
    who = turnout(config, cohort, task.minimum, task.population.numbers(cohort), round, run.ranks.size)
    uploads, who, seconds, partial_uploads = _train(task, run, workers, who, Draw(config.seed, round, "train"))
    counts = summary.Counts(len(who.idle), int(who.dropped.sum()), int(who.late.sum()))
    more: dict[str, Any] = {} if devices is None else {"virtual_seconds": now + seconds, "available": len(where)}
    more |= {} if partial_uploads is None else {"partial": partial_uploads}
    return uploads, counts, more


def _train(task: Task, run: RunState, workers: Workers, who: Turnout, draw: Draw) -> tuple[Uploads, Turnout, float, int | None]:
    """The local work of a round, every process its share; what all of them have is known to each in the end.

    Returns:
        The uploads; who was late too; the round's virtual seconds, 0 without a clock; how many uploads are of clients that
        stopped early, None where nobody would.
    """
    config, seconds, each, partial_uploads = task.config, 0.0, _one_by_one(task), None
    received: Iterable[Received] = _at_work(run, workers, task, who, draw)
    idle = task.members(who.idle, run.states, draw, "train")
    download = task.download(task.model, run.state, idle).nbytes
    if task.devices is None:
        uploads = collect(received, each, run.sums)
    else:
        noted: dict[int, float] = {}
        early: dict[int, float] = {}
        received = virtual.noted(received, noted, early)
        if closes := bool(config.deadline or config.wait_for):  # who is late is known when all have worked
            received = list(received)
        else:
            uploads = collect(received, each, run.sums)
        of_idle = np.array(download, dtype=np.float64) / task.devices.download[idle.rows]
        seconds, late = virtual.close(config, who, virtual.shared(run.ranks, who, noted), of_idle)
        who = who._replace(late=who.late | late)
        if config.deadline and config.late == "partial":
            partial_uploads = int(virtual.shared(run.ranks, who, early)[~who.lost].sum())
        if closes:
            uploads = collect(virtual.without(received, who), each, run.sums)
    combine(run.ranks, uploads, who.arrived())
    run.share(who.trained())
    uploads.download_bytes += sum(download)
    return uploads, who, seconds, partial_uploads


def _one_by_one(task: Task) -> bool:
    """Whether the server needs every single upload; of a private run it has their sum alone."""
    if task.privacy is not None:
        return False
    return task.algorithm.one_by_one or (task.algorithm.averages and aggregators.one_by_one(task.config.server))


def _asynchronous(task: Task, run: RunState, workers: Workers) -> Asynchronous | None:
    """The clients at work where the server waits for nobody; None where a round waits for its cohort."""
    if not task.config.async_buffer:
        return None
    return Asynchronous(task, run, partial(_at_work, run, workers), _one_by_one(task))


def _at_work(run: RunState, workers: Workers, task: Task, who: Turnout, draw: Draw) -> Iterator[Received]:
    """What the groups of this process's share do, as they are done."""
    reading: deque[float] = deque()

    def ahead() -> Iterator[Group]:  # runs while the workers are busy with the groups before
        for group in grouped(task.config, who, run.ranks.rank, task.chunk, workers.count):
            started = time.perf_counter()
            for client in group.clients:
                client.read()
            reading.append(time.perf_counter() - started)
            yield group

    for group in workers.map(partial(_local, task, run, draw), ahead()):
        yield group._replace(data_seconds=group.data_seconds + reading.popleft())


def _local(task: Task, run: RunState, draw: Draw, model: Model, group: Group) -> Received:
    """The local work of one group of the cohort. What a client keeps it keeps even where its upload is lost."""
    started = time.perf_counter()
    visit = task.visit(model, run.state, run.states, group.clients, draw, "train")
    visit, early = until_deadline(task, group.options, model, visit)
    ready = time.perf_counter()
    upload = task.algorithm.local(group.options, model, visit)
    upload, sent, residual = _sent(task, run, visit, upload)
    if task.privacy is not None:  # clipping comes last: what follows it could lengthen an upload again
        upload = private.sent(task, run, upload, draw.round)
    seconds = None if task.devices is None else virtual.of_clients(task.devices, visit.rows, visit.nbytes, upload, sent or ())
    finish(upload.phases[-1].nats.device)  # a GPU is waited for, so that the seconds are its own
    if not run.asynchronous:  # else when the upload has come
        run.keep(visit.rows, upload.kept, residual, draw.round)
    training = time.perf_counter() - ready
    return Received(
        visit.rows, upload, sum(visit.nbytes), group.lost, ready - started, training, sent, residual, seconds, early
    )


def _sent(task: Task, run: RunState, visit: Visit, upload: Upload) -> tuple[Upload, tuple[int, ...] | None, Tensors | None]:
    """The upload as it is sent, the bytes of every client's where they are asked for, and what compression left out."""
    clients, way = len(visit.rows), compression.read(task.config.compress)
    if way is None:
        return upload, None if task.devices is None else (nbytes(upload.tensors) // clients,) * clients, None
    nothing = {name: tensor.expand(clients, *tensor.shape) for name, tensor in run.residuals.like.items()}
    before = run.residuals.of(visit.rows, nothing).tensors
    made = compression.compressed(way, upload.tensors, visit.received, before)
    return upload._replace(tensors=made.tensors), made.sent, {**before, **made.residual}


def sample(clients: Sequence[Client], size: int, draw: Draw) -> list[Client]:
    """A round's cohort: uniform, without replacement; clients are in the order of their ids."""
    return [clients[i] for i in draw.stream().choice(len(clients), size, replace=False)]


def _check_finite(uploads: Uploads, state: Tensors, round: int, folder: Path | None, first: bool) -> None:
    """Raise Diverged where the loss or a new state is not finite; checkpoints made before stay.

    first: whether this process writes the reason into the folder.
    """
    if uploads.finite and all_finite(state.values()):
        return
    kept = [] if folder is None else run_folder.stored(folder / "checkpoints")
    where = f"; the last good checkpoint is {kept[-1]}" if kept else ""
    reason = (
        f"training diverged in round {round}: the loss or a parameter is no longer finite; start again with a smaller "
        f"lr, or with a smaller clip above 0{where}"
    )
    if folder is not None and first:
        files.write_json(folder / run_folder.DIVERGED, {"reason": reason})
    raise Diverged(reason)


def _remedy(folder: Path | str | None) -> str:
    """How to go on after a process was lost."""
    if folder is None or not (Path(folder) / "config.json").is_file():
        return "start the run again"
    again = files_again(run_folder.read_config(Path(folder)))
    return f"go on after its last checkpoint with `flow run --resume {folder}{again}`, on any number of processes"


def _write_report(folder: Path) -> Path:
    """Write the report; returns its path."""
    from flow.reports.run_page import write_report  # loads templates, which a run without a folder does not need

    return write_report(folder)
