"""Texts of clients, as a data source reads them, and how they are split, numbered and cut into a population."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from flow.data.population import Client, Population, Sequences, Vocabulary, bucket, check_at_least_one, check_fits
from flow.data.tokenizer import FileTokenizer
from flow.data.tokens import BOS, EOS, OOV, PAD, SPECIALS, SPLITTERS, Numbering, runs_on
from flow.errors import UserError, say


@dataclass(frozen=True)
class ClientTexts:
    """One client as a source reads it: its texts in time order."""

    id: str
    group: str
    held_out: bool
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """What a source reads.

    unit: "character", "word", or "token" of a tokenizer's file. sequence_length: the default number of targets per window.
    continuous: a side's texts are joined by line breaks into one stream; otherwise each text stands alone and ends
    with EOS. path: of the file that it was read from, for messages.
    """

    name: str
    clients: tuple[ClientTexts, ...]
    unit: str
    sequence_length: int
    continuous: bool
    about: str
    path: str = ""


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
    train = max(len(texts) * 4 // 5, min(len(texts), 1))
    return texts[:train], texts[train:]


def cut_windows(streams: Sequence[npt.NDArray[np.int32]], sequence_length: int) -> Sequences:
    """Cuts streams into windows so that every token of a stream but its first is the target of exactly one window.

    streams: int arrays of any length; one of fewer than two tokens has no target and gives no window.
    sequence_length: T >= 1, targets per window and stride. Windows never cross from one stream into the next.
    """
    check_at_least_one("sequence_length", sequence_length)
    targets = np.array([max(len(stream) - 1, 0) for stream in streams], dtype=np.int64)
    windows = -(-targets // sequence_length)
    check_fits(max(int(windows.sum()), 1), sequence_length)
    if windows.sum() == 0:
        return Sequences(np.zeros((0, sequence_length + 1), np.int32), np.zeros(0, np.int32))
    flat = np.concatenate(streams)
    origins = np.cumsum([0, *(len(stream) for stream in streams[:-1])])
    owner = np.repeat(np.arange(len(streams)), windows)
    begins = (np.arange(len(owner)) - np.repeat(np.cumsum(windows) - windows, windows)) * sequence_length
    lengths = np.minimum(targets[owner] - begins, sequence_length)
    columns = np.arange(sequence_length + 1)
    places = (origins[owner] + begins)[:, None] + columns
    tokens = np.where(columns <= lengths[:, None], flat[np.minimum(places, len(flat) - 1)], PAD)
    return Sequences(tokens.astype(np.int32), lengths.astype(np.int32))


def build_population(
    corpus: Corpus, sequence_length: int, vocabulary_size: int, oov_buckets: int = 1, tokenizer: FileTokenizer | None = None
) -> Population:
    """Splits, numbers and cuts the texts of a corpus.

    vocabulary_size: how many of the most frequent tokens get an id of their own, the four special ones not included.
    Only training texts of clients that are not held out are counted, those of validation clients among them; equally frequent
    tokens are taken in the order of their text.
    oov_buckets: how many ids the other tokens share.
    tokenizer: cuts and numbers in place of all this, by the vocabulary of its file.
    Raises UserError for a size or length below 1 and where no client has anything to train on.
    """
    check_at_least_one("sequence_length", sequence_length)
    check_at_least_one("vocabulary_size", vocabulary_size)
    check_at_least_one("oov_buckets", oov_buckets)
    texts = sorted(corpus.clients, key=lambda client: client.id)
    if corpus.unit == "word":
        _say_where_words_run_on(corpus)
    # Every text is split once: into provisional numbers, which become ids when the vocabulary is known.
    numbering = Numbering()
    number = numbering.__getitem__
    sides: list[tuple[list[npt.NDArray[np.int32]], list[npt.NDArray[np.int32]]]] = []
    if tokenizer is None:
        split = SPLITTERS[corpus.unit]
        for client in texts:
            train, test = (
                [np.fromiter(map(number, split(piece)), np.int32) for piece in _pieces(side, corpus.continuous)]
                for side in split_by_time(client.texts)
            )
            sides.append((train, test))
    else:
        uncut = [[_pieces(side, corpus.continuous) for side in split_by_time(client.texts)] for client in texts]
        encoded = iter(tokenizer.encode([piece for train_and_test in uncut for side in train_and_test for piece in side]))
        sides += [(list(islice(encoded, len(train))), list(islice(encoded, len(test)))) for train, test in uncut]
    counted = [piece for client, (train, _) in zip(texts, sides, strict=True) if not client.held_out for piece in train]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *counted]), minlength=len(numbering))
    if counts.sum() == 0:
        raise UserError(
            f"data={corpus.path or corpus.name!r}: no training clients: of {len(texts)} clients "
            f"{sum(client.held_out for client in texts)} are held out and no other has a word to train on; give at least one "
            "client that is not held out and has a text that is not empty (and raise max_clients where it is set)"
        )
    if tokenizer is None:
        vocabulary, ids = _choose_vocabulary(numbering, counts, vocabulary_size, corpus.unit, oov_buckets)
    else:
        vocabulary = tokenizer.vocabulary
        ids = np.arange(len(vocabulary), dtype=np.int32)
    edges = np.array([BOS], np.int32), np.array([] if corpus.continuous else [EOS], np.int32)
    more = sum(map(len, edges)) - 1  # targets of a piece beside its tokens but the first
    pieces = (piece for train_and_test in sides for side in train_and_test for piece in side)
    check_fits(sum(-(-(len(piece) + more) // sequence_length) for piece in pieces), sequence_length)

    def cut(pieces: list[npt.NDArray[np.int32]]) -> Sequences:
        return cut_windows([np.concatenate([edges[0], ids[piece], edges[1]]) for piece in pieces], sequence_length)

    clients = tuple(
        Client(client.id, client.group, client.held_out, len(client.texts), cut(train), cut(test))
        for client, (train, test) in zip(texts, sides, strict=True)
    )
    return Population(corpus.name, clients, vocabulary, sequence_length, corpus.about)


def _say_where_words_run_on(corpus: Corpus) -> None:
    """Name the remedy where most texts are of a language that writes no spaces between words."""
    texts = [text for client in corpus.clients for text in client.texts if text]
    count = sum(map(runs_on, texts))
    if 2 * count > len(texts):
        say(
            f"data={corpus.path or corpus.name!r}: {count} of {len(texts)} texts have long runs of letters without a space, "
            "each of them one word; give --tokenizer characters, or --tokenizer FILE.json (docs/data.md)"
        )


def _pieces(side: Sequence[str], continuous: bool) -> Sequence[str]:
    return ["\n".join(side)] if continuous and side else side


def _choose_vocabulary(
    numbering: Numbering, counts: npt.NDArray[np.int64], size: int, unit: str, oov_buckets: int
) -> tuple[Vocabulary, npt.NDArray[np.int32]]:
    """The vocabulary and, for every provisional number, its id."""
    seen = [(token, number) for token, number in numbering.items() if counts[number]]
    seen.sort(key=lambda item: (-counts[item[1]], item[0]))
    chosen = seen[:size]
    names = (*SPECIALS, *(token for token, _ in chosen), *(f"<oov-{n}>" for n in range(2, oov_buckets + 1)))
    vocabulary = Vocabulary(names, unit, oov_buckets)
    ids = np.full(len(numbering), OOV, dtype=np.int32)
    if oov_buckets > 1:
        ids[:] = [vocabulary.oov[bucket(token, oov_buckets)] for token in numbering]
    ids[[number for _, number in chosen]] = np.arange(len(SPECIALS), len(SPECIALS) + len(chosen), dtype=np.int32)
    return vocabulary, ids
