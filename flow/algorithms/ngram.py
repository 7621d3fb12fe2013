"""FedAvg, and every client mixes an n-gram model of its own training text into the global one: a baseline without training.

The counts stay as they are while the client predicts, unlike those of a cache (Kuhn and De Mori, IEEE PAMI 12, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Tunable, any_batch, needing
from flow.algorithms.shared import gate
from flow.algorithms.shared.experts import Expert, Experts, Memories
from flow.algorithms.shared.gate import Gated
from flow.checks import check_number
from flow.model.interface import Model
from flow.model.parameters import Tensors
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import fit


@dataclass(frozen=True)
class NGramOptions(Sgd):
    """FedAvg with an n-gram model of each client's own text."""

    lam: float = 0.3
    """Share of the n-grams in the mixture of probabilities; 0: the global model alone."""

    memory_tokens: int = 100_000
    """Tokens of its newest texts of which a client counts n-grams, at most."""


def check(options: NGramOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    check_number("lam", options.lam, 0, 1)
    check_number("memory_tokens", options.memory_tokens, 1)


def local(options: NGramOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD from w_g, as FedAvg; weighted by the number of training sequences."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


def personalize(options: NGramOptions, model: Model, visit: Visit) -> Personal:
    """Count the n-grams of all training texts; a client predicts with (1 - lam) p_model + lam p_ngram."""
    memories = Memories(visit.data, model.vocabulary_size, options.memory_tokens)
    experts = Experts(model, (Expert(visit.received, "global"),), memories, True, tuple(visit.data.sizes()))
    shares = gate.constant((1 - options.lam, options.lam), len(memories), next(iter(visit.received.values())))
    return Personal(visit.received, "global", answering=Gated(shares, experts))


def restored(options: NGramOptions, model: Model, personal: Personal, stored: Tensors) -> Personal:
    """How a client predicts, of what its mixture has stored."""
    networks = (Expert(personal.parameters, "global"),)
    return personal._replace(answering=gate.restored(model, networks, True, stored))


ALGORITHM = Algorithm(
    name="ngram",
    about="FedAvg, mixed at every client with the n-grams of its own training text.",
    options=NGramOptions,
    needs=needing("next_token"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    restored=restored,
    check=check,
    tuned=(Tunable("lr"), Tunable("lam", "share", 3.0)),
)
