"""Reports of hostile text and of damaged folders."""

import base64
import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import forked
import pytest
from report_cases import (
    Page,
    change,
    flow_folder_fixture,  # noqa: F401
    flow_page_fixture,  # noqa: F401
    folder_fixture,  # noqa: F401
    report,
    undrawn_fixture,  # noqa: F401
)

from flow.reports.data_page import write_page as write_data_page
from flow.reports.run_page import write_report

# ---- safety ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_untrusted_strings_are_escaped(folder: pathlib.Path) -> None:
    attack = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"' {{ 7 * 7 }}"

    def poison(evaluation: dict[str, Any]) -> None:
        evaluation["dataset"] = evaluation["about"] = attack
        evaluation["texts"][0] |= {"client": attack, "group": attack + "g"}
        evaluation["texts"][0]["tokens"][:3] = [attack, "\x07", "\ud800"]
        evaluation["texts"][0]["personal_predicted"][:3] = [attack, None, "\ud800"]
        evaluation["clients"][0] |= {"id": attack, "group": "<!--<script>"}

    change(folder, poison)
    change(folder, lambda config: config.update(note=attack), "config.json")
    page = report(folder)
    scripts = [values for tag, values in page.tags if tag == "script"]
    assert scripts == [{}, {"type": "application/json", "id": "clients-data"}]
    assert "img" not in {tag for tag, _ in page.tags}
    data = json.loads(page.text["clients-data"])
    assert attack in data["name"] and "<!--<script>" in data["groups"] and "<" not in page.text["clients-data"]
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert page.spans[0][2] == attack
    assert page.spans[1][2] == "\N{SYMBOL FOR BELL}"
    assert attack in page.text["run"]
    assert attack in page.text["texts"]
    assert json.loads(page.text["config"])["note"] == attack


def test_nothing_is_fetched(flow_page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|(?<![a-z])url\((?!#)", flow_page.source, flags=re.IGNORECASE)
    for tag, values in flow_page.tags:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"} or (tag, values.get("role")) == ("form", "search")
        assert "style" not in values, "the policy forbids it"
        assert "src" not in values
        assert (values.get("href") or "#").startswith("#")


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_lets_nothing_in_but_the_own_script_and_style(flow_page: Page, tmp_path: pathlib.Path) -> None:
    write_data_page(tmp_path / "data.html", "mine", [("clients", "3")], [("c1", "a text")])
    for source in (flow_page.source, (tmp_path / "data.html").read_text(encoding="utf-8")):
        page = Page(source)
        policies = [values["content"] for _, values in page.tags if values.get("http-equiv") == "Content-Security-Policy"]
        (style,), (script,) = (re.findall(f"<{tag}>(.*?)</{tag}>", source, flags=re.DOTALL) for tag in ("style", "script"))
        assert policies == [
            f"default-src 'none'; script-src {hash_of(script)}; style-src {hash_of(style)}; img-src data:; base-uri 'none'; "
            "form-action 'none'"
        ]
        assert source.index("Content-Security-Policy") < source.index("<style>") < source.index("<script>")
        assert not re.search(r"\beval\b|new Function|innerHTML|document\.write|setTimeout\(['\"]", script)


def test_the_script_is_short(flow_page: Page) -> None:
    (script,) = re.findall("<script>(.*?)</script>", flow_page.source, flags=re.DOTALL)
    assert script.count("\n") < 400 and len(script) < 25_000


def test_references_inside_the_drawings_resolve(flow_page: Page) -> None:
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', flow_page.source))
    assert wanted
    assert wanted <= flow_page.text.keys()


def test_every_colour_of_a_chart_follows_the_theme(flow_page: Page) -> None:
    drawings = re.findall(r"<svg.*?</svg>", flow_page.source, flags=re.DOTALL)
    assert not re.findall(r"(?:fill|stroke|style)=", "".join(drawings))
    style = flow_page.source.split("</style>")[0]
    classes = set(re.findall(r"\bc-(\w+)", "".join(drawings)))
    assert {"ink", "global", "personal", "same", "q0", "q19"} <= classes
    for name in classes:
        assert f".c-{name} {{ --c: var(--{name}); }}" in style and f"--{name}:" in style


def test_same_folder_same_bytes(folder: pathlib.Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_matplotlib_is_not_needed(folder: pathlib.Path) -> None:
    lines = [
        "import pathlib, sys, flow.reports.run_page",
        "flow.reports.run_page.write_report(pathlib.Path(sys.argv[1]))",
        "assert 'matplotlib' not in sys.modules",
    ]
    done = forked.python("\n".join(lines), str(folder))
    assert not done.returncode, done.stderr


# ---- damaged folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluation.json"])
def test_missing_or_cut_file(folder: pathlib.Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content, reason in ((None, "missing"), (whole[: len(whole) * 2 // 3], "not valid JSON"), (b"\xff{}", "UTF-8")):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=reason) as caught:
            write_report(folder)
        assert str(caught.value).startswith(str(folder / name))
        assert f"flow run --resume {folder}" in str(caught.value)
        assert not list(folder.glob("*report*"))
        assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda e: e.pop("summary"), "evaluation has no 'summary'"),
        (lambda e: e["summary"]["seen"].pop("helped"), "evaluation.summary.seen has no 'helped'"),
        (
            lambda e: e["summary"]["seen"].update(tokens="many"),
            r"evaluation.summary.seen.tokens is 'many', expected int",
        ),
        (lambda e: e.update(round=True), "evaluation.round is True, expected int"),
        (lambda e: e["clients"][1].update(seen=None), r"evaluation.clients\[1\].seen is None, expected bool"),
        (lambda e: e.update(texts={}), "evaluation.texts is dict, expected a list"),
        (lambda e: e.update(routing=[]), "evaluation.routing is .*, expected dict or null"),
        (lambda e: e["texts"][0]["tokens"].pop(), r"global_correct has \d+ entries for \d+ tokens"),
        (lambda e: e["texts"][0]["local_weight"].__setitem__(0, 1.5), r"local_weight holds 1.5, not in 0..1"),
        (lambda e: e["routing"]["steps"][2]["quantiles"].pop(), r"steps\[2\].quantiles has 4 entries, expected 5"),
        (lambda e: e["routing"]["histogram"]["counts"].pop(), "histogram has 19 counts and 21 edges"),
    ],
)
def test_damaged_evaluation(folder: pathlib.Path, edit: Callable[[dict[str, Any]], None], reason: str) -> None:
    change(folder, edit)
    with pytest.raises(ValueError, match=reason):
        write_report(folder)


def test_damaged_metrics(folder: pathlib.Path) -> None:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    without_loss = json.dumps({key: value for key, value in json.loads(lines[0]).items() if key != "loss"})
    for content, reason in (
        ([], "holds no round"),
        ([lines[0], lines[2], lines[1]], "line 3 is round 2 after round 3"),
        ([lines[0], without_loss], "line 2 has no 'loss'"),
        ([lines[0], "", lines[1]], "line 2 is not valid JSON"),
    ):
        path.write_text("\n".join(content) + "\n")
        with pytest.raises(ValueError, match=reason):
            write_report(folder)


@pytest.mark.usefixtures("undrawn")
def test_an_old_report_survives_a_failure(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(folder).read_bytes()
    change(folder, lambda evaluation: evaluation.update(dataset="other"))

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "evaluation.json",
        "metrics.jsonl",
        "report.html",
    ]
