"""How much memory and disk a run takes at least, from its options alone: said before anything is allocated.

What is counted are copies of parameters, and numbers for every token of the vocabulary and for every client. Left out is what
depends on the texts, such as the activations of a batch. So a run takes somewhat more than the estimate, not less. A run of
FedAvg with 60 million trained parameters and two workers took 3.9 GB more than Python and torch take, and the estimate is 3.5
GB.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from flow.algorithms import Algorithm
from flow.config import Config, ModelOptions, name_of, on_cpu
from flow.data import least_size
from flow.data.tokenizer import is_file
from flow.model.language_model import parameter_counts
from flow.model.parameters import group_of
from flow.resources import Need, require_memory
from flow.training.sgd import adapts

ITEM = {"float32": 4, "float64": 8, "bfloat16": 4}


def check_memory(
    config: Config[Any],
    algorithm: Algorithm[Any],
    tokens: int | None = None,
    model: nn.Module | None = None,
    classes: int = 0,
) -> None:
    """Make sure that the parameters of a run fit into memory.

    Args:
        config: checked.
        tokens: size of the vocabulary; None: not known yet, then the smallest that the options allow.
        classes: number of classes where texts are classified; 0 where the next token is predicted, or where
            the data are not known yet.
        model: a module of the user's own, whose size no option says; before it is made nothing is estimated.

    Raises:
        UserError: they do not; the options that decide it are named.
    """
    if isinstance(config.model, ModelOptions):
        sizes = config.model
        if tokens is None and config.data.label_column is not None:
            classes = 2
        counts = parameter_counts(
            least_size(config.data).tokens if tokens is None else tokens,
            sizes.embedding_dim,
            sizes.hidden_size,
            sizes.projection_dim,
            num_layers=sizes.num_layers,
            routed_head=bool(algorithm.traits(config.algorithm).get("routed_head", True)),
            classes=classes,
        )
    elif model is not None:
        counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    else:
        return
    require_memory([copies(config, algorithm, counts)], config.model.device)


def copies(config: Config[Any], algorithm: Algorithm[Any], counts: dict[str, int]) -> Need:
    """All copies of the parameters that there are at the same time.

    They are the model of the run and of each worker, and the server's state before and after a step. The sums of the uploads
    take three numbers for each parameter. The last part is the parameters and gradients of all clients that are trained side by
    side, and the moments of Adam.

    Args:
        counts: how many numbers each parameter has, by name.
    """
    model = config.model
    trained = sum(count for name, count in counts.items() if group_of(name) == "global")
    chunk = config.chunk or 1
    groups = min(config.threads if on_cpu(model) else 1, -(-config.cohort // chunk))
    clients = groups * min(chunk, config.cohort)
    each = 4 if adapts(config.algorithm) else 2
    more = {name: value for name, value in algorithm.models(config.algorithm).items() if value > 1}
    numbers = sum(counts.values()) * (1 + groups) + trained * (2 + 3 + each * clients + sum(more.values()))
    decides: dict[str, object] = {"vocabulary_size": config.data.vocabulary_size, "oov_buckets": config.data.oov_buckets}
    if is_file(config.data.tokenizer):  # which brings its own vocabulary
        decides = {"tokenizer": config.data.tokenizer}
    needed = more | (
        _deciding(model, decides, counts) if isinstance(model, ModelOptions) else {"model": name_of(model.factory)}
    )
    if groups > 1 or clients > 1:
        needed |= {"threads": config.threads} if chunk == 1 else {"threads": config.threads, "chunk": chunk}
    return Need("the model with its copies", numbers * ITEM[model.dtype], tuple(needed.items()))


def _deciding(model: ModelOptions, decides: dict[str, object], counts: dict[str, int]) -> dict[str, object]:
    """The options that decide the size of the largest parameter."""
    width: dict[str, object] = {"hidden_size": model.hidden_size}
    layers: dict[str, object] = {"num_layers": model.num_layers} if model.num_layers > 1 else {}
    options: dict[str, dict[str, object]] = {
        "embedding": {**decides, "embedding_dim": model.embedding_dim},
        "gru": {**width, "embedding_dim": model.embedding_dim, **layers},
        "projection": {**width, "projection_dim": model.projection_dim},
        "head": {**decides, **(width if model.projection_dim is None else {"projection_dim": model.projection_dim})},
    }
    largest = max(counts, key=lambda name: counts[name])
    return options[largest.partition(".")[0]]
