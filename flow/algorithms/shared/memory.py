"""A client's memory: an n-gram model of its own training texts, one more expert of a gate (flow/algorithms/shared/gate.py).

An interpolated trigram model with Witten-Bell smoothing (Witten and Bell, IEEE Trans. Inf. Theory 37, 1991, method C; Chen and
Goodman 1998, Sec. 2.5):

    p(w | context) = (c(context, w) + T p(w | shorter context)) / (N + T)

where c is a count, N the sum of c over all words, and T the number of different words after the context. The shortest
distribution, of single words, falls back on the uniform one over the vocabulary. Contexts do not reach beyond a sequence, as
those of the network do not. All counts lie in sorted arrays, whose size the client's text bounds, not the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NONE = -1  # a word that there is not, in a context


class Counts(NamedTuple):
    """How often every key occurs."""

    keys: Ints
    """Ascending, each once: contexts and words as one number, context * words + word."""
    counts: Ints
    before: Ints
    """One more than keys: the sum of all counts before each of them."""

    def of(self, keys: Ints) -> Ints:
        """The counts of these keys; 0 of one that never occurred."""
        if not len(self.keys):
            return np.zeros_like(keys)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0)


class Followers(NamedTuple):
    """What followed each of n contexts."""

    first: Ints
    """[n]: the place of its first key."""
    kinds: Ints
    """[n]: T, how many different words followed."""
    total: Ints
    """[n]: N, how often anything did."""


class Votes(NamedTuple):
    """The memory's distributions after n contexts: back * (unigram + floor) + the entries at (rows, words)."""

    back: Floats
    """[n]: the weight of the distribution of single words."""
    rows: Ints
    words: Ints
    """Tokens."""
    shares: Floats
    """Several entries of one place add up."""
    seen: Ints
    """[2, n]: how often the context of one word, and that of two, occurred."""
    top: Floats
    """[n]: the largest probability."""


class Memory:
    """The n-grams of one client's newest tokens.

    Args:
        tokens: [n, T + 1] its sequences, oldest first.
        lengths: [n] their valid targets.
        size: number of tokens V of the vocabulary.
        most: newest targets that are kept.
    """

    def __init__(self, tokens: npt.NDArray[np.integer], lengths: Ints, size: int, most: int) -> None:
        valid = np.arange(tokens.shape[1] - 1) < lengths[:, None]
        before = np.concatenate([np.full((len(tokens), 1), NONE), tokens[:, :-2]], axis=1)
        events = [part[valid][-most:].astype(np.int64) for part in (before, tokens[:, :-1], tokens[:, 1:])]
        self.words: Ints = np.unique(np.concatenate([part[part != NONE] for part in events]))
        """Every token that occurs, ascending; contexts and words are places in it."""
        self._events = [self._places(part) for part in events]
        self._count(_counted(self._events[2]), size)

    def _count(self, single: Counts, size: int) -> None:
        width, self._single = len(self.words), single
        total, kinds = int(single.before[-1]), len(single.keys)
        self.floor = kinds / (total + kinds) / size if total else 1 / size
        """The probability of a token that never occurred, by single words."""
        self.unigram: Floats = self._single.of(np.arange(width)) / max(total + kinds, 1)
        """For every one of :attr:`words`, what it has above that."""
        self._most = self.floor + (self.unigram.max() if width else 0.0)

    @staticmethod
    def restored(stored: Mapping[str, Ints], size: int) -> Memory:
        """The memory of which :meth:`stored` gave these arrays, for a vocabulary of so many tokens.

        Raises:
            ValueError: they are none that it gives.
        """
        memory = Memory(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), size, 1)
        memory.words = stored["words"]
        width = len(memory.words)
        if memory.words.ndim != 1 or (width and (memory.words[0] < 0 or memory.words[-1] >= size)):
            raise ValueError(f"words are not tokens from 0 to {size - 1}")
        if (np.diff(memory.words) <= 0).any():
            raise ValueError("words are not ascending")
        memory._count(_restored(stored, "one", width), size)
        for name, kept, most in (("two", "_two", width**2), ("three", "_three", width**3)):
            if f"{name}/keys" in stored:
                memory.__dict__[kept] = _restored(stored, name, most)
        return memory

    def stored(self, pairs: bool) -> dict[str, Ints]:
        """Its counts as arrays; pairs: what followed one token and two as well, without which :meth:`often` alone works."""
        parts = {"one": self._single, **({"two": self._two, "three": self._three} if pairs else {})}
        counts = {f"{name}/{kind}": getattr(part, kind) for name, part in parts.items() for kind in ("keys", "counts")}
        return {"words": self.words, **counts}

    @cached_property
    def _two(self) -> Counts:
        """What followed every token; counted when asked for, as a gate without the memory among its experts never does."""
        _, first, word = self._events
        return _counted(first * len(self.words) + word)

    @cached_property
    def _three(self) -> Counts:
        """What followed every pair of tokens, likewise."""
        second, first, word = self._events
        width = len(self.words)
        return _counted(((second * width + first) * width + word)[second != NONE])

    def after(self, second: Ints, first: Ints) -> Votes:
        """The distributions of the next token after [n] pairs of tokens; NONE where a sequence begins with the second one."""
        width, n = len(self.words), len(first)
        first, second = self._places(first), self._places(second)
        known = first != NONE
        pairs = _followers(self._two, first, known, width)
        triples = _followers(self._three, second * width + first, known & (second != NONE), width)
        scale_two, scale_three = (1 / np.maximum(followers.total + followers.kinds, 1) for followers in (pairs, triples))
        lower_two, lower_three = (
            np.where(followers.total > 0, followers.kinds * scale, 1.0)
            for followers, scale in ((pairs, scale_two), (triples, scale_three))
        )
        back = lower_three * lower_two
        rows, keys = _ragged(pairs)
        words = self._two.keys[keys] % width if width else keys
        shares = (lower_three * scale_two)[rows] * self._two.counts[keys]
        rows_three, keys_three = _ragged(triples)
        words_three = self._three.keys[keys_three] % width if width else keys_three
        shares_three = scale_three[rows_three] * self._three.counts[keys_three]
        starts = np.cumsum(pairs.kinds) - pairs.kinds
        whole = shares + back[rows] * (self.unigram[words] + self.floor)
        # A word that followed two words followed the second of them, so it has its place among the pairs.
        place = np.searchsorted(self._two.keys, first[rows_three] * width + words_three) - pairs.first[rows_three]
        np.add.at(whole, starts[rows_three] + place, shares_three)
        top = back * self._most
        np.maximum.at(top, rows, whole)
        return Votes(
            back,
            np.concatenate([rows, rows_three]),
            self.words[np.concatenate([words, words_three])],
            np.concatenate([shares, shares_three]),
            np.stack([pairs.total, triples.total]).reshape(2, n),
            top,
        )

    def chance(self, second: Ints, first: Ints, target: Ints) -> Floats:
        """[n]: the probability of one token after each pair."""
        width = len(self.words)
        second, first, word = self._places(second), self._places(first), self._places(target)
        known, p = word != NONE, np.full(len(target), self.floor)
        if not width:
            return p
        p += np.where(known, self.unigram[word], 0.0)
        for counts, context, present in (
            (self._two, first, first != NONE),
            (self._three, second * width + first, (first != NONE) & (second != NONE)),
        ):
            followers = _followers(counts, context, present, width)
            own = np.where(present & known, counts.of(context * width + word), 0)
            p = np.where(followers.total > 0, (own + followers.kinds * p) / np.maximum(followers.total + followers.kinds, 1), p)
        return p

    def often(self, tokens: Ints) -> Ints:
        """How often each of these tokens occurred as a target."""
        return self._single.of(self._places(tokens))

    def _places(self, tokens: Ints) -> Ints:
        """Where tokens stand among the words; NONE for one that does not occur."""
        if not len(self.words):
            return np.full(len(tokens), NONE)
        place = np.minimum(np.searchsorted(self.words, tokens), len(self.words) - 1)
        return np.where(self.words[place] == tokens, place, NONE)


def _counted(keys: Ints) -> Counts:
    kinds, counts = np.unique(keys, return_counts=True)
    return Counts(kinds, counts, np.concatenate([[0], np.cumsum(counts)]))


def _restored(stored: Mapping[str, Ints], name: str, most: int) -> Counts:
    keys, counts = stored[f"{name}/keys"], stored[f"{name}/counts"]
    if keys.ndim != 1 or keys.shape != counts.shape or (np.diff(keys) <= 0).any() or (counts < 1).any():
        raise ValueError(f"{name}/keys and {name}/counts are not counts of keys in their order")
    if len(keys) and (keys[0] < 0 or keys[-1] >= most):
        raise ValueError(f"{name}/keys are not from 0 to {most - 1}")
    return Counts(keys, counts, np.concatenate([[0], np.cumsum(counts)]))


def _followers(counts: Counts, context: Ints, known: npt.NDArray[np.bool_], width: int) -> Followers:
    context = np.where(known, context, 0)
    first, end = np.searchsorted(counts.keys, context * width), np.searchsorted(counts.keys, (context + 1) * width)
    end = np.where(known, end, first)
    return Followers(first, end - first, counts.before[end] - counts.before[first])


def _ragged(followers: Followers) -> tuple[Ints, Ints]:
    """For every follower of every context: the context's row, and the follower's key, by its place."""
    rows = np.repeat(np.arange(len(followers.kinds)), followers.kinds)
    starts = np.cumsum(followers.kinds) - followers.kinds
    return rows, np.arange(len(rows)) - starts[rows] + followers.first[rows]
