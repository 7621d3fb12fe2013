"""Several algorithms on the same clients, with the same seeds, cohorts and evaluation, and one table of them.

Every algorithm and seed is an ordinary run in a folder of its own below the comparison's: runs/NAME-seedN. Of every finished
run two small files are kept, see flow/comparison/kept.py, from which tables and pictures are made. A comparison that was
stopped goes on where it was, and one whose runs are gone from what is kept of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.algorithms import registry
from flow.callbacks.calls import opened
from flow.callbacks.protocol import Callback
from flow.comparison import frontier, kept, proposals, tuning
from flow.comparison.against import Line, csv_against, lines_against, records, text_against
from flow.comparison.frames import of_runs
from flow.comparison.jobs import Job, kept_of
from flow.comparison.plan import (
    MODEL,
    Plan,
    SharedOptions,
    about,
    completed_plan,
    configuration,
    describe,
    differences,
    planned,
    read_plan,
    reference,
)
from flow.comparison.table import Row, Run, asked, csv_table, row_of, run_of, text_table, worst_tenths
from flow.config import Config, checked
from flow.data import Population, is_file, located
from flow.engine.task import prepare
from flow.errors import UserError
from flow.evaluation.registry import chosen as chosen_metrics
from flow.evaluation.select import SIDES
from flow.reports.words import words_of
from flow.storage import files, lock, user_files
from flow.terminal import looks

if TYPE_CHECKING:
    import pandas

RECORD = "comparison.json"
__all__ = ["Comparison", "SharedOptions", "compare", "listing", "resume_comparison"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison leaves behind."""

    rows: list[Row]
    """One for every algorithm, in the order in which they were named."""
    tried: dict[str, list[tuning.Trial]]
    """By algorithm, the choices of its parameters that were tried; empty without tuning."""
    folder: Path
    report: Path
    """comparison.html"""
    against: str | None = None
    """The algorithm that the others are held against."""
    tests: list[Line] = field(default_factory=list)
    """Every other algorithm against this one, by side and metric; empty where there is none."""
    classes: int = 0
    """Of the texts, where these are classified; 0: the next token is predicted."""

    @property
    def table(self) -> pandas.DataFrame:
        """Every run as a new DataFrame in long form: one row per algorithm and seed, in the order of :attr:`rows`.

        Columns are ``algorithm``, ``seed``, what table.csv says of the algorithm, ``diverged`` and the measures of table.csv,
        of this one run. A run that diverged has NaN in all of them. ``worst_tenth_seen`` and ``worst_tenth_unseen`` are not
        there, since only all runs of an algorithm together have them.

        Raises:
            UserError: pandas is not installed.
        """
        return of_runs(self.rows)

    def text(self) -> str:
        """The tables for the terminal."""
        tables = [text for text in (text_table(self.rows), frontier.text(self.rows)) if text]
        if self.against is not None:
            tables.append(text_against(self.against, self.tests, self.rows, words_of("token", self.classes).token))
        return "\n\n".join(tables)


def compare(
    algorithms: Sequence[str],
    folder: Path | str,
    config: Config[Any] | None = None,
    *,
    seeds: int = 1,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    tune: int = 0,
    tune_rounds: int = 0,
    tune_by: str = "accuracy",
    tuner: str = "steps",
    against: str | None = None,
    population: Population | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback | str] = (),
) -> Comparison:
    """Run algorithms side by side, or go on with a comparison that was stopped.

    Args:
        algorithms: names, see ``flow compare --list``; none means all of them.
        folder: a new folder, or that of a comparison with the same configuration, which then goes on.
        config: what all runs share; its ``algorithm`` is left out, or a :class:`SharedOptions`. Its server options hold for
            every algorithm that averages and whose name does not stand for a server optimiser.
        seeds: runs of every algorithm, with the seeds config.seed, config.seed + 1, ...
        settings: by name of an algorithm, options of its own, or of the server for it alone.
        tune: how many choices of its learning rates and decisive parameters every algorithm tries, at most 1000, see
            flow/comparison/tuning.py; 0: not tuned.
        tune_rounds: rounds of a run that tries one of them; 0: as many as the final ones have.
        tune_by: the name of the metric by which they are chosen, see flow/evaluation/metrics.py.
        tuner: "steps" goes from the best choice so far by a step of one parameter after the other; "optuna" tries what the TPE
            sampler of Optuna proposes, see flow/comparison/proposals.py. Every algorithm has as many tries with either.
        against: the name of one of the algorithms, against which all others are tested client by client; it may be another one
            when the comparison goes on. None: the one that the folder's comparison had last, if any.
        population: clients to train on instead of loading ``config.data``.
        progress: whether to draw progress bars on stderr, and print the table at the end.
        callbacks: of every run that is done, as in :func:`flow.simulate`; those of the tuning count too.

    Raises:
        UserError: an option, the data or the folder is wrong, or the folder holds a comparison with another configuration.
    """
    plan = planned(algorithms, config, seeds, settings, tune, tune_rounds, tune_by, against=against, tuner=tuner)
    folder, told = _folder(folder), opened(callbacks)
    with _locked(folder):
        return _compare(plan, folder, population, progress, told)


def resume_comparison(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    against: str | None = None,
    changed_file: bool = False,
    population: Population | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback | str] = (),
) -> Comparison:
    """Go on with the comparison in this folder, with the configuration that it was started with.

    Args:
        folder: of the comparison; its runs may be gone where their files below kept/ are there.
        data: the path to which the comparison's file moved, which must give the same population; None: it is where it was.
        against: as in :func:`compare`, likewise `population`, `progress` and `callbacks`.
        changed_file: whether to go on where the file of an algorithm, a model or a metric was changed. Runs that are finished
            keep their results, and the others go on with the changed file; comparison.json gets its SHA-256 and keeps the old
            one.

    Raises:
        UserError: as :func:`compare`; there is no comparison in the folder, or an algorithm or a metric of it is not registered
            in this process or is of a changed file.
    """
    folder, told = _folder(folder), opened(callbacks)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder}: not the folder of a comparison, there is no {RECORD}; give the folder that one was started in"
        )
    with _locked(folder):
        plan = read_plan(folder / RECORD)
        if data is not None:
            if population is not None:
                raise UserError(f"data={str(data)!r} does nothing beside population, which takes its place; leave either out")
            plan = plan._replace(config=replace(plan.config, data=replace(plan.config.data, data=located(str(data)))))
        elif population is None and is_file(plan.config.data.data) and not Path(plan.config.data.data).exists():
            raise UserError(
                f"data={plan.config.data.data!r}: there is no such file, which the comparison in {folder} was started with; "
                f"put it back, or say where it is now with `flow compare --resume {folder} --data FILE`"
            )
        if against is not None:
            plan = plan._replace(against=reference(plan.names, against))
        return _compare(plan, folder, population, progress, told, changed_file)


def listing() -> str:
    """All algorithms by name, with a line each."""
    names = registry.names()
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {known.about}" for name, known in names.items())


def _folder(folder: Path | str) -> Path:
    if not str(folder).strip():
        raise UserError(f"folder={str(folder)!r} is empty; give the name of a folder")
    return Path(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a comparison's folder; where it is new, make it, and remove it again where nothing is written to it.

    Raises:
        UserError: the folder holds something else, cannot be made, or is in use by another process.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not folder.exists():
                stack.enter_context(lock.made(folder))
            elif (folder / RECORD).is_file() or lock.empty(folder):
                if stack.enter_context(lock.held(folder)):
                    files.remove_unfinished(folder, *kept.folders(folder))
            else:
                raise FileExistsError
        except FileExistsError as error:
            raise UserError(f"folder={str(folder)!r} exists already and is left as it is; give another folder") from error
        except OSError as error:
            raise UserError(
                f"folder={str(folder)!r} cannot be created ({error}); give a folder whose parent is a folder that you may "
                "write to"
            ) from error
        yield


def _compare(
    plan: Plan,
    folder: Path,
    population: Population | None,
    progress: bool,
    callbacks: Sequence[Callback],
    changed_file: bool = False,
) -> Comparison:
    known = read_plan(folder / RECORD) if (folder / RECORD).is_file() else None
    if known is not None and not plan.config.threads:  # left open: as on the machine where it was started
        plan = plan._replace(config=replace(plan.config, threads=known.config.threads))
    elif not plan.config.threads:
        plan = plan._replace(config=replace(plan.config, threads=checked(configuration(plan, plan.names[0])).threads))
    if known is not None and plan.against is None:
        plan = plan._replace(against=known.against)
    _check_library(plan, folder)
    population = _ready(plan, population)  # whatever is wrong is said before anything is written
    _record(folder, describe(plan, population), changed_file)

    tuned = [name for name in plan.names if name in plan.parameters]
    count, done = len(tuned) * plan.tune + len(plan.names) * plan.seeds, 0
    smaller = tuning.population_of(population, plan.config.split) if tuned else population
    if any(configuration(plan, name).privacy.on for name in tuned):
        files.say("tuning looks at private data, which costs epsilon that is not counted")
    tried: dict[str, list[tuning.Trial]] = {}
    if tuned:
        tries, rounds = f"{plan.tune} {'try' if plan.tune == 1 else 'tries'}", plan.tune_rounds or plan.config.rounds
        _say(
            progress, f"tuning: every algorithm has the same budget, {tries} of {rounds} {'round' if rounds == 1 else 'rounds'}"
        )
    for name in tuned:
        tried[name] = _tune(plan, name, folder / "tuning", smaller, (done, count), progress, callbacks)
        done += plan.tune
    chosen = {name: tuning.chosen(name, trials) for name, trials in tried.items()}

    rows, runs = [], {}
    for name in plan.names:
        of_seeds: list[Run | None] = []
        for seed in range(plan.config.seed, plan.config.seed + plan.seeds):
            done += 1
            _say(progress, f"{done} of {count}: {name}, seed {seed}")
            own = configuration(plan, name, seed, chosen.get(name))
            job = Job(folder / "runs" / f"{name}-seed{seed}", own, population, callbacks)
            known_run = kept_of(job, progress)
            of_seeds.append(None if known_run.diverged is not None else run_of(known_run))
        runs[name] = [run for run in of_seeds if run is not None]
        options, each = configuration(plan, name, tuned=chosen.get(name)).algorithm, [run and run.measures for run in of_seeds]
        rows.append(row_of(name, options, each, worst_tenths(runs[name]), about(plan, name), plan.config.seed))
    tests = [] if plan.against is None else lines_against(plan.against, runs)
    result = Comparison(rows, tried, folder, folder / "comparison.html", plan.against, tests, len(population.classes))
    _write(result, plan, runs, chosen)
    if progress:
        print(result.text())
    return result


def _ready(plan: Plan, population: Population | None) -> Population:
    """The data, loaded once for all runs, with which every algorithm is known to be able to start.

    Raises:
        UserError: as :func:`flow.engine.task.prepare`; the algorithm is named.
    """
    smaller = None
    for name in plan.names:
        try:
            population = prepare(configuration(plan, name), population).population
            chosen_metrics(plan.config.metric, bool(population.classes))
            if name in plan.parameters:
                smaller = tuning.population_of(population, plan.config.split) if smaller is None else smaller
                prepare(configuration(plan, name, tuned={}), smaller)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    assert population is not None
    return population


def _record(folder: Path, described: dict[str, Any], changed_file: bool) -> None:
    """Write what the comparison is made of into its new folder, or make sure that the comparison there is this one.

    What only decides what is shown, and where the same data lie, may be another than there, and is written down. So may the
    file of an algorithm where the user said so.

    Raises:
        UserError: it is another one, or of another file.
    """
    path = folder / RECORD
    if not path.is_file():
        files.write_json(path, files.with_checksum(described))
        return
    content = files.read_json(path, "put back the file that the comparison was started with")
    replaceable = {"against": described["against"]}
    files.say_unchecked(folder, {RECORD: [content]})
    stored = completed_plan({name: value for name, value in content.items() if name != files.CHECKSUM})
    if stored["data"] == described["data"]:
        place = {"data": described["config"]["data"]["data"]}
        stored["config"] = stored["config"] | {"data": stored["config"]["data"] | place}
        replaceable["config"] = content["config"] | {"data": content["config"]["data"] | place}
    own = _renewed_code(folder, content, described, changed_file)
    described = {name: value for name, value in described.items() if name != "code"}
    if "code" in content:
        described["code"] = replaceable["code"] = own
    changed = differences(stored | replaceable | {"config": stored["config"]}, json.loads(json.dumps(described)))
    if changed:
        raise UserError(
            f"folder={str(folder)!r} holds a comparison with another configuration ({'; '.join(changed)}); go on with "
            f"that one by `flow compare --resume {folder}`, or give another folder"
        )
    if any(content.get(name) != value for name, value in replaceable.items()):
        files.write_json(path, files.with_checksum(content | replaceable))


def _renewed_code(folder: Path, content: dict[str, Any], now: dict[str, Any], changed_file: bool) -> dict[str, Any]:
    """The users' files of a comparison as they are recorded from now on.

    content: of comparison.json. now: what it would have if the comparison began now.
    """

    def what(key: user_files.Key) -> str:
        whose = f"the metric {key[1]!r}" if len(key) > 1 else "the model" if key == MODEL else f"the algorithm {key[0]!r}"
        return f"{folder}: the file of {whose}"

    own = user_files.recorded(now, user_files.METRICS)
    sources = {key: (entry["file"], entry["sha256"]) for key, entry in own.items()}
    return user_files.renewed(user_files.recorded(content, user_files.METRICS), sources, changed_file, what)


def _tune(
    plan: Plan,
    name: str,
    folder: Path,
    population: Population,
    runs: tuple[int, int],
    progress: bool,
    callbacks: Sequence[Callback],
) -> list[tuning.Trial]:
    """Everything that is tried for one algorithm; runs: how many there were before it, and how many there are in all."""
    numbers = itertools.count(1)

    def attempt(values: tuning.Values) -> tuning.Trial:
        number = next(numbers)
        _say(progress, f"{runs[0] + number} of {runs[1]}: {name} tried with {tuning.show(values)}")
        job = Job(folder / f"{name}-{number}", configuration(plan, name, tuned=values), population, callbacks)
        return _trial(values, plan.tune_by, job, progress)

    if plan.tuner == "optuna":
        trials = proposals.search(_proposer(plan, name), proposals.place(folder.parent, name), attempt)
    else:
        trials = tuning.search(plan.start(name), plan.tunable(name), plan.tune, attempt)
    for note in dict.fromkeys(trial.note for trial in trials if trial.note):
        _say(progress, f"{name}: {note}")
    return trials


def _proposer(plan: Plan, name: str) -> proposals.Proposer:
    higher = tuning.metric_of(plan.tune_by).higher_is_better
    return proposals.Proposer(name, plan.start(name), plan.ranges(name), plan.config.seed, plan.tune, higher)


def _check_library(plan: Plan, folder: Path) -> None:
    """Raise UserError where Optuna has something left to propose and is not installed."""
    names = plan.parameters if plan.tuner == "optuna" else {}
    if not all(proposals.complete(proposals.place(folder, name), _proposer(plan, name)) for name in names):
        proposals.library()


def _trial(values: tuning.Values, metric: str, job: Job, progress: bool) -> tuning.Trial:
    """The score of one choice."""
    try:
        tuning.possible(job.config)
    except tuning.NotPossible as error:
        return tuning.Trial(values, metric, None, None, None, str(error))
    known = kept_of(job, progress)
    if known.diverged is not None:
        return tuning.Trial(values, metric, None, None, None, known.diverged)
    measured = tuning.metric_of(metric).client_key(known.predicted) in known.columns
    return tuning.judged(values, metric, {side: known.summary(side) for side in SIDES}, job.folder, measured)


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, file=looks.aside(), flush=True)


def settings_text(plan: Plan, chosen: Mapping[str, tuning.Values]) -> str:
    """The settings of a comparison with what its tuning chose, as TOML for `flow compare --settings`."""
    tables = []
    for name in plan.names:
        values = {**plan.settings.get(name, {}), **chosen.get(name, {})}
        # What JSON writes of strings, booleans and finite numbers is TOML too.
        lines = [f"{option} = {json.dumps(value)}" for option, value in values.items()]
        tables += ["\n".join([f"[{name}]", *lines]) + "\n"] if lines else []
    return "# What the tuning chose; with it `flow compare NAMES --settings FILE` needs no --tune.\n\n" + "\n".join(tables)


def _write(result: Comparison, plan: Plan, runs: dict[str, list[Run]], chosen: dict[str, tuning.Values]) -> None:
    """Write the results: as text, as CSV, as JSON with every run, and as a page."""
    from flow.comparison.page import write_comparison  # loads templates, which nothing else here needs

    folder, rows, tests = result.folder, result.rows, records(result.tests, result.rows)
    content = {
        "algorithms": [asked(row, rows)._asdict() for row in rows],
        "tuning": {name: [trial._asdict() for trial in trials] for name, trials in result.tried.items()},
        "chosen": chosen,
        "against": None if result.against is None else {"reference": result.against, "tests": tests},
    }
    files.write_json(folder / "results.json", files.with_checksum(content))
    if chosen:
        files.write(folder / "chosen.toml", settings_text(plan, chosen).encode())
    files.write(folder / "table.csv", csv_table(rows).encode())
    if result.against is not None:
        files.write(folder / "paired.csv", csv_against(result.tests, rows).encode())
    files.write(folder / "table.txt", (result.text() + "\n").encode())
    write_comparison(folder, plan, rows, runs, result.tests, result.tried, chosen, result.classes)
