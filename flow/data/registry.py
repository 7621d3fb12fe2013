"""The data sources. A new source is one file with its record and one line here, or an entry point of another package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flow import user_code
from flow.data import dirichlet, formats, jsonl, paths, shakespeare, synthetic, tabular
from flow.data.readers import fedjax, git, hdf5, hf, leaf, textfiles, tff_sqlite
from flow.data.source import Source
from flow.errors import UserError

SOURCES = (
    dirichlet.SOURCE,
    git.SOURCE,
    hf.SOURCE,
    shakespeare.SOURCE,
    jsonl.SOURCE,
    synthetic.SOURCE,
    tabular.SOURCE,
    tff_sqlite.SOURCE,
    fedjax.SOURCE,
    hdf5.SOURCE,
    leaf.SOURCE,
    textfiles.SOURCE,
)
"""In the order in which they are asked: those of a prefix such as ``dirichlet:`` first, for what follows it may be a path."""

GROUP = "flow.data"
"""The group of entry points by which an installed package brings a source: ``name = "package.module:SOURCE"``."""


def sources() -> tuple[Source, ...]:
    """All sources: those of this package, then those that installed packages bring.

    Raises:
        UserError: an entry point cannot be loaded, is no source, or has the name of another.
    """
    return (*SOURCES, *_brought())


@cache
def _brought() -> tuple[Source, ...]:
    brought: dict[str, Source] = {}
    for source, where, remedy in user_code.brought(GROUP, "data source"):
        if not isinstance(source, Source):
            raise UserError(f"{where}, which is a {type(source).__name__} and not a flow.data.source.Source; {remedy}")
        if source.name in brought or source.name in {own.name for own in SOURCES}:
            raise UserError(f"{where}, and there is another source of the name {source.name!r}; {remedy}")
        brought[source.name] = source
    return tuple(brought.values())


def source_of(data: str) -> Source:
    """The source that a value of `data` selects.

    Raises:
        UserError: no source recognises the value.
    """
    known = sources()
    for source in known if data else ():  # the path '' would be the working directory
        if source.recognises(data):
            if source.inner is None or source.wrapped is None:
                return source
            rest = source.inner(data)[1]
            if not rest:
                source.content(data)  # which says what the form is
            return source.wrapped(data, source_of(rest))
    names = ", ".join(
        source.form or source.name for source in known if source.form or (not source.suffixes and source.matches is None)
    )
    *before, last = dict.fromkeys(suffix for source in known for suffix in source.suffixes)
    suffixes = f"{', '.join(before)} or {last}"
    wanted = f"a file whose name ends in {suffixes}"
    if paths.leads_somewhere(data):
        paths.check_file(Path(data), "data", wanted)
        with paths.readable(Path(data), "data", wanted):
            raise formats.any_file(Path(data), f"data={data!r}")
    if paths.PATTERN.search(data):
        raise UserError(f"data={data!r}: no file of a known kind has a name of this pattern; give the path of {wanted}")
    if data.endswith((*before, last)):
        paths.check_file(Path(data), "data", wanted)
    raise UserError(
        f"data={data!r}: no such data set; give one of these ({names}), or the path of a "
        f"file of your own, which must end in {suffixes} and exist"
    )
