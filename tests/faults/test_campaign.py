"""A little of every kind of the campaign that `make campaign` runs in full; and that it finds faults where there are some."""

import json
from pathlib import Path

import pytest
from counts import Counts, table
from forked import ROOT, Forked, python

PATHS = [str(Path(ROOT) / "tests" / name) for name in ("faults", "support", "")]
KINDS = ["kills", "damage", "forged", "options", "surroundings", "readers"]
BROKEN = {
    "kills": "from flow.storage import files; files.write = lambda path, content: path.open('wb').write(content) and None; "
    "import kills; counts = kills.campaign(29, (), 1)",
    "forged": "from flow.storage import files; files.unlike = lambda tensors, expected: ''; import forged; "
    "counts = forged.campaign(('adam',), 0.03)",
}
"""Programs that put a fault in, files written in place and tensors that nobody looks at, and try some of a kind."""


@pytest.mark.long
def test_a_little_of_the_campaign_finds_no_fault() -> None:
    path = str(Path(ROOT) / "tests" / "faults" / "campaign.py")
    process = Forked([path, "--kinds", *KINDS, "--small", "--json"], paths=PATHS)
    output, messages = process.communicate()
    assert output, messages
    for counts in (Counts(**content) for content in json.loads(output.splitlines()[-1])):
        assert counts.faults == []
        assert counts.tried == counts.refused + counts.accepted >= 5
    assert process.wait() == 0


@pytest.mark.slow  # `make campaign` runs it
@pytest.mark.parametrize("kind", BROKEN)
def test_faults_that_were_put_in_are_found(kind: str) -> None:
    ended = python(BROKEN[kind] + "; print(len(counts.faults), counts.tried)", paths=PATHS)
    assert ended.stdout, ended.stderr
    faults, tried = map(int, ended.stdout.splitlines()[-1].split())
    assert 0 < faults <= tried


def test_the_table_has_a_line_for_each_kind_and_the_sums() -> None:
    first, second = Counts("one"), Counts("another kind")
    for verdict in ("refused", "accepted", "a traceback"):
        first.add(verdict, "how")
    second.add("refused", "how")
    assert table([first, second]).splitlines() == [
        "kind             tried  refused clearly  accepted  faults",
        "one                  3                1         1       1",
        "another kind         1                1         0       0",
        "all                  4                2         1       1",
    ]
    assert first.faults == ["how: a traceback"]
