"""What is drawn over and coloured, by stream and environment."""

from __future__ import annotations

import io

import pytest

from flow.terminal.looks import is_coloured, is_drawn_over

VARIABLES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "CI")


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("environment", "terminal", "pipe", "drawn_over"),
    [
        ("", True, False, True),
        ("NO_COLOR=1", False, False, True),
        ("NO_COLOR=", True, False, True),
        ("FORCE_COLOR=1", True, True, True),
        ("FORCE_COLOR=0", True, False, True),
        ("CLICOLOR_FORCE=1", True, True, True),
        ("CLICOLOR=0", False, False, True),
        ("CLICOLOR=1", True, False, True),
        ("TERM=dumb", False, False, False),
        ("CI=true", False, False, False),
        ("CI=false", True, False, True),
        ("CI=true FORCE_COLOR=1", True, True, False),
        ("NO_COLOR=1 FORCE_COLOR=1", False, False, True),
        ("CLICOLOR=0 FORCE_COLOR=1", True, True, True),
    ],
)
def test_colours_and_bars(
    environment: str, terminal: bool, pipe: bool, drawn_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for setting in environment.split():
        monkeypatch.setenv(*setting.split("="))
    assert is_coloured(Stream(True)) == terminal
    assert is_coloured(Stream(False)) == pipe
    assert is_drawn_over(Stream(True)) == drawn_over
    assert not is_drawn_over(Stream(False))
