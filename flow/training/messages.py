"""What passes between the server, K clients at once, and the loop. Tensors are stacked on a leading K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from flow.data.population import Split
from flow.draws import Draw
from flow.model.interface import Prediction
from flow.model.parameters import Route, Rows, Tensors, nbytes
from flow.training.batches import Batch, Data
from flow.training.records import Work

Phase = Literal["train", "predict"]
"""What clients are visited for: a round's local work, or to predict."""


class KeptStates(Protocol):
    """What clients have kept, as of the end of the last round, by the clients' numbers."""

    def rows(self) -> Rows:
        """The numbers of the clients that have a state, in order."""

    def known(self, rows: Rows) -> Tensor:
        """bool [n]: whether these clients have a state."""

    def read(self, rows: Rows, device: torch.device | str = "cpu") -> Tensors:
        """[n, ..]: the states of clients that have one."""


class Members(NamedTuple):
    """K clients as the server knows them."""

    ids: tuple[str, ...]
    rows: Rows
    """int64 [K]: a client's number among those that may train, in the order of their ids; -1 for one that never trains."""
    states: KeptStates
    """What clients have kept; of any client, where an algorithm's server knows it too."""
    draw: Draw
    """Where random choices of this occasion come from."""
    phase: Phase


class Download(NamedTuple):
    """What K clients receive."""

    tensors: Tensors
    """[K, ..]: views of one tensor where all receive the same."""
    nbytes: Sequence[int]
    """Size of what is sent to each."""
    server_side: Tensors | None = None
    """[K, ..]: what stays at the server and is not counted. Where clients exchange messages with the server before they
    predict, `personalize` computes the server's part from it."""


class ClientState(NamedTuple):
    """What K clients kept from the last round in which they took part."""

    tensors: Tensors
    """[K, ..]; for a new client what the algorithm's `fresh` says. Not to be changed in place."""
    known: Tensor
    """bool [K]: False for a new client."""


class Visit(NamedTuple):
    """K clients with everything that they work with on one occasion."""

    rows: Rows
    """int64 [K]: their numbers, see :class:`Members`."""
    received: Tensors
    """[K, ..]: not to be changed in place."""
    nbytes: Sequence[int]
    """Size of what each received."""
    kept: ClientState
    data: Data
    """The training sequences."""
    draw: Draw
    """Where random choices of this occasion come from; a client's own are ``draw.stream(.., client id)``."""
    phase: Phase
    server_side: Tensors | None = None
    """See :class:`Download`."""
    split: Split = "time"
    """How the training sequences are split where an algorithm splits them, see :func:`flow.training.batches.split`."""


class Upload(NamedTuple):
    """What K clients send to the server, how much each counts, and what each keeps for itself."""

    tensors: Tensors
    """[K, ..]: what is sent; its size is the communication that is counted."""
    weights: Sequence[float]
    """[K]: how much each counts in the mean."""
    phases: tuple[Work, ...]
    """All work of the round; the loss that is reported is that of the last phase."""
    kept: Tensors | None = None
    """[K, ..]: the clients' next state; None: they keep what they had."""
    voted: tuple[str, ...] = ()
    """The names of tensors that count otherwise in the mean, by `votes`."""
    votes: Sequence[float] = ()
    """[K], at least 0: how much each client counts for the tensors in `voted`; where nobody does, the server keeps its own."""


class Answers(NamedTuple):
    """Predictions for a batch of the first k clients, [k, B, T] each."""

    tokens: Tensor
    """int64: the most likely next token; -1 where nothing is to be predicted."""
    local_weight: Tensor
    """Weight of the local expert."""
    nats: Tensor
    """Cross-entropy of the target; 0 where there is none."""
    probability: Tensor
    """Of the most likely token; 0 where nothing is to be predicted."""
    rank: Tensor | None = None
    """int64: how many tokens are more likely than the target; -1 where there is none. None: not known."""


class View(NamedTuple):
    """What one network of a client says of n tokens."""

    log_p: Tensor
    """[n, V]: the logarithms of its probabilities."""
    local_weight: Tensor
    """[n]: weight of the GRU's local expert."""
    features: Tensor
    """[n, H]: what its head reads."""


@runtime_checkable
class Mixture(Protocol):
    """A way of predicting that is more than one pass of the model, and that can be written to a file and followed token by
    token. What is asked of it is of the first client: whoever stores one has a single client."""

    @property
    def networks(self) -> Sequence[tuple[Tensors, Route]]:
        """Parameters [K, ..] and route of every network whose predictions are mixed; empty where it is the client's own
        parameters by its route alone."""

    @property
    def holds(self) -> str:
        """What of the client's training texts it holds, in words; empty for nothing."""

    @property
    def refusal(self) -> str:
        """Why :meth:`mixed` cannot be a graph of tensors that gives its numbers elsewhere, in words; empty where it can."""

    def stored(self) -> Tensors:
        """From what `restored` of the algorithm makes it again, beside the client's parameters; no leading K."""

    def mixed(self, views: Sequence[View], before: Tensor, token: Tensor, routing: str) -> tuple[Tensor, Tensor]:
        """The probabilities [n, V] after n tokens, and the weight of the local expert [n].

        Args:
            views: of every network.
            before: int64 [n], the token before each; -1 where there is none.
            token: int64 [n].
            routing: "soft" or "hard".
        """


class Personal(NamedTuple):
    """How K clients predict after personalization."""

    parameters: Tensors
    """[K, ..]"""
    route: Route
    """By which of the model's experts they predict; "global" in a model that has one alone."""
    routing: Literal["soft", "hard"] = "soft"
    phases: tuple[Work, ...] = ()
    """The work that personalization took."""
    before: Personal | None = None
    """What the clients predict with before any step of their own, reported as "global" where there is no general model."""
    probabilities: Callable[[Prediction, Batch], Tensor] | None = None
    """(prediction for the first k clients, their batch) -> [k, B, T, V] in place of the softmax of the model's logits. It or
    `answering` is a :class:`Mixture` where `flow adapt` can store it."""
    answering: Callable[[str], Callable[[Batch], Answers]] | None = None
    """How clients predict that do not by one pass of the model: routing -> (a batch of the first k clients -> its answers)."""
    alone: Route | None = None
    """The route of the client's own expert, which is reported as "local"; None where the client has no expert of its own
    beside another."""
    sent: Sequence[int] | None = None
    """Bytes each client sent to the server for its personalization; None: none."""
    received: Sequence[int] | None = None
    """Bytes each client received beyond the download, likewise."""


def broadcast(tensors: Tensors, clients: int) -> Download:
    """The same to all of K clients: [..] -> [K, ..], views without a copy."""
    return Download({name: t.expand(clients, *t.shape) for name, t in tensors.items()}, [nbytes(tensors)] * clients)
