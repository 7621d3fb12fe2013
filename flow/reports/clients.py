"""The table of clients: those with the most text as rows, and all of them as data that the page's script searches and sorts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from flow.evaluation.metrics import ACCURACY
from flow.reports.files import Json
from flow.reports.format import DASH, count, finite, number, points

ROWS = 50
"""That the page has without its script, and of a page of the table with it."""


class ClientTable(NamedTuple):
    """What the template needs."""

    columns: list[tuple[str, str]]
    """(name in the data, title)."""
    rows: list[list[str]]
    """Of the clients with the most scored tokens."""
    clients: int
    data: Markup
    """Columns of all clients as JSON: safe within an element `script`, since no "<" is in it."""
    grouped: bool
    """Whether groups are told, which they are where ids do not hold them."""


def client_table(clients: Sequence[Json], tokens: str, personalized: bool) -> ClientTable:
    """The table of scored clients, those with the most tokens first.

    clients: as evaluation.json has them. tokens: the title of the column of scored tokens. personalized: whether the two models
    differ.
    """
    ordered = sorted((client for client in clients if client["tokens"] > 0), key=lambda client: -client["tokens"])
    counts = {
        model: [value if finite(value := client[ACCURACY.client_key(model)]) else None for client in ordered]
        for model in ("global", "personal")
    }
    known = [model for model, values in counts.items() if any(value is not None for value in values)]
    known = known if personalized else known[:1]
    weights = [weight if finite(weight := client.get("local_weight")) else None for client in ordered]
    groups = sorted({client.get("group") or "" for client in ordered})
    places = {group: place for place, group in enumerate(groups)}
    # A group that its ids hold says nothing more; it is searched all the same.
    grouped = any((client.get("group") or "") not in client["id"] for client in ordered)
    compared, routed = len(known) == 2, any(weight is not None for weight in weights)
    titles = {"global": "global, %", "personal": "personalized, %" if compared else "own model, %"}
    columns = [("name", "client"), *([("group", "group")] if grouped else []), ("side", "side"), ("tokens", tokens)]
    columns += [(model, titles[model]) for model in known]
    columns += [("gain", "gain, points")] if compared else []
    columns += [("weight", "mean q")] if routed else []
    data = {
        "name": [client["id"] for client in ordered],
        "groups": groups,
        "group": [places[client.get("group") or ""] for client in ordered],
        "seen": "".join("1" if client["seen"] else "0" for client in ordered),
        "tokens": [client["tokens"] for client in ordered],
        "weight": [None if weight is None else round(weight, 3) for weight in weights] if routed else None,
        **{model: values if model in known else None for model, values in counts.items()},
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    rows = [_row(client, [name for name, _ in columns]) for client in ordered[:ROWS]]
    return ClientTable(columns, rows, len(ordered), Markup(text), grouped)


def _row(client: Json, columns: Sequence[str]) -> list[str]:
    base, personal = (client[ACCURACY.client_key(model)] for model in ("global", "personal"))
    tokens = client["tokens"]
    cells = {
        "name": client["id"],
        "group": client.get("group") or DASH,
        "side": "seen" if client["seen"] else "unseen",
        "tokens": count(tokens),
        "global": DASH if base is None else number(base / tokens, 2, 100),
        "personal": DASH if personal is None else number(personal / tokens, 2, 100),
        "gain": DASH if base is None or personal is None else points((personal - base) / tokens),
        "weight": number(client.get("local_weight")),
    }
    return [cells[column] for column in columns]
