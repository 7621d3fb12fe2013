"""Drop texts that are nearly those of the same client before them: ``drop_near_duplicates.py IN.jsonl[.gz] OUT.jsonl[.gz]``.

Two texts are near-duplicates where at least half of their word triples are the same, by the Jaccard index of the two sets
(Broder 1997). A text of fewer than three words is one triple. Commit messages come in series that differ in a file's name.
``--threshold`` sets another index. A client that keeps no text is left out. Prints how many texts went.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from flow.data.duplicates import kept


def main(given: Sequence[str] | None = None) -> None:
    """Read one file of clients, write the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5, help="least Jaccard index, above 0 (default: %(default)s)")
    options = parser.parse_args(given)
    if not 0 < options.threshold <= 1:
        parser.error(f"--threshold must be above 0 and at most 1, got {options.threshold}; 1 drops texts with the same triples")
    if not options.source.is_file():
        parser.error(f"{options.source} is no file; name one with a client on every line")
    if options.target.exists():
        parser.error(f"{options.target} exists; name a new file")
    before = after = clients = 0
    lines = []  # written when all of the source has been read: a faulty one leaves no target behind
    with _open(options.source, "rt") as source:
        for number, line in enumerate(source, 1):
            try:
                client = json.loads(line)
                keep = kept(client["texts"], options.threshold)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                form = 'a client, {"id": "ann", "texts": ["First message.", "Second."]}'
                parser.error(
                    f"{options.source}, line {number}: must be {form}, got {line[:60].strip()!r} ({error}); mend the line"
                )
            before, after, clients = before + len(client["texts"]), after + len(keep), clients + 1
            if keep:
                lines.append(json.dumps(only(client, keep), ensure_ascii=False) + "\n")
    with _open(options.target, "xt") as target:
        target.writelines(lines)
    print(f"{before - after} of {before} texts of {clients} clients dropped; {after} kept")


def only(client: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The client with the texts at these places, and with what else it has of every text."""
    count = len(client["texts"])
    return {
        name: [value[place] for place in places] if isinstance(value, list) and len(value) == count else value
        for name, value in client.items()
    }


def _open(path: Path, mode: str) -> IO[str]:
    opener: Callable[..., IO[str]] = gzip.open if path.suffix == ".gz" else open
    return opener(path, mode, encoding="utf-8")


if __name__ == "__main__":
    main()
