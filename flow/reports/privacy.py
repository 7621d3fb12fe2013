"""What a report says of differential privacy: epsilon, noise, and what the model was worth at every epsilon on the way."""

from markupsafe import Markup

from flow.evaluation.metrics import ACCURACY
from flow.evaluation.select import SIDES
from flow.reports.charts import MOST_DOTS
from flow.reports.drawing import Axis, Chart, Line, limits
from flow.reports.files import Json
from flow.reports.format import DASH, finite

MECHANISMS = {
    "gaussian": "Gaussian noise in every round, whose clients are drawn independently",
    "tree": "shuffled passes over the clients, and noise by a tree over the rounds of a pass",
}


def is_private(config: Json) -> bool:
    """Whether a run was private, by its config.json."""
    return "noise" in config


def facts(config: Json, rows: list[Json]) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) for the head of the page; empty for a run without privacy."""
    if not is_private(config):
        return []
    noise, spent = config["noise"], rows[-1].get("epsilon")
    value = f"epsilon {spent:.4g}" if finite(spent) else "no guarantee"
    return [("Privacy of a client", value, f"delta {noise['delta']:.2g}, noise {noise['noise']:.4g} times the clip")]


def section(config: Json, rows: list[Json], evaluation: Json) -> Json | None:
    """What the template's section on privacy needs; None for a run without it."""
    if not is_private(config):
        return None
    options, noise, last = config.get("privacy") or {}, config["noise"], rows[-1]
    adaptive = options.get("dp_quantile")
    return {
        "epsilon": f"{last['epsilon']:.4g}" if finite(last.get("epsilon")) else None,
        "asked": options.get("dp_epsilon"),
        "delta": f"{noise['delta']:.3g}",
        "noise": f"{noise['noise']:.4g}",
        "clip": f"{last['clip']:.4g}" if finite(last.get("clip")) else DASH,
        "quantile": adaptive,
        "mechanism": MECHANISMS.get(str(options.get("dp_mechanism")), DASH),
        "accountant": noise.get("accountant", DASH),
        "charts": frontier(rows, evaluation),
    }


def points(rows: list[Json], evaluation: Json) -> list[tuple[float, Json]]:
    """(epsilon so far, summaries of both sides) of the evaluations along the run; of the final one if there is no other."""
    along = [
        (row["epsilon"], row["evaluation"]) for row in rows if row["evaluation"] is not None and finite(row.get("epsilon"))
    ]
    last = rows[-1].get("epsilon")
    return along or ([(last, evaluation["summary"])] if finite(last) else [])


def frontier(rows: list[Json], evaluation: Json) -> dict[str, Markup]:
    """By title, pictures over the epsilon spent so far: the accuracy, and the clients helped and hurt."""
    known = points(rows, evaluation)
    if not known:
        return {}
    epsilons = Axis("epsilon spent so far", *limits([epsilon for epsilon, _ in known], 1e-6))
    charts: dict[str, Markup] = {}
    accuracy: list[Line] = []
    shares: list[Line] = []
    for side, words in SIDES.items():
        line = "dashed" if side == "seen" else "solid"
        dots = ("hollow" if side == "seen" else "full") if len(known) <= MOST_DOTS else ""
        keys = [ACCURACY.summary_key(model, "client") for model in ("personal", "global")]
        values = [
            (epsilon, next((own[side][key] for key in keys if finite(own[side].get(key))), None)) for epsilon, own in known
        ]
        if reached := [(epsilon, ACCURACY.scale * value) for epsilon, value in values if value is not None]:
            accuracy.append(Line(words.label, reached, "ink", line, dots))
        for share, colour in (("helped", "personal"), ("hurt", "global")):
            if own := [(epsilon, 100.0 * of[side][share]) for epsilon, of in known if finite(of[side].get(share))]:
                shares.append(Line(f"{share}, {words.label}", own, colour, line, dots))
    if accuracy:
        ends = limits([value for line in accuracy for _, value in line.points], ACCURACY.span)
        y = Axis(ACCURACY.axis_label(evaluation["classes"]), *ends, digits=ACCURACY.digits)
        about = "Accuracy on held-out text over the epsilon spent so far"
        charts["Accuracy over epsilon"] = Chart("privacy-accuracy", about, epsilons, y, accuracy, columns=2).svg()
    if shares:
        ends = limits([value for line in shares for _, value in line.points], 10.0)
        about = "Clients helped and hurt by personalization over the epsilon spent so far"
        y = Axis("clients (%)", *ends, digits=1)
        charts["Helped and hurt over epsilon"] = Chart("privacy-shares", about, epsilons, y, shares, columns=2).svg()
    return charts
