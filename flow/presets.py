"""Models at the sizes that were published for a data set, each under a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from flow.config import Config
from flow.errors import UserError

Name = Literal["stackoverflow", "shakespeare", "reddit"]


@dataclass(frozen=True)
class Preset:
    """A published model: sizes of its layers, and how texts are cut for it."""

    model: dict[str, Any]
    """Fields of :class:`flow.config.ModelOptions`."""
    data: dict[str, Any]
    """Fields of :class:`flow.data.DataOptions`."""
    unit: str
    """Of the texts that it was published for: "words" or "characters"."""


PRESETS: dict[str, Preset] = {
    "stackoverflow": Preset(
        # Reddi et al. 2021 and Wu et al. 2022
        {"embedding_dim": 96, "hidden_size": 670, "num_layers": 1, "projection_dim": 96},
        {"sequence_length": 20, "vocabulary_size": 10_000},
        "words",
    ),
    "shakespeare": Preset(
        # McMahan et al. 2017 and Reddi et al. 2021
        {"embedding_dim": 8, "hidden_size": 256, "num_layers": 2},
        {"sequence_length": 80},
        "characters",
    ),
    "reddit": Preset(
        # Caldas et al. 2018 (LEAF)
        {"embedding_dim": 256, "hidden_size": 256, "num_layers": 2},
        {"sequence_length": 10, "vocabulary_size": 10_000},
        "words",
    ),
}


def preset(name: str, config: Config[Any] | None = None) -> Config[Any]:
    """A configuration whose model has the published sizes for a data set, as ``--preset`` of `flow run` gives them.

    The recurrent layers are GRUs with two experts. Those of the publications are one LSTM (StackOverflow) and two LSTMs
    (Shakespeare, Reddit) of the same number of units. Nothing but the sizes of the model, the length of a sequence and the
    size of the vocabulary is set: neither the data set nor learning rates.

    Args:
        name: "stackoverflow" (embedding 96, 670 units, projection 96, 10,000 words; Reddi et al. 2021), "shakespeare"
            (embedding 8, 2 layers of 256 units, 80 characters; McMahan et al. 2017, Reddi et al. 2021) or "reddit" (embedding
            256, 2 layers of 256 units, 10 words, 10,000 words; Caldas et al. 2018).
        config: keeps everything else that it says; None: the defaults.

    Raises:
        UserError: there is no preset of this name.
    """
    if name not in PRESETS:
        raise UserError(f"preset={name!r} must be {', '.join(map(repr, get_args(Name)))}; give one of these")
    config = Config() if config is None else config
    sizes = PRESETS[name]
    return replace(config, model=replace(config.model, **sizes.model), data=replace(config.data, **sizes.data))
