"""What adapting gained, as report.json and report.md have it, and what a folder says of privacy."""

from __future__ import annotations

from typing import Any

from flow.data import Client
from flow.evaluation.metrics import ACCURACY, LOSS

Json = dict[str, Any]
MODELS = {"general": "global", "personal": "personal"}
"""The two models of the report, by the names that evaluation.json has for them."""


def privacy(holds: str) -> str:
    """What the folder of a client says of itself."""
    own = "This folder is private to its client: its parameters were trained on the client's texts."
    return f"{own} It also holds {holds} of these texts." if holds else own


def content(settings: Json, client: Client, row: Json | None) -> Json:
    """The content of report.json.

    Args:
        settings: of the folder.
        row: the client's row as evaluation.json has it; None where nothing could be scored.
    """
    numbers: Json = {}
    for name, model in MODELS.items():
        for measure, metric in (("loss", LOSS), ("accuracy", ACCURACY)):
            count = None if row is None else row[metric.client_key(model)]
            numbers[f"{name}_{measure}"] = None if row is None or count is None else count / row["tokens"]
    return {
        "algorithm": settings["algorithm"]["name"],
        "round": settings["run"]["round"],
        "rounds": settings["run"]["rounds"],
        "data": settings["data"]["name"],
        "client": client.id,
        "of_the_run": settings["client"]["of_the_run"],
        "texts": client.texts,
        "train_sequences": len(client.train),
        "train_tokens": int(client.train.lengths.sum()),
        "test_sequences": len(client.test),
        "tokens": 0 if row is None else row["tokens"],
        **numbers,
        "row": row,
        "private": settings["private"],
    }


def page(report: Json) -> str:
    """The content of report.md."""
    lines = [
        f"# {report['algorithm']} for {report['client']}",
        "",
        f"Adapted from round {report['round']} of {report['rounds']} of a run on {report['data']}, with the first four fifths "
        f"of {report['texts']} texts ({report['train_tokens']} tokens).",
        "",
    ]
    if not report["tokens"]:
        lines += ["The last fifth is empty, or has no token that the vocabulary knows, so nothing says what this gained.", ""]
    else:
        lines += [f"Measured on the last fifth, {report['tokens']} tokens:", ""]
        lines += ["| model | loss, nats a token | accuracy, % |", "| --- | --- | --- |"]
        for name in MODELS:
            loss, accuracy = report[f"{name}_loss"], report[f"{name}_accuracy"]
            lines.append(f"| {name} | {_number(loss, 4)} | {_number(None if accuracy is None else 100 * accuracy, 1)} |")
        lines.append("")
    return "\n".join([*lines, report["private"], ""])


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
