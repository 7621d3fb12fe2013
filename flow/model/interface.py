"""What the loop needs of a model: predictions for one client, or for K clients with parameters of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Part = Literal["routers", "head", "embedding", "gru", "features", "next_token"]
"""What an algorithm may need of a model beside its parameters: two experts with routers, an output layer by its name, an
embedding or a GRU by its name, what the output layer reads, and that it predicts the next token and no class."""
PARTS: dict[Part, str] = {
    "routers": "two experts and a router",
    "head": "an output layer that it can tell from the rest",
    "embedding": "the embedding of the built-in model",
    "gru": "the GRU of the built-in model",
    "features": "what the output layer reads",
    "next_token": "a next token to predict",
}
"""In words, for messages."""


class Prediction(NamedTuple):
    """What the model says about every position, with a leading K when the tokens have one."""

    logits: Tensor
    """[B, T, V] scores of the next token, or [B, T, C] of the classes of the text up to here."""
    gru_routing: Tensor
    """[B, T, 2] weights (global, local) of the GRU's experts, mean over its layers; one-hot where one expert runs alone."""
    head_routing: Tensor | None
    """[B, T, 2] weights of the head's experts; None where the head is not routed."""
    features: Tensor
    """[B, T, H] what the head reads: the GRU's state after every token; with a projection [B, T, projection_dim]. Of a module
    of the user's own without a head by its name: [B, T, 0]."""
    layer_routing: tuple[Tensor, ...]
    """[B, T, 2] for every layer of the GRU; empty where nothing is routed."""


class Model(nn.Module):
    """A model that clients train. Its parameters live outside, as flat dictionaries of tensors by name.

    ``torch.func.functional_call(model, parameters, (tokens, lengths), {"route": .., "routing": ..})`` gives a
    :class:`Prediction`. Tokens are int64 [B, T], or [K, B, T] with parameters that have a leading K.
    """

    vocabulary_size: int
    """Number V of tokens."""
    outputs: int
    """Number of scores that it gives: V, or the number C of classes."""
    oov: tuple[int, ...]
    """The tokens that unknown words share."""
    provides: frozenset[Part]
    """What there is for algorithms that need more than parameters."""
    backend: str = "auto"
    """Kernels that compute it, where there are several: see :func:`flow_kernels.backends`."""
    mixed_precision: bool = False
    """Whether products multiply what was rounded to bfloat16. Parameters, sums, gates, states and losses are float32 then."""

    def _products(self, tokens: Tensor) -> AbstractContextManager[object]:
        """In which to compute: torch's autocast where products are of bfloat16."""
        return torch.autocast(tokens.device.type, torch.bfloat16) if self.mixed_precision else nullcontext()

    def _plain(self, prediction: Prediction) -> Prediction:
        """The same in the format of the parameters."""
        if not self.mixed_precision:
            return prediction
        logits, routing, head_routing, features, layers = prediction
        return Prediction(
            logits.float(),
            routing.float(),
            None if head_routing is None else head_routing.float(),
            features.float(),
            tuple(layer.float() for layer in layers),
        )
