"""The splits of published data sets, and what a client's texts become by them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from flow.data.streams import TEST, TRAIN

HELD_OUT = "heldout"
NAMES = {TRAIN: TRAIN, HELD_OUT: HELD_OUT, "held_out": HELD_OUT, "val": HELD_OUT, TEST: TEST}
"""The splits by the names that the data sets use."""
_IN_NAME = re.compile(r"(?:^|[_.-])(train|held_out|heldout|test)(?=[_.-]|$)")


class Place(NamedTuple):
    """Where the texts of a split go; the fields are those of :class:`flow.data.streams.Part`."""

    held_out: bool | None
    side: str


def place(split: str, splits: Collection[str]) -> Place:
    """Where the texts of a split go.

    Train and test hold texts of the same clients, to train and to be tested on; a client of test alone is never trained on, as
    preparation has it for all sources. The clients of heldout are never trained on, and their texts are split by time. One
    split that is given alone is split as any other data.

    Args:
        split: one of NAMES' values.
        splits: all that there are.
    """
    if len(splits) < 2:
        return Place(None, "")
    return Place(True, "") if split == HELD_OUT else Place(False if split == TRAIN else None, split)


def of_name(name: str) -> str:
    """The split that a file's name tells, such as stackoverflow_held_out.h5; empty where it tells none."""
    splits = _IN_NAME.findall(name)
    return NAMES[splits[-1]] if splits else ""


def in_words(splits: Collection[str]) -> str:
    """The splits in words, for `about`."""
    if len(splits) < 2:
        return "one split alone, split anew"
    return f"splits {', '.join(sorted(splits))} as published"
