"""Reports of runs that lack something: a router, personalization, clients, rounds."""

import json
import pathlib
import re

import pytest
from report_cases import (
    SMALL,
    change,
    charts,
    folder_fixture,  # noqa: F401
    report,
    undrawn_fixture,  # noqa: F401
)
from report_folder import write_run_folder


def test_fedavg_lacks_what_does_not_exist(tmp_path: pathlib.Path) -> None:
    page = report(write_run_folder(tmp_path, algorithm="fedavg", **SMALL))
    assert "fedavg does not personalize" in page.text_of("run")
    assert "There is no gain to show" in page.text_of("clients")
    assert "fedavg has no router" in page.text_of("routing")
    assert "row-global" in page.text
    assert not {"row-personal", "row-soft", "row-gain", "row-helped", "row-hurt"} & page.text.keys()
    assert "personalized, seen" not in page.text["learning"]
    assert charts(page) == 2
    assert {classes for classes, _, _ in page.spans} == {"t", "t ok", "t nl", "t ok nl"}
    assert {tip.split("\n")[0] for _, tip, _ in page.spans} == {"right", "wrong"}
    assert all(tip.count("\n") == 1 and "\npredicted: " in tip for _, tip, _ in page.spans)


@pytest.mark.usefixtures("undrawn")
def test_fedavg_with_repeated_personal_numbers_is_still_not_personalized(tmp_path: pathlib.Path) -> None:
    folder = write_run_folder(tmp_path, algorithm="fedavgft", **SMALL)
    change(folder, lambda evaluation: evaluation.update(personalized=False))
    page = report(folder)
    assert "row-gain" not in page.text
    assert {tip.split("\n")[0] for _, tip, _ in page.spans} == {"right", "wrong"}


def test_fine_tuning_has_a_gain_and_no_routing(tmp_path: pathlib.Path) -> None:
    page = report(write_run_folder(tmp_path, algorithm="fedavgft", **SMALL))
    assert "personalizes without a router" in page.text_of("run")
    assert "Personalized, hard" not in page.text_of("result")
    assert {"row-personal", "row-gain"} <= page.text.keys()
    assert "row-soft" not in page.text
    assert charts(page) == 4
    assert any("op" in classes for classes, _, _ in page.spans)
    assert not any(re.search(r"\bq\d", classes) for classes, _, _ in page.spans)


def test_no_unseen_client(tmp_path: pathlib.Path) -> None:
    page = report(write_run_folder(tmp_path, **(SMALL | {"unseen": 0})))
    assert "No such client was evaluated" in page.text_of("verdict-unseen")
    assert page.text_of("row-global").endswith("––")
    assert "No client of this kind was evaluated" in page.text_of("clients")
    assert charts(page) == 5


@pytest.mark.usefixtures("undrawn")
def test_curves_of_fewer_clients_than_the_table_say_so(folder: pathlib.Path) -> None:
    assert "Measured on" not in report(folder).text_of("learning")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["evaluation"]["seen"]["clients"] = 7
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert "Measured on 7 seen and 5 unseen clients, the table on 12 and 5: the ends" in report(folder).text_of("learning")


def test_one_round_without_evaluation(tmp_path: pathlib.Path) -> None:
    page = report(write_run_folder(tmp_path, rounds=1, every=0, seen=3, unseen=3))
    assert "for 1 round, 20 clients" in page.text_of("run")
    assert "global, seen" in page.text["learning"]  # the final evaluation is the one point


@pytest.mark.usefixtures("undrawn")
def test_missing_and_infinite_losses_leave_gaps(folder: pathlib.Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["loss"], rows[2]["loss"], rows[3]["sequences_per_second"] = None, float("nan"), None
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert "In 2 of the rounds the loss is missing or not finite" in report(folder).text_of("learning")


@pytest.mark.usefixtures("undrawn")
def test_older_evaluation_is_pointed_out(folder: pathlib.Path) -> None:
    change(folder, lambda evaluation: evaluation.update(round=4))
    assert "evaluation is of round 4, but the metrics reach round 6" in report(folder).text_of("run")
