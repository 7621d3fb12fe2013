"""Texts that are nearly those of the same client before them, such as messages that differ in a file's name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

WORDS = 3
THRESHOLD = 0.5


def kept(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """The places of the texts that no text before them, kept or not, is a near-duplicate of.

    Two texts are near-duplicates where the Jaccard index of the sets of their word triples is at least the threshold (Broder,
    "On the resemblance and containment of documents", 1997; a text of fewer than three words is one triple).
    """
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    distinct = []
    for place, text in enumerate(texts):
        own = triples(text)
        common = Counter(other for triple in own for other in holders[triple])
        near = any(shared / (len(own) + sizes[other] - shared) >= threshold for other, shared in common.items())
        if not near:
            distinct.append(place)
        for triple in own:
            holders[triple].append(place)
        sizes.append(len(own))
    return distinct


def triples(text: str) -> set[tuple[str, ...]]:
    """The word triples of a text, in lower case; of a text of fewer words itself."""
    words = text.lower().split()
    return {tuple(words[i : i + WORDS]) for i in range(max(len(words) - WORDS + 1, 1))}
