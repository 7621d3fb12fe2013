"""Loading a data set: its options are checked, and its prepared form is opened, or made first."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

from flow.checks import LARGEST_INTEGER
from flow.data import paths, prepared, registry, spool, tokenizer
from flow.data.cache import REMEDY, cache_folder
from flow.data.options import DataOptions
from flow.data.population import Population, check_at_least_one
from flow.data.preparing import in_memory, preparing
from flow.data.source import Size, Source
from flow.data.streams import Stream
from flow.data.validation import trusted
from flow.errors import UserError
from flow.resources import Need, free_disk, require_disk, require_memory, size

NAME_BYTES = 72  # a string of CPython for a token, and a pointer to it
OTHER_DISK = ", or name a folder on a larger disk in FLOW_CACHE"


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
        fewer = "sequences" if "sequences" in source.options else "max_clients"
        raise UserError(
            f"data={options.data!r} with sequence_length={options.sequence_length} does not fit into memory "
            f"({error}); lower sequence_length or {fewer}"
        ) from error


def opened(options: DataOptions) -> Stream | None:
    """The texts of a data set as they are read, one part after the other; None for one that has none.

    Raises:
        UserError: as :func:`load`, as far as the file is looked at before it is read.
    """
    source = registry.source_of(options.data)
    _check(source, options)
    return None if source.stream is None else source.stream(options)


def least_size(options: DataOptions) -> Size:
    """What a data set takes at least, by its options alone.

    Raises:
        UserError: an option is out of range, or the source is unknown.
    """
    source = registry.source_of(options.data)
    _check(source, options)
    return source.least(options)


def is_file(data: str) -> bool:
    """Whether a value of `data` is the path of a file or folder, by what is there or, where nothing is, by its ending.

    A pattern for several files is none, and neither is a value with a prefix, such as dirichlet:ALPHA:CLIENTS:FILE.
    """
    sources = [source for source in registry.sources() if source.is_path]
    known = next((source for source in registry.sources() if source.recognises(data)), None)
    if known is not None and not known.is_path and known.located is None:
        return False
    if paths.leads_somewhere(data):
        return any(source.recognises(data) for source in sources)
    return not paths.PATTERN.search(data) and any(source.suffixes and data.endswith(source.suffixes) for source in sources)


def located(data: str) -> str:
    """A value of `data`, with an absolute path where it names a file, so that it holds in every working directory."""
    source = next((known for known in registry.sources() if known.recognises(data)), None)
    if source is None:
        return str(Path(data).absolute()) if is_file(data) else data
    if source.inner is not None:
        before, rest = source.inner(data)
        return before + (located(rest) if rest else "")
    return source.placed(data)


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
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, int) and value > LARGEST_INTEGER:
            raise UserError(
                f"{field.name}={value!r} must be at most {LARGEST_INTEGER}; leave it out for the default, {field.default!r}"
            )
    if options.sequence_length != 0:
        check_at_least_one("sequence_length", options.sequence_length, "or 0 for the source's own default")
    check_at_least_one("vocabulary_size", options.vocabulary_size)
    check_at_least_one("oov_buckets", options.oov_buckets)
    if options.max_clients != 0:
        check_at_least_one("max_clients", options.max_clients, "or 0 for all clients")
    tokenizer.check(options, source.tokenizer)
    if options.label_column == "":
        raise UserError("label_column='' names nothing; give the name of a column, or leave it out to predict the next token")
    for field in fields(options):
        value = getattr(options, field.name)
        if field.default is None and field.name != "tokenizer" and value is not None and field.name not in source.options:
            owners = [repr(owner.name) for owner in registry.sources() if field.name in owner.options]
            known = f"is an option of data={' and '.join(owners)}, not" if owners else "is no option"
            raise UserError(f"{field.name}={value!r} {known} of data={options.data!r}; leave it out")
    source.check(options)
    least = source.least(options)
    require_memory([Need("the vocabulary", NAME_BYTES * least.tokens, _given(options, least.decide_tokens))])


def _given(options: DataOptions, names: tuple[str, ...]) -> tuple[tuple[str, object], ...]:
    """Options by name, with what they are set to."""
    return tuple((name, getattr(options, name)) for name in names)


def _load(source: Source, options: DataOptions, progress: bool) -> Population:
    folder = _folder(source, options)
    if folder is None:
        return trusted(_in_memory(source, options, progress))
    with _usable(folder.parent):
        is_prepared = (folder / prepared.INDEX).is_file()
    if not is_prepared:
        least = source.least(options)
        need = Need("prepared data", least.prepared, _given(options, least.decide_prepared))
        require_disk([need], folder.parent, OTHER_DISK)
        if source.read is not None:
            population = source.read(options)
            with _usable(folder.parent):
                folder.parent.mkdir(parents=True, exist_ok=True)
                prepared.write(folder, population, progress)
        else:
            _prepare(source, options, folder, progress)
    return prepared.read(folder)


def _in_memory(source: Source, options: DataOptions, progress: bool) -> Population:
    if source.read is not None:
        return source.read(options)
    content = source.content(options.data)
    try:
        population = in_memory(source.opened(options), options, progress)
    except spool.Failed as error:
        raise UserError(
            f"TMPDIR={tempfile.gettempdir()!r}: data that do not fit into memory cannot be put aside there ({error}); set this "
            "variable of the environment to a folder with more room"
        ) from error
    if source.content(options.data) != content:
        raise paths.changed(options.data)
    return population


def _prepare(source: Source, options: DataOptions, folder: Path, progress: bool) -> None:
    """Prepare the texts of a source in this folder; what is put aside meanwhile lies beside it."""
    stream, cache = source.opened(options), folder.parent
    _require_room("text put aside", stream.nbytes if stream.nbytes > spool.BUFFER else 0, options, cache)
    try:
        with spool.Place(folder) as place, preparing(stream, options, place, progress) as made:
            if _folder(source, options) != folder:  # whose name holds the digest of what was to be read
                raise paths.changed(options.data)
            width = (made.frame.sequence_length + 1) * prepared.type_of_tokens(made.frame).itemsize + 4
            _require_room("prepared data", made.sequences * width, options, cache)
            with _usable(cache):
                cache.mkdir(parents=True, exist_ok=True)
                prepared.write(folder, made.frame, progress, (made.clients, made.number))
    except spool.Failed as error:
        raise _unusable(cache, error) from error


def _require_room(what: str, nbytes: int, options: DataOptions, cache: Path) -> None:
    """Raise UserError where so many bytes do not fit onto the disk of the folder."""
    free = free_disk(cache)
    if free is not None and nbytes > free:
        raise UserError(
            f"data={options.data!r}: {what} would take at least {size(nbytes)} of disk in {cache}, and {size(free)} are free; "
            "set max_clients, or name a folder on a larger disk in FLOW_CACHE"
        )


@contextmanager
def _usable(cache: Path) -> Iterator[None]:
    """Raise UserError where the system refuses to read or write the folder of prepared data."""
    try:
        yield
    except OSError as error:
        raise _unusable(cache, error) from error


def _unusable(cache: Path, error: OSError) -> UserError:
    return UserError(f"FLOW_CACHE={str(cache)!r}: prepared data cannot be kept there ({error}); {REMEDY}")


def _folder(source: Source, options: DataOptions) -> Path | None:
    cache = cache_folder()
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
