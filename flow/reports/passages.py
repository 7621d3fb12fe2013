"""Held-out text as the report shows it: coloured by route, with what both models predicted at every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flow.evaluation.select import SIDES
from flow.evaluation.summaries import BINS
from flow.reports.files import Json

SHOWN_TOKENS = 6000  # more coloured text than this would make the file heavy and nobody reads it
SPECIAL = frozenset({"<pad>", "<oov>", "<bos>", "<eos>"})
BEFORE = {"character": 24, "word": 5}
"""Tokens of the text before a place where the models differ."""


def visible(text: str) -> str:
    """A token with a glyph in the place of what has none."""
    if text == "\n":
        return "↵"
    # Control characters have pictures (U+2400 block).
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)


def _spoken(text: str) -> str:
    """A predicted token in words that go on."""
    return "a space" if text == " " else "a line break" if text == "\n" else f"“{visible(text)}”"


def _token(
    text: str, weight: float | None, right: bool, personal_right: bool | None, base: str | None, personal: str | None
) -> Json:
    """One token of a passage: its display form, the classes that colour and mark it, and its tooltip."""
    classes = ["t"] if weight is None else ["t", f"q{min(BINS - 1, int(weight * BINS))}"]
    if personal_right is None:
        outcome = "right" if right else "wrong"
        classes += ["ok"] if right else []
    elif right == personal_right:
        outcome = "both right" if right else "both wrong"
    else:
        outcome = "only the personalized model is right" if personal_right else "only the global model is right"
        classes.append("op" if personal_right else "og")
    if text in SPECIAL:
        classes.append("sp")
    tip = [outcome if weight is None else f"q {weight:.2f} · {outcome}"]
    if personal_right is None:
        tip += [] if base is None else [f"predicted: {_spoken(base)}"]
    else:
        tip += [] if base is None else [f"global predicts {_spoken(base)}"]
        tip += [] if personal is None else [f"personalized predicts {_spoken(personal)}"]
    return {"text": visible(text), "newline": text == "\n", "classes": " ".join(classes), "tip": "\n".join(tip)}


def _differences(text: Json, base: Sequence[Any], personal: Sequence[Any], joint: str) -> list[Json]:
    """The places where two models predict differently: what stands before, what comes next, and what each predicts."""
    tokens, reach = text["tokens"], BEFORE["word" if joint else "character"]
    return [
        {
            "place": n + 1,
            "before": joint.join(map(visible, tokens[max(0, n - reach) : n])),
            "next": visible(tokens[n]),
            "global": visible(base[n]),
            "personal": visible(personal[n]),
            "right": "global" if base[n] == tokens[n] else "personal" if personal[n] == tokens[n] else "",
        }
        for n in range(len(tokens))
        if base[n] is not None and personal[n] is not None and base[n] != personal[n]
    ]


def passages(evaluation: Json, target: str) -> tuple[list[Json], int]:
    """(the passages to show, how many were left out to keep the file small).

    target: what is predicted, such as "character".
    """
    result: list[Json] = []
    room = SHOWN_TOKENS
    joint = "" if target == "character" else " "
    for text in evaluation["texts"]:
        room -= len(text["tokens"])
        if room < 0 and result:
            break
        nothing = [None] * len(text["tokens"])
        right, words = (
            {model: text[f"{model}_{what}"] or nothing for model in ("global", "personal")} for what in ("correct", "predicted")
        )
        if not evaluation["personalized"]:
            right["personal"] = words["personal"] = nothing
        if text["global_correct"] is None:
            for own in (right, words):
                own["global"], own["personal"] = own["personal"], nothing
        columns = (text["tokens"], text["local_weight"] or nothing, *right.values(), *words.values())
        weights = text["local_weight"] or []
        kind = SIDES["seen" if text["seen"] else "unseen"].singular
        parts = {
            "kind": kind,
            "mean": f"mean q {sum(weights) / len(weights):.2f}" if weights else "",
            "tokens": [_token(*row) for row in zip(*columns, strict=True)],
            "known": words["global"] is not nothing and words["personal"] is not nothing,
            "differences": _differences(text, words["global"], words["personal"], joint),
        }
        result.append({key: text[key] for key in ("client", "group")} | parts)
    return result, len(evaluation["texts"]) - len(result)


def glyph(token: str) -> str:
    """A token in a cell of its own, where a space could not be seen."""
    return "␣" if token == " " else token
