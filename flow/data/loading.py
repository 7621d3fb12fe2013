"""Loading a data set: its options are checked, and its prepared form is opened, or made first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

from flow.checks import LARGEST_INTEGER
from flow.data import prepared, registry, tokenizer
from flow.data.options import DataOptions
from flow.data.population import Population, check_at_least_one
from flow.data.source import Size, Source
from flow.data.validation import trusted
from flow.errors import UserError
from flow.resources import Need, require_disk, require_memory

NAME_BYTES = 72  # a string of CPython for a token, and a pointer to it
REMEDY = (
    "set this variable of the environment to a folder that you may write to, or set it empty to prepare them anew every time"
)


def load(options: DataOptions, progress: bool = False) -> Population:
    """A data set split, numbered and cut; the same options and file always give the same population.

    What was read once is kept prepared, see docs/data.md: the next time it is opened, not read again.

    Args:
        options: which data.
        progress: whether to draw a bar on stderr while data are being prepared.

    Raises:
        UserError: an option is out of range, the source is unknown, its file or package is missing or faulty, no client may
            train, prepared data are damaged or cannot be written, or the data do not fit into memory.
    """
    source = registry.source_of(options.data)
    _check(source, options)  # before anything is read: a large file takes a while
    try:
        return _load(source, options, progress)
    except (MemoryError, OverflowError) as error:
        fewer = next((name for name in ("sequences", *source.options) if name in source.options), "max_clients")
        raise UserError(
            f"data={options.data!r} with sequence_length={options.sequence_length} does not fit into memory "
            f"({error}); lower sequence_length or {fewer}"
        ) from error


def least_size(options: DataOptions) -> Size:
    """What a data set takes at least, by its options alone.

    Raises:
        UserError: an option is out of range, or the source is unknown.
    """
    source = registry.source_of(options.data)
    _check(source, options)
    return source.least(options)


def is_file(data: str) -> bool:
    """Whether a value of `data` is the path of a file, of which its source knows the ending."""
    return any(source.suffixes and source.recognises(data) for source in registry.SOURCES)


def located(data: str) -> str:
    """A value of `data`, with an absolute path where it names a file, so that it holds in every working directory."""
    return str(Path(data).absolute()) if is_file(data) else data


def placed(options: DataOptions) -> DataOptions:
    """The same options with absolute paths where they name files, as a run records them."""
    own = options.tokenizer
    return replace(
        options, data=located(options.data), tokenizer=str(Path(own).absolute()) if own and tokenizer.is_file(own) else own
    )


def prepared_folder(options: DataOptions) -> Path | None:
    """The folder of a data set's prepared form: below $FLOW_CACHE, by default ~/.cache/flow; None where that is empty.

    Its name is a hash of the options, the content and :data:`flow.data.prepared.VERSION`.

    Raises:
        UserError: the source is unknown, its file or package is missing, or the user has no home folder.
    """
    return _folder(registry.source_of(options.data), options)


def _check(source: Source, options: DataOptions) -> None:
    """Raise UserError for an option out of range, for one of another source, and for a vocabulary that memory cannot hold."""
    for one in fields(options):
        value = getattr(options, one.name)
        if isinstance(value, int) and value > LARGEST_INTEGER:
            raise UserError(
                f"{one.name}={value!r} must be at most {LARGEST_INTEGER}; leave it out for the default, {one.default!r}"
            )
    if options.sequence_length != 0:
        check_at_least_one("sequence_length", options.sequence_length, "or 0 for the source's own default")
    check_at_least_one("vocabulary_size", options.vocabulary_size)
    check_at_least_one("oov_buckets", options.oov_buckets)
    if options.max_clients != 0:
        check_at_least_one("max_clients", options.max_clients, "or 0 for all clients")
    tokenizer.check(options, source.tokenizer)
    for owner in registry.SOURCES:
        for name in owner.options:
            value = getattr(options, name)
            if value is not None and owner is not source:
                raise UserError(
                    f"{name}={value!r} is an option of data={owner.name!r}, not of data={options.data!r}; leave it out"
                )
    source.check(options)
    least = source.least(options)
    require_memory([Need("the vocabulary", NAME_BYTES * least.tokens, _given(options, least.decide_tokens))])


def _given(options: DataOptions, names: tuple[str, ...]) -> tuple[tuple[str, object], ...]:
    """Options by name, with what they are set to."""
    return tuple((name, getattr(options, name)) for name in names)


def _load(source: Source, options: DataOptions, progress: bool) -> Population:
    folder = _folder(source, options)
    if folder is None:
        return trusted(source.read(options))
    with _usable(folder.parent):
        is_prepared = (folder / prepared.INDEX).is_file()
    if not is_prepared:
        least = source.least(options)
        need = Need("prepared data", least.prepared, _given(options, least.decide_prepared))
        require_disk([need], folder.parent, ", or name a folder on a larger disk in FLOW_CACHE")
        population = source.read(options)
        with _usable(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            prepared.write(folder, population, progress)
    return prepared.read(folder)


@contextmanager
def _usable(cache: Path) -> Iterator[None]:
    """Raise UserError where the system refuses to read or write the folder of prepared data."""
    try:
        yield
    except OSError as error:
        raise UserError(f"FLOW_CACHE={str(cache)!r}: prepared data cannot be kept there ({error}); {REMEDY}") from error


def _folder(source: Source, options: DataOptions) -> Path | None:
    cache = _cache()
    if cache is None:
        return None
    content = source.content(options.data)
    given = {name: value for name, value in asdict(options).items() if value is not None}  # a new option changes no other key
    if options.tokenizer is not None:
        given["tokenizer"] = tokenizer.identity(options.tokenizer)
        if options.tokenizer == source.tokenizer:  # what is done without the option
            del given["tokenizer"]
    key = json.dumps([given | {"data": content.digest}, prepared.VERSION], sort_keys=True)
    return cache / f"{content.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _cache() -> Path | None:
    """The folder of all prepared data; None where nothing is to be kept."""
    given = os.environ.get("FLOW_CACHE")
    if given is not None:
        return Path(given) if given else None
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if parent.startswith("~"):
        raise UserError(f"FLOW_CACHE is not set, and this user has no home folder to keep prepared data in; {REMEDY}")
    return Path(parent) / "flow"
