"""A personalized model in use: `flow.load(folder)`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flow.checks import check_number
from flow.config import TorchModel
from flow.data import Client, Sequences
from flow.data.tokens import EOS, SPECIALS
from flow.errors import UserError
from flow.evaluation.metrics import ACCURACY, LOSS
from flow.model.language_model import LanguageModel
from flow.personal import folder as folders
from flow.personal.stream import Distribution, Stream, beginning, is_routed, whole
from flow.training.batches import gather
from flow.training.predict import predict as predict_all
from flow.training.threads import one_thread

MOST_ADDED = 10_000
"""Tokens by which a text is gone on with."""


class Token(NamedTuple):
    """A token of a text, or one that may follow it."""

    text: str
    """As the vocabulary has it; the name of a class where texts are classified."""
    probability: float
    """0 to 1; of a token that was given, what the model expected of it."""
    local_weight: float | None = None
    """Weight of the client's local expert where the token was predicted, 0 to 1; None where there are no two experts."""


class Prediction(NamedTuple):
    """What follows a text."""

    text: str
    following: tuple[Token, ...]
    """The most likely tokens, the most likely first; or the classes of the text."""
    local_weight: float | None
    """As in :class:`Token`."""


class Completion(NamedTuple):
    """A text and how it goes on."""

    text: str
    """All of it, the beginning as it was given."""
    tokens: tuple[Token, ...]
    """Those that were added."""


class Scores(NamedTuple):
    """How well texts are predicted."""

    loss: float
    """Nats a token, or a text where texts are classified."""
    accuracy: float
    """0 to 1."""
    tokens: int
    """That were scored: all but unknown and special ones; or texts."""


class PersonalModel:
    """One client's model as an adapted folder holds it.

    Attributes:
        settings: the content of settings.json.
        report: the content of report.json.
        folder: where it was read.
    """

    def __init__(self, folder: Path, kept: folders.Kept) -> None:
        self.folder, self.settings, self.report = folder, kept.settings, kept.report
        self.kept = kept

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where the next token is predicted."""
        return self.kept.cutting.classes

    @property
    def routed(self) -> bool:
        """Whether two experts share the tokens, so that predictions say which one counted."""
        return is_routed(self.kept.personal)

    def predict(self, texts: str | Sequence[str], top: int = 5) -> list[Prediction]:
        """What follows each text, or its class.

        Args:
            texts: one, or several.
            top: how many tokens or classes are given, at least 1.

        Raises:
            UserError: there is a text without a token to classify, or one of more than 4096 tokens.
        """
        check_number("top", top, 1)
        result = []
        for text in [texts] if isinstance(texts, str) else texts:
            with one_thread():
                p, local_weight = whole(self.kept.model, self.kept.personal, self._newest(self.tokens(text)))
            after = Distribution(p[-1], float(local_weight[-1]) if self.routed else None)
            result.append(Prediction(text, self.most_likely(after, top), after.local_weight))
        return result

    def complete(self, text: str, tokens: int = 20) -> Completion:
        """Go on with a text by the most likely token after every token, until its end or as long as `tokens` says.

        Tokens without a text, such as the one of unknown words, are not taken.

        Raises:
            UserError: the model classifies texts; tokens is below 1, or above 10,000.
        """
        if self.classes:
            raise UserError(f"complete goes on with a text, and {self.folder} classifies texts; call predict")
        check_number("tokens", tokens, 1, MOST_ADDED)
        _, stream, after = self.read(text)
        added, numbers = self.go_on(stream, after, tokens)
        return Completion(self.written(text, numbers), tuple(added))

    def trace(self, text: str) -> list[Token]:
        """The tokens of a text, each with what was expected of it and by which expert; empty where texts are classified."""
        return self.read(text)[0]

    def read(self, text: str) -> tuple[list[Token], Stream, Distribution]:
        """What :meth:`trace` gives, a stream that has read the text, and what follows it."""
        stream, numbers, result = self.stream(), self.tokens(text), []
        after = stream.feed(numbers[0])
        for number in numbers[1:]:
            if not self.classes:
                result.append(Token(self._names[number], float(after.probabilities[number]), after.local_weight))
            after = stream.feed(number)
        return result, stream, after

    def go_on(self, stream: Stream, after: Distribution, tokens: int) -> tuple[list[Token], list[int]]:
        """At most so many tokens behind what a stream has read, and their numbers; see :meth:`complete`."""
        added: list[Token] = []
        numbers: list[int] = []
        while len(added) < tokens:
            p = after.probabilities.clone()
            p[self._unwritten] = -1
            best = int(p.argmax())
            if best == EOS:
                break
            added.append(Token(self._names[best], float(p[best]), after.local_weight))
            numbers.append(best)
            after = stream.feed(best)
        return added, numbers

    def score(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Scores:
        """Loss and accuracy of texts in the order of time, cut and counted as in the evaluation of a run.

        Args:
            texts: of which every token is predicted from those before it.
            labels: the class of every text, where texts are classified and only then.

        Raises:
            UserError: labels are missing, or not expected; there is nothing to score.
        """
        if isinstance(texts, str):
            raise UserError("texts must be a list of texts, got one string; write [text]")
        if (labels is None) == bool(self.classes) or (labels is not None and len(labels) != len(texts)):
            what = f"{self.folder} {'classifies texts' if self.classes else 'predicts the next token'}"
            given = "none" if labels is None else f"{len(labels)}"
            rule = f"as many labels as texts, {len(texts)}," if self.classes else "no labels"
            raise UserError(f"labels: {what} and needs {rule} got {given}; give these")
        cutting = self.kept.cutting
        return self.score_windows(cutting.windows(texts) if labels is None else cutting.rows(texts, labels))

    def score_windows(self, windows: Sequences) -> Scores:
        """:meth:`score` of texts that are cut already."""
        scored = np.ones(len(self.classes), dtype=np.bool_) if self.classes else self.kept.cutting.vocabulary.scored
        mask = windows.valid & scored[windows.targets] if len(windows) else np.zeros(0, dtype=np.bool_)
        tokens = int(mask.sum())
        if not tokens:
            raise UserError("texts have no token that the vocabulary knows, so there is nothing to score; give other texts")
        test = gather([Client("", "", True, 0, windows, windows)], "test", "cpu")
        with one_thread():
            guess = predict_all(self.kept.model, self.kept.personal, test)
        counts = (float(metric.count(guess, windows.targets, mask)) for metric in (LOSS, ACCURACY))
        loss, right = counts
        return Scores(loss / tokens, right / tokens, tokens)

    def stream(self) -> Stream:
        """A text that arrives token by token, see :class:`flow.personal.stream.Stream`."""
        return Stream(self.kept.model, self.kept.personal, self.kept.steps, self.kept.cutting.sequence_length)

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens, <bos> first where the next token is predicted; of a text to classify the first ones.

        Raises:
            UserError: a text to classify has none.
        """
        cutting = self.kept.cutting
        own = cutting.tokens([text])[0].tolist()
        if self.classes:
            own = own[: cutting.sequence_length]
            if not own:
                raise UserError(f"text={text!r} has no token, so nothing says its class; give one with a word in it")
        return [*beginning(bool(self.classes)), *own]

    def most_likely(self, after: Distribution, count: int) -> tuple[Token, ...]:
        """The most likely tokens of a distribution, the most likely first."""
        best = after.probabilities.topk(min(count, len(self._names)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(Token(self._names[number], p, after.local_weight) for number, p in pairs)

    def written(self, text: str, tokens: Sequence[int]) -> str:
        """A text with tokens behind it."""
        cutting = self.kept.cutting
        more = cutting.joined(tokens)
        between = "" if not more or not text or text[-1].isspace() or cutting.tokenizer in ("characters", "file") else " "
        return text + between + more

    def _newest(self, tokens: list[int]) -> list[int]:
        """What of a text is read: of a module of the user's own as many tokens as it was trained on."""
        return tokens if isinstance(self.kept.model, LanguageModel) else tokens[-self.kept.cutting.sequence_length :]

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self.classes or self.kept.cutting.vocabulary.tokens

    @cached_property
    def _unwritten(self) -> list[int]:
        """The tokens that no text has, but for its end."""
        return sorted({*range(len(SPECIALS)), *self.kept.cutting.vocabulary.oov} - {EOS})


def load(folder: Path | str, model: TorchModel | None = None) -> PersonalModel:
    """The personalized model of a folder that `flow adapt` made; it computes on the CPU.

    Args:
        folder: of the client. Nothing in it is run.
        model: the module of one's own that the run had in place of the built-in model; None: the built-in one, or one of which
            a ``flow.TorchModel`` was made in this process.

    Raises:
        UserError: it is no such folder, or a file in it is missing or was changed.
    """
    path = Path(folder)
    return PersonalModel(path, folders.read(path, model))
