"""What the report of a run shows."""

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from report_cases import (
    SECTIONS,
    SMALL,
    Page,
    change,
    flow_folder_fixture,  # noqa: F401
    flow_page_fixture,  # noqa: F401
    folder_fixture,  # noqa: F401
    report,
    undrawn_fixture,  # noqa: F401
)
from report_folder import MESSAGES, VERSES, write_run_folder

from flow.reports.format import BYTES_IN_FULL, count, duration, points, scaled


def test_numbers_as_words() -> None:
    assert [points(x) for x in (0.0123, -0.0123, -0.00001, None)] == ["+1.23", "−1.23", "0.00", "–"]
    assert [scaled(x, BYTES_IN_FULL) for x in (0, 999, 1000, 999_600, 1_450_000, 3.48e10, 2e16)] == [
        "0 bytes",
        "999 bytes",
        "1.00 kB",
        "1.00 MB",
        "1.45 MB",
        "34.8 GB",
        "20000 TB",
    ]
    assert [duration(x) for x in (2.5, 300, 9000)] == ["2.5 s", "5 min", "2.5 h"]
    assert count(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert count(None) == "\N{EN DASH}"


def test_sections_in_order(flow_page: Page) -> None:
    assert [key for key in flow_page.text if key in SECTIONS] == SECTIONS
    assert all(flow_page.text_of(section) for section in SECTIONS)


def test_says_what_was_run(flow_page: Page) -> None:
    facts = flow_page.text_of("run")
    for fact in (
        "flow trained one shared model to predict the next character for 120 rounds, 20 clients a round",
        "180 seen clients, of the training pool, and 60 unseen clients, each on that client’s own held-out text",
        "local_epochs 1, local_lr 0.5, router.lr 0.1, gamma 0.001",
        "yogi",
        "server_lr 0.01",
        "package under the MIT licence",
        "embedding 8, hidden 128, layers 1",
        "cohort 20 clients a round, seed 0",
        "165 client-sequences per second",
        "3.48 GB up, 3.63 GB down",
        "1.45 MB up, 1.44 MB down",
        "torch 2.13.0",
    ):
        assert fact in facts


def test_table_holds_the_numbers_of_the_evaluation(flow_folder: pathlib.Path, flow_page: Page) -> None:
    evaluation = json.loads((flow_folder / "evaluation.json").read_text())
    groups = [evaluation["summary"][name] for name in ("seen", "unseen")]
    for row in ("global", "personal", "soft"):
        expected = [f"{100 * group[f'{row}_{kind}']:.2f}" for group in groups for kind in ("token", "client")]
        assert re.findall(r"\d+\.\d\d", flow_page.text_of(f"row-{row}")) == expected
    kinds = [(group, kind) for group in groups for kind in ("token", "client")]
    gains = [f"{100 * (group[f'personal_{kind}'] - group[f'global_{kind}']):+.2f}" for group, kind in kinds]
    assert re.findall(r"[+−]\d+\.\d\d", flow_page.text_of("row-gain")) == gains
    for share in ("helped", "hurt"):
        expected = [f"{100 * group[share]:.1f} %" for group in groups]
        assert re.findall(r"\d+\.\d %", flow_page.text_of(f"row-{share}")) == expected
    assert "2\N{NARROW NO-BREAK SPACE}400 draws were made" in flow_page.text["result"]
    assert flow_page.text_of("row-clients") == "Clients evaluated18060"
    assert flow_page.text_of("row-tokens").endswith("".join(f"{group['tokens']:,}".replace(",", " ") for group in groups))


@pytest.mark.usefixtures("undrawn")
def test_standard_error_of_the_gain(folder: pathlib.Path) -> None:
    """The errors printed beside the gains, against a jackknife over clients."""
    change(folder, lambda evaluation: evaluation["clients"].sort(key=lambda client: client["tokens"]))
    clients = [c for c in json.loads((folder / "evaluation.json").read_text())["clients"] if c["seen"]]
    tokens = np.array([client["tokens"] for client in clients])
    wins = np.array([client["personal_correct"] - client["global_correct"] for client in clients])
    n = len(clients)
    mean = np.std(wins / tokens, ddof=1) / np.sqrt(n)
    left_out = (wins.sum() - wins) / (tokens.sum() - tokens)
    jackknife = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    by_token, by_client = re.findall(r"± (\d\.\d\d)", report(folder).text_of("row-gain"))[:2]
    assert by_client == f"{100 * mean:.2f}"
    assert float(by_token) == pytest.approx(100 * jackknife, rel=0.25)  # a linearization and a jackknife agree to O(1/n)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("gain", "sign", "sentence"),
    [
        (0.02, "better", "Personalization helps"),
        (-0.02, "worse", "Personalization hurts"),
        (0.0, "unclear", "no clear"),
    ],
)
def test_verdict_follows_the_sign(tmp_path: pathlib.Path, gain: float, sign: str, sentence: str) -> None:
    page = report(write_run_folder(tmp_path, **(SMALL | {"seen": 100, "gain": gain, "seed": 3})))
    assert sentence in page.text_of("verdict-seen")
    assert f"big {sign}" in [values.get("class") for _, values in page.tags]


@pytest.mark.usefixtures("undrawn")
def test_one_client_is_no_statement_about_others(tmp_path: pathlib.Path) -> None:
    page = report(write_run_folder(tmp_path, **(SMALL | {"unseen": 1})))
    assert "no statement about others" in page.text_of("verdict-unseen")
    assert "±" not in page.text_of("verdict-unseen")


def test_charts_have_axes_with_units(flow_page: Page) -> None:
    svgs = [values.get("aria-label") for _, values in flow_page.tags if values.get("class") == "chart"]
    assert len(svgs) == 6
    assert all(svgs)
    for section, labels in {
        "learning": ["nats a token", "% of tokens right", "round", "personalized, unseen", "global, seen"],
        "clients": ["clients (%)", "gain of the client (percentage points)"],
        "routing": [
            "weight of the local expert, q",
            "time step (position in the sequence)",
            "10 to 90 %",
            "tokens (%)",
        ],
    }.items():
        for label in labels:
            assert label in flow_page.text[section]


def test_every_chart_is_explained(flow_page: Page) -> None:
    names = [tag for tag, _ in flow_page.tags]
    assert names.count("figcaption") == names.count("figure") == 6


def test_gain_histogram_counts_every_client(flow_page: Page) -> None:
    assert re.search(r"180 clients, median \+\d\.\d\d points", flow_page.text_of("clients"))
    assert re.search(r"60 clients, median \+\d\.\d\d points", flow_page.text_of("clients"))


@pytest.mark.usefixtures("undrawn")
def test_text_is_joined_by_unit(flow_page: Page, tmp_path: pathlib.Path) -> None:
    def passages(page: Page) -> list[str]:
        passages = re.findall(r'<div class="text"[^>]*>(.*?)</div>', page.source, flags=re.DOTALL)
        return [re.sub(r"<[^>]+>", "", text.replace("<br>", "\n")) for text in passages]

    assert passages(flow_page) == [verse.replace("\n", "↵\n") for verse in VERSES]
    words = report(write_run_folder(tmp_path, unit="word", **SMALL))
    expected = [message.replace("\n", "↵").replace("↵ ", "↵\n") for message in MESSAGES]
    assert [text.replace("&lt;", "<").replace("&gt;", ">") for text in passages(words)] == expected


@pytest.mark.usefixtures("undrawn")
def test_tokens_are_coloured_marked_and_explained(folder: pathlib.Path) -> None:
    def one_passage(evaluation: dict[str, Any]) -> None:
        text = {
            "client": "c",
            "group": "g",
            "seen": True,
            "tokens": list("abcd\n"),
            "local_weight": [0, 0.26, 0.5, 1, 0.9],
        }
        text |= {
            "global_correct": [True, False, True, False, True],
            "personal_correct": [True, True, False, False, True],
        }
        evaluation["texts"] = [text]

    change(folder, one_passage)
    assert report(folder).spans == [
        ("t q0", "q 0.00 · both right", "a"),
        ("t q5 op", "q 0.26 · only the personalized model is right", "b"),
        ("t q10 og", "q 0.50 · only the global model is right", "c"),
        ("t q19", "q 1.00 · both wrong", "d"),
        ("t q18 nl", "q 0.90 · both right", "↵"),
    ]


@pytest.mark.usefixtures("undrawn")
def test_long_texts_are_cut_with_a_word(folder: pathlib.Path) -> None:
    def many(evaluation: dict[str, Any]) -> None:
        evaluation["texts"] = evaluation["texts"] * 200

    change(folder, many)
    page = report(folder)
    assert len(page.source) < 1_000_000
    cards = sum(values.get("class") == "passage card" for _, values in page.tags)
    assert f"{600 - cards} more passages of the run are in evaluation.json" in page.text_of("texts")


def test_configuration_is_printed(flow_folder: pathlib.Path, flow_page: Page) -> None:
    assert json.loads(flow_page.text["config"]) == json.loads((flow_folder / "config.json").read_text())


def test_a_long_run_stays_small(tmp_path: pathlib.Path) -> None:
    assert len(report(write_run_folder(tmp_path, rounds=3000, every=20, seen=30, unseen=20)).source) < 1_500_000
