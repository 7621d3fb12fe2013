"""What the model costs to compute: the floating-point operations of its matrix products, counted from the sizes.

A multiply-add counts as two. Counted is what a valid token needs; padding, pointwise functions and the optimiser are not.
Training costs the forward pass, the products for the gradients of the trained weights, and those that carry the gradient
down to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flow.model.language_model import LanguageModel
from flow.model.parameters import group_of

DEPTH = {"embedding": 0, "gru": 1, "projection": 2, "head": 3}
EXPERTS = {"global": ("global",), "local": ("local",), "mixture": ("global", "local")}


class Product(NamedTuple):
    """One matrix product of a token's forward pass."""

    layer: str
    group: str
    """Of the weight: "global", "local" or "router"."""
    reads: str
    """The layer whose output is multiplied; a GRU that reads "gru" reads its own state."""
    flops: int


def products(model: LanguageModel, route: str) -> list[Product]:
    """The matrix products for one token by this route."""
    e, h, v = model.gru.input_size, model.gru.hidden_size, model.vocabulary_size
    matrix_products = []
    for expert in EXPERTS[route]:
        matrix_products += [Product("gru", expert, "embedding", 6 * h * e), Product("gru", expert, "gru", 6 * h * h)]
    if route == "mixture":
        matrix_products += [Product("gru", "router", "embedding", 4 * e), Product("gru", "router", "gru", 4 * h)]
    below, width = "gru", h
    if model.projection is not None:
        width = model.feature_size
        matrix_products.append(Product("projection", "global", "gru", 2 * h * width))
        below = "projection"
    for expert in EXPERTS[route] if model.routed_head else ("global",):
        matrix_products.append(Product("head", expert, below, 2 * width * v))
    if route == "mixture" and model.routed_head:
        matrix_products.append(Product("head", "router", "gru", 4 * h))
    return matrix_products


def per_token(model: LanguageModel, route: str, trained: Iterable[str] = ()) -> int:
    """Operations for one token: of the forward pass, and of the backward pass where parameters are trained.

    Args:
        trained: names of the parameters that get a gradient; what stands before a "/" in a name is left out.
    """
    names = [name.rpartition("/")[2] for name in trained]
    moved = {(name.partition(".")[0], group_of(name)) for name in names}
    deepest = min((DEPTH[layer] for layer, _ in moved if layer in DEPTH), default=len(DEPTH))
    total = 0
    for product in products(model, route):
        total += product.flops
        if (product.layer, product.group) in moved:
            total += product.flops  # the gradient of the weight
        if DEPTH[product.reads] >= deepest:
            total += product.flops  # the gradient of what is read, for the parameters below
    return total
