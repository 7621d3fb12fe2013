"""Texts that were cut into windows which advance by one character, as LEAF's Shakespeare is: joined again."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence


def joined(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """The texts whose windows of stride one are x, with the character y behind each.

    Windows that follow one another are joined, and so are those that a client has in another order: LEAF's sample.py draws
    windows of its last client at random. What is joined has the same windows, each as often; where several would fit, the first
    of them is taken.
    """
    runs: list[list[str]] = []
    goes_on: list[str] = []  # the window that would follow each run
    for window, after in zip(x, y, strict=True):
        if not runs or window != goes_on[-1]:
            runs.append([window])
            goes_on.append("")
        runs[-1].append(after)
        goes_on[-1] = window[1:] + after
    if len(runs) < 2:
        return ["".join(run) for run in runs]
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for place, run in enumerate(runs):
        waiting[run[0]].append(place)
    following = [waiting[window].popleft() if waiting.get(window) else -1 for window in goes_on]
    texts, seen = [], [False] * len(runs)
    heads = set(range(len(runs))) - set(following)
    for head in (*sorted(heads), *range(len(runs))):  # after the first of every chain, what goes round in a circle
        chain: list[str] = []
        place = head
        while place >= 0 and not seen[place]:
            seen[place] = True
            chain += runs[place][1:] if chain else runs[place]
            place = following[place]
        if chain:
            texts.append("".join(chain))
    return texts


def pieces_of(texts: Sequence[str], size: int) -> list[str]:
    """The texts with a line break between them, cut into pieces of so many characters; the last may be shorter."""
    whole = "\n".join(texts)
    return [whole[begin : begin + size] for begin in range(0, len(whole), size)]
