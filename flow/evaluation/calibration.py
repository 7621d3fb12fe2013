"""How far the probabilities of the predicted tokens are from how often they are right: the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flow.training.predict import Guess

BINS = 15  # of equal width, as in Guo et al., ICML 2017, section 3


def reliability(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[3, BINS]: by the probability of the predicted token, the tokens, the sum of these probabilities, and how many are right.

    A probability that is not a number counts as 0.

    Args:
        guess: predictions [n, T] of one client.
        targets: [n, T]
        scored: [n, T], the targets that are scored.
    """
    probability = np.nan_to_num(guess.probability[scored].astype(np.float64))
    right = (guess.tokens == targets)[scored]
    place = np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)  # a bin holds its upper end
    return np.stack([np.bincount(place, weights, BINS) for weights in (np.ones(len(place)), probability, right)])


def calibration(tables: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any] | None:
    """The expected calibration error over all tokens of some clients, and the bins that it is made of; None without clients.

    The error compares, bin by bin, the mean probability of the predicted tokens with the share of them that is right. It is the
    mean distance of the two over tokens (Guo et al., ICML 2017, equation 3), in 0..1.

    Args:
        tables: of every client, see :func:`reliability`.
    """
    if not tables:
        return None
    tokens, probability, right = np.sum(tables, axis=0)
    error = float(np.abs(probability - right).sum() / tokens.sum())
    share = [[float(part / n) if n else None for part, n in zip(parts, tokens, strict=True)] for parts in (probability, right)]
    return {"error": error, "tokens": tokens.astype(int).tolist(), "probability": share[0], "accuracy": share[1]}
