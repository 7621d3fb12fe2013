"""Where random choices come from: a generator of its own for every use, from (seed, round, labels) alone."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """Where the random choices of one occasion come from: the run's seed, the round, and what the choices are for."""

    seed: int
    round: int
    purpose: str

    def stream(self, *labels: str) -> np.random.Generator:
        """The generator of one use. The same arguments give the same numbers, whatever was drawn before.

        Philox over SeedSequence([seed, round, d0, d1, d2, d3]), where d are the first four little-endian 32-bit words
        of the SHA-256 of purpose and labels joined by line feeds.
        """
        digest = hashlib.sha256("\n".join((self.purpose, *labels)).encode()).digest()
        words = np.frombuffer(digest, dtype="<u4")[:4].tolist()
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.round, *words])))
