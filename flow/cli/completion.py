"""``flow completion``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from flow.cli.command import Command, Form, parsed
from flow.cli.completing import stored
from flow.parallel.processes import Ranks


@dataclass(frozen=True)
class Completion:
    """Print the script by which a shell completes commands, options and names of algorithms. In ~/.bashrc or ~/.zshrc the line
    `source <(flow completion bash)`, or zsh in the place of bash; in fish `flow completion fish | source`."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Of the script."""


def _completion(arguments: list[str], ranks: Ranks) -> None:
    chosen: Completion = parsed(FORM, arguments)
    print(stored(chosen.shell), end="")


FORM = Form(Completion, "flow completion")
USAGE = "  completion SHELL    print the script by which bash, zsh or fish completes the command line\n"
COMMAND = Command("completion", USAGE, _completion, lambda: {"": FORM})
