"""A configuration made ready to run: checked, with its data loaded and its model built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

import flow_kernels
from flow.algorithms import Algorithm, algorithm_of
from flow.clock.devices import Devices
from flow.config import Config, ModelOptions, TorchModel, checked, name_of, on_cpu, parameters_dtype
from flow.data import Client, Population, load, validated
from flow.data.validation import trusted
from flow.draws import Draw
from flow.engine import estimate, participation, private, rates, timing
from flow.errors import UserError, plural, say
from flow.model.interface import PARTS, Model
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, initial, nbytes
from flow.model.user_module import Refused, UserModule
from flow.privacy.mechanism import Mechanism
from flow.resources import free_on
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.storage.client_states import ClientStates
from flow.training.batches import gather
from flow.training.fused import refusal
from flow.training.messages import Download, Members, Phase, Visit
from flow.training.sgd import adapts
from flow_kernels.training import UpdateSizes, multiplies_bfloat16, on_gpu, update_memory


class Task(NamedTuple):
    """A checked configuration with its data and model."""

    config: Config[Any]
    algorithm: Algorithm[Any]
    population: Population
    clients: Sequence[Client]
    """Those that may train, neither held out nor validation clients; made or read when they are asked for."""
    model: Model
    minimum: int
    """Clients with fewer training sequences are skipped."""
    chunk: int
    """Most clients in a group, which is computed side by side on a core."""
    workers: int
    """Groups of clients computed at the same time."""
    devices: Devices | None = None
    """Those of the clients that may train; None where there is no clock."""
    privacy: Mechanism | None = None
    """None where the run is not private."""

    def known_by(self) -> dict[str, Any]:
        """What config.json has more where there is a clock, the SHA-256 of the devices, and where the run is private."""
        noise = {} if self.privacy is None else {"noise": self.privacy.recorded()}
        return noise if self.devices is None else {"devices": self.devices.digest(), **noise}

    def in_round(self, round: int) -> Task:
        """The task with the learning rates of a round, counted from 1."""
        config = rates.in_round(self.config, round)
        return self if config is self.config else self._replace(config=config)

    def members(self, clients: Sequence[Client], states: ClientStates, draw: Draw, phase: Phase) -> Members:
        """Clients as the server knows them."""
        return Members(tuple(client.id for client in clients), self.population.numbers(clients), states, draw, phase)

    def download(self, model: Model, state: Tensors, members: Members) -> Download:
        """What the server sends to these clients."""
        if not members.ids:
            return Download({}, [])
        return self.algorithm.download(self.config.algorithm, model, state, members)

    def visit(
        self, model: Model, state: Tensors, states: ClientStates, clients: Sequence[Client], draw: Draw, phase: Phase
    ) -> Visit:
        """Send clients what they receive in this state of the server, and put what they have beside it."""
        fresh, members = self.algorithm.fresh, self.members(clients, states, draw, phase)
        received, nbytes, server_side = self.download(model, state, members)
        start = {} if fresh is None else fresh(self.config.algorithm, model, received, len(clients))
        kept, data = states.of(members.rows, start), gather(clients, "train", self.config.model.device)
        return Visit(members.rows, received, nbytes, kept, data, draw, phase, server_side, self.config.split)


def prepare(config: Config[Any], population: Population | None = None, progress: bool = False) -> Task:
    """Check a configuration, load its data and build its model; nothing is written but prepared data.

    Args:
        population: clients in place of ``config.data``; checked where they were not loaded by flow.data. The task's has the
            validation clients of the configuration set aside.
        progress: whether to draw a bar on stderr while data are being prepared.

    Raises:
        UserError: see :func:`simulate`.
    """
    config = checked(config)
    algorithm = algorithm_of(config.algorithm)
    participation.check(config)
    timing.check(config, algorithm)
    rates.check(config, algorithm)
    private.check(config, algorithm)
    _check_needs(config.model, algorithm, config.algorithm)
    _check_device(config.model)  # said before anything is read: a large file takes a while
    if population is None:
        estimate.check_memory(config, algorithm)
    population = load(config.data, progress) if population is None else validated(population)
    population = trusted(population.setting_aside(config.validation_share))
    clients = population.trainable()
    if not algorithm.averages and config.server != optimizers.resolve(ServerOptions()):
        raise UserError(
            f"server={config.server.server!r}, aggregator={config.server.aggregator!r} need uploads to average, and "
            f"{algorithm.name} has none; leave the options of the server out"
        )
    algorithm.check_server(config.algorithm, config.server)
    aside = int(population.validation.sum())
    share = f"validation_share={config.validation_share}"
    if aside and not len(clients):
        raise UserError(
            f"{share} makes validation clients of all {aside} clients that are not held out, and none is left to train; lower "
            "validation_share, or take more clients"
        )
    if config.cohort > len(clients):
        beside, remedy = (f" beside the {aside} that {share} sets aside", " or validation_share") if aside else ("", "")
        more = f"raise max_clients={config.data.max_clients}" if config.data.max_clients else "take more clients"
        raise UserError(
            f"cohort={config.cohort} is more than the {len(clients)} {plural(len(clients), 'client')} that may train{beside}; "
            f"lower cohort{remedy}, or {more}"
        )
    minimum = algorithm.minimum_sequences(config.algorithm)
    if (population.table.train[population.training] < minimum).all():
        remedy = f", or {share}, which sets {aside} {plural(aside, 'client')} aside" if aside else ""
        raise UserError(
            f"data={population.name!r}: none of the {len(clients)} {plural(len(clients), 'client')} that may train has the "
            f"{minimum} training {plural(minimum, 'sequence')} that {algorithm.name} needs; give them more "
            f"text, or lower sequence_length={population.sequence_length}{remedy}"
        )
    _check_task(config, algorithm, population)
    estimate.check_memory(config, algorithm, len(population.vocabulary), classes=len(population.classes))
    model = _build_model(config, algorithm, population)
    model.mixed_precision = config.model.dtype == "bfloat16"
    if isinstance(config.model, TorchModel):
        estimate.check_memory(config, algorithm, len(population.vocabulary), model)
    chunk = config.chunk or automatic_chunk(config, population, model)
    workers = config.threads if on_cpu(config.model) else 1
    devices, mechanism = timing.devices(config, population), private.mechanism(config, algorithm, len(clients))
    return Task(config, algorithm, population, clients, model, minimum, chunk, workers, devices, mechanism)


def automatic_chunk(config: Config[Any], population: Population, model: Model, free: int | None = None) -> int:
    """The most clients in a group.

    Where the kernels train, a group's parameters take at most 12 MiB. This limit was measured with one thread: groups side by
    side against clients one by one. 4 clients of 2.6 MB ran 1.04 times as fast side by side, and 16 of them 0.98 times. 16
    clients of 13.5 MB ran 0.84 times as fast, and 16 of 20 kB 3.7 times. Elsewhere the scores of one batch of each client
    (batch size * T * V) stay within 4 MB on a CPU. A GPU needs far more at a time to be busy. Where the kernels of a GPU train,
    a group has as many clients as :func:`clients_at_once` finds memory for.

    free: bytes that are free on the device; None: torch is asked.
    """
    by_kernels = not refusal(model, dict(model.named_parameters()))
    first = next(model.parameters())
    if by_kernels and isinstance(model, LanguageModel) and on_gpu(first, model.backend):
        room = free_on(first.device) if free is None else free
        many = (
            config.cohort
            if room is None
            else clients_at_once(model, config.algorithm.batch_size, population, room, adapts(config.algorithm))
        )
        return max(1, min(config.cohort, many))
    if by_kernels:
        fit = 12 * 2**20 // nbytes(initial(model, "global", "local", "router"))
    else:
        scores = config.algorithm.batch_size * population.sequence_length * population.outputs
        fit = (1 << 20 if on_cpu(config.model) else 1 << 27) // scores
    return int(max(1, min(config.cohort, fit)))


def clients_at_once(model: LanguageModel, batch: int, population: Population, free: int, adam: bool = False) -> int:
    """How many clients a GPU with so many free bytes can train at once: both experts, momentum and anchor counted, with four
    copies of every client's parameters, and one more for the second moments of Adam. A fifth of the memory is left to what lies
    between its allocations."""
    sizes = UpdateSizes(
        1,
        batch,
        population.sequence_length,
        model.gru.input_size,
        model.gru.hidden_size,
        model.vocabulary_size,
        None if model.projection is None else model.feature_size,
        model.gru.num_layers,
        experts=2,
        head_experts=1 + model.routed_head,
        outputs=model.outputs,
        products="half" if model.mixed_precision else "ieee",
    )
    return int(0.8 * free) // sum(update_memory(sizes, copies=4 + adam, momentum=True, anchor=True).values())


def _build_model(config: Config[Any], algorithm: Algorithm[Any], population: Population) -> Model:
    """The model with its initial parameters, tried once so that what cannot run shows before the run."""
    if isinstance(config.model, TorchModel):
        return user_module(config.model, config.seed, population)
    options, dtype = config.model, parameters_dtype(config.model)
    generator = torch.Generator().manual_seed(config.seed)
    try:
        model = LanguageModel(
            len(population.vocabulary),
            options.embedding_dim,
            options.hidden_size,
            classes=len(population.classes),
            oov=population.vocabulary.oov,
            num_layers=options.num_layers,
            projection_dim=options.projection_dim,
            backend=options.backend,
            generator=generator,
            dtype=dtype,
            **algorithm.traits(config.algorithm),
        ).to(options.device)
        flow_kernels.explain(
            batch_size=1,
            seq_len=1,
            input_size=options.embedding_dim,
            hidden_size=options.hidden_size,
            dtype=torch.bfloat16 if options.dtype == "bfloat16" and not on_cpu(options) else dtype,
            device=options.device,
            backend=options.backend,
        )
    except RuntimeError as error:  # no backend for it, or torch, which has no memory for it
        raise UserError(
            f"no model can be made with embedding_dim={options.embedding_dim}, hidden_size={options.hidden_size}, "
            f"num_layers={options.num_layers}, projection_dim={options.projection_dim}, dtype={options.dtype!r}, "
            f"device={options.device!r}, backend={options.backend!r}: {str(error).splitlines()[0]}; "
            "lower the sizes where memory is short, else choose another of these"
        ) from error
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long, device=options.device))
    return model


def _check_backend(options: ModelOptions) -> None:
    """Raise UserError where a backend that is asked for by name cannot run the model on its device."""
    if options.backend == "auto":
        return
    status = flow_kernels.backends()[options.backend]
    reason = "" if status.startswith("available") else status
    dtype = torch.bfloat16 if options.dtype == "bfloat16" and not on_cpu(options) else parameters_dtype(options)
    try:
        if not reason:
            flow_kernels.explain(
                batch_size=1,
                seq_len=1,
                input_size=options.embedding_dim,
                hidden_size=options.hidden_size,
                dtype=dtype,
                device=options.device,
                backend=options.backend,
            )
    except RuntimeError as error:
        reason = str(error).partition(" cannot run here: ")[2].partition("; use backend=")[0] or str(error)
    except ValueError:  # sizes out of all bounds, which the estimate of memory refuses
        return
    if reason:
        elsewhere = "give --device cuda, or " if on_cpu(options) and torch.cuda.is_available() else ""
        raise UserError(
            f"backend={options.backend!r} cannot run here: {reason}; {elsewhere}leave it out for the fastest that runs here"
        )


def _check_needs(options: ModelOptions | TorchModel, algorithm: Algorithm[Any], own: Any) -> None:
    """Raise UserError where an algorithm needs what a module of the user's own does not have."""
    if not isinstance(options, TorchModel):
        return
    provided = {"next_token", *(("head", "features") if options.head else ())}
    missing = [part for part in algorithm.needs(own) if part not in provided]
    if missing:
        what = " and ".join(PARTS[part] for part in missing)
        remedy = "name its output layer with head" if set(missing) <= {"head", "features"} else "leave the model out"
        raise UserError(
            f"model={name_of(options.factory)!r}: {algorithm.name} needs {what}, which the module does not have; "
            f"{remedy}, or take another algorithm, such as fedavg, fedavgft or ditto"
        )


def _check_task(config: Config[Any], algorithm: Algorithm[Any], population: Population) -> None:
    """Raise UserError where an algorithm predicts by what follows a token, and the texts are to be classified."""
    if population.classes and "next_token" in algorithm.needs(config.algorithm):
        raise UserError(
            f"data={population.name!r} has classes of texts to predict, and {algorithm.name} with these options predicts by "
            "n-grams, which say what token comes next; leave memory out where it is set, or take another algorithm, such as "
            "fedavg, fedavgft or ditto"
        )


def user_module(options: TorchModel, seed: int, population: Population) -> UserModule:
    """The user's module, made and tried.

    Raises:
        UserError: the factory fails, or what it makes is no module that clients can train.
    """
    name, tokens, classes = name_of(options.factory), len(population.vocabulary), len(population.classes)
    sizes = f"a vocabulary of {tokens} tokens" + (f" and {classes} classes" if classes else "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = options.factory(tokens, classes) if classes else options.factory(tokens)
        except Exception as error:
            raise UserError(
                f"model={name!r} failed for {sizes} ({_told(error)}); "
                + ("make it take both, NAME(vocabulary_size, classes)" if classes else "correct it")
            ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model={name!r} gives a {type(module).__name__}, and must give a torch.nn.Module; correct it")
    try:
        model = UserModule(
            module.to(options.device, parameters_dtype(options)), tokens, options.head, population.vocabulary.oov, classes
        )
    except Refused as error:
        raise UserError(f"model={name!r}: {error}") from error
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(
            f"model={name!r} failed on tokens [B, T] between 0 and {tokens - 1} ({_told(error)}); correct its forward"
        ) from error
    count = sum(parameter.numel() for parameter in model.parameters())
    fast, slow = model.milliseconds
    way = f"clients side by side ({slow / fast:.1f} times as fast as one by one on a tiny batch)" if model.side_by_side else (
        f"clients one by one, since {model.reason}"
    )  # fmt: skip
    say(f"model {name}: {count:,} parameters to train; {way}")
    if model.evaluates:
        say(
            f"model {name}: it draws random numbers in training mode, such as those of dropout, and a client's numbers may not "
            "depend on others; it is used in evaluation mode, without them"
        )
    return model


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_device(options: ModelOptions | TorchModel) -> None:
    """Raise UserError unless there is a backend of this name, and torch can compute on this device here and now."""
    known = flow_kernels.backends()
    if isinstance(options, ModelOptions) and options.backend not in ("auto", *known):
        listed = ", ".join(f"{name!r} ({status})" for name, status in known.items())
        raise UserError(
            f"backend={options.backend!r} must be 'auto', the fastest that runs here, or one of {listed}; "
            "leave it out for 'auto'"
        )
    try:
        torch.zeros(1, device=torch.device(options.device)).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has a way of its own for every kind of device
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        sentence = re.split(r"\.?\n|\. |\.$", str(error))[0]  # a page may follow
        names = "'cpu'" if accelerator is None else f"'cpu' or {accelerator.type!r}"
        raise UserError(
            f"device={options.device!r} must be one on which torch can compute here, {names}; leave it out for 'cpu' "
            f"(torch says: {sentence})"
        ) from error
    if options.dtype == "bfloat16" and on_cpu(options) and not multiplies_bfloat16():
        raise UserError(
            "dtype='bfloat16' needs a processor that multiplies bfloat16 (AVX512_BF16), and this one, or the instruction set "
            "in FLOW_CPU_ISA, does not; leave it out for float32"
        )
    if isinstance(options, ModelOptions):
        _check_backend(options)
