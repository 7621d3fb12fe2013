"""The HTML report of a run: one file that opens anywhere, drawn from the run folder alone.

`write_report(folder)` reads config.json, metrics.jsonl and evaluation.json and writes report.html. Three forms of run
exist: routed (Flow), personalized without a router (fine-tuning) and not personalized (FedAvg); a report shows what
its run has and says what it lacks.

Colours mean the same everywhere: blue is the global model or expert, orange the personalized model or the local
expert. Charts are drawn with placeholder colours that become CSS variables: one drawing serves light, dark and paper.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from io import StringIO
from types import NoneType
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]
Array = npt.NDArray[np.float64]

DASH = "\N{EN DASH}"
BINS = 20  # steps of the colour scale of q, the bins of the routing histogram
SHOWN_TOKENS = 6000  # more coloured text than this would make the file heavy and nobody reads it
UNCLEAR_WITHIN = 2.0  # standard errors: a gain this close to zero is not called a gain

SPECIAL = frozenset({"<pad>", "<oov>", "<bos>", "<eos>"})
GROUPS = {"seen": "Clients seen in training", "unseen": "Clients never seen"}


# ---- reading the run folder -----------------------------------------------------------------------------------------

# A schema is a tuple of types, a list with the schema of every element, or a dict of required keys and their schemas.
_BOOL, _INTEGER, _TEXT, _NUMBER, _MAYBE = (bool,), (int,), (str,), (int, float), (int, float, NoneType)


def _keys(names: str, schema: object) -> Json:
    return dict.fromkeys(names.split(), schema)


_SUMMARY = _keys("clients skipped tokens", _INTEGER) | _keys("global_token personal_token soft_token", _MAYBE)
_SUMMARY |= _keys("global_client personal_client soft_client helped hurt", _MAYBE)
_GROUPS = _keys("seen unseen", _SUMMARY)
_CONFIG = {"algorithm": {"name": _TEXT}}
_ROUND = _keys("round clients skipped", _INTEGER) | _keys("seconds upload_bytes download_bytes", _NUMBER)
_ROUND |= _keys("loss sequences_per_second", _MAYBE) | {"evaluation": (dict, NoneType)}
_CLIENT = {"seen": _BOOL, "tokens": _INTEGER, "global_correct": _NUMBER, "personal_correct": _MAYBE}
_PASSAGE: Json = {
    "client": _TEXT,
    "group": (str, NoneType),
    "seen": _BOOL,
    "tokens": [_TEXT],
    "global_correct": [_BOOL],
}
_PASSAGE |= _keys("personal_correct local_weight", (list, NoneType))
_EVALUATION = _keys("unit dataset about", _TEXT) | {"round": _INTEGER, "personalized": _BOOL, "summary": _GROUPS}
_EVALUATION |= {"clients": [_CLIENT], "texts": [_PASSAGE], "routing": (dict, NoneType)}
_STEPS = [{"step": _INTEGER, "tokens": _INTEGER, "quantiles": [_MAYBE]}]
_ROUTING = {"steps": _STEPS, "histogram": {"edges": [_NUMBER], "counts": [_NUMBER]}}


def _problem(path: pathlib.Path, what: str) -> ValueError:
    remedy = f"Complete the run with `flow run --resume {path.parent}`, then write the report again."
    return ValueError(f"{path}: {what}. {remedy}")


def _expect(path: pathlib.Path, value: object, schema: object, where: str) -> None:
    """Raise ValueError, naming the place, unless `value` fits `schema`."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            raise _problem(path, f"{where} is {type(value).__name__}, expected an object")
        for key, inner in schema.items():
            if key not in value:
                raise _problem(path, f"{where} has no {key!r}")
            _expect(path, value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            raise _problem(path, f"{where} is {type(value).__name__}, expected a list")
        for index, item in enumerate(value):
            _expect(path, item, schema[0], f"{where}[{index}]")
    else:
        kinds: Any = schema
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            raise _problem(path, f"{where} is {value!r}, expected {names}")


def _text_of(path: pathlib.Path) -> str:
    if not path.is_file():
        raise _problem(path, "the file is missing; the run has not got that far or the folder is not a run folder")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _problem(path, f"not UTF-8 text ({error})") from error


def _parsed(path: pathlib.Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _problem(path, f"{where} is not valid JSON ({error})") from error


def _read_config(folder: pathlib.Path) -> Json:
    path = folder / "config.json"
    config: Json = _parsed(path, _text_of(path), "the file")
    _expect(path, config, _CONFIG, "config")
    return config


def _read_metrics(folder: pathlib.Path) -> list[Json]:
    path = folder / "metrics.jsonl"
    text = _text_of(path)
    if not text.strip():
        raise _problem(path, "the file holds no round")
    rows: list[Json] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        where = f"line {number}"
        row = _parsed(path, line, where)
        _expect(path, row, _ROUND, where)
        if row["evaluation"] is not None:
            _expect(path, row["evaluation"], _GROUPS, f"{where}.evaluation")
        if rows and row["round"] <= rows[-1]["round"]:
            wrong = f"round {row['round']} after round {rows[-1]['round']}"
            raise _problem(path, f"{where} is {wrong}, rounds must increase")
        rows.append(row)
    return rows


def _read_evaluation(folder: pathlib.Path) -> Json:
    path = folder / "evaluation.json"
    evaluation: Json = _parsed(path, _text_of(path), "the file")
    _expect(path, evaluation, _EVALUATION, "evaluation")
    for index, text in enumerate(evaluation["texts"]):
        for key, schema in (("global_correct", _BOOL), ("personal_correct", _BOOL), ("local_weight", _NUMBER)):
            where, values = f"evaluation.texts[{index}].{key}", text[key]
            if values is not None:
                _expect(path, values, [schema], where)
                if len(values) != len(text["tokens"]):
                    raise _problem(path, f"{where} has {len(values)} entries for {len(text['tokens'])} tokens")
        outside = [weight for weight in text["local_weight"] or [] if not 0 <= weight <= 1]
        if outside:
            raise _problem(path, f"evaluation.texts[{index}].local_weight holds {outside[0]!r}, not in 0..1")
    if evaluation["routing"] is not None:
        _expect(path, evaluation["routing"], _ROUTING, "evaluation.routing")
        for index, step in enumerate(evaluation["routing"]["steps"]):
            if len(step["quantiles"]) != 5:
                found = len(step["quantiles"])
                raise _problem(path, f"evaluation.routing.steps[{index}].quantiles has {found} entries, expected 5")
        histogram = evaluation["routing"]["histogram"]
        if len(histogram["counts"]) != BINS or len(histogram["edges"]) != BINS + 1:
            sizes = f"{len(histogram['counts'])} counts and {len(histogram['edges'])} edges"
            raise _problem(path, f"evaluation.routing.histogram has {sizes}, expected {BINS} and {BINS + 1}")
    return evaluation


# ---- words for numbers ----------------------------------------------------------------------------------------------


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def hundredths(value: float | None) -> str:
    """A share in 0..1 as a percentage without its sign; a dash for what does not exist."""
    return f"{100 * value:.2f}" if value is not None and math.isfinite(value) else DASH


def percent(value: float | None, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %" if value is not None and math.isfinite(value) else DASH


def points(value: float | None) -> str:
    """A difference of shares as signed percentage points; never a signed zero."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    return (
        f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        if value is not None and math.isfinite(value)
        else DASH
    )


def size(value: float) -> str:
    """Bytes in decimal units, three digits."""
    if value < 1000:
        return f"{value:.0f} bytes"
    power = min(4, int(math.log10(value)) // 3)
    scaled = value / 1000**power
    return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _options(values: object, leave_out: Sequence[str] = ()) -> str:
    """A configuration subtree on one line, nested keys dotted: `epochs 1, server.lr 0.5`."""

    def flat(value: object, name: str) -> list[str]:
        if isinstance(value, dict):
            return [part for key, inner in value.items() for part in flat(inner, f"{name}.{key}" if name else str(key))]
        return [f"{name} {DASH if value is None else value}".strip()]

    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in leave_out}
    return ", ".join(flat(values, "")) if values not in (None, {}, "") else DASH


# ---- what the numbers say -------------------------------------------------------------------------------------------


def _gains(clients: list[Json], seen: bool) -> list[tuple[float, int]]:
    """(personal - global accuracy, scored tokens) of every client of the group that has scored tokens."""
    result = []
    for client in clients:
        if client["seen"] is seen and client["tokens"] > 0 and client["personal_correct"] is not None:
            difference = client["personal_correct"] - client["global_correct"]
            result.append((difference / client["tokens"], client["tokens"]))
    return result


def _standard_errors(gains: list[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Standard errors over clients: of the token-weighted gain (a ratio estimate, linearized), of the mean gain."""
    n = len(gains)
    if n < 2:
        return None, None
    gain, tokens = np.array(gains).T
    residual = (gain - np.average(gain, weights=tokens)) * tokens
    return math.sqrt(n / (n - 1) * (residual**2).sum()) / float(tokens.sum()), float(gain.std(ddof=1)) / math.sqrt(n)


def _difference(summary: Json, kind: str) -> float | None:
    personal, base = summary[f"personal_{kind}"], summary[f"global_{kind}"]
    return personal - base if finite(personal) and finite(base) else None


def _verdict(gain: float | None, error: float | None) -> tuple[str, str]:
    """(better | worse | unclear, sentence) for the mean gain over clients of one group and its standard error."""
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


def _group(name: str, evaluation: Json) -> Json:
    """One of the two client groups as the template shows it."""
    summary = evaluation["summary"][name]
    errors = _standard_errors(_gains(evaluation["clients"], name == "seen"))
    result: Json = {"title": GROUPS[name], "summary": summary, "present": summary["clients"] > 0}
    result["gain"] = {kind: _difference(summary, kind) for kind in ("token", "client")}
    result["error"] = dict(zip(("token", "client"), errors, strict=True))
    result["sign"], result["verdict"] = _verdict(result["gain"]["client"], errors[1])
    helped, hurt = summary["helped"], summary["hurt"]
    result["same"] = max(0.0, 1 - helped - hurt) if finite(helped) and finite(hurt) else None
    by_token, by_client = result["gain"].values()
    if by_token is not None and (by_token > 0) != (by_client > 0):
        result["verdict"] += f" Counted by tokens, where clients with much text weigh more, it is {points(by_token)}."
    return result


def _facts(config: Json, metrics: list[Json], evaluation: Json) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) of the definition list."""

    def configured(key: str) -> str:
        return DASH if config.get(key) is None else str(config[key])

    speeds = [row["sequences_per_second"] for row in metrics if finite(row["sequences_per_second"])]
    keys = ("seconds", "clients", "skipped", "upload_bytes", "download_bytes")
    seconds, trained, skipped, up, down = (sum(row[key] for row in metrics) for key in keys)
    # A skipped client has received the model and sends nothing.
    each = f"per client and round: {size(up / trained)} up, {size(down / (trained + skipped))} down" if trained else ""
    speed = f"{count(float(np.median(speeds)))} client-sequences per second" if speeds else DASH
    planned = config.get("rounds")
    short = isinstance(planned, int) and planned != len(metrics)
    rounds = f"{count(len(metrics))} of {planned}" if short else count(len(metrics))
    first_version, _, other_versions = _options(config.get("versions")).partition(", ")
    return [
        ("Algorithm", config["algorithm"]["name"], _options(config["algorithm"], leave_out=["name"])),
        ("Data", evaluation["dataset"], evaluation["about"]),
        ("Server", _options(config.get("server")), ""),
        ("Model", f"next {evaluation['unit']}", _options(config.get("model"))),
        ("Rounds", rounds, f"cohort {configured('cohort')} clients a round, seed {configured('seed')}"),
        ("Speed", speed, f"median over rounds; {duration(seconds)} for all rounds"),
        ("Traffic", f"{size(up)} up, {size(down)} down", each),
        ("Versions", first_version, other_versions),
    ]


def _token(text: str, weight: float | None, right: bool, personal_right: bool | None) -> Json:
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
    # Control characters have no glyph: show their picture (U+2400 block).
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)
    tip = outcome if weight is None else f"q {weight:.2f} · {outcome}"
    return {"text": "↵" if text == "\n" else shown, "newline": text == "\n", "classes": " ".join(classes), "tip": tip}


def _passages(evaluation: Json) -> tuple[list[Json], int]:
    """(the passages to show, how many were left out to keep the file small)."""
    passages: list[Json] = []
    room = SHOWN_TOKENS
    for text in evaluation["texts"]:
        room -= len(text["tokens"])
        if room < 0 and passages:
            break
        nothing = [None] * len(text["tokens"])
        personal = (text["personal_correct"] or nothing) if evaluation["personalized"] else nothing
        columns = (text["tokens"], text["local_weight"] or nothing, text["global_correct"], personal)
        tokens = [_token(*row) for row in zip(*columns, strict=True)]
        weights = text["local_weight"] or []
        mean = f"mean q {sum(weights) / len(weights):.2f}" if weights else ""
        passages.append({key: text[key] for key in ("client", "group", "seen")} | {"mean": mean, "tokens": tokens})
    return passages, len(evaluation["texts"]) - len(passages)


# ---- charts ---------------------------------------------------------------------------------------------------------

# Each name is a placeholder colour for matplotlib and a CSS variable in the page.
_NAMES = ["ink", "muted", "rule", "global", "personal", "same", "card", *(f"q{index}" for index in range(BINS))]
_COLOUR = {name: f"#0101{index:02x}" for index, name in enumerate(_NAMES)}
_VARIABLE = {colour: f"var(--{name})" for name, colour in _COLOUR.items()}


def _chart(name: str, about: str, y: str, x: str, draw: Callable[["Axes"], None], legend: int = 0) -> Markup:
    """Inline SVG of what `draw` puts on one pair of axes with the labels `y` and `x` and `legend` columns of legend.

    It has no fixed size, no namespaces, ids prefixed by `name`, CSS variables for colours, `about` for those who
    cannot see it.
    """
    import matplotlib  # imported here: everything else works without it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    muted, buffer = _COLOUR["muted"], StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.5}):
        figure = Figure(figsize=(4.9, 3.2), layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor="none", axisbelow=True)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set_color(_COLOUR["rule"])
        axes.tick_params(colors=muted, left=False)
        axes.grid(axis="y", color=_COLOUR["rule"], linewidth=0.7)
        axes.set_title(y, loc="left", color=muted, fontsize=10.5)  # above the axis it is read without turning the head
        axes.set_xlabel(x, color=muted)
        draw(axes)
        if legend and axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=legend, frameon=False, labelcolor=_COLOUR["ink"])
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, body = svg.split(">", 1)
    opening = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", body.replace("xlink:href", "href"))
    body = re.sub("|".join(_VARIABLE), lambda match: _VARIABLE[match.group()], body)
    # Safe as markup: every string in the drawing is a constant or a number.
    return Markup(f'{opening} role="img" aria-label="{about}">{body}')


def _whole_numbers(axes: "Axes", values: Sequence[int]) -> None:
    """A horizontal axis of whole numbers, sensible also for a single one."""
    from matplotlib.ticker import MaxNLocator

    first, last = min(values), max(values)
    margin = max(0.5, 0.03 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _smoothing(rounds: int) -> int:
    """Rounds in the centred moving average drawn over the loss, an odd number; 1 is none."""
    return 1 if rounds < 30 else rounds // 50 * 2 + 5


def _smooth(values: Array, window: int) -> Array:
    """Centred moving average over what is finite, shorter at the ends; nan where nothing is."""
    reach = window // 2
    parts = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def _loss_chart(metrics: list[Json]) -> Markup:
    rounds = [row["round"] for row in metrics]
    loss = np.array([row["loss"] if finite(row["loss"]) else np.nan for row in metrics], dtype=float)
    window = _smoothing(len(metrics))

    def draw(axes: "Axes") -> None:
        if window > 1:
            axes.plot(rounds, loss, color=_COLOUR["muted"], linewidth=0.8, alpha=0.6)
        line = _smooth(loss, window) if window > 1 else loss
        axes.plot(rounds, line, color=_COLOUR["ink"], linewidth=1.8, marker="o" if len(rounds) == 1 else None)
        _whole_numbers(axes, rounds)

    return _chart("loss", "Training loss by round", "nats per token", "round", draw)


def _history(metrics: list[Json], evaluation: Json) -> list[tuple[int, Json]]:
    """(round, summary) of the evaluations along the run; the final one (of all clients) if there is no other."""
    found = [(row["round"], row["evaluation"]) for row in metrics if row["evaluation"] is not None]
    return found or [(evaluation["round"], evaluation["summary"])]


def _accuracy_chart(metrics: list[Json], evaluation: Json) -> Markup:
    history = _history(metrics, evaluation)
    models = {"global": "global", "personal": "personalized"} if evaluation["personalized"] else {"global": "global"}

    def curve(axes: "Axes", group: str, model: str) -> None:
        pairs = [(number, groups[group][f"{model}_token"]) for number, groups in history]
        pairs = [(number, accuracy) for number, accuracy in pairs if finite(accuracy)]
        if not pairs:
            return
        x, y = np.array(pairs).T
        who, style, face = ("seen", "--", _COLOUR["card"]) if group == "seen" else ("never seen", "-", _COLOUR[model])
        (line,) = axes.plot(x, 100 * y, style, color=_COLOUR[model], linewidth=1.8, label=f"{models[model]}, {who}")
        line.set(marker="o" if len(pairs) <= 40 else "", markersize=4, markerfacecolor=face)

    def draw(axes: "Axes") -> None:
        for group in GROUPS:
            for model in models:
                curve(axes, group, model)
        _whole_numbers(axes, [number for number, _ in history])
        low, high = axes.get_ylim()
        if high - low < 4:  # a narrow axis would make noise look like a difference
            axes.set_ylim((low + high) / 2 - 2, (low + high) / 2 + 2)

    return _chart("accuracy", "Accuracy on held-out text by round", "% of tokens right", "round", draw, legend=2)


def _gain_charts(evaluation: Json) -> dict[str, Json]:
    """Histograms of the per-client gain on common axes, for the groups that have clients."""
    gains = {name: [gain for gain, _ in _gains(evaluation["clients"], name == "seen")] for name in GROUPS}
    groups = {name: 100 * np.array(values) for name, values in gains.items() if values}
    if not groups:
        return {}
    side = 10  # bins on each side of the one around zero
    width = max(0.5, float(np.quantile(np.abs(np.concatenate(list(groups.values()))), 0.98))) / side
    edges = (np.arange(2 * side + 2) - side - 0.5) * width
    colours = [_COLOUR[name] for name in ["global"] * side + ["same"] + ["personal"] * side]

    def share(values: Array) -> Array:
        return 100 * np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)

    top = 1.12 * max(share(values).max() for values in groups.values())

    def chart(name: str, values: Array) -> Markup:
        def draw(axes: "Axes") -> None:
            axes.bar(edges[:-1], share(values), width=0.88 * width, align="edge", color=colours)
            axes.axvline(0, color=_COLOUR["muted"], linewidth=0.8)
            axes.set_ylim(0, top)

        about = f"Histogram of the gain per client, {GROUPS[name].lower()}"
        return _chart(f"gain-{name}", about, "clients (%)", "gain of the client (percentage points)", draw)

    result: dict[str, Json] = {}
    for name, values in groups.items():
        outside = int((np.abs(values) > edges[-1]).sum())
        facts = {"clients": len(values), "median": float(np.median(values)) / 100, "width": width, "outside": outside}
        result[name] = {"svg": chart(name, values)} | facts
    return result


def _steps_chart(routing: Json) -> Markup | None:
    steps = [step for step in routing["steps"] if step["tokens"] > 0 and all(map(finite, step["quantiles"]))]
    if not steps:
        return None
    x = [step["step"] for step in steps]
    p10, p25, p50, p75, p90 = np.array([step["quantiles"] for step in steps], dtype=float).T

    def draw(axes: "Axes") -> None:
        ink = _COLOUR["ink"]
        axes.fill_between(x, p10, p25, color=ink, alpha=0.14, linewidth=0, label="10 to 90 %")
        axes.fill_between(x, p75, p90, color=ink, alpha=0.14, linewidth=0)
        axes.fill_between(x, p25, p75, color=ink, alpha=0.36, linewidth=0, label="25 to 75 %")
        axes.plot(x, p50, color=ink, linewidth=1.8, label="median", marker="o" if len(x) == 1 else None)
        axes.axhline(0.5, color=_COLOUR["muted"], linewidth=1, linestyle=":")
        for index in range(BINS):  # the colour scale of the text below, beside the axis it belongs to
            strip = axes.axhspan(index / BINS, (index + 1) / BINS, 1.012, 1.04, color=_COLOUR[f"q{index}"], linewidth=0)
            strip.set(clip_on=False, antialiased=False)
        axes.set_ylim(0, 1)
        _whole_numbers(axes, x)

    about, y = "Distribution of the routing weight at every time step", "weight of the local expert, q"
    return _chart("steps", about, y, "time step (position in the sequence)", draw, legend=3)


def _routing_histogram(routing: Json) -> Markup | None:
    counts, edges = (np.array(routing["histogram"][key], dtype=float) for key in ("counts", "edges"))
    if counts.sum() <= 0:
        return None

    def draw(axes: "Axes") -> None:
        bars = axes.bar(edges[:-1], 100 * counts / counts.sum(), width=np.diff(edges), align="edge")
        for index, bar in enumerate(bars):
            bar.set(facecolor=_COLOUR[f"q{index}"], edgecolor=_COLOUR["muted"], linewidth=0.6)
        axes.axvline(0.5, color=_COLOUR["muted"], linewidth=1, linestyle=":")
        axes.set_xlim(edges[0], edges[-1])

    about = "Histogram of the routing weight over all evaluated tokens"
    return _chart("routing", about, "tokens (%)", "weight of the local expert, q", draw)


# ---- the page -------------------------------------------------------------------------------------------------------


def _page(config: Json, metrics: list[Json], evaluation: Json) -> str:
    style: Json = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, **style)
    environment.filters.update(hundredths=hundredths, percent=percent, points=points, count=count)
    source = (resources.files("flow") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    template = environment.from_string(source)
    routing = evaluation["routing"]
    passages, left_out = _passages(evaluation)
    return template.render(
        evaluation=evaluation,
        algorithm=config["algorithm"]["name"],
        cohort=config.get("cohort"),
        draws=sum(row["clients"] for row in metrics),
        last_round=metrics[-1]["round"],
        personalized=evaluation["personalized"],
        routed=routing is not None,
        groups={name: _group(name, evaluation) for name in GROUPS},
        facts=_facts(config, metrics, evaluation),
        loss_chart=_loss_chart(metrics),
        window=_smoothing(len(metrics)),
        lost=sum(not finite(row["loss"]) for row in metrics),
        sample=_history(metrics, evaluation)[-1][1],
        accuracy_chart=_accuracy_chart(metrics, evaluation),
        gain_charts=_gain_charts(evaluation) if evaluation["personalized"] else {},
        steps_chart=_steps_chart(routing) if routing else None,
        routing_chart=_routing_histogram(routing) if routing else None,
        passages=passages,
        left_out=left_out,
        coloured=any(text["local_weight"] is not None for text in evaluation["texts"]),
        bins=BINS,
        config_json=json.dumps(config, indent=2, ensure_ascii=False),
    )


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Write report.html into the run folder from its config.json, metrics.jsonl and evaluation.json; return its path.

    The file is written whole or not at all. ValueError when one of the three files is missing or damaged.
    """
    page = _page(_read_config(folder), _read_metrics(folder), _read_evaluation(folder))
    target, temporary = folder / "report.html", folder / f".report.html.{os.getpid()}.tmp"
    try:
        # A lone surrogate (JSON can carry one) has no UTF-8 form; it is shown as "?".
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
