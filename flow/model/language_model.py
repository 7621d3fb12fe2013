"""The language model: embedding -> routed GRU [-> projection] -> head, for one client or for K clients with weights of their
own.

Parameters live outside as flat dictionaries of tensors and are put in with ``torch.func.functional_call``. Every name
belongs to one of three groups: ``local_*`` is the local expert, ``router_*`` the routers, everything else is the global
model, the only part that FedAvg knows. Embedding and projection are shared by both experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flow_kernels
from flow.model.interface import PARTS, Model, Prediction
from flow.model.parameters import Tensors, global_name, group_of, initial
from flow_kernels.modules.layer import RoutedGRU
from flow_kernels.reference import routing_weights

EXPERT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Parameters(nn.Module):
    """Parameters of these names and shapes, not initialised."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))


class LanguageModel(Model):
    """Next-token prediction, or classification of texts, with a routed GRU and, if asked, a routed head.

    Every layer of the GRU is routed at every time step by [x_t ; h_{t-1}], where x_t is the embedding or the state of the layer
    below. The head is routed at every token by a linear router of its own on the state h_t of the last layer:
    logits = q_global * head_global(f_t) + q_local * head_local(f_t), where f_t is h_t or its projection.

    Args:
        vocabulary_size: number V of tokens.
        embedding_dim: size of a token's vector.
        hidden_size: size H of the GRU's state.
        num_layers: recurrent layers, one above the other.
        projection_dim: size of a linear layer between GRU and head, which saves most of the head's arithmetic where the
            vocabulary is large (google-research/federated, StackOverflow: 96 after 670); None for none.
        temperature: the routers' logits are divided by it.
        routed_head: whether the head has a local expert and a router too.
        classes: number C of classes of a classifier, whose head gives their scores after every token, of which those after the
            last count. 0: the head gives the scores of the next token.
        oov: the tokens that unknown words share; nothing here depends on it, an algorithm may treat them in its own way.
        num_clients: K for K models side by side (every parameter, input and output gets a leading K), None for one.
        backend: backend of the GRU, see :func:`flow_kernels.backends`.
        generator: where the initial values are drawn from; None means torch's global generator.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        projection_dim: int | None = None,
        temperature: float = 1.0,
        routed_head: bool = True,
        classes: int = 0,
        oov: Sequence[int] = (1,),
        num_clients: int | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        v, e, h = vocabulary_size, embedding_dim, hidden_size
        self.vocabulary_size, self.outputs, self.oov = v, classes or v, tuple(oov)
        self.provides = frozenset(part for part in PARTS if not (classes and part == "next_token"))
        self.temperature, self.routed_head, self.num_clients, self.backend = (
            temperature,
            routed_head,
            num_clients,
            backend,
        )
        self.feature_size = d = h if projection_dim is None else projection_dim
        outputs = self.outputs
        head: dict[str, tuple[int, ...]] = {"weight": (outputs, d), "bias": (outputs,)}
        if routed_head:
            head |= {"local_weight": (outputs, d), "local_bias": (outputs,), "router_weight": (2, h), "router_bias": (2,)}
        leading = () if num_clients is None else (num_clients,)
        where = torch.get_default_device() if device is None else torch.device(device)
        self.embedding = Parameters({"weight": (*leading, v, e)}, where, dtype)
        # On "meta" the layer draws no numbers: reset_parameters draws them from the generator.
        self.gru = RoutedGRU(
            e,
            h,
            num_layers,
            batch_first=True,
            temperature=temperature,
            num_clients=num_clients,
            backend=backend,
            device="meta",
            dtype=dtype,
        ).to_empty(device=where)
        self.projection: Parameters | None = None
        if projection_dim is not None:
            self.projection = Parameters({"weight": (*leading, d, h), "bias": (*leading, d)}, where, dtype)
        self.head = Parameters({name: (*leading, *shape) for name, shape in head.items()}, where, dtype)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise as torch.nn.Embedding, torch.nn.GRU and torch.nn.Linear do.

        The local experts start as copies of the global ones. The routers start at zero, so both experts weigh the same at
        first. A two-way softmax has no symmetry that a random start would have to break. With num_clients all clients start
        from the same draw.
        """
        parameters = dict(self.named_parameters())
        bound = 1 / math.sqrt(self.gru.hidden_size)  # GRU and what reads its state: fed H numbers
        head = 1 / math.sqrt(parameters["head.weight"].shape[-1])
        for name, parameter in parameters.items():
            values = parameter if self.num_clients is None else parameter[0]
            if group_of(name) == "router":
                nn.init.zeros_(values)
            elif group_of(name) == "local":
                parameter.copy_(parameters[global_name(name)])
            elif name == "embedding.weight":
                nn.init.normal_(values, generator=generator)
            else:
                limit = head if name.startswith("head.") else bound
                nn.init.uniform_(values, -limit, limit, generator=generator)
            if self.num_clients is not None:
                parameter[1:] = values

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *, route: str = "mixture", routing: str = "soft"
    ) -> Prediction:
        """Predict the token after every position.

        Args:
            tokens: [B, T] token numbers, or [K, B, T] together with parameters that have a leading K.
            lengths: [B] or [K, B] valid positions of every sequence, int64 in 1..T; None means all T. What is
                predicted past a length has no meaning.
            route: ``"mixture"``, or ``"global"`` / ``"local"`` for one expert alone in the GRU and in the head.
            routing: ``"soft"``, ``"hard"`` or ``"straight_through"``, in the GRU and in the head.
        """
        with self._products(tokens):
            return self._plain(self._predict(tokens, lengths, route, routing))

    def _predict(self, tokens: Tensor, lengths: Tensor | None, route: str, routing: str) -> Prediction:
        if tokens.dim() == 2:
            lead = self._forward(
                tokens.unsqueeze(0), None if lengths is None else lengths.unsqueeze(0), route, routing, lead=True
            )
            head_routing = None if lead.head_routing is None else lead.head_routing.squeeze(0)
            return Prediction(
                lead.logits.squeeze(0),
                lead.gru_routing.squeeze(0),
                head_routing,
                lead.features.squeeze(0),
                tuple(q.squeeze(0) for q in lead.layer_routing),
            )
        return self._forward(tokens, lengths, route, routing, lead=False)

    def _forward(self, tokens: Tensor, lengths: Tensor | None, route: str, routing: str, lead: bool) -> Prediction:
        def weight(name: str) -> Tensor:
            """A parameter as it is at this moment (functional_call swaps them), with a leading K."""
            module, _, leaf = name.rpartition(".")
            tensor: Tensor = getattr(getattr(self, module), leaf)
            return tensor.unsqueeze(0) if lead else tensor

        # Not through the layer's own forward: its K is fixed, and the number of clients at work shrinks as they finish.
        h, routings = embed(tokens, weight("embedding.weight")), []
        for layer in range(self.gru.num_layers):
            used = [
                *(weight(f"gru.{name}_l{layer}") if route != "local" else None for name in EXPERT),
                *(weight(f"gru.local_{name}_l{layer}") if route != "global" else None for name in EXPERT),
                *(weight(f"gru.router_{name}_l{layer}") if route == "mixture" else None for name in ("weight", "bias")),
            ]
            h, _, q = flow_kernels.routed_gru(
                h,
                None,
                *used,
                lengths=lengths,
                route=route,
                routing=routing,
                temperature=self.temperature,
                batch_first=True,
                backend=self.backend,
            )
            routings.append(q)
        k, b, t, size = h.shape
        flat = h.reshape(k, b * t, size)
        features = flat
        if self.projection is not None:
            features = linear(flat, weight("projection.weight"), weight("projection.bias"))
        head_q = None
        if self.routed_head and route == "mixture":
            scores = linear(flat, weight("head.router_weight"), weight("head.router_bias"))
            head_q = routing_weights(scores, routing, self.temperature)
            logits = mixed_linear(
                features,
                head_q,
                weight("head.weight"),
                weight("head.bias"),
                weight("head.local_weight"),
                weight("head.local_bias"),
            )
            head_q = head_q.view(k, b, t, 2)
        else:
            own = "local_" if self.routed_head and route == "local" else ""
            logits = linear(features, weight(f"head.{own}weight"), weight(f"head.{own}bias"))
        q = mean_routing(routings)
        return Prediction(logits.view(k, b, t, -1), q, head_q, features.view(k, b, t, -1), tuple(routings))


def mean_routing(layers: Sequence[Tensor]) -> Tensor:
    """The weights of the experts [.., 2], mean over layers."""
    return layers[0] if len(layers) == 1 else torch.stack(list(layers)).mean(0)


def parameter_counts(
    vocabulary_size: int,
    embedding_dim: int,
    hidden_size: int,
    projection_dim: int | None = None,
    *,
    num_layers: int = 1,
    routed_head: bool = True,
    classes: int = 0,
) -> dict[str, int]:
    """How many numbers each parameter of a :class:`LanguageModel` of these sizes has, by name; nothing is allocated."""
    v, e, h = vocabulary_size, embedding_dim, hidden_size
    d = h if projection_dim is None else projection_dim
    counts = {"embedding.weight": v * e}
    for layer in range(num_layers):
        i = h if layer else e
        gru = dict(zip(EXPERT, (3 * h * i, 3 * h * h, 3 * h, 3 * h), strict=True))
        counts |= {f"gru.{prefix}{name}_l{layer}": count for prefix in ("", "local_") for name, count in gru.items()}
        counts |= {f"gru.router_weight_l{layer}": 2 * (i + h), f"gru.router_bias_l{layer}": 2}
    if projection_dim is not None:
        counts |= {"projection.weight": d * h, "projection.bias": d}
    outputs = classes or v
    counts |= {"head.weight": outputs * d, "head.bias": outputs}
    if routed_head:
        counts |= {
            "head.local_weight": outputs * d,
            "head.local_bias": outputs,
            "head.router_weight": 2 * h,
            "head.router_bias": 2,
        }
    return counts


def second_expert(model: Model, generator: np.random.Generator) -> Tensors:
    """Initial values of the local experts where they are no copies: drawn like the global ones, but others.

    Two experts that start equal get equal gradients from a router at zero, and stay equal for ever.
    """
    assert isinstance(model, LanguageModel)  # a module of the user's own has no experts
    drawn = {}
    for name, parameter in initial(model, "local").items():
        fed = model.feature_size if name.startswith("head.") else model.gru.hidden_size
        bound = 1 / math.sqrt(fed)
        drawn[name] = torch.from_numpy(generator.uniform(-bound, bound, parameter.shape)).to(parameter)
    return drawn


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """Look tokens [K, B, T] up in K tables [K, V, E] at once -> [K, B, T, E]."""
    clients, size, width = table.shape
    first_row = torch.arange(clients, device=table.device).view(-1, 1, 1) * size
    return F.embedding(tokens + first_row, table.reshape(clients * size, width))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [K, N, in], weight [K, out, in], bias [K, out] -> [K, N, out]"""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def mixed_linear(x: Tensor, q: Tensor, weight: Tensor, bias: Tensor, local_weight: Tensor, local_bias: Tensor) -> Tensor:
    """q_global * (W x + b) + q_local * (W_local x + b_local), every row with its own q [K, N, 2].

    The weights multiply x, not the products: the products are as wide as the vocabulary.
    """
    mixed = torch.baddbmm(q @ torch.stack((bias, local_bias), dim=1), x * q[..., :1], weight.mT)
    return torch.baddbmm(mixed, x * q[..., 1:], local_weight.mT)
