"""What a token is: a word, a character, or what a file of the library tokenizers (Hugging Face) makes of a text."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flow.data import paths
from flow.data.options import DataOptions
from flow.data.population import Vocabulary
from flow.data.tokens import OOV, SPECIALS
from flow.errors import UserError

UNITS = {"words": "word", "characters": "character", "spaces": "token"}
"""The unit of a vocabulary by the value of `tokenizer`; that of a file is "token"."""
LENGTHS = {"word": 20, "character": 80, "token": 20}
"""Targets per sequence where neither the options nor the source's own tokenizer decide."""
LENGTHS_OF_TEXTS = {"word": 64, "character": 256, "token": 64}
"""Tokens of a text that has a label where the options do not say."""
SUFFIX = ".json"
WANTED = "a tokenizer.json of the library tokenizers"
BATCH = 4096  # texts that the library gets at a time


@dataclass(frozen=True, eq=False)
class FileTokenizer:
    """A file of the library tokenizers, which reads and encodes. Its tokens have their ids here in the order of its own.

    Its unknown and special tokens, and any that is called as one of SPECIALS, are ``<oov>`` here, which is never scored.
    """

    vocabulary: Vocabulary
    about: str
    """What it is, with its digest."""
    _path: Path
    _library: Any
    _known: npt.NDArray[np.int64]
    """int64 [n], ascending: all ids of the library."""
    _ids: npt.NDArray[np.int32]
    """int32 [n]: the ids of the vocabulary for them."""

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Ids of every text's tokens, int32 [tokens]; nothing is added, cut or padded.

        Raises:
            UserError: the library refuses a text, as where a word is unknown and the file has no token for that.
        """
        encoded: list[npt.NDArray[np.int32]] = []
        for start in range(0, len(texts), BATCH):
            try:
                encodings = self._library.encode_batch_fast(list(texts[start : start + BATCH]), add_special_tokens=False)
            except BaseException as error:
                if not _is_of_library(error):
                    raise
                raise _refused(error, f"tokenizer={str(self._path)!r} cannot cut a text") from error
            ends = np.cumsum([len(encoding) for encoding in encodings])[:-1]
            flat = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
            encoded += np.split(self._ids[np.searchsorted(self._known, flat)], ends)
        return encoded

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids as :meth:`encode` gives them; of those that several tokens share there is none."""
        back = {own: library for own, library in zip(self._ids.tolist(), self._known.tolist(), strict=True) if own != OOV}
        text: str = self._library.decode([back[token] for token in tokens if token in back])
        return text


def is_file(tokenizer: str | None) -> bool:
    """Whether a value of `tokenizer` is the path of a file."""
    return tokenizer is not None and tokenizer not in UNITS and tokenizer.endswith(SUFFIX)


def check(options: DataOptions, own: str) -> None:
    """Refuse a tokenizer that is none, that has nothing to cut, or that other options contradict.

    Args:
        own: the tokenizer of the source; empty for one without text.

    Raises:
        UserError: it is one of these, or its file is missing.
    """
    name = options.tokenizer
    if name is None:
        return
    if name not in UNITS and not is_file(name):
        known = ", ".join(map(repr, UNITS))
        raise UserError(
            f"tokenizer={name!r} must be {known} or the path of {WANTED}, which ends in {SUFFIX}; give one of these"
        )
    if not own:
        raise UserError(f"tokenizer={name!r} cuts text, and data={options.data!r} has none; leave it out")
    if is_file(name):
        paths.check_file(Path(name), "tokenizer", WANTED)
        defaults = {field.name: field.default for field in fields(DataOptions)}
        for option in ("vocabulary_size", "oov_buckets"):
            value = getattr(options, option)
            if value != defaults[option]:
                raise UserError(
                    f"{option}={value!r} does nothing beside tokenizer={name!r}, which brings its own vocabulary; leave it out"
                )


def identity(tokenizer: str) -> str:
    """What tells a tokenizer apart from any other: its name, or the SHA-256 of its file.

    Raises:
        UserError: the file cannot be read.
    """
    return f"{SUFFIX} {_sha256(_content(Path(tokenizer)))}" if is_file(tokenizer) else tokenizer


def read(path: Path) -> FileTokenizer:
    """The tokenizer of a file.

    Raises:
        UserError: the file or the library is missing, the file is damaged or no tokenizer, or it cuts a text differently every
            time (dropout).
    """
    where = f"tokenizer={str(path)!r}"
    paths.check_file(path, "tokenizer", WANTED)
    content = _content(path)
    library = _library(where)
    try:
        described = json.loads(content)
        loaded = library.Tokenizer.from_str(content.decode("utf-8-sig"))
        loaded.no_padding()
        loaded.no_truncation()
        tokens = loaded.get_vocab(with_added_tokens=True)
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise _refused(error, f"{where} is no tokenizer that the installed library can read") from error
    model = described["model"]
    if model.get("dropout"):
        raise UserError(
            f"{where}: model.dropout={model['dropout']!r} cuts the same text differently every time; set it to null in the file"
        )
    names = {number: token for token, number in sorted(tokens.items(), reverse=True)}
    unscored = {added["content"] for added in described.get("added_tokens") or [] if added.get("special")}
    unscored |= {model.get("unk_token"), *SPECIALS}
    if model.get("unk_id") is not None:
        unscored.add(model["vocab"][model["unk_id"]][0])
    known = sorted(names)
    scored = [number for number in known if names[number] not in unscored]
    if not scored:
        raise UserError(f"{where} has no token but special ones; give {WANTED} that was trained")
    ids = np.full(len(known), OOV, dtype=np.int32)
    ids[np.searchsorted(known, scored)] = np.arange(len(SPECIALS), len(SPECIALS) + len(scored), dtype=np.int32)
    vocabulary = Vocabulary((*SPECIALS, *(names[number] for number in scored)), "token")
    about = f"a tokenizer file (sha256 {_sha256(content)[:16]})"
    return FileTokenizer(vocabulary, about, path, loaded, np.array(known, dtype=np.int64), ids)


def _content(path: Path) -> bytes:
    with paths.readable(path, "tokenizer", WANTED):
        return path.read_bytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _library(where: str) -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError(
            f"{where} needs the library tokenizers ({error}); run: pip install 'flow-fl[tokenizers]', or take "
            "tokenizer='characters'"
        ) from error


def _is_of_library(error: BaseException) -> bool:
    """Whether the library raised it: a plain Exception, or the panic of its Rust code, which is none."""
    return type(error).__name__ == "PanicException" or (isinstance(error, Exception) and not isinstance(error, MemoryError))


def _refused(error: BaseException, what: str) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{what} ({reason}); give {WANTED}, as its Tokenizer.save writes it")
