"""A client's model as an ONNX graph of one step."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn

from flow.algorithms.shared.memory import NONE
from flow.errors import UserError
from flow.model.language_model import LanguageModel
from flow.personal.folder import Kept
from flow.personal.stream import Steps
from flow.training.messages import Mixture

INPUTS, OUTPUTS = ("token", "state"), ("log_probabilities", "next_state", "local_weight")
PACKAGES = ("onnx", "onnxscript")
LOGGERS = ("torch.onnx", "onnx_ir", "onnxscript")
"""Of what tells of its own steps on stderr."""


class Step(nn.Module):
    """One step: a token and the state before it -> what follows, the state after it, and the local expert's weight."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [1], [S, 1, H] -> [1, V], [S, 1, H], [1]"""
        return self.steps.step(torch.full_like(token, NONE), token, state)


def refusal(kept: Kept) -> str:
    """Why a client's model is no graph of one step; empty where it is."""
    if not isinstance(kept.model, LanguageModel):
        return "a module of your own has no state from step to step; export it with torch.onnx where you made it"
    way = kept.personal.answering or kept.personal.probabilities
    if isinstance(way, Mixture) and way.refusal:
        return f"{way.refusal}; use the folder with flow.load, or adapt a run of another algorithm or without a memory"
    return ""


def onnx_bytes(kept: Kept) -> tuple[bytes, Tensor]:
    """The content of an .onnx file, and the state before the first token.

    Raises:
        UserError: the model is no graph of one step, or the package onnx is missing.
    """
    if reason := refusal(kept):
        raise UserError(f"format='onnx' holds one step of a recurrent model, and {reason}")
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"format='onnx' needs the package {package} ({error}); run: pip install 'flow-fl[onnx]', or give format='torch'"
            ) from error
    assert isinstance(kept.model, LanguageModel)
    steps = Steps(kept.model, kept.personal, backend="reference")
    start, levels = steps.start(), {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():  # it prints every step of its own
        warnings.simplefilter("ignore")
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                Step(steps).eval(), (torch.tensor([2]), start), dynamo=True, input_names=INPUTS, output_names=OUTPUTS
            )
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content, start
