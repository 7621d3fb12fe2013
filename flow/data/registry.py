"""The data sources. A new source is one file with its record and one line here."""

from __future__ import annotations

from pathlib import Path

from flow.data import formats, jsonl, paths, shakespeare, synthetic
from flow.data.source import Source
from flow.errors import UserError

SOURCES = (
    shakespeare.SOURCE,
    jsonl.SOURCE,
    synthetic.SOURCE,
)


def source_of(data: str) -> Source:
    """The source that a value of `data` selects.

    Raises:
        UserError: no source recognises the value.
    """
    for source in SOURCES:
        if source.recognises(data):
            return source
    names = ", ".join(source.name for source in SOURCES if not source.suffixes)
    suffixes = " or ".join(suffix for source in SOURCES for suffix in source.suffixes)
    if paths.leads_somewhere(data):
        wanted = f"a file whose name ends in {suffixes}"
        paths.check_file(Path(data), "data", wanted)
        with paths.readable(Path(data), "data", wanted):
            raise formats.any_file(Path(data), f"data={data!r}")
    raise UserError(
        f"data={data!r}: no such data set; give one of the known names ({names}), or the path of a "
        f"file of your own, which must end in {suffixes} and exist"
    )
