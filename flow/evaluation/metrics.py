"""The metrics: what is counted over a client's held-out tokens, and what tables and pages say of it.

A new metric of flow is one more record in METRICS. The summaries, evaluation.json, the terminal, the pages and the CSV read
them by :func:`flow.evaluation.registry.all_metrics`, which has those of users and packages too. Where texts are classified, a
token is the label of a text.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flow.errors import UserError
from flow.training.predict import Guess

MODELS = ("global", "local", "personal", "hard", "soft")
"""Whose predictions are counted: the model before personalization, a client's local expert alone where it is one of two, and
the personalized model. The last two are the personalized model with every router choosing one expert, or mixing both."""
Average = Literal["token", "client"]
"""Over all tokens of a side's clients, or the mean of the clients' own numbers."""
AVERAGES: tuple[Average, ...] = ("token", "client")


def over_tokens(counts: Sequence[float], tokens: Sequence[int]) -> float:
    """The sum of all clients' counts over the sum of their tokens."""
    return sum(counts) / sum(tokens)


def over_clients(counts: Sequence[float], tokens: Sequence[int]) -> float:
    """The mean over clients of count over tokens."""
    return float(np.mean([count / own for count, own in zip(counts, tokens, strict=True)]))


def number(metric: str, part: str, value: object) -> float:
    """What a function of a metric has given, as a Python number.

    Args:
        metric: its name.
        part: the name of the function.
        value: a Python number or one of NumPy.

    Raises:
        UserError: it is neither, or an integer beyond what float64 holds.
    """
    plain: object = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise UserError(
            f"metric={metric!r}: {part} must give a number, got {reprlib.repr(value)}; return float(...) or int(...)"
        )
    if isinstance(plain, int) and abs(plain) > sys.float_info.max:
        raise UserError(
            f"metric={metric!r}: {part} must give a number that float64 holds, got one of more than 10^308; scale it"
        )
    return plain


@dataclass(frozen=True)
class Metric:
    """A number that the held-out tokens of every client give, for every model that predicts them."""

    name: str
    """A word of its own, which the names of charts and rows on pages contain."""
    label: str
    """The name in tables and titles, in lower case."""
    unit: str
    """The unit of what is printed; empty for a number without one."""
    axis: str
    """The label of a chart's axis, the unit included."""
    column: str
    """The end of the keys of a client's counts: ``personal_<column>``."""
    infix: str
    """The middle of the keys of a summary, ``personal_<infix>token``, and of CSV columns, ``personal_<infix>seen``."""
    count: Callable[[Guess, npt.NDArray[np.int32], npt.NDArray[np.bool_]], float]
    """(predictions [n, T] of one client, targets [n, T], the targets that are scored [n, T]), none of which it can change -> a
    number of Python or NumPy."""
    over_tokens: Callable[[Sequence[float], Sequence[int]], float] = over_tokens
    """(counts, scored tokens) of at least one client -> the summary over tokens."""
    over_clients: Callable[[Sequence[float], Sequence[int]], float] = over_clients
    """The same arguments -> the summary in which every client counts once."""
    scale: float = 1.0
    """What a summary is multiplied by where it is printed."""
    digits: int = 2
    """Digits after the point where a summary is printed."""
    span: float = 0.0
    """The least length of a chart's axis, in printed units: on a shorter one noise would look like a difference."""
    higher_is_better: bool = True
    charted: bool = True
    """Whether pages draw it. What follows from another metric need not be drawn twice."""
    always: bool = True
    """Whether every run counts it; else those that ask for it by its name (``metric`` of the configuration)."""
    ranked: bool = False
    """Whether `count` reads :attr:`flow.training.predict.Guess.rank`, which is computed where it is asked for."""
    of_classes: bool = False
    """Whether it is a number of the table of classes, see :func:`table_of_classes`. Every run that classifies texts counts it,
    and no other. Its count is the metric of the client's own table times its texts. Over tokens it is the metric of the sum of
    all clients' tables."""
    of_table: Callable[[npt.NDArray[np.int64]], float] | None = None
    """table [3, C] -> the metric; with `of_classes`."""
    axis_of_texts: str = ""
    """The label of a chart's axis where texts are classified; empty: `axis`."""

    def summary(self, average: Average, counts: Sequence[float], tokens: Sequence[int]) -> float:
        """The summary of the counts of at least one client, each with its scored tokens.

        Raises:
            UserError: the metric's own function gives no number.
        """
        part = f"over_{average}s"
        value: object = getattr(self, part)(counts, tokens)
        return number(self.name, part, value)

    @property
    def heading(self) -> str:
        """The label with the unit, as a table shows them."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def axis_label(self, classes: int) -> str:
        """The label of a chart's axis; classes: of the texts, 0 where the next token is predicted."""
        return self.axis_of_texts or self.axis if classes else self.axis

    def client_key(self, model: str) -> str:
        """The key of a client's count in evaluation.json."""
        return f"{model}_{self.column}"

    def summary_key(self, model: str, average: Average) -> str:
        """The key of a side's summary in evaluation.json and metrics.jsonl."""
        return f"{model}_{self.infix}{average}"

    def summary_keys(self) -> list[str]:
        """All of these keys."""
        return [self.summary_key(model, average) for average in AVERAGES for model in MODELS]

    def measure(self, model: str, side: str, average: Average) -> str:
        """The name of a comparison's measure, which is a column of its CSV."""
        return f"{model}_{self.infix}{side}" + ("_by_token" if average == "token" else "")


def correct_tokens(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> int:
    """How many of the scored targets are the most likely token."""
    return int(((guess.tokens == targets) & scored).sum())


ACCURACY = Metric(
    name="accuracy",
    label="accuracy",
    unit="%",
    axis="% of tokens right",
    column="correct",
    infix="",
    count=correct_tokens,
    scale=100.0,
    span=4.0,
    axis_of_texts="% of texts right",
)
"""Gains, and the shares of clients helped and hurt, are those of the accuracy; every run folder has it."""


def nats(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> float:
    """The sum of the cross-entropies of the scored targets."""
    return float(guess.nats[scored].sum(dtype=np.float64))


LOSS = Metric(
    name="loss",
    label="loss",
    unit="nats",
    axis="nats a token",
    column="nats",
    infix="loss_",
    count=nats,
    digits=4,
    higher_is_better=False,
    axis_of_texts="nats a text",
)
"""Minus the logarithm of the probability of the tokens that the accuracy counts, on average; over the whole vocabulary."""


def _perplexity(
    average: Callable[[Sequence[float], Sequence[int]], float],
) -> Callable[[Sequence[float], Sequence[int]], float]:
    def of(counts: Sequence[float], tokens: Sequence[int]) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(average(counts, tokens)))

    return of


PERPLEXITY = Metric(
    name="perplexity",
    label="perplexity",
    unit="",
    axis="perplexity",
    column=LOSS.column,
    infix="perplexity_",
    count=nats,
    over_tokens=_perplexity(over_tokens),
    over_clients=_perplexity(over_clients),
    higher_is_better=False,
    charted=False,
)
"""The exponential of the loss. Over clients it is that of their mean loss, the geometric mean of their perplexities."""


def among_three(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> int:
    """How many of the scored targets are among the three most likely tokens: at most two others are more likely."""
    return int((guess.rank[scored] < 3).sum())


TOP3 = Metric(
    name="top3",
    label="top-3 accuracy",
    unit="%",
    axis="% of tokens among the three most likely",
    column="top3",
    infix="top3_",
    count=among_three,
    scale=100.0,
    span=4.0,
    always=False,
    ranked=True,
    axis_of_texts="% of texts, class among the top three",
)
"""Counted where it is asked for, as the ranks take about one more pass over the output layer."""


def table_of_classes(
    guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_], classes: int
) -> npt.NDArray[np.int64]:
    """[3, C]: by class, the texts of it that are predicted right, those that are predicted to be of it, and those of it."""
    truth, predicted = targets[scored], guess.tokens[scored]
    parts = truth[truth == predicted], predicted[predicted >= 0], truth
    return np.stack([np.bincount(part, minlength=classes) for part in parts])


def macro_f1(table: npt.NDArray[np.int64]) -> float:
    """The mean of the classes' F1 = 2 right / (predicted + actual); over classes that are predicted or actual at least once.

    It is ``f1_score(..., average="macro")`` of scikit-learn.
    """
    right, predicted, actual = table
    known = predicted + actual > 0
    return float(np.mean(2 * right[known] / (predicted + actual)[known]))


def _own_f1(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> float:
    classes = 1 + int(max(targets[scored].max(), guess.tokens[scored].max()))
    return macro_f1(table_of_classes(guess, targets, scored, classes)) * int(scored.sum())


MACRO_F1 = Metric(
    name="f1",
    label="macro-F1",
    unit="%",
    axis="macro-F1, %",
    column="f1",
    infix="f1_",
    count=_own_f1,
    scale=100.0,
    span=4.0,
    always=False,
    of_classes=True,
    of_table=macro_f1,
)

METRICS: tuple[Metric, ...] = (ACCURACY, LOSS, PERPLEXITY, TOP3, MACRO_F1)
"""Those of flow itself, in the order in which they are shown; the accuracy comes first."""
