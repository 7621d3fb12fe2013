"""What a report reads: the files of a run folder, checked field by field before anything is drawn from them."""

import json
import pathlib
from types import NoneType
from typing import Any

from flow.errors import UserError
from flow.evaluation.metrics import ACCURACY, AVERAGES
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.evaluation.summaries import BINS, QUANTILES
from flow.storage.files import RUN, WRONG_CHECKSUM, intact
from flow.storage.run_folder import identity

Json = dict[str, Any]

# A schema is a tuple of types, a list with the schema of every element, or a dict of required keys and their schemas.
_BOOL, _INTEGER, _TEXT, _NUMBER, _MAYBE = (bool,), (int,), (str,), (int, float), (int, float, NoneType)


def _keys(names: str, schema: object) -> Json:
    return dict.fromkeys(names.split(), schema)


_FIRST = [ACCURACY.summary_key(model, average) for model in ("global", "personal") for average in AVERAGES]  # of every build
_SUMMARY = _keys("clients skipped tokens", _INTEGER) | dict.fromkeys([*_FIRST, "helped", "hurt"], _MAYBE)
_SIDES = dict.fromkeys(SIDES, _SUMMARY)
_CONFIG = {"algorithm": {"name": _TEXT}}
_ROUND = _keys("round clients skipped", _INTEGER) | _keys("seconds upload_bytes download_bytes", _NUMBER)
_ROUND |= _keys("loss sequences_per_second", _MAYBE) | {"evaluation": (dict, NoneType)}
_CALIBRATION = {"error": _NUMBER, "tokens": [_INTEGER], "probability": [_MAYBE], "accuracy": [_MAYBE]}
_CLIENT: Json = {"id": _TEXT, "seen": _BOOL, "tokens": _INTEGER}
_CLIENT |= {ACCURACY.client_key(model): _MAYBE for model in ("global", "personal")}
_PASSAGE: Json = {
    "client": _TEXT,
    "group": (str, NoneType),
    "seen": _BOOL,
    "tokens": [_TEXT],
}
_PASSAGE |= _keys("global_correct personal_correct local_weight", (list, NoneType))
_LATER = ("global_predicted", "personal_predicted")  # of a passage; older builds did not store them
_EVALUATION = _keys("unit dataset about", _TEXT) | {"round": _INTEGER, "personalized": _BOOL, "summary": _SIDES}
_EVALUATION |= {"clients": [_CLIENT], "texts": [_PASSAGE], "routing": (dict, NoneType)}
_STEPS = [{"step": _INTEGER, "tokens": _INTEGER, "quantiles": [_MAYBE]}]
_ROUTING = {"steps": _STEPS, "histogram": {"edges": [_NUMBER], "counts": [_NUMBER]}}


def _problem(path: pathlib.Path, what: str) -> UserError:
    return UserError(f"{path}: {what}. Complete the run with `flow run --resume {path.parent}`, then write the report again.")


def _expect(path: pathlib.Path, value: object, schema: object, where: str) -> None:
    """Raise UserError, naming the place, unless `value` fits `schema`."""
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


def _complete(path: pathlib.Path, summaries: Json, where: str) -> None:
    """Put null where a run that is older than a metric says nothing of it."""
    for side in SIDES:
        for metric in all_metrics():
            for key in metric.summary_keys():
                _expect(path, summaries[side].setdefault(key, None), _MAYBE, f"{where}.{side}.{key}")


def _text_of(path: pathlib.Path) -> str:
    if not path.is_file():
        raise _problem(path, "the file is missing; the run has not got that far or the folder is not a run folder")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _problem(path, f"not UTF-8 text ({error})") from error


def _parsed(path: pathlib.Path, text: str, where: str) -> Any:
    try:
        content = json.loads(text)
        whole = intact(content)
    except (ValueError, RecursionError) as error:
        raise _problem(path, f"{where} is not valid JSON ({error})") from error
    if not whole:
        raise _problem(path, f"{where} is damaged or changed, {WRONG_CHECKSUM}")
    return content


def _check_run(path: pathlib.Path, contents: dict[str, Json]) -> None:
    """Hold rows or results, by their place in the file, against config.json; those of older builds say nothing of their run."""
    runs = {where: content[RUN] for where, content in contents.items() if RUN in content}
    run = identity(read_config(path.parent)) if runs else None
    for where, own in runs.items():
        if own != run:
            raise _problem(path, f"{where} belongs to another run than config.json")


def read_config(folder: pathlib.Path) -> Json:
    path = folder / "config.json"
    config: Json = _parsed(path, _text_of(path), "the file")
    _expect(path, config, _CONFIG, "config")
    if "noise" in config:
        _expect(path, config, {"noise": {"noise": _NUMBER, "delta": _NUMBER}}, "config")
    return config


def read_metrics(folder: pathlib.Path) -> list[Json]:
    path = folder / "metrics.jsonl"
    text = _text_of(path)
    if not text.strip():
        raise _problem(path, "the file holds no round")
    rows: list[Json] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        where = f"line {number}"
        row = _parsed(path, line, where)
        _expect(path, row, _ROUND, where)
        _expect(path, row, {name: _NUMBER for name in ("lr", "server_lr", "clip") if name in row}, where)  # of some runs
        _expect(path, row, {name: _MAYBE for name in ("epsilon",) if name in row}, where)
        if row["evaluation"] is not None:
            _expect(path, row["evaluation"], _SIDES, f"{where}.evaluation")
            _complete(path, row["evaluation"], f"{where}.evaluation")
        if rows and row["round"] <= rows[-1]["round"]:
            wrong = f"round {row['round']} after round {rows[-1]['round']}"
            raise _problem(path, f"{where} is {wrong}, rounds must increase")
        rows.append(row)
    _check_run(path, {f"line {number}": row for number, row in enumerate(rows, start=1)})
    return rows


def read_evaluation(folder: pathlib.Path) -> Json:
    path = folder / "evaluation.json"
    evaluation: Json = _parsed(path, _text_of(path), "the file")
    _expect(path, evaluation, _EVALUATION, "evaluation")
    _check_run(path, {"the file": evaluation})
    if RUN in evaluation and evaluation["round"] != (rounds := read_config(folder)["rounds"]):
        raise _problem(path, f"the file was made after round {evaluation['round']} of a run that has {rounds}")
    _complete(path, evaluation["summary"], "evaluation.summary")
    for key in ("validation_clients", "classes"):  # of which older builds say nothing
        _expect(path, evaluation.setdefault(key, 0), _INTEGER, f"evaluation.{key}")
    for side, own in _calibration(path, evaluation).items():
        if own is not None:
            _expect(path, own, _CALIBRATION, f"evaluation.calibration.{side}")
    for index, client in enumerate(evaluation["clients"]):
        for key, schema in (("group", (str, NoneType)), ("local_weight", _MAYBE)):
            _expect(path, client.setdefault(key, None), schema, f"evaluation.clients[{index}].{key}")
    columns: tuple[tuple[str, object], ...] = (
        ("global_correct", _BOOL),
        ("personal_correct", _BOOL),
        ("local_weight", _NUMBER),
        *((key, (str, NoneType)) for key in _LATER),
    )
    for index, text in enumerate(evaluation["texts"]):
        for key in _LATER:
            _expect(path, text.setdefault(key, None), (list, NoneType), f"evaluation.texts[{index}].{key}")
        for key, inner in columns:
            where, values = f"evaluation.texts[{index}].{key}", text[key]
            if values is not None:
                _expect(path, values, [inner], where)
                if len(values) != len(text["tokens"]):
                    raise _problem(path, f"{where} has {len(values)} entries for {len(text['tokens'])} tokens")
        outside = [weight for weight in text["local_weight"] or [] if not 0 <= weight <= 1]
        if outside:
            raise _problem(path, f"evaluation.texts[{index}].local_weight holds {outside[0]!r}, not in 0..1")
    if evaluation["routing"] is not None:
        _expect(path, evaluation["routing"], _ROUTING, "evaluation.routing")
        for index, step in enumerate(evaluation["routing"]["steps"]):
            if len(step["quantiles"]) != len(QUANTILES):
                entries = f"{len(step['quantiles'])} entries, expected {len(QUANTILES)}"
                raise _problem(path, f"evaluation.routing.steps[{index}].quantiles has {entries}")
        histogram = evaluation["routing"]["histogram"]
        if len(histogram["counts"]) != BINS or len(histogram["edges"]) != BINS + 1:
            sizes = f"{len(histogram['counts'])} counts and {len(histogram['edges'])} edges"
            raise _problem(path, f"evaluation.routing.histogram has {sizes}, expected {BINS} and {BINS + 1}")
    return evaluation


def _calibration(path: pathlib.Path, evaluation: Json) -> Json:
    """By side; a run that is older than this measurement has none."""
    own: Json = evaluation.setdefault("calibration", dict.fromkeys(SIDES))
    _expect(path, own, dict.fromkeys(SIDES, (dict, NoneType)), "evaluation.calibration")
    return own


def gains(clients: list[Json], seen: bool) -> list[tuple[float, int]]:
    """(personal - global accuracy, scored tokens) of every client of one side that has scored tokens."""
    result = []
    for client in clients:
        personal, base = client[ACCURACY.client_key("personal")], client[ACCURACY.client_key("global")]
        if client["seen"] is seen and client["tokens"] > 0 and personal is not None and base is not None:
            difference = personal - base
            result.append((difference / client["tokens"], client["tokens"]))
    return result
