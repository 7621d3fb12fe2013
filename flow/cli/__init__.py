"""The command line."""

from pathlib import Path

SCRIPTS = Path(__file__).with_name("completions")
"""Where the scripts of `flow completion` lie."""


def script_of(shell: str) -> str | None:
    """The script by which a shell completes, as it is installed; None for a shell without one. zsh has lines of its own before
    the script of bash."""
    own = SCRIPTS / f"flow.{Path(shell).name}"
    if not own.is_file():
        return None
    text = own.read_text(encoding="utf-8")
    return text + (SCRIPTS / "flow.bash").read_text(encoding="utf-8") if own.suffix == ".zsh" else text
