"""What the model costs to compute: the floating-point operations of its matrix products, counted from the sizes.

A multiply-add counts as two. Counted is what a valid token needs; padding, pointwise functions and the optimiser are not. A
classifier's output layer, which has few rows, is counted at every token of a text.
Training costs the forward pass, the products for the gradients of the trained weights, and those that carry the gradient
down to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flow.model.interface import Model
from flow.model.language_model import LanguageModel
from flow.model.parameters import group_of
from flow.model.user_module import UserModule

EXPERTS = {"global": ("global",), "local": ("local",), "mixture": ("global", "local")}


class Product(NamedTuple):
    """One matrix product of a token's forward pass."""

    layer: str
    group: str
    """Of the weight: "global", "local" or "router"."""
    reads: str
    """The layer whose output is multiplied; a layer of the GRU that reads itself reads its own state."""
    flops: int


def products(model: LanguageModel, route: str) -> list[Product]:
    """The matrix products for one token by this route."""
    h, v = model.gru.hidden_size, model.outputs
    matrix_products, below, width = [], "embedding", model.gru.input_size
    for own in _recurrent(model):
        for expert in EXPERTS[route]:
            matrix_products += [Product(own, expert, below, 6 * h * width), Product(own, expert, own, 6 * h * h)]
        if route == "mixture":
            matrix_products += [Product(own, "router", below, 4 * width), Product(own, "router", own, 4 * h)]
        below, width = own, h
    state = below
    if model.projection is not None:
        width = model.feature_size
        matrix_products.append(Product("projection", "global", state, 2 * h * width))
        below = "projection"
    for expert in EXPERTS[route] if model.routed_head else ("global",):
        matrix_products.append(Product("head", expert, below, 2 * width * v))
    if route == "mixture" and model.routed_head:
        matrix_products.append(Product("head", "router", state, 4 * h))
    return matrix_products


def _recurrent(model: LanguageModel) -> list[str]:
    """The layers of the GRU, from the first to the last."""
    return [f"gru_l{layer}" for layer in range(model.gru.num_layers)]


def _layers_of(model: LanguageModel, name: str) -> list[str]:
    """The layers of a parameter: "gru.local_bias_hh_l0" -> "gru_l0", "head.bias" -> "head"; "gru" stands for all of the GRU."""
    layer, _, leaf = name.partition(".")
    if layer != "gru":
        return [layer]
    return [f"gru_l{leaf.rpartition('_l')[2]}"] if leaf else _recurrent(model)


def per_token(model: Model, route: str, trained: Iterable[str] = ()) -> int:
    """Operations for one token: of the forward pass, and of the backward pass where parameters are trained.

    Those of a module of the user's own are measured once, see :meth:`flow.model.user_module.UserModule.flops`.

    Args:
        trained: names of the parameters that get a gradient; what stands before a "/" in a name is left out.
    """
    names = [name.rpartition("/")[2] for name in trained]
    if isinstance(model, UserModule):
        return model.flops(frozenset(names))
    assert isinstance(model, LanguageModel)
    moved = {(layer, group_of(name)) for name in names for layer in _layers_of(model, name)}
    depth = {layer: n for n, layer in enumerate(("embedding", *_recurrent(model), "projection", "head"))}
    deepest = min((depth[layer] for layer, _ in moved if layer in depth), default=len(depth))
    total = 0
    for product in products(model, route):
        total += product.flops
        if (product.layer, product.group) in moved:
            total += product.flops  # the gradient of the weight
        if depth[product.reads] >= deepest:
            total += product.flops  # the gradient of what is read, for the parameters below
    return total
