"""Predictions token by token: the state of every network is kept, and one step is computed for a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flow.algorithms.shared.memory import NONE
from flow.data.tokens import BOS
from flow.errors import UserError
from flow.model.interface import Model
from flow.model.language_model import EXPERT, LanguageModel
from flow.model.parameters import Route, Tensors
from flow.training.messages import Mixture, Personal, View
from flow.training.threads import one_thread
from flow_kernels import GRUCell, RoutedGRUCell
from flow_kernels.reference import routing_weights

MOST_TOKENS = 4096
"""Of a text that is read in one piece."""


class Distribution(NamedTuple):
    """What a client expects after a token."""

    probabilities: Tensor
    """[V]: of every next token, or [C] of every class of the text so far."""
    local_weight: float | None
    """Weight of the client's local expert, 0 to 1; None where there are no two experts."""


def networks_of(personal: Personal) -> list[tuple[Tensors, Route]]:
    """Parameters [..] and route of all networks of one client."""
    way = personal.answering or personal.probabilities
    networks = way.networks if isinstance(way, Mixture) else ()
    every = networks or ((personal.parameters, personal.route),)
    return [({name: tensor[0] for name, tensor in parameters.items()}, route) for parameters, route in every]


def is_routed(personal: Personal) -> bool:
    """Whether two experts share the tokens."""
    return personal.route == "mixture" or personal.alone is not None


class Network(nn.Module):
    """One network of a client, one step at a time.

    Args:
        model: what the parameters are of.
        parameters: [..], without a leading K.
        route: by which expert it predicts.
        routing: "soft" or "hard".
        backend: of the cells.
    """

    def __init__(self, model: LanguageModel, parameters: Tensors, route: Route, routing: str, backend: str = "auto") -> None:
        super().__init__()
        self.route, self.routing, self.temperature = route, routing, model.temperature
        self.hidden_size, self.layers = model.gru.hidden_size, model.gru.num_layers
        self.routed_head = model.routed_head and route == "mixture"
        self.cells = nn.ModuleList(_cell(model, parameters, route, routing, layer, backend) for layer in range(self.layers))
        own = "local_" if model.routed_head and route == "local" else ""
        names = {"embedding": "embedding.weight", "weight": f"head.{own}weight", "bias": f"head.{own}bias"}
        if model.projection is not None:
            names |= {"projection_weight": "projection.weight", "projection_bias": "projection.bias"}
        if self.routed_head:
            names |= {name: f"head.{name}" for name in ("local_weight", "local_bias", "router_weight", "router_bias")}
        for name, source in names.items():
            self.register_buffer(name, parameters[source])
        self.projected = model.projection is not None

    def start(self) -> Tensor:
        """[layers, 1, H]: the state before the first token."""
        embedding: Tensor = self.get_buffer("embedding")
        return embedding.new_zeros(self.layers, 1, self.hidden_size)

    def step(self, token: Tensor, state: Tensor) -> tuple[View, Tensor]:
        """What the network says after a token, int64 [1], and its next state [layers, 1, H]."""
        get = self.get_buffer
        x, states, routings = get("embedding")[token], [], []
        for layer, cell in enumerate(self.cells):
            if self.route == "mixture":
                x, q = cell(x, state[layer], return_routing=True)
                routings.append(q[:, 1])
            else:
                x = cell(x, state[layer])
            states.append(x)
        features = F.linear(x, get("projection_weight"), get("projection_bias")) if self.projected else x
        if self.routed_head:
            q = routing_weights(F.linear(x, get("router_weight"), get("router_bias")), self.routing, self.temperature)
            parts = (F.linear(features, get(f"{own}weight"), get(f"{own}bias")) for own in ("", "local_"))
            logits = sum(q[:, n : n + 1] * part for n, part in enumerate(parts))
        else:
            logits = F.linear(features, get("weight"), get("bias"))
        if routings:
            local_weight = routings[0] if len(routings) == 1 else torch.stack(routings).mean(0)
        else:
            local_weight = torch.full_like(features[:, 0], float(self.route == "local"))
        return View(torch.as_tensor(logits).log_softmax(1), local_weight, features), torch.stack(states)


def _cell(
    model: LanguageModel, parameters: Tensors, route: Route, routing: str, layer: int, backend: str
) -> GRUCell | RoutedGRUCell:
    """The cell of a layer: with both experts and the router, or with the one expert of the route alone."""
    width = model.gru.hidden_size if layer else model.gru.input_size
    size, dtype = model.gru.hidden_size, parameters["embedding.weight"].dtype
    cell: GRUCell | RoutedGRUCell
    if route == "mixture":
        cell = RoutedGRUCell(
            width, size, device="meta", dtype=dtype, temperature=model.temperature, routing=routing, backend=backend
        )
        names = {name: name for name, _ in cell.named_parameters()}
    else:
        cell = GRUCell(width, size, device="meta", dtype=dtype, backend=backend)
        names = {name: f"local_{name}" if route == "local" else name for name in EXPERT}
    for name, source in names.items():
        setattr(cell, name, nn.Parameter(parameters[f"gru.{source}_l{layer}"], requires_grad=False))
    return cell


class Steps(nn.Module):
    """All networks of a client and their mixture, one step at a time."""

    def __init__(self, model: LanguageModel, personal: Personal, backend: str = "auto") -> None:
        super().__init__()
        way = personal.answering or personal.probabilities
        self.way, self.routing = way if isinstance(way, Mixture) else None, personal.routing
        self.networks = nn.ModuleList(
            Network(model, parameters, route, personal.routing, backend) for parameters, route in networks_of(personal)
        )
        self.sizes = [network.layers for network in self._networks()]

    def _networks(self) -> list[Network]:
        return [network for network in self.networks if isinstance(network, Network)]

    def start(self) -> Tensor:
        """[S, 1, H]: the state before the first token, the layers of all networks one after the other."""
        return torch.cat([network.start() for network in self._networks()])

    def step(self, before: Tensor, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithms of the probabilities [1, V] after a token, the next state, and the weight of the local expert [1].

        Args:
            before: int64 [1], the token before; -1 where there is none.
            token: int64 [1].
            state: [S, 1, H].
        """
        steps = [network.step(token, part) for network, part in zip(self._networks(), state.split(self.sizes), strict=True)]
        views, following = [view for view, _ in steps], torch.cat([after for _, after in steps])
        if self.way is None:
            return views[0].log_p, following, views[0].local_weight
        p, local_weight = self.way.mixed(views, before, token, self.routing)
        return p.clamp_min(torch.finfo(p.dtype).tiny).log().clamp_max(0), following, local_weight


class Stream:
    """One text, token by token.

    Of the built-in model the state is kept, and a token costs one step. A module of the user's own has no state that could be
    kept: it reads the newest tokens of the text again, as many as it was trained on.

    Args:
        steps: of the built-in model; None for a module of the user's own.
        window: how many tokens such a module reads.
    """

    def __init__(self, model: Model, personal: Personal, steps: Steps | None, window: int) -> None:
        self._model, self._personal, self._steps, self._window = model, personal, steps, window
        self._routed = is_routed(personal)
        self.reset()

    def reset(self) -> None:
        """Begin another text."""
        self._read: list[int] = []
        self._state = None if self._steps is None else self._steps.start()

    @torch.inference_mode()
    def feed(self, token: int) -> Distribution:
        """Take the next token, and say what follows it.

        Args:
            token: its number in the vocabulary; the first one of a text is <bos>, 2, where the next token is predicted.

        Raises:
            UserError: there is no such token.
        """
        if not 0 <= token < self._model.vocabulary_size:
            raise UserError(
                f"token={token!r} must be from 0 to {self._model.vocabulary_size - 1}; give a number of the vocabulary"
            )
        before = self._read[-1] if self._read else NONE
        self._read.append(token)
        with one_thread():
            if self._steps is None or self._state is None:
                return self._again()
            self._read = self._read[-1:]
            log_p, self._state, local_weight = self._steps.step(torch.tensor([before]), torch.tensor([token]), self._state)
        return Distribution(log_p[0].exp(), float(local_weight) if self._routed else None)

    def _again(self) -> Distribution:
        self._read = self._read[-self._window :]
        p, local_weight = whole(self._model, self._personal, self._read)
        return Distribution(p[-1], float(local_weight[-1]) if self._routed else None)


@torch.no_grad()
def whole(model: Model, personal: Personal, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The probabilities [n, V] after each of n tokens, and the weight of the local expert [n], in one pass of every network.

    Raises:
        UserError: there are more than MOST_TOKENS.
    """
    if len(tokens) > MOST_TOKENS:
        raise UserError(f"a text of {len(tokens)} tokens is longer than {MOST_TOKENS}; give its end, or less of it")
    inputs, lengths = torch.tensor([[tokens]]), torch.tensor([[len(tokens)]])
    way, views = personal.answering or personal.probabilities, []
    for parameters, route in networks_of(personal):
        stacked = {name: tensor.unsqueeze(0) for name, tensor in parameters.items()}
        options = {"route": route, "routing": personal.routing}
        out = torch.func.functional_call(model, stacked, (inputs, lengths), options)
        views.append(View(out.logits[0, 0].log_softmax(-1), out.gru_routing[0, 0, :, 1], out.features[0, 0]))
    if not isinstance(way, Mixture):
        return views[0].log_p.exp(), views[0].local_weight
    token = inputs[0, 0]
    return way.mixed(views, torch.cat([torch.tensor([NONE]), token[:-1]]), token, personal.routing)


def beginning(classes: bool) -> list[int]:
    """The tokens before the first one of a text."""
    return [] if classes else [BOS]
