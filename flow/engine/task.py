"""A configuration made ready to run: checked, with its data loaded and its model built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import flow_kernels
from flow.algorithms import Algorithm, algorithm_of
from flow.config import Config, ModelOptions, checked, on_cpu
from flow.data import Client, Population, load, validated
from flow.data.validation import trusted
from flow.draws import Draw
from flow.engine import estimate, participation
from flow.errors import UserError, plural
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, initial, nbytes
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.storage.client_states import ClientStates
from flow.training.batches import gather
from flow.training.fused import refusal
from flow.training.messages import Download, Members, Phase, Visit


class Task(NamedTuple):
    """A checked configuration with its data and model."""

    config: Config[Any]
    algorithm: Algorithm[Any]
    population: Population
    clients: Sequence[Client]
    """Those that may train, neither held out nor validation clients; made or read when they are asked for."""
    model: LanguageModel
    minimum: int
    """Clients with fewer training sequences are skipped."""
    chunk: int
    """Most clients in a group, which is computed side by side on a core."""
    workers: int
    """Groups of clients computed at the same time."""

    def members(self, clients: Sequence[Client], states: ClientStates, draw: Draw, phase: Phase) -> Members:
        """Clients as the server knows them."""
        return Members(tuple(client.id for client in clients), self.population.numbers(clients), states, draw, phase)

    def download(self, model: LanguageModel, state: Tensors, members: Members) -> Download:
        """What the server sends to these clients."""
        if not members.ids:
            return Download({}, [])
        return self.algorithm.download(self.config.algorithm, model, state, members)

    def visit(
        self, model: LanguageModel, state: Tensors, states: ClientStates, clients: Sequence[Client], draw: Draw, phase: Phase
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
    estimate.check_memory(config, algorithm, len(population.vocabulary))
    model = _build_model(config, algorithm, population)
    chunk = config.chunk or automatic_chunk(config, population, model)
    workers = config.threads if on_cpu(config.model) else 1
    return Task(config, algorithm, population, clients, model, minimum, chunk, workers)


def automatic_chunk(config: Config[Any], population: Population, model: LanguageModel) -> int:
    """The most clients in a group.

    Where the kernels train, a group's parameters take at most 12 MiB. This limit was measured with one thread: groups side by
    side against clients one by one. 4 clients of 2.6 MB ran 1.04 times as fast side by side, and 16 of them 0.98 times. 16
    clients of 13.5 MB ran 0.84 times as fast, and 16 of 20 kB 3.7 times. Elsewhere the scores of one batch of each client
    (batch size * T * V) stay within 4 MB on a CPU. A GPU needs far more at a time to be busy.
    """
    if not refusal(model, dict(model.named_parameters())):
        fit = 12 * 2**20 // nbytes(initial(model, "global", "local", "router"))
    else:
        scores = config.algorithm.batch_size * population.sequence_length * len(population.vocabulary)
        fit = (1 << 20 if on_cpu(config.model) else 1 << 27) // scores
    return int(max(1, min(config.cohort, fit)))


def _build_model(config: Config[Any], algorithm: Algorithm[Any], population: Population) -> LanguageModel:
    """The model with its initial parameters, tried once so that what cannot run shows before the run."""
    options, dtype = config.model, getattr(torch, config.model.dtype)
    generator = torch.Generator().manual_seed(config.seed)
    try:
        model = LanguageModel(
            len(population.vocabulary),
            options.embedding_dim,
            options.hidden_size,
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
            dtype=dtype,
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
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        sentence = re.split(r"\.?\n|\. |\.$", str(error))[0]  # a page may follow
        names = "'cpu'" if accelerator is None else f"'cpu' or {accelerator.type!r}"
        raise UserError(
            f"device={options.device!r} must be one on which torch can compute here, {names}; leave it out for 'cpu' "
            f"(torch says: {sentence})"
        ) from error
