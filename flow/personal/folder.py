"""The folder of an adapted client: what it holds, written whole or not at all and checked when it is read.

    settings.json             algorithm, model, how texts are cut, and the SHA-256 of the other files
    vocabulary.json           the tokens by id, and the classes
    tokenizer.json            where the run's tokens are those of such a file
    personal.safetensors      the client's parameters, and what its way of predicting needs beside them (names with "way/")
    report.json, report.md    what personalization gained on the last fifth of the texts

Nothing in it is code, and reading it runs none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from flow.algorithms import algorithms
from flow.checks import check_text
from flow.config import ModelOptions, TorchModel, factory_of, knows_factory, name_of, parameters_dtype
from flow.data import Population, Vocabulary
from flow.data import tokenizer as tokenizers
from flow.data.tokens import SPLITTERS
from flow.engine.task import user_module
from flow.errors import UserError
from flow.model.interface import Model
from flow.model.language_model import LanguageModel
from flow.model.parameters import Route, Tensors
from flow.model.user_module import UserModule
from flow.personal.stream import Steps
from flow.personal.texts import FILE, Cutting
from flow.storage import files
from flow.training.messages import Mixture, Personal

FORMAT = 1
SETTINGS, VOCABULARY, TOKENIZER, TENSORS = "settings.json", "vocabulary.json", "tokenizer.json", "personal.safetensors"
REPORT, PAGE = "report.json", "report.md"
EXPORTED = ("model.onnx", "model.safetensors", "sizes.json", "model_card.md", "model.py")
WRITTEN = (SETTINGS, VOCABULARY, TOKENIZER, TENSORS, REPORT, PAGE, *EXPORTED)
"""The files of adapted folders, and of those that :mod:`flow.personal.exporting` writes by :func:`new`."""
WAY = "way/"
ROUTES, ROUTINGS = get_args(Route), ("soft", "hard")
REMEDY = "put the folder back from a copy, or make it again with `flow adapt`"
Json = dict[str, Any]


class Kept(NamedTuple):
    """What an adapted folder holds."""

    model: Model
    personal: Personal
    """Of one client, tensors [1, ..]."""
    steps: Steps | None
    """The same one step at a time; None for a module of the user's own."""
    cutting: Cutting
    settings: Json
    report: Json


def check_new(folder: Path, option: str) -> None:
    """Raise UserError unless a folder of this name may be made."""
    if not folder.name:
        raise UserError(f"{option}={str(folder)!r} has no name; give the name of a folder that does not exist yet")
    check_text(option, str(folder))
    if os.path.lexists(folder):
        raise UserError(f"{option}={str(folder)!r} exists already and is left as it is; give another folder")
    above = next((parent for parent in folder.absolute().parents if os.path.lexists(parent)), None)
    if above is not None and not above.is_dir():
        raise UserError(
            f"{option}={str(folder)!r} leads through {str(above)!r}, which is a file and not a folder; give another folder"
        )


def check_outside(folder: Path, option: str, other: Path, what: str) -> None:
    """Raise UserError where a folder that is to be made lies in another one, which stays as it is.

    what: the other one, for the message.
    """
    if folder.resolve().is_relative_to(other.resolve()):
        raise UserError(
            f"{option}={str(folder)!r} lies in {what}, {str(other)!r}, which stays as it is; give a folder outside of it"
        )


@contextmanager
def new(folder: Path, option: str) -> Iterator[Path]:
    """A hidden folder that only its owner may read, and that gets the name of `folder` when the block ends without an error.

    Raises:
        UserError: there is something of this name already, or it cannot be made.
    """
    check_new(folder, option)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(partial)
        partial.mkdir(mode=0o700)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{option}={str(folder)!r} cannot be made ({error}); give a folder that you may write to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_unfinished(partial: Path) -> None:
    """Remove `partial` and the hidden folders beside it which processes left that were killed while they wrote them.

    A folder of such a name goes where no process of this machine has its number, and it holds nothing but files that are
    written there.
    """
    for path in partial.parent.glob(".*.tmp"):
        process = files.UNFINISHED.fullmatch(path.name)
        if process is None or path.is_symlink() or not path.is_dir():
            continue
        number = int(process[1])
        if path != partial and (number == os.getpid() or files.is_alive(number)):
            continue
        with suppress(OSError):  # another call is faster, or it is another user's
            names = [entry.name for entry in path.iterdir()]
            if all(name in WRITTEN or files.UNFINISHED.fullmatch(name) for name in names):
                shutil.rmtree(path)


def tensors_of(personal: Personal, algorithm: str) -> tuple[Tensors, str]:
    """The tensors of personal.safetensors, and what of the client's texts they hold.

    Raises:
        UserError: the client's way of predicting is a function that cannot be stored.
    """
    way = personal.answering or personal.probabilities
    own = {name: tensor[0].detach().cpu().contiguous() for name, tensor in personal.parameters.items()}
    if way is None:
        return own, ""
    known = algorithms().get(algorithm)
    if not isinstance(way, Mixture) or known is None or known.restored is None:
        raise UserError(
            f"algorithm={algorithm!r} predicts by a function of its own, which no file can hold; have it give a "
            "flow.building_blocks.Mixture as answering or probabilities and a function `restored`, or adapt a run of another "
            "algorithm"
        )
    return own | {WAY + name: tensor.detach().cpu().contiguous() for name, tensor in way.stored().items()}, way.holds


def described(model: Model, options: ModelOptions | TorchModel, seed: int) -> Json:
    """What settings.json has of a model."""
    if isinstance(options, TorchModel):
        return {"factory": name_of(options.factory), "head": options.head, "dtype": options.dtype, "seed": seed}
    assert isinstance(model, LanguageModel)
    return {
        "embedding_dim": model.gru.input_size,
        "hidden_size": model.gru.hidden_size,
        "num_layers": model.gru.num_layers,
        "projection_dim": None if model.projection is None else model.feature_size,
        "temperature": model.temperature,
        "routed_head": model.routed_head,
        "dtype": options.dtype,
    }


def write(
    folder: Path, settings: Json, cutting: Cutting, tensors: Tensors, report: Json, page: str, tokenizer: Path | None
) -> None:
    """Write the folder.

    Args:
        settings: without the SHA-256 of the other files.
        tokenizer: the file of the run's tokenizer.

    Raises:
        UserError: see :func:`new`.
    """
    vocabulary = cutting.vocabulary
    words = {**asdict(vocabulary), "classes": cutting.classes}
    contents = {
        VOCABULARY: _json(words),
        TENSORS: to_bytes(tensors),
        REPORT: _json(report),
        PAGE: page.encode(),
        **({} if tokenizer is None else {TOKENIZER: tokenizer.read_bytes()}),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[SETTINGS] = _json(files.with_checksum({"format": FORMAT, **settings, "files": digests}))
    with new(folder, "out") as partial:
        for name, content in contents.items():
            files.write(partial / name, content)
            (partial / name).chmod(0o600)


def read(folder: Path, model: TorchModel | None = None) -> Kept:
    """Read what :func:`write` left; the model computes on the CPU, in the format of its parameters.

    Args:
        model: the module of the user's own, where the run had one; None: it is known in this process by its name.

    Raises:
        UserError: it is no such folder; a file is missing or not what was written; or the module is another one.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(
            f"folder={str(folder)!r} is no adapted folder, for it has no {SETTINGS}; give one that `flow adapt` made"
        )
    settings = files.read_json(path, REMEDY)
    try:
        if settings.get("format") != FORMAT:
            raise UserError(
                f"{path}: format={settings.get('format')!r} must be {FORMAT} for this version of flow; adapt the client again"
            )
        contents = {name: _content(folder / name, digest) for name, digest in settings["files"].items()}
        return _kept(folder, settings, contents, model)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not what `flow adapt` writes ({error!r}); {REMEDY}") from error


def _kept(folder: Path, settings: Json, contents: Mapping[str, bytes], given: TorchModel | None) -> Kept:
    words = json.loads(contents[VOCABULARY])
    classes = tuple(words.pop("classes"))
    vocabulary = Vocabulary(**{**words, "tokens": tuple(words["tokens"])})
    texts = settings["texts"]
    if type(texts["sequence_length"]) is not int or texts["sequence_length"] < 1:
        raise ValueError(f"sequence_length={texts['sequence_length']!r} is no length")
    if texts["tokenizer"] not in (*SPLITTERS, FILE) or not isinstance(texts["separator"], str):
        raise ValueError(f"texts={texts!r} do not say how a text is cut")
    from_file = tokenizers.read(folder / TOKENIZER) if texts["tokenizer"] == FILE else None
    cutting = Cutting(vocabulary, classes=classes, from_file=from_file, **texts)
    model = _model(settings, cutting, folder, given)
    stored = from_bytes(contents[TENSORS])
    parameters = {name: tensor for name, tensor in stored.items() if not name.startswith(WAY)}
    expected: Tensors = dict(model.named_parameters())
    if wrong := files.unlike(parameters, {name: expected[name] for name in parameters if name in expected}):
        raise ValueError(wrong)
    predicts = settings["predicts"]
    if predicts["route"] not in ROUTES or predicts["routing"] not in ROUTINGS or predicts["alone"] not in (None, *ROUTES):
        raise ValueError(f"predicts={predicts!r} names no route")
    personal = Personal(
        {name: tensor.unsqueeze(0) for name, tensor in parameters.items()},
        predicts["route"],
        predicts["routing"],
        alone=predicts["alone"],
    )
    way = {name.removeprefix(WAY): tensor for name, tensor in stored.items() if name.startswith(WAY)}
    if way:
        name = settings["algorithm"]["name"]
        known = algorithms().get(name)
        if known is None or known.restored is None:
            raise UserError(
                f"{folder}: predicts by algorithm={name!r}, which is not known here; register it with flow.register before, or "
                "install the package that brings it"
            )
        own = {field.name for field in fields(known.options)}
        options = known.options(**{option: value for option, value in settings["algorithm"].items() if option in own})
        personal = known.restored(options, model, personal, way)
    if not isinstance(model, LanguageModel):
        if wrong := files.unlike(parameters, expected):
            raise ValueError(wrong)
        return Kept(model, personal, None, cutting, settings, json.loads(contents[REPORT]))
    steps = Steps(model, personal)  # which looks every tensor up that a prediction needs
    return Kept(model, personal, steps, cutting, settings, json.loads(contents[REPORT]))


def _model(settings: Json, cutting: Cutting, folder: Path, given: TorchModel | None) -> Model:
    own, vocabulary = settings["model"], cutting.vocabulary
    if "factory" in own:
        if given is None and not knows_factory(own["factory"]):
            raise UserError(
                f"{folder}: the model is {own['factory']!r}, and a folder never runs code by itself; name it with --model "
                "FILE.py:NAME, or in Python give flow.load a flow.TorchModel of it"
            )
        factory = factory_of(own["factory"], folder) if given is None else given.factory
        if name_of(factory) != own["factory"]:
            raise UserError(
                f"model={name_of(factory)!r} is not the module of {folder}, which is {own['factory']!r}; give that one"
            )
        frame = Population("", (), vocabulary, cutting.sequence_length, "", classes=cutting.classes)
        options = TorchModel(factory, own["head"], own["dtype"])
        module = user_module(options, own["seed"], frame)
        assert isinstance(module, UserModule)
        return module
    if given is not None:
        raise UserError(f"model={name_of(given.factory)!r}: {folder} has the built-in model; leave it out")
    sizes = {name: value for name, value in own.items() if name != "dtype"}
    return LanguageModel(
        len(vocabulary),
        classes=len(cutting.classes),
        oov=vocabulary.oov,
        generator=torch.Generator().manual_seed(0),
        dtype=parameters_dtype(ModelOptions(dtype=own["dtype"])),
        **sizes,
    )


def _content(path: Path, digest: str) -> bytes:
    """The content of a file with this SHA-256."""
    if path.name not in (VOCABULARY, TOKENIZER, TENSORS, REPORT, PAGE):
        raise ValueError(f"{path.name} is no file of such a folder")
    try:
        files.check_regular(path)
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path}: damaged or changed, its content does not have the SHA-256 in {SETTINGS}; {REMEDY}")
    return content


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
