"""How the texts of a client are split by time, who is held out, and how token ids are cut into windows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flow.data.population import Sequences, check_at_least_one, check_fits
from flow.data.tokens import PAD


def client_hash(client_id: str) -> int:
    """crc32 of the id: what decides about everything that must not depend on the order of the clients."""
    return zlib.crc32(client_id.encode())


def is_held_out(client_id: str) -> bool:
    """Whether a client is never trained on: one in ten, by its id alone."""
    return client_hash(client_id) % 10 == 0


def split_by_time(texts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The first 80 % (rounded down) to train on and the rest to test on; from two texts on, at least one on each side.

    A single text goes to the training side, so that its client can train and is left out of the evaluation.
    """
    train = boundary(len(texts))
    return texts[:train], texts[train:]


def boundary(texts: int) -> int:
    """How many of a client's texts are on the training side."""
    return max(texts * 4 // 5, min(texts, 1))


def count_windows(tokens: npt.NDArray[np.int64], sequence_length: int) -> npt.NDArray[np.int64]:
    """int64 [n]: how many windows streams of so many tokens give, see :func:`cut_windows`."""
    return -(-np.maximum(tokens - 1, 0) // sequence_length)


def cut_windows(streams: Sequence[npt.NDArray[np.int32]], sequence_length: int) -> Sequences:
    """Cuts streams into windows so that every token of a stream but its first is the target of exactly one window.

    streams: int arrays of any length; one of fewer than two tokens has no target and gives no window.
    sequence_length: T >= 1, targets per window and stride. Windows never cross from one stream into the next.
    """
    check_at_least_one("sequence_length", sequence_length)
    flat = np.concatenate([np.zeros(0, np.int32), *streams])
    return cut_flat(flat, np.array([len(stream) for stream in streams], dtype=np.int64), sequence_length)


def first_tokens(
    flat: npt.NDArray[np.int32], tokens: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Texts that lie one after the other, each cut off after its first ``most`` tokens, and how many tokens each has left.

    flat: int32 [sum of tokens]. tokens: int64 [n], of every text.
    """
    places = np.arange(len(flat)) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    return flat[places < most], np.minimum(tokens, most)


def label_rows(
    flat: npt.NDArray[np.int32], tokens: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], sequence_length: int
) -> Sequences:
    """A labelled row for every text.

    flat: int32 [sum of tokens], the texts one after the other. tokens: int64 [n], from 1 to sequence_length, of every text.
    labels: int32 [n], the number of every text's class.
    """
    check_fits(max(len(tokens), 1), sequence_length)
    rows = np.full((len(tokens), sequence_length + 1), PAD, dtype=np.int32)
    rows[:, :-1][np.arange(sequence_length) < tokens[:, None]] = flat
    rows[:, -1] = labels
    return Sequences(rows, tokens.astype(np.int32), labelled=True)


def cut_flat(
    flat: npt.NDArray[np.int32], tokens: npt.NDArray[np.int64], sequence_length: int, first_only: bool = False
) -> Sequences:
    """:func:`cut_windows` of streams that lie one after the other.

    flat: int32 [sum of tokens]. tokens: int64 [n], of every stream. first_only: keep the first window of every stream alone.
    """
    windows = count_windows(tokens, sequence_length)
    if first_only:
        windows = np.minimum(windows, 1)
    total = int(windows.sum())
    check_fits(max(total, 1), sequence_length)
    if total == 0:
        return Sequences(np.zeros((0, sequence_length + 1), np.int32), np.zeros(0, np.int32))
    origins = np.cumsum(tokens) - tokens
    owner = np.repeat(np.arange(len(tokens)), windows)
    begins = (np.arange(total) - np.repeat(np.cumsum(windows) - windows, windows)) * sequence_length
    lengths = np.minimum(tokens[owner] - 1 - begins, sequence_length)
    columns = np.arange(sequence_length + 1)
    places = (origins[owner] + begins)[:, None] + columns
    windowed = np.where(columns <= lengths[:, None], flat[np.minimum(places, len(flat) - 1)], PAD)
    return Sequences(windowed.astype(np.int32), lengths.astype(np.int32))
