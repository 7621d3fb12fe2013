"""What the page is told of a text."""

from __future__ import annotations

from typing import Any

from flow.personal.model import PersonalModel, Token

TOP = 6
"""How many of the most likely tokens."""
MORE = 12
"""Tokens by which a text is gone on with, at most."""


def answer(model: PersonalModel, text: str) -> dict[str, Any]:
    """The tokens of a text, what may follow it and how it goes on, or its classes; each with the local expert's weight.

    Raises:
        UserError: see :meth:`flow.personal.model.PersonalModel.tokens`.
    """
    if model.classes and not model.kept.cutting.tokens([text])[0].size:
        return {"read": [], "following": [], "completion": [], "joined": ""}
    read, stream, after = model.read(text)
    following = model.most_likely(after, TOP)
    added, numbers = ([], []) if model.classes else model.go_on(stream, after, MORE)
    return {
        "read": [_plain(token) for token in read],
        "following": [_plain(token) for token in following],
        "completion": [_plain(token) for token in added],
        "joined": model.written(text, numbers)[len(text) :],
    }


def _plain(token: Token) -> dict[str, Any]:
    return {
        "text": token.text,
        "probability": round(token.probability, 6),
        "local_weight": None if token.local_weight is None else round(token.local_weight, 4),
    }
