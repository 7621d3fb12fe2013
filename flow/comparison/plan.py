"""What a comparison is made of, how it is checked, and how it is written to comparison.json and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms import DEFAULT, REGISTRY, Name, registry
from flow.algorithms.interface import Tunable
from flow.checks import LARGEST_INTEGER, typed
from flow.clock.profiles import placed as clock_placed
from flow.comparison.proposals import Range, described, range_of
from flow.comparison.tuning import MOST, Values, metric_of
from flow.config import (
    PARTS,
    Config,
    ModelOptions,
    checked,
    code_of_model,
    completed,
    factory_of,
    knows_factory,
    model_of,
    renamed,
)
from flow.data import Population, placed
from flow.errors import UserError
from flow.evaluation.registry import all_metrics, sources_of
from flow.evaluation.registry import chosen as chosen_metrics
from flow.privacy.options import PrivacyOptions
from flow.server import schedules
from flow.server.optimizers import OPTIMIZERS
from flow.server.options import ServerOptions
from flow.storage import files, run_folder, user_files
from flow.user_code import is_reference

ALIAS = "algorithm"
"""The key of a table of settings whose name is no algorithm's: the algorithm that it stands for."""
MODEL: user_files.Key = ("--model",)
"""The key of a module of the user's own among the files of algorithms, of which none has such a name."""
TUNERS = ("steps", "optuna")
"""What says which choices of its parameters an algorithm tries: flow/comparison/tuning.py, or proposals.py. The first is the
default."""
SERVER_RATE = Tunable("server_lr", factor=10**0.5)
"""Of an adaptive server optimiser; grids of google-research/federated have this step."""


@dataclass(frozen=True)
class SharedOptions:
    """Options of the clients' SGD that all algorithms of a comparison share."""

    lr: float | None = None
    """Learning rate of the clients' SGD. None: every algorithm's own default."""

    epochs: int | None = None
    """Passes of a client over its training sequences. None: every algorithm's own default."""

    batch_size: int | None = None
    """Sequences per SGD step of a client. None: every algorithm's own default."""

    clip: float | None = None
    """Largest norm of a client's gradient; 0: no clipping. None: every algorithm's own default."""


class Plan(NamedTuple):
    """A comparison as it was asked for."""

    names: tuple[str, ...]
    config: Config[SharedOptions]
    """Of all runs; its seed is the first one."""
    seeds: int
    settings: dict[str, dict[str, Any]]
    tune: int
    """Choices of the parameters that every algorithm tries; 0: not tuned."""
    tune_rounds: int
    tune_by: str
    """The name of the metric that decides."""
    parameters: dict[str, list[str]]
    """By algorithm, the options that are tuned, in their order; without algorithms that have none."""
    against: str | None = None
    """The algorithm that the others are held against; it decides what is shown and no number of a run."""
    tuner: str = "steps"
    """What says which choices are tried, one of TUNERS."""

    def tunable(self, name: str) -> dict[str, Tunable]:
        """The parameters to choose for the algorithm of this name, and how they move."""
        all_of_them = _tunable(self, name)
        return {option: all_of_them[option] for option in self.parameters.get(name, [])}

    def start(self, name: str) -> Values:
        """The defaults of these parameters."""
        config = checked(configuration(self, name))
        both = {**vars(config.algorithm), "server_lr": config.server.server_lr}
        return {option: both[option] for option in self.parameters.get(name, [])}

    def ranges(self, name: str) -> dict[str, Range]:
        """What a search by Optuna may propose for these parameters."""
        start = self.start(name)
        return {option: range_of(tunable, start[option]) for option, tunable in self.tunable(name).items()}


def planned(
    names: Sequence[str],
    config: Config[Any] | None,
    seeds: int,
    settings: Mapping[str, Mapping[str, Any]] | None,
    tune: int,
    tune_rounds: int,
    tune_by: str = "accuracy",
    parameters: Mapping[str, Sequence[str]] | None = None,
    against: str | None = None,
    tuner: str = "steps",
) -> Plan:
    """A comparison, checked as far as it can be without the data.

    Args:
        parameters: by algorithm, the options to tune, as a comparison recorded them; None: all that were not given.
        against: see :func:`reference`.
        tuner: one of :data:`TUNERS`.

    Raises:
        UserError: an argument is wrong.
    """
    if isinstance(names, str):
        raise UserError(f"algorithms={names!r} must be several names; write [{names!r}]")
    if not isinstance(settings, Mapping | None):
        raise UserError(f"settings must hold tables of options by name, got {settings!r}; write {{'flow': {{'lr': 1.0}}}}")
    names = tuple(names) or tuple(registry.names())
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"algorithms: {name!r} is no name; give names as strings")
        _check_name(name, (settings or {}).get(name))
        if names.count(name) > 1:
            raise UserError(f"algorithms: {name!r} is named {names.count(name)} times; name it once")
    config = Config(algorithm=SharedOptions()) if config is None else config
    if not isinstance(config, Config):
        raise UserError(f"config must be a flow.Config, got {config!r}; write flow.Config(rounds=...)")
    if config.algorithm == REGISTRY[DEFAULT].options():  # it was left out
        config = replace(config, algorithm=SharedOptions())
    if not isinstance(config.algorithm, SharedOptions):
        raise UserError(
            f"config.algorithm must be left out or a flow.SharedOptions, got {config.algorithm!r}; give options of one "
            "algorithm in settings"
        )
    config = replace(typed(config), algorithm=typed(config.algorithm))
    config = replace(config, data=placed(config.data), clock=clock_placed(config.clock))
    for what, value, low in (("seeds", seeds, 1), ("tune", tune, 0), ("tune_rounds", tune_rounds, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UserError(f"{what} must be an integer of at least {low}, got {value!r}; leave it out for the default")
    if tune_rounds > LARGEST_INTEGER:
        raise UserError(f"tune_rounds must be at most {LARGEST_INTEGER}, got {tune_rounds}; leave it out for the default")
    if tune > MOST:
        raise UserError(f"tune must be at most {MOST} tries of every algorithm, got {tune}; give fewer")
    if seeds > MOST:
        raise UserError(f"seeds must be at most {MOST} runs of every algorithm, got {seeds}; give fewer")
    if tuner not in TUNERS:
        known = " or ".join(map(repr, TUNERS))
        raise UserError(f"tuner must be {known}, got {tuner!r}; leave it out for {TUNERS[0]!r}")
    if tuner != TUNERS[0] and not tune:
        raise UserError(f"tuner={tuner!r} does nothing without tries; give tune=7, or leave tuner out")
    decides = metric_of(tune_by)
    if tune and not decides.always and tune_by not in config.metric.split(","):
        config = replace(config, metric=",".join(filter(None, (config.metric, tune_by))))
    if config.seed + seeds - 1 > LARGEST_INTEGER:
        raise UserError(f"seed={config.seed} with seeds={seeds} goes beyond {LARGEST_INTEGER}; lower either")
    held = reference(names, against)
    plan = Plan(names, config, seeds, _settings(names, settings), tune, tune_rounds, tune_by, {}, held, tuner)
    if not tune:
        return plan
    plan = plan._replace(parameters=_parameters(plan, parameters))
    if not plan.parameters:
        raise UserError(
            f"tune={tune!r} has nothing to choose: every parameter of {', '.join(names)} is given; leave one or tune out"
        )
    return plan


def _tunable(plan: Plan, name: str) -> dict[str, Tunable]:
    """What can be tuned of an algorithm: its rates, the server's, its decisive parameters; without those that were given."""
    algorithm, own = known_as(plan.settings, name).algorithm, plan.settings.get(name, {})
    config = configuration(plan, name)
    server = config.server
    tuned = algorithm.tuned(config.algorithm) if callable(algorithm.tuned) else algorithm.tuned
    adaptive = algorithm.averages and server.server != "average" and server.server_lr is None
    ordered = [
        *(tunable for tunable in tuned if tunable.kind == "rate"),
        *([SERVER_RATE] if adaptive else []),
        *(tunable for tunable in tuned if tunable.kind != "rate"),
    ]
    given = {key for key, value in vars(plan.config.algorithm).items() if value is not None} | own.keys()
    return {tunable.option: tunable for tunable in ordered if tunable.option not in given}


def _parameters(plan: Plan, recorded: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """By algorithm, the options to tune.

    Raises:
        UserError: one that is recorded cannot be tuned.
    """
    by_name = {}
    for name in plan.names:
        all_of_them = _tunable(plan, name)
        options = list(all_of_them) if recorded is None else list(recorded.get(name, []))
        for option in options:
            if option not in all_of_them:
                raise UserError(
                    f"parameters: {name} has no {option!r} to tune; those that it has are {', '.join(all_of_them) or 'none'}"
                )
        if options:
            by_name[name] = options
    return by_name


def reference(names: Sequence[str], against: str | None) -> str | None:
    """The algorithm to hold the others against.

    Raises:
        UserError: it is not among those compared, or there is no other.
    """
    if against is not None and against not in names:
        raise UserError(f"against={against!r} is not among the algorithms compared, {', '.join(names)}; name one of these")
    if against is not None and len(names) < 2:
        raise UserError(f"against={against!r} is the only algorithm compared; name another algorithm, or leave against out")
    return against


def known_as(settings: Mapping[str, Mapping[str, Any]], name: str) -> Name:
    """What a name of a comparison stands for: the algorithm of its settings, or the one of this name."""
    return registry.names()[settings.get(name, {}).get(ALIAS, name)]


def about(plan: Plan, name: str) -> str:
    """One line on what a name of the comparison stands for."""
    known, own = known_as(plan.settings, name), plan.settings.get(name, {})
    if ALIAS not in own:
        return known.about
    given = ", ".join(f"{option} = {value}" for option, value in own.items())
    return f"{known.about} ({given})"


def _check_name(name: str, own: object) -> None:
    """Raise UserError for a name that is no algorithm's, and whose settings name none."""
    everything = registry.names()
    known = ", ".join(everything)
    if not isinstance(own, Mapping) or ALIAS not in own:
        if name not in everything:
            raise UserError(
                f"there is no algorithm {name!r}; the algorithms are {known}; another name needs a table [{name}] of settings "
                f"in which {ALIAS} is one of them"
            )
        return
    if own[ALIAS] not in list(everything):
        raise UserError(f"settings: {name} has {ALIAS}={own[ALIAS]!r}, which is not one of {known}; name one of these")
    if name in everything or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", name):
        raise UserError(
            f"settings: [{name}] with {ALIAS}={own[ALIAS]!r} must have a name that is no algorithm's, a letter and at most 59 "
            f"letters, digits, '-' and '_'; call it {own[ALIAS]}-2, for example"
        )


def _settings(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Options by algorithm; UserError for one that there is not."""
    by_name: dict[str, dict[str, Any]] = {}
    for name, own in (settings or {}).items():
        if name not in names:
            raise UserError(
                f"settings: {name!r} is not among the algorithms compared, {', '.join(names)}; leave it out, or name it"
            )
        if not isinstance(own, Mapping):
            raise UserError(f"settings: {name!r} must hold options by name, got {own!r}; write a table [{name}]")
        groups = (known_as(settings or {}, name).algorithm.options, ServerOptions, PrivacyOptions)
        known = [option for group in groups for option in _names_of(group)]
        for key in own:
            if key not in known and key != ALIAS:
                raise UserError(f"settings: {name} has no option {key!r}; its options are {', '.join(known)}")
        by_name[name] = dict(own)
    return by_name


def configuration(plan: Plan, name: str, seed: int | None = None, tuned: Mapping[str, float] | None = None) -> Config[Any]:
    """The configuration of one run.

    seed: None means the first. tuned: the parameters to try or chosen; with them, and without a seed, it is a run of the
    tuning, with its rounds, and on clients of whom nobody is set aside again (:func:`flow.comparison.tuning.population_of`).
    """
    stands_for, own = known_as(plan.settings, name), plan.settings.get(name, {})
    algorithm = stands_for.algorithm
    known, trial = _names_of(algorithm.options), tuned is not None and seed is None
    values = {key: value for key, value in vars(plan.config.algorithm).items() if value is not None and key in known}
    values |= {key: value for key, value in own.items() if key in known}
    tuned = tuned or {}
    values |= {key: value for key, value in tuned.items() if key in known}
    server, schedule = ServerOptions(), schedules.constant(plan.config.schedule, "server_lr")
    if algorithm.averages:
        schedule = plan.config.schedule
        server, named = plan.config.server, stands_for.server
        if named != ServerOptions():  # the name says which optimiser
            server = replace(
                server, server=named.server, **{key: getattr(named, key) for key in OPTIMIZERS[named.server].defaults}
            )
    private = {key: value for key, value in own.items() if key in _names_of(PrivacyOptions)}
    rest = {key: value for key, value in {**own, **tuned}.items() if key not in (*known, *private, ALIAS)}
    return replace(
        plan.config,
        algorithm=algorithm.options(**values),
        server=replace(server, **rest),
        schedule=schedule,
        privacy=replace(plan.config.privacy, **private),
        seed=plan.config.seed if seed is None else seed,
        rounds=plan.tune_rounds or plan.config.rounds if trial else plan.config.rounds,
        validation_share=0.0 if trial else plan.config.validation_share,
    )


def describe(plan: Plan, population: Population) -> dict[str, Any]:
    """The content of comparison.json; under "code" the users' files, see flow/storage/user_files.py."""
    algorithms = {known.name: known for known in (known_as(plan.settings, name).algorithm for name in plan.names)}
    sources: dict[user_files.Key, user_files.Source | None] = {
        **{(name,): registry.code_of(known) for name, known in algorithms.items()},
        MODEL: code_of_model(plan.config.model),
    }
    own = sources_of(chosen_metrics(plan.config.metric, bool(population.classes)))
    code = user_files.described(sources | {(user_files.METRICS, name): source for name, source in own.items()})
    return {
        "algorithms": list(plan.names),
        "seeds": plan.seeds,
        "settings": plan.settings,
        "tune": plan.tune,
        "tune_rounds": plan.tune_rounds,
        "tune_by": plan.tune_by,
        "tuner": plan.tuner,
        "parameters": plan.parameters,
        "config": {**asdict(replace(plan.config, model=ModelOptions())), "model": plan.config.model.described()},
        "data": run_folder.digest({}, population),
        "against": plan.against,
        **({"ranges": {name: described(plan.ranges(name)) for name in plan.parameters}} if plan.tuner == "optuna" else {}),
        **({"code": code} if code else {}),
    }


def read_plan(path: Path) -> Plan:
    """A comparison, from its comparison.json. Options that the file lacks are those of the build that wrote it.

    Raises:
        UserError: the file is not one that a comparison of this version wrote.
    """
    remedy = "put back the file that the comparison was started with"
    try:
        content = files.read_json(path, remedy)
        unknown = _unknown(path, content)
        if unknown is None:
            return _plan_of(completed_plan(content, path.parent), path.parent)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the configuration of a comparison of this version ({error!r}); {remedy}") from error
    raise unknown


def _unknown(path: Path, content: dict[str, Any]) -> UserError | None:
    """Why a comparison with code that is not known in this process cannot go on: everything that has to be named again."""
    recorded = user_files.recorded(content, user_files.METRICS)
    factory = content["config"]["model"].get("factory")
    here, metrics = registry.algorithms(), {metric.name for metric in all_metrics()}
    files_of = {key: entry["file"] for key, entry in recorded.items()}
    algorithms = {key[0]: file for key, file in files_of.items() if key != MODEL and key[0] != user_files.METRICS}
    own_metrics = {key[1]: file for key, file in files_of.items() if key[0] == user_files.METRICS}
    told = [(f"algorithm {name!r}", file, "flow.register") for name, file in algorithms.items() if name not in here]
    if factory is not None and not knows_factory(factory):
        told += [(f"model {factory!r}", factory.rpartition(":")[0], "flow.TorchModel")]
    told += [(f"metric {name!r}", file, "flow.register_metric") for name, file in own_metrics.items() if name not in metrics]
    if told:
        again = user_files.again(
            algorithms.values(), factory if factory and is_reference(factory) else None, own_metrics.values()
        )
        *before, last = [f"the {what} is of {'the file ' if '.py' in file else ''}{file}" for what, file, _ in told]
        return UserError(
            f"{path}: {', '.join(before)}{' and ' if before else ''}{last}, and a folder never runs code by itself; name every "
            f"file again (`flow compare --resume {path.parent}{again}`), or in Python call "
            f"{' and '.join(dict.fromkeys(function for _, _, function in told))} before"
        )
    if factory is not None:
        try:
            factory_of(factory, path.parent)
        except UserError as error:  # several have this name
            return error
    return None


def completed_plan(content: dict[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """The content of a comparison.json with a value for everything that this version knows, under the name that it has now.

    Older builds tuned learning rates alone, by the accuracy.

    Raises:
        UserError: as :func:`planned`.
    """
    settings = {
        name: renamed(known_as(content["settings"], name).algorithm.options, own) if isinstance(own, dict) else own
        for name, own in content["settings"].items()
    }
    content = {
        "tune_by": "accuracy",
        "tuner": TUNERS[0],
        **content,
        "settings": settings,
        "config": completed(content["config"], SharedOptions),
    }
    if "parameters" in content:
        return content
    plan = _plan_of(content, folder)
    rates = {
        name: [option for option, tunable in plan.tunable(name).items() if tunable.kind == "rate"] for name in plan.parameters
    }
    return {**content, "parameters": {name: options for name, options in rates.items() if options}}


def _plan_of(content: dict[str, Any], folder: Path) -> Plan:
    """The comparison that a comparison.json describes."""
    stored = content["config"]
    parts: dict[str, type[Any]] = {"algorithm": SharedOptions, **PARTS}
    config = Config(
        **{**stored, "model": model_of(stored["model"], folder)} | {k: kind(**stored[k]) for k, kind in parts.items()}
    )
    return planned(
        content["algorithms"],
        config,
        content["seeds"],
        content["settings"],
        content["tune"],
        content["tune_rounds"],
        content["tune_by"],
        content.get("parameters"),
        content.get("against"),
        content["tuner"],
    )


def differences(stored: Any, given: Any, where: str = "") -> list[str]:
    """What two nested configurations say differently: "config.rounds is 3 there, 4 here"."""
    if isinstance(stored, dict) and isinstance(given, dict):
        sentences = []
        for key in [*stored, *(key for key in given if key not in stored)]:
            inner = f"{where}.{key}" if where else key
            sentences += differences(stored.get(key, "missing"), given.get(key, "missing"), inner)
        return sentences
    if stored == given:
        return []
    if where == "data":  # a hash says nothing to a reader
        return ["the data are others"]
    return [f"{where} is {stored!r} there, {given!r} here"]


def _names_of(options: type[Any]) -> list[str]:
    return [field.name for field in fields(options)]
