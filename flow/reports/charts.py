"""The charts of a report.

Colours mean the same everywhere: blue is the global model or expert, orange the personalized model or the local expert.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.select import SIDES
from flow.evaluation.summaries import BINS, QUANTILES
from flow.reports.drawing import Area, Axis, Bars, Chart, Line, Mark, Rule, limits
from flow.reports.files import Json, gains
from flow.reports.format import capitalized, count, finite
from flow.reports.words import Words

Array = npt.NDArray[np.float64]
ROUTES = [f"q{index}" for index in range(BINS)]
"""Colours of the weight of the local expert, from 0 to 1."""
MOST_DOTS = 40
"""On a line; more are a thick line."""


def rounds_axis(values: Sequence[float]) -> Axis:
    """A horizontal axis of rounds or steps, sensible also for a single one."""
    return Axis("round", *limits(values, least=1.0, margin=0.03), digits=0, whole=True)


def smoothing(rounds: int) -> int:
    """Rounds in the centred moving average drawn over the loss, an odd number; 1 is none."""
    return 1 if rounds < 30 else rounds // 50 * 2 + 5


def _smooth(values: Array, window: int) -> Array:
    """Centred moving average over what is finite, shorter at the ends; nan where nothing is."""
    reach = window // 2
    parts = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def loss_chart(rows: list[Json], words: Words) -> Markup:
    """The training loss of the rows of metrics.jsonl."""
    rounds = [float(row["round"]) for row in rows]
    loss = np.array([row["loss"] if finite(row["loss"]) else np.nan for row in rows], dtype=float)
    window = smoothing(len(rows))
    marks: list[Mark] = [Line("each round", list(zip(rounds, loss, strict=True)), "muted", "thin")] if window > 1 else []
    name, line = (f"mean of {window} rounds", _smooth(loss, window)) if window > 1 else ("training loss", loss)
    marks.append(Line(name, list(zip(rounds, line, strict=True)), "ink"))
    y = Axis(words.nats, *limits(loss.tolist()), digits=4)
    columns = 2 if window > 1 else 0
    return Chart("loss", "Training loss by round", rounds_axis(rounds), y, marks, columns, shared=True).svg()


def rate_charts(rows: list[Json]) -> dict[str, Markup]:
    """By whose it is, the learning rate of every round; none where no schedule is on."""
    whose = {"lr": "clients", "server_lr": "server"}
    charts: dict[str, Markup] = {}
    for key, name in whose.items():
        rates = [(float(row["round"]), float(row[key])) for row in rows if finite(row.get(key))]
        if not rates:
            continue
        about = f"Learning rate of the {name} by round"
        y = Axis("learning rate", *limits([0.0, *(rate for _, rate in rates)]), digits=6)
        x = rounds_axis([round for round, _ in rates])
        charts[name] = Chart(f"rate-{name}", about, x, y, [Line("learning rate", rates, "ink")]).svg()
    return charts


def history(rows: list[Json], evaluation: Json) -> list[tuple[int, Json]]:
    """(round, summary) of the evaluations along the run; the final one (of all clients) if there is no other."""
    along = [(row["round"], row["evaluation"]) for row in rows if row["evaluation"] is not None]
    return along or [(evaluation["round"], evaluation["summary"])]


def metric_chart(metric: Metric, rows: list[Json], evaluation: Json) -> Markup:
    """A metric by round, over tokens, of both sides; rows: of metrics.jsonl."""
    curve_points, axis = history(rows, evaluation), metric.axis_label(evaluation["classes"])
    models = {"global": "global", "personal": "personalized"} if evaluation["personalized"] else {"global": "global"}
    lines = []
    for side in SIDES:
        for model, label in models.items():
            values = [(number, sides[side][metric.summary_key(model, "token")]) for number, sides in curve_points]
            points = [(float(number), metric.scale * value) for number, value in values if finite(value)]
            dots = ("hollow" if side == "seen" else "full") if len(points) <= MOST_DOTS else ""
            if points:
                lines.append(Line(f"{label}, {side}", points, model, "dashed" if side == "seen" else "solid", dots))
    ends = limits([value for line in lines for _, value in line.points], metric.span)
    about = f"{capitalized(metric.label)} on held-out text by round"
    x, y = rounds_axis([number for number, _ in curve_points]), Axis(axis, *ends, digits=metric.digits)
    return Chart(metric.name, about, x, y, lines, columns=2, shared=True).svg()


def clock_chart(rows: list[Json], classes: int) -> Markup | None:
    """Accuracy by virtual hours, over tokens, of the model that clients predict with; None without a clock or an evaluation.

    rows: of metrics.jsonl.
    """
    timed = [row for row in rows if row["evaluation"] is not None and finite(row.get("virtual_seconds"))]
    if not timed:
        return None

    lines = []
    for side in SIDES:
        points = []
        for row in timed:
            own = row["evaluation"][side]
            values = [own.get(ACCURACY.summary_key(model, "token")) for model in ("personal", "global")]
            points += [(row["virtual_seconds"] / 3600, ACCURACY.scale * value) for value in values if finite(value)][:1]
        dots = ("hollow" if side == "seen" else "full") if len(points) <= MOST_DOTS else ""
        if points:
            lines.append(Line(side, points, "ink", "dashed" if side == "seen" else "solid", dots))
    ends = limits([value for line in lines for _, value in line.points], ACCURACY.span)
    x = Axis("virtual hours", *limits([hour for line in lines for hour, _ in line.points], 0.0))
    y = Axis(ACCURACY.axis_label(classes), *ends, digits=ACCURACY.digits)
    return Chart("clock", "Accuracy on held-out text over virtual hours", x, y, lines, columns=2).svg()


def calibration_chart(calibration: Json, words: Words) -> Markup | None:
    """How often the predicted token or class is right over how probable it was said to be; None where nothing is known."""
    sides = {name: own for name, own in calibration.items() if own is not None and sum(own["tokens"])}
    if not sides:
        return None
    marks: list[Mark] = [Rule([(0, 0), (100, 100)], "dotted")]
    for name, own in sides.items():
        known = [(p, a, n) for p, a, n in zip(own["probability"], own["accuracy"], own["tokens"], strict=True) if n]
        points = [(100.0 * (p or 0), 100.0 * (a or 0)) for p, a, _ in known]
        sizes = [2 + 6 * math.sqrt(n / sum(own["tokens"])) for *_, n in known]
        notes = [f"{count(n)} {words.unit}{'' if n == 1 else 's'}" for *_, n in known]
        line, dots = ("dashed", "hollow") if name == "seen" else ("solid", "full")
        marks.append(Line(SIDES[name].label, points, "ink", line, dots, sizes, notes))
    target = "class" if words.target == "class" else "token"
    about = f"Share of predicted {'classes' if target == 'class' else 'tokens'} that is right over their probability"
    x, y = Axis(f"probability of the predicted {target} (%)", 0, 100, 1), Axis("% of them right", 0, 100, 1)
    return Chart("calibration", about, x, y, marks, columns=2).svg()


def gain_charts(evaluation: Json) -> dict[str, Json]:
    """Histograms of the per-client gain in accuracy on common axes, for the sides that have clients."""
    by_group = {name: [gain for gain, _ in gains(evaluation["clients"], name == "seen")] for name in SIDES}
    groups = {name: 100 * np.array(values) for name, values in by_group.items() if values}
    if not groups:
        return {}
    side = 10  # bins on each side of the one around zero
    width = max(0.5, float(np.quantile(np.abs(np.concatenate(list(groups.values()))), 0.98))) / side
    edges = (np.arange(2 * side + 2) - side - 0.5) * width
    colours = ["global"] * side + ["same"] + ["personal"] * side

    def share(values: Array) -> Array:
        return 100 * np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)

    top = 1.12 * max(share(values).max() for values in groups.values())
    x = Axis("gain of the client (percentage points)", edges[0], edges[-1])
    result: dict[str, Json] = {}
    for name, values in groups.items():
        about = f"Histogram of the gain per client, {SIDES[name].label}"
        marks: list[Mark] = [
            Bars("clients (%)", edges.tolist(), share(values).tolist(), colours),
            Rule([(0, 0), (0, top)], "plain"),
        ]
        svg = Chart(f"gain-{name}", about, x, Axis("clients (%)", 0, top, 1), marks).svg()
        outside = int((np.abs(values) > edges[-1]).sum())
        facts = {"clients": len(values), "median": float(np.median(values)) / 100, "width": width, "outside": outside}
        result[name] = {"svg": svg} | facts
    return result


def steps_chart(routing: Json) -> Markup | None:
    """Quantiles of the weight of the local expert at every time step; None where nothing is known."""
    steps = [step for step in routing["steps"] if step["tokens"] > 0 and all(map(finite, step["quantiles"]))]
    if not steps:
        return None
    x = [float(step["step"]) for step in steps]
    p10, p25, p50, p75, p90 = [
        list(zip(x, own, strict=True)) for own in zip(*(step["quantiles"] for step in steps), strict=True)
    ]
    ends = rounds_axis(x)._replace(label="time step (position in the sequence)")
    labels = [f"{100 * quantile:.0f} %" for quantile in QUANTILES]
    marks: list[Mark] = [
        Area("10 to 90 %", p10, p25, "pale"),
        Area("", p75, p90, "pale"),
        Area("25 to 75 %", p25, p75, "strong"),
        Rule([(ends.low, 0.5), (ends.high, 0.5)], "dotted"),
        *(Line(labels[n], points, "ink", "hidden") for n, points in ((0, p10), (1, p25))),
        Line("median", p50, "ink", "solid", "full" if len(x) == 1 else ""),
        *(Line(labels[n], points, "ink", "hidden") for n, points in ((3, p75), (4, p90))),
    ]
    about, y = "Distribution of the routing weight at every time step", Axis("weight of the local expert, q", 0, 1)
    return Chart("steps", about, ends, y, marks, columns=3, shared=True, strip=ROUTES).svg()


def routing_histogram(routing: Json, words: Words) -> Markup | None:
    """How often the local expert has which weight; None where nothing is known."""
    counts, edges = (np.array(routing["histogram"][key], dtype=float) for key in ("counts", "edges"))
    if counts.sum() <= 0:
        return None
    shares = 100 * counts / counts.sum()
    top = 1.08 * shares.max()
    name = f"{words.token}s (%)"
    marks: list[Mark] = [Bars(name, edges.tolist(), shares.tolist(), ROUTES), Rule([(0.5, 0), (0.5, top)], "dotted")]
    x, y = Axis("weight of the local expert, q", edges[0], edges[-1]), Axis(name, 0, top, 1)
    return Chart("routing", f"Histogram of the routing weight over all evaluated {words.token}s", x, y, marks).svg()
