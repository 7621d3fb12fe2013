"""An adapted client for other programs: an ONNX graph of one step, or weights for torch's own layers, with a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save as to_bytes
from torch import Tensor

from flow.errors import UserError
from flow.model.language_model import EXPERT, LanguageModel
from flow.model.parameters import Tensors
from flow.personal import folder as folders
from flow.personal.card import card
from flow.personal.folder import Kept
from flow.personal.graph import onnx_bytes
from flow.personal.model import PersonalModel
from flow.storage import files

Format = Literal["onnx", "torch"]
FORMATS = ("onnx", "torch")
CARD, LOADER = "model_card.md", "model.py"

LOADING = '''\
"""The model of model.safetensors in torch's own layers; needs torch and safetensors."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


class Model(torch.nn.Module):
    def __init__(self, vocabulary, embedding, hidden, layers, projection, outputs):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, embedding)
        self.gru = torch.nn.GRU(embedding, hidden, layers, batch_first=True)
        self.projection = torch.nn.Linear(hidden, projection) if projection else torch.nn.Identity()
        self.head = torch.nn.Linear(projection or hidden, outputs)

    def forward(self, tokens, state=None):
        """int64 [B, T], state [layers, B, H] -> log-probabilities [B, T, outputs] and the next state."""
        output, state = self.gru(self.embedding(tokens), state)
        return self.head(self.projection(output)).log_softmax(-1), state


def load():
    model = Model(**json.loads((HERE / "sizes.json").read_text(encoding="utf-8"))).to(getattr(torch, "@DTYPE@"))
    model.load_state_dict(load_file(HERE / "model.safetensors"))
    return model.eval()
'''


def export(model: PersonalModel, format: Format, out: Path | str) -> Path:
    """Write an adapted client for other programs into a new folder, with a model card.

    "onnx" writes model.onnx, one step: token int64 [1] and state [S, 1, H] in; log_probabilities [1, V], next_state and
    local_weight [1] out. "torch" writes model.safetensors with the names of torch.nn.Embedding, GRU and Linear, and model.py,
    which loads it. Both have vocabulary.json.

    Args:
        model: what flow.load gives.
        format: "onnx" or "torch".
        out: a folder that does not exist yet.

    Returns:
        The folder.

    Raises:
        UserError: the format is unknown, or cannot hold this model; a package is missing; or the folder cannot be made.
    """
    if format not in FORMATS:
        raise UserError(f"format={format!r} must be 'onnx' or 'torch'; give either")
    place = Path(out)
    folders.check_new(place, "out")
    folders.check_outside(place, "out", model.folder, "the adapted folder")
    contents = _onnx(model.kept) if format == "onnx" else _torch(model.kept)
    for name in (folders.VOCABULARY, folders.TOKENIZER):
        if (model.folder / name).is_file():
            contents[name] = (model.folder / name).read_bytes()
    contents[CARD] = card(model, format).encode()
    with folders.new(place, "out") as partial:
        for name, content in contents.items():
            files.write(partial / name, content)
            (partial / name).chmod(0o600)
    return place


def _onnx(kept: Kept) -> dict[str, bytes]:
    content, start = onnx_bytes(kept)
    shape = {"state": list(start.shape), "dtype": str(start.dtype).removeprefix("torch."), "begins_with": 2}
    return {"model.onnx": content, "sizes.json": (json.dumps(shape) + "\n").encode()}


def _torch(kept: Kept) -> dict[str, bytes]:
    model, personal = kept.model, kept.personal
    if not isinstance(model, LanguageModel):
        raise UserError("format='torch' is for the built-in model; a module of your own loads personal.safetensors itself")
    if personal.answering or personal.probabilities or personal.route == "mixture":
        raise UserError(
            "format='torch' holds one GRU and one output layer, and this client mixes several at every token; give "
            "format='onnx', or adapt a run of an algorithm with one expert, such as fedavgft"
        )
    parameters = {name: tensor[0] for name, tensor in personal.parameters.items()}
    head = "head.local_" if personal.route == "local" and model.routed_head else "head."
    tensors: Tensors = {"embedding.weight": parameters["embedding.weight"]}
    for layer in range(model.gru.num_layers):
        own = "local_" if personal.route == "local" else ""
        tensors |= {f"gru.{name}_l{layer}": parameters[f"gru.{own}{name}_l{layer}"] for name in EXPERT}
    if model.projection is not None:
        tensors |= {f"projection.{name}": parameters[f"projection.{name}"] for name in ("weight", "bias")}
    tensors |= {f"head.{name}": parameters[f"{head}{name}"] for name in ("weight", "bias")}
    sizes: dict[str, Any] = {
        "vocabulary": model.vocabulary_size,
        "embedding": model.gru.input_size,
        "hidden": model.gru.hidden_size,
        "layers": model.gru.num_layers,
        "projection": None if model.projection is None else model.feature_size,
        "outputs": model.outputs,
    }
    return {
        "model.safetensors": to_bytes({name: _own(tensor) for name, tensor in tensors.items()}),
        "sizes.json": (json.dumps(sizes) + "\n").encode(),
        LOADER: LOADING.replace("@DTYPE@", str(parameters["embedding.weight"].dtype).removeprefix("torch.")).encode(),
    }


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().clone()
