"""The charts of a report, as inline SVG.

Colours mean the same everywhere: blue is the global model or expert, orange the personalized model or the local
expert. Charts are drawn with placeholder colours that become CSS variables: one drawing serves light, dark and paper.
"""

import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from flow.evaluation.metrics import Metric
from flow.evaluation.select import SIDES
from flow.evaluation.summaries import BINS
from flow.reports.files import Json, gains
from flow.reports.format import capitalized, finite
from flow.reports.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
# Each name is a placeholder colour for matplotlib and a CSS variable in the page.
_NAMES = ["ink", "muted", "rule", "global", "personal", "same", "card", *(f"q{index}" for index in range(BINS))]
COLOUR = {name: f"#0101{index:02x}" for index, name in enumerate(_NAMES)}
_VARIABLE = {colour: f"var(--{name})" for name, colour in COLOUR.items()}


def chart(name: str, about: str, y: str, x: str, draw: Callable[["Axes"], None], legend: int = 0) -> Markup:
    """Inline SVG of what `draw` puts on one pair of axes with the labels `y` and `x` and `legend` columns of legend.

    It has no fixed size, no namespaces, ids prefixed by `name`, CSS variables for colours, `about` for those who
    cannot see it.
    """
    import matplotlib  # imported here: everything else works without it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    muted, buffer = COLOUR["muted"], StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.5, "text.parse_math": False}):
        figure = Figure(figsize=(4.9, 3.2), layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor="none", axisbelow=True)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set_color(COLOUR["rule"])
        axes.tick_params(colors=muted, left=False)
        axes.grid(axis="y", color=COLOUR["rule"], linewidth=0.7)
        axes.set_title(y, loc="left", color=muted, fontsize=10.5)  # above the axis it is read without turning the head
        axes.set_xlabel(x, color=muted)
        draw(axes)
        if legend and axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=legend, frameon=False, labelcolor=COLOUR["ink"])
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, body = svg.split(">", 1)
    opening = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", body.replace("xlink:href", "href"))
    body = re.sub("|".join(_VARIABLE), lambda match: _VARIABLE[match.group()], body)
    # Safe as markup: Matplotlib escapes the drawing's text.
    return Markup(f'{opening} role="img" aria-label="{escape(about)}">{body}')


def _whole_numbers(axes: "Axes", values: Sequence[int]) -> None:
    """A horizontal axis of whole numbers, sensible also for a single one."""
    from matplotlib.ticker import MaxNLocator

    first, last = min(values), max(values)
    margin = max(0.5, 0.03 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


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
    rounds = [row["round"] for row in rows]
    loss = np.array([row["loss"] if finite(row["loss"]) else np.nan for row in rows], dtype=float)
    window = smoothing(len(rows))

    def draw(axes: "Axes") -> None:
        if window > 1:
            axes.plot(rounds, loss, color=COLOUR["muted"], linewidth=0.8, alpha=0.6)
        line = _smooth(loss, window) if window > 1 else loss
        axes.plot(rounds, line, color=COLOUR["ink"], linewidth=1.8, marker="o" if len(rounds) == 1 else None)
        _whole_numbers(axes, rounds)

    return chart("loss", "Training loss by round", words.nats, "round", draw)


def history(rows: list[Json], evaluation: Json) -> list[tuple[int, Json]]:
    """(round, summary) of the evaluations along the run; the final one (of all clients) if there is no other."""
    along = [(row["round"], row["evaluation"]) for row in rows if row["evaluation"] is not None]
    return along or [(evaluation["round"], evaluation["summary"])]


def metric_chart(metric: Metric, rows: list[Json], evaluation: Json) -> Markup:
    """A metric by round, over tokens, of both sides; rows: of metrics.jsonl."""
    curve_points, axis = history(rows, evaluation), metric.axis_label(evaluation["classes"])
    models = {"global": "global", "personal": "personalized"} if evaluation["personalized"] else {"global": "global"}

    def curve(axes: "Axes", side: str, model: str) -> None:
        pairs = [(number, sides[side][metric.summary_key(model, "token")]) for number, sides in curve_points]
        pairs = [(number, value) for number, value in pairs if finite(value)]
        if not pairs:
            return
        x, y = np.array(pairs).T
        style, face = ("--", COLOUR["card"]) if side == "seen" else ("-", COLOUR[model])
        (line,) = axes.plot(x, metric.scale * y, style, color=COLOUR[model], linewidth=1.8, label=f"{models[model]}, {side}")
        line.set(marker="o" if len(pairs) <= 40 else "", markersize=4, markerfacecolor=face)

    def draw(axes: "Axes") -> None:
        for side in SIDES:
            for model in models:
                curve(axes, side, model)
        _whole_numbers(axes, [number for number, _ in curve_points])
        low, high = axes.get_ylim()
        if high - low < metric.span:
            axes.set_ylim((low + high - metric.span) / 2, (low + high + metric.span) / 2)

    return chart(metric.name, f"{capitalized(metric.label)} on held-out text by round", axis, "round", draw, legend=2)


def calibration_chart(calibration: Json, words: Words) -> Markup | None:
    """How often the predicted token or class is right over how probable it was said to be; None where nothing is known."""
    sides = {name: own for name, own in calibration.items() if own is not None and sum(own["tokens"])}
    if not sides:
        return None

    def draw(axes: "Axes") -> None:
        axes.plot([0, 100], [0, 100], ":", color=COLOUR["muted"], linewidth=1)
        for name, own in sides.items():
            known = [(p, a, n) for p, a, n in zip(own["probability"], own["accuracy"], own["tokens"], strict=True) if n]
            x, y, tokens = np.array(known).T
            style, face = ("--", COLOUR["card"]) if name == "seen" else ("-", COLOUR["ink"])
            axes.plot(100 * x, 100 * y, style, color=COLOUR["ink"], linewidth=1.2, label=SIDES[name].label)
            axes.scatter(100 * x, 100 * y, 6 + 90 * tokens / tokens.sum(), color=face, edgecolor=COLOUR["ink"], zorder=3)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)

    target = "class" if words.target == "class" else "token"
    about = f"Share of predicted {'classes' if target == 'class' else 'tokens'} that is right over their probability"
    return chart("calibration", about, "% of them right", f"probability of the predicted {target} (%)", draw, legend=2)


def gain_charts(evaluation: Json) -> dict[str, Json]:
    """Histograms of the per-client gain in accuracy on common axes, for the sides that have clients."""
    by_group = {name: [gain for gain, _ in gains(evaluation["clients"], name == "seen")] for name in SIDES}
    groups = {name: 100 * np.array(values) for name, values in by_group.items() if values}
    if not groups:
        return {}
    side = 10  # bins on each side of the one around zero
    width = max(0.5, float(np.quantile(np.abs(np.concatenate(list(groups.values()))), 0.98))) / side
    edges = (np.arange(2 * side + 2) - side - 0.5) * width
    colours = [COLOUR[name] for name in ["global"] * side + ["same"] + ["personal"] * side]

    def share(values: Array) -> Array:
        return 100 * np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)

    top = 1.12 * max(share(values).max() for values in groups.values())

    def histogram(name: str, values: Array) -> Markup:
        def draw(axes: "Axes") -> None:
            axes.bar(edges[:-1], share(values), width=0.88 * width, align="edge", color=colours)
            axes.axvline(0, color=COLOUR["muted"], linewidth=0.8)
            axes.set_ylim(0, top)

        about = f"Histogram of the gain per client, {SIDES[name].label}"
        return chart(f"gain-{name}", about, "clients (%)", "gain of the client (percentage points)", draw)

    result: dict[str, Json] = {}
    for name, values in groups.items():
        outside = int((np.abs(values) > edges[-1]).sum())
        facts = {"clients": len(values), "median": float(np.median(values)) / 100, "width": width, "outside": outside}
        result[name] = {"svg": histogram(name, values)} | facts
    return result


def steps_chart(routing: Json) -> Markup | None:
    steps = [step for step in routing["steps"] if step["tokens"] > 0 and all(map(finite, step["quantiles"]))]
    if not steps:
        return None
    x = [step["step"] for step in steps]
    p10, p25, p50, p75, p90 = np.array([step["quantiles"] for step in steps], dtype=float).T

    def draw(axes: "Axes") -> None:
        ink = COLOUR["ink"]
        axes.fill_between(x, p10, p25, color=ink, alpha=0.14, linewidth=0, label="10 to 90 %")
        axes.fill_between(x, p75, p90, color=ink, alpha=0.14, linewidth=0)
        axes.fill_between(x, p25, p75, color=ink, alpha=0.36, linewidth=0, label="25 to 75 %")
        axes.plot(x, p50, color=ink, linewidth=1.8, label="median", marker="o" if len(x) == 1 else None)
        axes.axhline(0.5, color=COLOUR["muted"], linewidth=1, linestyle=":")
        for index in range(BINS):  # the colour scale of the text below, beside the axis it belongs to
            strip = axes.axhspan(index / BINS, (index + 1) / BINS, 1.012, 1.04, color=COLOUR[f"q{index}"], linewidth=0)
            strip.set(clip_on=False, antialiased=False)
        axes.set_ylim(0, 1)
        _whole_numbers(axes, x)

    about, y = "Distribution of the routing weight at every time step", "weight of the local expert, q"
    return chart("steps", about, y, "time step (position in the sequence)", draw, legend=3)


def routing_histogram(routing: Json, words: Words) -> Markup | None:
    counts, edges = (np.array(routing["histogram"][key], dtype=float) for key in ("counts", "edges"))
    if counts.sum() <= 0:
        return None

    def draw(axes: "Axes") -> None:
        bars = axes.bar(edges[:-1], 100 * counts / counts.sum(), width=np.diff(edges), align="edge")
        for index, bar in enumerate(bars):
            bar.set(facecolor=COLOUR[f"q{index}"], edgecolor=COLOUR["muted"], linewidth=0.6)
        axes.axvline(0.5, color=COLOUR["muted"], linewidth=1, linestyle=":")
        axes.set_xlim(edges[0], edges[-1])

    about = f"Histogram of the routing weight over all evaluated {words.token}s"
    return chart("routing", about, f"{words.token}s (%)", "weight of the local expert, q", draw)
