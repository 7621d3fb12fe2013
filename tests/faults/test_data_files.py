"""Files that are not as they should be: a sample of `malformed.campaign`, and what tells that it would find a fault."""

import json
from pathlib import Path

import malformed
import pytest

from flow.data import jsonl
from flow.errors import UserError


def test_every_kind_of_malformed_file_is_refused_in_a_sentence_or_read_right() -> None:
    counts = malformed.campaign(len(malformed.KINDS), seed=1)
    assert not counts.faults, "\n".join(counts.faults)
    accepted = sum(table.accepted for table, _, _ in malformed.KINDS)
    assert counts == (len(malformed.KINDS), len(malformed.KINDS) - accepted, accepted, [])
    assert len({kind for _, kind, _ in malformed.KINDS}) >= 80


def test_equal_seeds_make_equal_files_and_other_seeds_others() -> None:
    first, again, other = (list(malformed.cases(40, seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert [case.kind for case in first] != [case.kind for case in other]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
        (UserError("something is wrong; change it"), "the error does not begin with data="),
        (UserError("{where}: two\nlines; change it"), "the error is no sentence with a remedy"),
        (UserError("{where}: no remedy"), "the error is no sentence with a remedy"),
        (UserError("{where} [Errno 13]; change it"), "the error is no sentence with a remedy"),
        (None, "accepted, with"),
    ],
)
def test_a_campaign_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None, message: str
) -> None:
    def check_file(path: Path) -> None:
        if error is not None:
            raise type(error)(str(error).replace("{where}", f"data={str(path)!r}"))

    monkeypatch.setenv("FLOW_CACHE", "")
    monkeypatch.setattr(jsonl, "check_file", check_file)
    line = json.dumps({"id": "a", "texts": ["b c", "d"], "split": "train"})
    case = malformed.Case("a good file", "good.jsonl", line.encode(), None, None)
    assert malformed.verdict(case, tmp_path).startswith(message)
    if error is None:
        assert malformed.verdict(case._replace(clients=[("a", "", False, 2)]), tmp_path) == "accepted"
        assert malformed.verdict(case._replace(clients=[("a", "", False, 3)]), tmp_path).startswith("the clients are [('a'")
        assert malformed.verdict(case._replace(content=b"{", line=2), tmp_path).startswith("the error does not begin with")
        refused = malformed.verdict(case._replace(content=b"{", clients=[]), tmp_path)
        assert refused.startswith("refused: data=")
