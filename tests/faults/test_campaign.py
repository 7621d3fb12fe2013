"""A little of every kind of the campaign that `make campaign` runs in full; and that it finds faults where there are some."""

import json
from pathlib import Path

import pytest
from counts import Counts, table
from forked import ROOT, Forked, python

pytestmark = pytest.mark.slow  # minutes where the machine is busy; `make campaign` runs them after the campaign itself
PATHS = [str(Path(ROOT) / "tests" / name) for name in ("faults", "support", "")]
KINDS = ["kills", "damage", "forged", "options", "surroundings", "readers"]
BROKEN = {
    "kills": "from flow.storage import files; files.write = lambda path, content: path.open('wb').write(content) and None; "
    "import kills; found = kills.campaign(29, (), 1)",
    "forged": "from flow.storage import files; files.unlike = lambda tensors, expected: ''; import forged; "
    "found = forged.campaign(('adam',), 0.03)",
}
"""Programs that put a fault in, files written in place and tensors that nobody looks at, and try some of a kind."""


def campaign(*arguments):
    """The counts of kinds, from a process of its own."""
    path = str(Path(ROOT) / "tests" / "faults" / "campaign.py")
    process = Forked([path, *arguments], paths=PATHS)
    out, said = process.communicate()
    assert out, said
    return process.wait(), [Counts(**content) for content in json.loads(out.splitlines()[-1])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_little_of_the_campaign_finds_no_fault(kind):
    code, (found,) = campaign("--kinds", kind, "--small", "--json")
    assert found.faults == [] and code == 0
    assert found.tried == found.refused + found.accepted >= 5


@pytest.mark.parametrize("kind", BROKEN)
def test_faults_that_were_put_in_are_found(kind):
    ended = python(BROKEN[kind] + "; print(len(found.faults), found.tried)", paths=PATHS)
    assert ended.stdout, ended.stderr
    faults, tried = map(int, ended.stdout.splitlines()[-1].split())
    assert 0 < faults <= tried


def test_the_table_has_a_line_for_each_kind_and_the_sums():
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
