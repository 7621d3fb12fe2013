"""The HTML report of a run: one file that opens anywhere, drawn from the run folder alone.

`write_report(folder)` reads config.json, metrics.jsonl and evaluation.json and writes report.html. Three forms of run exist:
routed (Flow), personalized without a router (fine-tuning), and with a single kind of model (FedAvg's global one, or every
client its own). A report shows what its run has and says what it lacks.
"""

import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flow.evaluation.metrics import ACCURACY, AVERAGES, Average, Metric
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.evaluation.summaries import BINS
from flow.reports import privacy
from flow.reports.charts import (
    calibration_chart,
    clock_chart,
    gain_charts,
    history,
    loss_chart,
    metric_chart,
    rate_charts,
    routing_histogram,
    smoothing,
    steps_chart,
)
from flow.reports.clients import ROWS, client_table
from flow.reports.files import Json, gains, read_config, read_evaluation, read_metrics
from flow.reports.format import BYTES_IN_FULL, DASH, count, duration, finite, metric_value, percent, points, scaled
from flow.reports.page import document
from flow.reports.passages import glyph, passages
from flow.reports.terminal import other_routings
from flow.reports.words import words_of
from flow.storage import files

UNCLEAR_WITHIN = 2.0  # standard errors: a gain this close to zero is not called a gain

# ---- what the numbers say -------------------------------------------------------------------------------------------


def _options(values: object, leave_out: Sequence[str] = ()) -> str:
    """A configuration subtree on one line, nested keys dotted: `epochs 1, server.lr 0.5`."""

    def flat(value: object, name: str) -> list[str]:
        if isinstance(value, dict):
            return [part for key, inner in value.items() for part in flat(inner, f"{name}.{key}" if name else str(key))]
        return [f"{name} {DASH if value is None else value}".strip()]

    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in leave_out}
    return ", ".join(flat(values, "")) if values not in (None, {}, "") else DASH


def _standard_errors(gains: list[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Standard errors over clients: of the token-weighted gain (a ratio estimate, linearized), of the mean gain."""
    n = len(gains)
    if n < 2:
        return None, None
    gain, tokens = np.array(gains).T
    residual = (gain - np.average(gain, weights=tokens)) * tokens
    return math.sqrt(n / (n - 1) * (residual**2).sum()) / float(tokens.sum()), float(gain.std(ddof=1)) / math.sqrt(n)


def _difference(summary: Json, average: Average) -> float | None:
    personal, base = (summary[ACCURACY.summary_key(model, average)] for model in ("personal", "global"))
    return personal - base if finite(personal) and finite(base) else None


def _verdict(gain: float | None, error: float | None) -> tuple[str, str]:
    """(better | worse | unclear, sentence) for the mean gain over clients of one side and its standard error."""
    if gain is None:
        return "unclear", "Nothing was measured here."
    amount = points(abs(gain)).lstrip("+")
    if error is None:
        return "unclear", f"The difference is {points(gain)} points, but on one client: no statement about others."
    if abs(gain) <= UNCLEAR_WITHIN * error or amount == "0.00":
        near = f"is within two standard errors ({points(UNCLEAR_WITHIN * error).lstrip('+')}) of zero."
        return "unclear", f"Personalization makes no clear difference: {points(gain)} points {near}"
    than = "than the untouched global model, on average over clients."
    if gain > 0:
        return "better", f"Personalization helps: {amount} points more {than}"
    return "worse", f"Personalization hurts: {amount} points less {than}"


def _side(name: str, evaluation: Json) -> Json:
    """One of the two sides as the template shows it."""
    summary, words = evaluation["summary"][name], words_of(evaluation["unit"], evaluation["classes"])
    errors = _standard_errors(gains(evaluation["clients"], name == "seen"))
    result: Json = {"title": SIDES[name].title, "summary": summary, "present": summary["clients"] > 0}
    result["gain"] = {average: _difference(summary, average) for average in AVERAGES}
    local = summary[ACCURACY.summary_key("local", "client")], summary[ACCURACY.summary_key("global", "client")]
    result["local_gain"] = local[0] - local[1] if finite(local[0]) and finite(local[1]) else None
    result["error"] = dict(zip(AVERAGES, errors, strict=True))
    result["sign"], result["verdict"] = _verdict(result["gain"]["client"], errors[1])
    helped, hurt = summary["helped"], summary["hurt"]
    result["same"] = max(0.0, 1 - helped - hurt) if finite(helped) and finite(hurt) else None
    by_token, by_client = result["gain"].values()
    if by_token is not None and (by_token > 0) != (by_client > 0):
        result["verdict"] += (
            f" Counted by {words.token}s, where clients with {words.much} weigh more, it is {points(by_token)}."
        )
    return result


def _size(value: float) -> str:
    return scaled(value, BYTES_IN_FULL)


def _server(options: object) -> tuple[str, str]:
    """The server optimiser, and the options that have a meaning with it and the aggregator."""
    if not isinstance(options, dict):
        return DASH, ""
    used = {name: value for name, value in options.items() if value is not None and name != "server"}
    return str(options.get("server", DASH)), _options(used) if used else ""


def _facts(config: Json, rows: list[Json], evaluation: Json) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) of the definition list."""

    def configured(key: str) -> str:
        return DASH if config.get(key) is None else str(config[key])

    speeds = [row["sequences_per_second"] for row in rows if finite(row["sequences_per_second"])]
    keys = ("seconds", "clients", "skipped", "dropped", "late", "upload_bytes", "download_bytes")
    # rows of older runs know nothing of dropped and late
    seconds, trained, *silent, up, down = (sum(row.get(key, 0) for row in rows) for key in keys)
    # A client that was skipped, or whose upload was lost, has received the model and sends nothing.
    each = f"per client and round: {_size(up / trained)} up, {_size(down / (trained + sum(silent)))} down" if trained else ""
    speed = f"{count(float(np.median(speeds)))} client-sequences per second" if speeds else DASH
    task = f"one of {evaluation['classes']} classes" if evaluation["classes"] else f"next {evaluation['unit']}"
    planned = config.get("rounds")
    short = isinstance(planned, int) and planned != len(rows)
    rounds = f"{count(len(rows))} of {planned}" if short else count(len(rows))
    cohort = f"{configured('cohort')} clients a round{' on average' if privacy.is_private(config) else ''}"
    first_version, _, other_versions = _options(config.get("versions")).partition(", ")
    virtual = rows[-1].get("virtual_seconds")
    clock = [("Virtual time", duration(virtual), f"of all rounds on the devices of {configured('clock')}")]
    return [
        ("Algorithm", config["algorithm"]["name"], _options(config["algorithm"], leave_out=["name"])),
        ("Data", evaluation["dataset"], evaluation["about"]),
        ("Server", *_server(config.get("server"))),
        ("Model", task, _options(config.get("model"))),
        ("Rounds", rounds, f"cohort {cohort}, seed {configured('seed')}"),
        ("Speed", speed, f"median over rounds; {duration(seconds)} for all rounds"),
        *(clock if finite(virtual) else []),
        *privacy.facts(config, rows),
        ("Traffic", f"{_size(up)} up, {_size(down)} down", each),
        ("Versions", first_version, other_versions),
    ]


# ---- the page -------------------------------------------------------------------------------------------------------


def _measured(evaluation: Json) -> list[Metric]:
    """The accuracy, and every other metric of which the run says something."""
    known = {key for summary in evaluation["summary"].values() for key, value in summary.items() if value is not None}
    return [metric for metric in all_metrics() if metric is ACCURACY or known.intersection(metric.summary_keys())]


def _page(config: Json, rows: list[Json], evaluation: Json) -> str:
    routing = evaluation["routing"]
    words = words_of(evaluation["unit"], evaluation["classes"])
    texts, left_out = passages(evaluation, words.target)
    alone = any(client[ACCURACY.client_key("global")] is None for client in evaluation["clients"])
    measured, others = _measured(evaluation), other_routings(evaluation["summary"])
    filters: dict[str, Callable[..., Any]] = {
        "value": metric_value,
        "percent": percent,
        "points": points,
        "count": count,
        "glyph": glyph,
    }
    return document(
        "report",
        filters,
        evaluation=evaluation,
        algorithm=config["algorithm"]["name"],
        cohort=config.get("cohort"),
        draws=sum(row["clients"] for row in rows),
        last_round=rows[-1]["round"],
        personalized=evaluation["personalized"] and not alone,
        alone=alone,
        routed=routing is not None,
        metrics=measured,
        own_routing=", soft routing" if others == ["hard"] else ", hard routing" if others == ["soft"] else "",
        other_routings=others,
        local=any(evaluation["summary"][side][ACCURACY.summary_key("local", "token")] is not None for side in SIDES),
        sides={name: _side(name, evaluation) for name in SIDES},
        facts=_facts(config, rows, evaluation),
        words=words,
        loss_chart=loss_chart(rows, words),
        rate_charts=rate_charts(rows),
        window=smoothing(len(rows)),
        lost=sum(not finite(row["loss"]) for row in rows),
        sample=history(rows, evaluation)[-1][1],
        metric_charts={metric.name: metric_chart(metric, rows, evaluation) for metric in measured if metric.charted},
        calibration=evaluation["calibration"],
        calibration_chart=calibration_chart(evaluation["calibration"], words),
        clock_chart=clock_chart(rows, evaluation["classes"]),
        privacy=privacy.section(config, rows, evaluation),
        gain_charts=gain_charts(evaluation) if evaluation["personalized"] else {},
        steps_chart=steps_chart(routing) if routing else None,
        routing_chart=routing_histogram(routing, words) if routing else None,
        passages=texts,
        predicted=any(text["known"] for text in texts),
        table=client_table(evaluation["clients"], f"scored {words.unit}s", evaluation["personalized"]),
        rows_shown=ROWS,
        left_out=left_out,
        coloured=any(text["local_weight"] is not None for text in evaluation["texts"]),
        bins=BINS,
        config_json=json.dumps(config, indent=2, ensure_ascii=False),
    )


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Write report.html into the run folder from its config.json, metrics.jsonl and evaluation.json; return its path.

    The file is written whole or not at all. ValueError when one of the three files is missing or damaged.
    """
    config, metrics, evaluation = read_config(folder), read_metrics(folder), read_evaluation(folder)
    files.say_unchecked(folder, {"config.json": [config], "metrics.jsonl": metrics, "evaluation.json": [evaluation]})
    page = _page(config, metrics, evaluation)
    target = folder / "report.html"
    # A lone surrogate (JSON can carry one) has no UTF-8 form; it is shown as "?".
    files.write(target, page.encode("utf-8", errors="replace"))
    return target
