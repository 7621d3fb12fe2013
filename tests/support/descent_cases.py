"""Small models with the parameters and sequences of some clients, and kinds of updates, for tests of local training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, names_of
from flow.training.batches import Data
from flow.training.records import Work
from flow.training.sgd import Sgd, Update
from flow.training.work import train

SIZES = {"small": (11, 3, 5, None), "projected": (50, 7, 17, 6), "odd": (301, 16, 33, None), "two layers": (23, 3, 9, None)}
SIZES["three layers, projected"] = (13, 4, 6, 5)
LAYERS = {"two layers": 2, "three layers, projected": 3}


def problem(
    size: str,
    routed_head: bool,
    clients: int = 3,
    dtype: torch.dtype = torch.float64,
    sequences: Sequence[int] = (7, 4, 1),
    steps: int = 9,
) -> tuple[LanguageModel, LanguageModel, Tensors, Data]:
    """A model by the kernels, the same by the reference, K clients' parameters, and their sequences."""
    v, e, h, d = SIZES[size]
    generator = torch.Generator().manual_seed(len(size))
    make: dict[str, Any] = {
        "num_layers": LAYERS.get(size, 1),
        "projection_dim": d,
        "routed_head": routed_head,
        "temperature": 0.7,
        "num_clients": clients,
        "dtype": dtype,
    }
    model = LanguageModel(v, e, h, backend="cpu", **make)
    parameters = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).mul(0.4).to(dtype)
        for name, p in model.named_parameters()
    }
    rows = np.split(np.arange(sum(sequences)), np.cumsum(sequences)[:-1])
    tokens = torch.randint(0, v, (sum(sequences) + 1, steps + 1), generator=generator, dtype=torch.int32)
    lengths = torch.randint(1, steps + 1, (sum(sequences) + 1,), generator=generator)
    data = Data(tuple("abcdefgh"[:clients]), tuple(rows), tokens, lengths, np.zeros(sum(sequences), np.int64), lengths.numpy())
    return model, LanguageModel(v, e, h, backend="reference", **make), parameters, data


def trained(model: LanguageModel, parameters: Tensors, data: Data, updates: Sequence[Update], sgd: Sgd) -> tuple[Tensors, Work]:
    parameters = {name: p.clone() for name, p in parameters.items()}
    work = train(model, parameters, data, updates, sgd, Draw(3, 1, "test"), "phase")
    return parameters, work


def updates_of(parameters: Tensors, kind: str) -> list[Update]:
    router, local, world = (names_of(parameters, group) for group in ("router", "local", "global"))
    anchor = {name: p + 0.1 for name, p in parameters.items()}
    last = max(name[-3:] for name in parameters if name.startswith("gru."))
    return {
        "global": [Update(world, "global")],
        "local": [Update(local, "local")],
        "flow": [Update(router, "mixture", 0.3), Update(world, "mixture")],
        "all at once": [Update((*world, *local, *router), "mixture", 0.2)],
        "pulled": [Update(world, "global", mu=0.2, anchor=anchor)],
        "head alone": [Update(("head.weight", "head.bias"), "global")],
        "embedding alone": [Update(("embedding.weight",), "global")],
        "recurrent bias": [Update(("gru.bias_hh_l0",), "mixture", 0.1)],
        "last layer": [
            Update(tuple(name for name in parameters if name.startswith("gru.") and name.endswith(last)), "mixture")
        ],
        "composed": [Update(world, "global", compose=lambda p: {name: t * 0.5 + 0.1 for name, t in p.items()})],
    }[kind]


PLAIN = Sgd(0.3, 2, 3, 0.0)
