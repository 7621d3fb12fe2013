"""The federated loop: sample a cohort, train it, aggregate, evaluate, save. It knows no algorithm by name."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

import flow_kernels
from flow import checkpoint, evaluate, server
from flow.algorithms import Algorithm, algorithm_of
from flow.cohort import Draw, Upload, gather, groups
from flow.config import Config, ModelOptions, checked, on_cpu, read_config
from flow.data import Client, Population, load
from flow.errors import Diverged, UserError
from flow.models import LanguageModel, Tensors
from flow.workers import Workers

SIDES = {"seen": False, "unseen": True}  # of the evaluation, and whether their clients are held out


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


class Task(NamedTuple):
    """A checked configuration with its data and model."""

    config: Config[Any]
    algorithm: Algorithm
    population: Population
    clients: list[Client]
    """Those that may train."""
    model: LanguageModel
    minimum: int
    """Clients with fewer training sequences are skipped."""
    chunk: int
    """Most clients in a group, which is computed side by side on a core."""
    workers: int
    """Groups of clients computed at the same time."""


def simulate(
    config: Config[Any] | None = None,
    folder: Path | str | None = None,
    *,
    population: Population | None = None,
    progress: bool = True,
) -> Result:
    """Train and evaluate from the start.

    Args:
        config: None means all defaults: Flow on Shakespeare.
        folder: a folder that does not exist yet, for configuration, metrics, checkpoints, evaluation and report; None
            keeps everything in memory.
        population: clients to train on instead of loading ``config.data``.
        progress: whether to draw progress bars on stderr and print the accuracies at the end.

    Raises:
        UserError: an option, the data or the folder is wrong, or training diverged; the message says what to do.
    """
    folder = None if folder is None else checkpoint.new_folder(folder)
    task = prepare(Config() if config is None else config, population)
    if folder is not None:
        checkpoint.create(folder, checkpoint.describe(task.config, task.algorithm.name))
    state = task.algorithm.init(task.config.algorithm, dict(task.model.named_parameters()))
    return _run(task, folder, state, [], progress)


def resume(folder: Path | str, *, population: Population | None = None, progress: bool = True) -> Result:
    """Go on after the last checkpoint of a run; the numbers are those of a run that was never interrupted.

    Raises:
        UserError: as :func:`simulate`; the folder holds no run, or its files were damaged or belong to other data.
    """
    folder = Path(folder)
    task = prepare(read_config(folder), population)
    state = task.algorithm.init(task.config.algorithm, dict(task.model.named_parameters()))
    stored = checkpoint.stored(folder / "checkpoints")
    done = 0
    if stored:
        state, done = checkpoint.load(stored[-1], _digest(task), task.config.model.device)
    return _run(task, folder, state, checkpoint.cut_metrics(folder, done), progress)


def _run(task: Task, folder: Path | None, state: Tensors, metrics: list[dict[str, Any]], progress: bool) -> Result:
    """The rounds that are left, then the full evaluation."""
    config, algorithm, options = task.config, task.algorithm, task.config.algorithm
    curve = _curve_clients(task)
    digest = _digest(task)
    name = None if folder is None else str(folder)
    bar = tqdm(desc=name, total=config.rounds, initial=len(metrics), unit="round", disable=not progress)
    with Workers(task.model, task.workers) as workers, bar:
        for round in range(len(metrics) + 1, config.rounds + 1):
            started = time.perf_counter()
            cohort = sample(task.clients, config.cohort, Draw(config.seed, round, "cohort"))
            able = [client for client in cohort if len(client.train.lengths) >= task.minimum]
            received, draw = algorithm.download(options, state), Draw(config.seed, round, "train")
            local = partial(_train, task, received, draw)
            total = server.aggregate(workers.map(local, groups(able, task.chunk, workers.count)))
            if able:
                state = algorithm.server_step(options, state, server.mean(total, state), config.server)
            _check_finite(total, state, round, folder)
            row = _row(round, total, len(cohort), server.nbytes(received), time.perf_counter() - started)
            if config.evaluate_every and round % config.evaluate_every == 0:
                row["evaluation"], _ = _evaluate(task, workers, state, curve, Draw(config.seed, round, "curve"))
            metrics.append(row)
            if folder is not None:
                checkpoint.append_metrics(folder, row)
                if round % config.checkpoint_every == 0 or round == config.rounds:
                    checkpoint.save(folder / "checkpoints", state, round, digest)
            bar.set_postfix(_shown(row))
            bar.update()
        bar.close()
        evaluation = evaluate_fully(task, workers, state, progress)
    if folder is not None:
        checkpoint.write_json(folder / "evaluation.json", evaluation)
    if progress:
        print("\n".join(_said(task, metrics, evaluation["summary"])))
    report = None if folder is None else _write_report(folder)
    return Result(config, state, metrics, evaluation, folder, report)


def _train(task: Task, received: Tensors, draw: Draw, model: LanguageModel, group: list[Client]) -> Upload:
    """The local work of one group of the cohort."""
    data = gather(group, "train", task.config.model.device)
    return task.algorithm.local(task.config.algorithm, model, received, data, draw)


def sample(clients: Sequence[Client], size: int, draw: Draw) -> list[Client]:
    """A round's cohort: uniform, without replacement; clients are in the order of their ids."""
    return [clients[i] for i in draw.stream().choice(len(clients), size, replace=False)]


def prepare(config: Config[Any], population: Population | None = None) -> Task:
    """Check a configuration, load its data and build its model; nothing is written.

    Raises:
        UserError: see :func:`simulate`.
    """
    config = checked(config)
    algorithm = algorithm_of(config.algorithm)
    _check_device(config.model)  # said before anything is read: a large file takes a while
    if population is None:
        try:
            population = load(config.data)
        except (MemoryError, OverflowError) as error:
            raise UserError(
                f"data={config.data.data!r} with sequence_length={config.data.sequence_length} does not fit into memory "
                f"({error}); lower sequence_length or max_clients"
            ) from error
        except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
            raise UserError(str(error)) from error
    clients = [client for client in population.clients if not client.held_out]
    if config.cohort > len(clients):
        raise UserError(
            f"cohort={config.cohort} is more than the {len(clients)} clients that may train; lower cohort, or take more clients"
        )
    minimum = algorithm.minimum_sequences(config.algorithm)
    if all(len(client.train.lengths) < minimum for client in clients):
        raise UserError(
            f"data={population.name!r}: none of the {len(clients)} clients that may train has the {minimum} training sequences "
            f"that {algorithm.name} needs; give them more text, or lower sequence_length={population.sequence_length}"
        )
    model = _build_model(config, algorithm, population)
    chunk = config.chunk or automatic_chunk(config, population)
    workers = config.threads if on_cpu(config.model) else 1
    return Task(config, algorithm, population, clients, model, minimum, chunk, workers)


def automatic_chunk(config: Config[Any], population: Population) -> int:
    """The most clients in a group: so many that the scores of one batch of each (batch size * T * V) stay within a bound.

    On a CPU 4 MB in float32: measured with one thread, 16 clients of 58,000 scores each ran 1.3 times as fast side by
    side as one by one, and 16 of 1.6 million 0.8 times. A GPU needs far more at a time to be busy.
    """
    scores = config.algorithm.batch_size * population.sequence_length * len(population.vocabulary)
    return int(max(1, min(config.cohort, (1 << 20 if on_cpu(config.model) else 1 << 27) // scores)))


def _build_model(config: Config[Any], algorithm: Algorithm, population: Population) -> LanguageModel:
    """The model with its initial parameters, tried once so that what cannot run shows before the run."""
    options = config.model
    generator = torch.Generator().manual_seed(config.seed)
    try:
        model = LanguageModel(
            len(population.vocabulary), options.embedding_dim, options.hidden_size, backend=options.backend,
            generator=generator, dtype=getattr(torch, options.dtype), **algorithm.traits(config.algorithm),
        ).to(options.device)  # fmt: skip
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.long, device=options.device))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"no model can be made with embedding_dim={options.embedding_dim}, hidden_size={options.hidden_size}, "
            f"dtype={options.dtype!r}, device={options.device!r}, backend={options.backend!r}: {str(error).splitlines()[0]}; "
            "lower the sizes where memory is short, else choose another of these"
        ) from error
    return model


def _check_device(options: ModelOptions) -> None:
    """Raise UserError unless there is a backend of this name, and torch can compute on this device here and now."""
    known = flow_kernels.backends()
    if options.backend not in ("auto", *known):
        listed = ", ".join(f"{name!r} ({status})" for name, status in known.items())
        raise UserError(
            f"backend={options.backend!r} must be 'auto', the fastest that runs here, or one of {listed}; "
            "leave it out for 'auto'"
        )
    try:
        torch.zeros(1, device=torch.device(options.device)).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has a way of its own for every kind of device
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        sentence = re.split(r"\.?\n|\. |\.$", str(error))[0]  # a page may follow
        names = "'cpu'" if found is None else f"'cpu' or {found.type!r}"
        raise UserError(
            f"device={options.device!r} must be one on which torch can compute here, {names}; leave it out for 'cpu' "
            f"(torch says: {sentence})"
        ) from error


def _check_finite(total: server.Sum, state: Tensors, round: int, folder: Path | None) -> None:
    """Raise Diverged where the loss or the new state is not finite; checkpoints made before stay."""
    if math.isfinite(total.nats) and all(bool(tensor.isfinite().all()) for tensor in state.values()):
        return
    kept = [] if folder is None else checkpoint.stored(folder / "checkpoints")
    where = f"; the last good checkpoint is {kept[-1]}" if kept else ""
    raise Diverged(
        f"training diverged in round {round}: the loss or a parameter is no longer finite; start again with a smaller "
        f"lr, or with a smaller clip above 0{where}"
    )


def _row(round: int, total: server.Sum, sampled: int, download: int, seconds: float) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "round": round,
        "loss": total.nats / total.tokens if total.tokens else None,
        "clients": total.clients,
        "skipped": sampled - total.clients,
        "sequences": total.sequences,
        "seconds": seconds,
        "sequences_per_second": total.sequences / seconds,
        "upload_bytes": total.nbytes,
        "download_bytes": download * sampled,
        "evaluation": None,
    }


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """What the progress bar says beside the round and the time left."""
    loss = "-" if row["loss"] is None else f"{row['loss']:.3f}"
    return {"loss": loss, "sequences/s": f"{row['sequences_per_second']:.0f}"}


def _said(task: Task, metrics: list[dict[str, Any]], summary: dict[str, dict[str, Any]]) -> list[str]:
    """What a run says at its end: the table of accuracies, and what is missing from it and why."""
    lines = [evaluate.table(summary)] if any(side["clients"] for side in summary.values()) else []
    for side, held_out in SIDES.items():
        if not summary[side]["clients"]:
            lines.append(evaluate.nobody(task.population, held_out, task.config.min_texts, task.minimum))
    idle = sum(not row["clients"] for row in metrics)
    if idle:
        lines.append(
            f"{idle} of {len(metrics)} rounds trained nobody: every client that was drawn has fewer than the {task.minimum} "
            f"training sequences that {task.algorithm.name} needs; raise cohort={task.config.cohort}, or give clients more text"
        )
    return lines


def _curve_clients(task: Task) -> dict[str, tuple[list[Client], int]]:
    """The clients of the small evaluations, the same in every round, and how many of each side cannot be scored."""
    config, found = task.config, {}
    for side, held_out in SIDES.items():
        able, skipped = evaluate.eligible(task.population, held_out, config.min_texts, task.minimum)
        size = min(config.evaluate_clients, len(able))
        found[side] = (sample(able, size, Draw(config.seed, 0, f"curve {side}")), skipped)
    return found


def _evaluate(
    task: Task,
    workers: Workers,
    state: Tensors,
    clients: dict[str, tuple[list[Client], int]],
    draw: Draw,
    bar: tqdm[Any] | None = None,
) -> tuple[dict[str, Any], list[evaluate.Score]]:
    """Summary by side, and the scores of all clients."""
    options = task.config.algorithm
    received = task.algorithm.download(options, state)
    summary, scores = {}, []
    for side, (able, skipped) in clients.items():
        found = evaluate.score(options, workers, received, able, task.population, draw, task.chunk, bar.update if bar else None)
        summary[side] = evaluate.summary(found, skipped)
        scores += found
    return summary, scores


def evaluate_fully(task: Task, workers: Workers, state: Tensors, progress: bool = True) -> dict[str, Any]:
    """The content of evaluation.json: every client that can be scored."""
    config, population = task.config, task.population
    clients = {
        side: evaluate.eligible(population, held_out, config.min_texts, task.minimum) for side, held_out in SIDES.items()
    }
    count = sum(len(able) for able, _ in clients.values())
    with tqdm(total=count, desc="evaluation", unit="client", disable=not progress) as bar:
        summary, scores = _evaluate(task, workers, state, clients, Draw(config.seed, config.rounds, "evaluation"), bar)
    return {
        "round": config.rounds,
        "algorithm": task.algorithm.name,
        "unit": population.vocabulary.unit,
        "dataset": population.name,
        "about": population.about,
        "personalized": task.algorithm.personalize is not None,
        "summary": summary,
        "clients": evaluate.rows(scores),
        "routing": evaluate.routing(scores),
        "texts": evaluate.passages(scores),
    }


def _write_report(folder: Path) -> Path:
    """Write the report; returns its path."""
    from flow.report import write_report  # draws with matplotlib, which a run without a folder does not need

    return write_report(folder)


def _digest(task: Task) -> str:
    """Ties a checkpoint to the configuration and the data that it was made with."""
    return checkpoint.digest(checkpoint.describe(task.config, task.algorithm.name), task.population)
