"""What a run is made of: its options, their types and limits, and how they are read back from config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from flow.algorithms import DEFAULT, REGISTRY, algorithm_of, algorithms, reserve
from flow.checks import LARGEST_INTEGER, _default, typed
from flow.clock.profiles import placed as clock_placed
from flow.data import DataOptions, located, placed
from flow.errors import UserError
from flow.privacy import options as privacy_options
from flow.privacy.options import PrivacyOptions
from flow.server import schedules
from flow.server.optimizers import resolve
from flow.server.options import ServerOptions
from flow.server.schedules import ScheduleOptions
from flow.storage import run_folder, user_files
from flow.user_code import is_reference, source_of

Options = TypeVar("Options")


@dataclass(frozen=True)
class ModelOptions:
    """The language model and where it runs."""

    embedding_dim: int = 32
    """Size of a token's vector."""

    hidden_size: int = 128
    """Size of the GRU's state."""

    num_layers: int = 1
    """Recurrent layers, one above the other, each with two experts and a router of its own; at most 64. (LEAF, Reddit and
    Shakespeare: 2 of 256 units.)"""

    projection_dim: int | None = None
    """Size of a linear layer between GRU and head, which makes the head smaller. None: no such layer.
    (google-research/federated, StackOverflow: 96, after a GRU of 670.)"""

    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Number format of all parameters. With "bfloat16" they stay float32, as sums and losses do, and what is multiplied is
    rounded to bfloat16: that needs a processor that multiplies those (AVX512_BF16), or a GPU."""

    device: str = "cpu"
    """Where torch computes: "cpu", "cuda", ..."""

    backend: str = "auto"
    """Kernel of the routed GRU, one of flow_kernels.backends(); "auto": the fastest that runs here."""

    def described(self) -> dict[str, Any]:
        """What config.json keeps."""
        return asdict(self)


@dataclass(frozen=True)
class TorchModel:
    """A module of one's own in place of the built-in model, and where it runs.

    Clients are stacked and trained by ``torch.func.vmap`` where torch can compute a module so, and one by one where it cannot;
    a run says which. Parameters that require a gradient are trained by the clients, averaged by the server and counted as
    communication. Other parameters and buffers are the same for all and stay as the factory made them. There is one model, and
    no second expert: algorithms that route between two (Flow, dynamic routing) refuse it.
    """

    factory: Callable[..., nn.Module]
    """``factory(vocabulary_size)`` gives a module whose forward takes int64 tokens [B, T] and gives logits [B, T, V].

    Where texts are classified, ``factory(vocabulary_size, classes)`` gives one whose forward gives logits [B, C], or [B, T, C]
    of which those after a text's last token count. A forward with a parameter of the name ``lengths`` gets int64 [B], how many
    tokens of each row are no padding. While the factory is called torch's random numbers are seeded by the run's ``seed``, and
    it has to give the same module every time."""

    head: str = ""
    """The name of the submodule that is the output layer, such as "head" or "decoder.out", for algorithms that need a body and
    a head (FedRep, FedPer, LG-FedAvg, ...). Empty: the module has none by a name."""

    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Number format of all parameters. With "bfloat16" they stay float32, as sums and losses do, and what is multiplied is
    rounded to bfloat16: that needs a processor that multiplies those (AVX512_BF16), or a GPU."""

    device: str = "cpu"
    """Where torch computes: "cpu", "cuda", ..."""

    def __post_init__(self) -> None:
        if callable(self.factory):
            name = name_of(self.factory)
            same = _FACTORIES.get(name, []) if "<" in name else []  # of several lambdas nobody knows which was meant
            _FACTORIES[name] = same if self.factory in same else [*same, self.factory]

    def described(self) -> dict[str, Any]:
        """What config.json keeps: the names of file and factory in place of the code."""
        return {"factory": name_of(self.factory), "head": self.head, "dtype": self.dtype, "device": self.device}


def parameters_dtype(options: ModelOptions | TorchModel) -> torch.dtype:
    """The number format of the parameters."""
    kept: torch.dtype = getattr(torch, "float32" if options.dtype == "bfloat16" else options.dtype)
    return kept


def size_of(options: ModelOptions | TorchModel) -> tuple[str, object]:
    """The option that decides most of a model's size, for messages."""
    return ("hidden_size", options.hidden_size) if isinstance(options, ModelOptions) else ("model", name_of(options.factory))


_FACTORIES: dict[str, list[Callable[..., nn.Module]]] = {}
"""What a :class:`TorchModel` was made of in this process, by :func:`name_of`: a folder never runs code by itself. Of a name
that is given again the last counts, as of a cell of a notebook that runs again."""


def factory_of(name: str, folder: Path, again: str | None = None) -> Callable[..., nn.Module]:
    """The factory of this name, of which a :class:`TorchModel` was made in this process.

    Args:
        folder: of the run, for the message.
        again: what stands behind `--resume FOLDER`, for the message; None: the model alone.

    Raises:
        UserError: there is none, or there are several.
    """
    same = _FACTORIES.get(name, [])
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(
            f"{folder}: the run's model is {name!r}, and {len(same)} factories here have that name; give each a name of its own"
        )
    raise UserError(
        f"{folder}: the run's model is {name!r}, and a folder never runs code by itself; name it (`--resume {folder}"
        f"{f' --model {name}' if again is None else again}`), or in Python make a flow.TorchModel of it before"
    )


def knows_factory(name: str) -> bool:
    """Whether a :class:`TorchModel` was made of a factory of this name in this process."""
    return name in _FACTORIES


def model_of(content: dict[str, Any], folder: Path) -> ModelOptions | TorchModel:
    """The model that config.json or comparison.json describes.

    Raises:
        UserError: see :func:`factory_of`.
    """
    if "factory" in content:
        return TorchModel(**{**content, "factory": factory_of(content["factory"], folder)})
    return ModelOptions(**content)


def code_of_model(options: ModelOptions | TorchModel) -> tuple[str, str] | None:
    """The user's file that a module is from and its SHA-256; None for the built-in model, and for code of a package."""
    return source_of(options.factory) if isinstance(options, TorchModel) else None


def name_of(factory: Callable[..., Any]) -> str:
    """A factory's name as config.json has it, FILE.py:NAME without folders, or MODULE:NAME."""
    source = source_of(factory)
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    where = getattr(factory, "__module__", type(factory).__module__) if source is None else source[0]
    return f"{where}:{name}"


@dataclass(frozen=True)
class Config(Generic[Options]):
    """Everything that decides the numbers of a run."""

    algorithm: Options = field(default_factory=REGISTRY[DEFAULT].options)
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions | TorchModel = field(default_factory=ModelOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    privacy: PrivacyOptions = field(default_factory=PrivacyOptions)

    rounds: int = 80
    """Rounds of training."""

    cohort: int = 16
    """Clients per round, drawn without replacement from those that may train."""

    validation_share: float = field(default=0.1, metadata={"absent": 0.0})
    """Share of the clients not held out that are validation clients, chosen by a hash of the id. They never train and are never
    tested, and `flow compare --tune` chooses by them too. At least 0 and below 1."""

    seed: int = 0
    """Decides the initial model and every random choice. Where the CPU kernels train, the same seed leaves the same bits on one
    instruction set and version of torch, whatever chunk, threads and processes are. 0 to 2**63 - 1."""

    evaluate_every: int = 20
    """Rounds between small evaluations for the learning curve; 0: none. The full one comes at the end anyway."""

    evaluate_clients: int = 20
    """Clients of each kind, seen and unseen in training, in a small evaluation, the same ones every time."""

    final_clients: int = 0
    """Clients of each kind in the evaluation at the end, drawn at random, the same ones whatever the seed is; 0: all. For
    populations that take too long."""

    dropout: float = 0.0
    """Chance that a client's upload is lost: it received the model and did its work, and the server never hears of it."""

    stragglers: float = 0.0
    """Chance that a client is slow in a round. (FedProx's experiments: 0, 0.5, 0.9 of the clients; Li et al., MLSys 2020.)"""

    split: Literal["time", "random"] = field(default="time", metadata={"absent": "random"})
    """How algorithms split a client's training sequences in two. "time": whole texts, the older and the newer ones; a single
    text is cut at the nearest place between two sequences. "random": sequences at random, as published."""

    late: Literal["drop", "partial"] = "drop"
    """What becomes of slow clients. "drop": their upload comes after the deadline and is not used. "partial": they upload what
    they have. With a deadline that is the work of as many batches as leave time for the upload; with stragglers it is 1 to all
    of the epochs, each number as likely. (Li et al. 2020, section 5.2: FedAvg drops, FedProx takes part.)"""

    clock: str = ""
    """Virtual time: how long the run would take on clients' devices (docs/time.md). "spread": speeds and bandwidths differ as
    those of phones do, drawn from the seed. "nights": the same, and a device can be reached at night alone. Or a CSV file of
    device profiles. Empty: no clock."""

    deadline: float = 0.0
    """With a clock: virtual seconds after which a round ends; later uploads are not used (but see late). 0: no deadline."""

    wait_for: int = 0
    """With a clock: uploads after which a round ends, fewer than the cohort; later ones are not used (over-selection; Bonawitz
    et al., MLSys 2019). 0: the round waits for all."""

    async_buffer: int = 0
    """Asynchronous aggregation: uploads after which the server takes a step, while as many clients as the cohort has are at
    work all the time (FedBuff; Nguyen et al., AISTATS 2022). An upload s steps behind counts 1/sqrt(1 + s). A round is a step
    of the server. Without a clock it takes "spread". At most the cohort; 0: rounds in which the server waits for its cohort."""

    compress: str = ""
    """How clients compress what they upload, with error feedback: "topk:0.01" sends the hundredth of the changes that is
    largest in magnitude, "int8" and "int4" send all changes in 8 and 4 bits. Empty: parameters as they are. (Seide et al. 2014;
    Karimireddy et al., ICML 2019.)"""

    target: float = 0.0
    """With a clock: accuracy, 0 to 1, whose first time on the clock is recorded: of the small evaluations, the mean over seen
    clients of the model that they predict with. 0: none."""

    metric: str = ""
    """Metrics that are counted beside accuracy, loss and perplexity, separated by commas: "top3", the share of tokens among the
    three most likely; or one of your own, FILE.py:NAME on the command line (docs/tasks.md). Where texts are classified, "f1",
    the macro-F1, is counted anyway."""

    min_texts: int = 10
    """Clients with fewer texts train, but are left out of the scores."""

    checkpoint_every: int = 10
    """Rounds between checkpoints; the last two are kept, and the last round is always saved."""

    chunk: int = 0
    """Most clients in a group, which is computed side by side on a core; bounds memory. Where the CPU kernels
    train it changes no bit, elsewhere results to rounding. 0: few of a large model, many of a small one."""

    client_memory: int = 1024
    """MB of memory for what clients keep between rounds, by algorithms that let them; what may need more is kept in the run's
    folder, memory-mapped."""

    threads: int = 0
    """Cores to use in each process, one group of clients on each. Where the CPU kernels train their number changes no
    bit, elsewhere results to rounding. 0: as many as torch would, a number that the run keeps when it is resumed elsewhere."""


PARTS: dict[str, type[Any]] = {
    "data": DataOptions,
    "server": ServerOptions,
    "schedule": ScheduleOptions,
    "privacy": PrivacyOptions,
}
"""The classes of the parts of a configuration beside the algorithm and the model."""
reserve(field.name for part in (Config, ModelOptions, *PARTS.values()) for field in fields(part))
LEAST = {"rounds": 1, "cohort": 1, "seed": 0, "evaluate_every": 0, "evaluate_clients": 1, "min_texts": 0}
LEAST |= {"checkpoint_every": 1, "chunk": 0, "client_memory": 0, "threads": 0, "final_clients": 0}
LEAST |= {"wait_for": 0, "async_buffer": 0}
LEAST_OF_MODEL = {"embedding_dim": 1, "hidden_size": 1, "num_layers": 1, "projection_dim": 1}
MOST = {"num_layers": 64}


def checked(config: Config[Any]) -> Config[Any]:
    """The configuration with nothing left open that does not depend on the data, as a run records it.

    Raises:
        UserError: an option has the wrong type or is out of range.
    """
    if not isinstance(config, Config):
        raise UserError(f"config must be a flow.Config, got {config!r}; write flow.Config(algorithm=..., rounds=...)")
    try:
        algorithm = algorithm_of(config.algorithm)
    except TypeError as error:
        raise UserError(f"{error}; give one, call flow.register first, or leave algorithm out for the default") from error
    config = typed(config)
    options = typed(config.algorithm)
    algorithm.check(options)
    for part, least in ((config, LEAST), (config.model, LEAST_OF_MODEL if isinstance(config.model, ModelOptions) else {})):
        for known in fields(part):
            value, low, high = getattr(part, known.name), least.get(known.name), MOST.get(known.name, LARGEST_INTEGER)
            if low is not None and value is not None and not low <= value <= high:
                rule = f"at least {low}" if value < low else f"at most {high}"
                raise UserError(f"{known.name} must be {rule}, got {value}{_default(known)}")
    if not 0 <= config.validation_share < 1:
        raise UserError(
            f"validation_share must be at least 0 and below 1, got {config.validation_share!r}; 0 sets nobody aside"
        )
    config = replace(config, algorithm=algorithm.resolve(options, config.rounds), server=resolve(config.server))
    clock = config.clock or ("spread" if config.async_buffer else "")
    config = replace(config, data=placed(config.data), clock=clock_placed(clock))
    config = replace(config, schedule=schedules.resolve(config.schedule, config.rounds))
    config = replace(config, privacy=privacy_options.resolve(config.privacy))
    # A GPU is kept busy by one stack of many clients, a CPU by one group of clients on every core.
    return replace(config, threads=config.threads or (torch.get_num_threads() if on_cpu(config.model) else 1))


def on_cpu(options: ModelOptions | TorchModel) -> bool:
    """Whether the model computes on the CPU, "cpu" or "cpu:0"."""
    return options.device.partition(":")[0] == "cpu"


def read_config(folder: Path) -> Config[Any]:
    """The configuration of a run, from its config.json. Options that the file lacks are those of the build that wrote it.

    Raises:
        UserError: there is none, or it has an option that this version does not know.
    """
    path, remedy = folder / "config.json", "put back the file that the run was started with"
    stored = run_folder.read_config(folder)
    try:
        name = stored["algorithm"]["name"]
        if isinstance(name, str) and name not in algorithms():
            raise _unknown(path, name, stored)
        content = completed(run_folder.options(stored))
        kinds = _kinds(content)
        del content["algorithm"]["name"]
        if kinds["model"] is TorchModel:
            content["model"]["factory"] = factory_of(content["model"]["factory"], folder, files_again(stored))
        parts = {name: kinds[name](**content.pop(name)) for name in ("algorithm", "model", *PARTS)}
        config = Config(**parts, **{name: content.pop(name) for name in _names(Config) if name not in parts})
        if content:
            raise TypeError(f"{', '.join(content)} is not an option")
        user_files.recorded(stored, user_files.METRIC)
        if not isinstance(stored.get("digested", {}), dict):
            raise TypeError(f"digested is {stored['digested']!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the configuration of a run of this version ({error!r}); {remedy}") from error
    try:
        return checked(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def files_again(stored: dict[str, Any]) -> str:
    """What stands behind `flow run --resume FOLDER` to go on with a run of users' files; empty where there are none.

    stored: the content of config.json.
    """
    known = user_files.recorded(stored, user_files.METRIC)
    algorithms = [entry["file"] for key, entry in known.items() if key == user_files.ALGORITHM]
    factory = str(stored["model"].get("factory", ""))
    metrics = [entry["file"] for key, entry in known.items() if key[0] == user_files.METRIC]
    return user_files.again(algorithms, factory if is_reference(factory) else None, metrics)


def _unknown(path: Path, name: str, stored: dict[str, Any]) -> UserError:
    """Why a run of an algorithm that is not known in this process cannot be read."""
    code = user_files.recorded(stored, user_files.METRIC).get(user_files.ALGORITHM)
    if code is None:
        return UserError(
            f"{path}: not the configuration of a run of this version (there is no algorithm {name!r} here); install the "
            "package that brings it, or put back the file that the run was started with"
        )
    return UserError(
        f"{path}: the run's algorithm {name!r} is of the file {code['file']}, and a folder never runs code by itself; name the "
        f"file and the algorithm in it (`flow run --resume {path.parent}{files_again(stored)}`), or in Python call "
        "flow.register before"
    )


def completed(content: dict[str, Any], algorithm: type[Any] | None = None) -> dict[str, Any]:
    """The content of a config.json with a value for every option that this version knows, under the name that it has now.

    An option that came later than the run gets what such runs did: the ``absent`` of its field's metadata, where there is
    one, else its default. The ``formerly`` of that metadata is the name that the option had in older builds.

    Args:
        algorithm: the class of the algorithm's options; None: the content names the algorithm.
    """
    content = {**_absent(Config), **content}
    kinds = _kinds(content) if algorithm is None else {**_kinds(content), "algorithm": algorithm}
    for name, kind in kinds.items():
        if isinstance(content.get(name, {}), dict):
            content[name] = {**_absent(kind), **renamed(kind, content.get(name, {}))}
    data = content["data"]
    if isinstance(data, dict) and isinstance(data["data"], str):  # of an older build: relative to the working directory
        data["data"] = located(data["data"])
    return content


def renamed(kind: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options by the names that the fields of their class have now."""
    now = {field.metadata["formerly"]: field.name for field in fields(kind) if "formerly" in field.metadata}
    return {now[name] if name in now and now[name] not in options else name: value for name, value in options.items()}


def _kinds(content: dict[str, Any]) -> dict[str, type[Any]]:
    """The classes of the parts of a configuration; without the algorithm's where it has no name that is known."""
    parts = {"model": _kind_of_model(content), **PARTS}
    algorithm = content.get("algorithm")
    name = algorithm.get("name") if isinstance(algorithm, dict) else None
    known = algorithms()
    return {**parts, "algorithm": known[name].options} if isinstance(name, str) and name in known else parts


def _kind_of_model(content: dict[str, Any]) -> type[ModelOptions] | type[TorchModel]:
    model = content.get("model")
    return TorchModel if isinstance(model, dict) and "factory" in model else ModelOptions


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def _absent(kind: type[Any]) -> dict[str, Any]:
    """What a run had for options that there were none of when it was made."""
    plain = [field for field in fields(kind) if field.default is not MISSING or "absent" in field.metadata]
    return {field.name: field.metadata.get("absent", field.default) for field in plain}
