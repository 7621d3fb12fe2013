"""The command line."""

from pathlib import Path

SCRIPTS = Path(__file__).with_name("completions")
"""Where the scripts of `flow completion` lie."""
