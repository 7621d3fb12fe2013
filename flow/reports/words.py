"""What is predicted and what is scored, in the words of pages and of the terminal: tokens, or the classes of texts."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """The words for one task."""

    task: str
    """What the model is trained to do."""
    token: str
    """What is scored, in general."""
    unit: str
    """What is scored, in these data."""
    target: str
    """What is predicted."""
    much: str
    """What a client has that weighs more where every scored thing counts once."""

    @property
    def nats(self) -> str:
        """The unit of a loss."""
        return f"nats a {self.token}"


def words_of(unit: str, classes: int) -> Words:
    """The words for a task.

    Args:
        unit: what a token is, such as "word".
        classes: of the texts; 0: the next token is predicted.
    """
    if classes:
        return Words(f"tell which of {classes} classes a text has", "text", "text", "class", "many texts")
    return Words(f"predict the next {unit}", "token", unit, unit, "much text")
