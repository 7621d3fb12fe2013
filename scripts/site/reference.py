"""Reference pages made of the code: the public names of the packages, the options of the algorithms, and every `--help`."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import flow
import flow_kernels
from flow import building_blocks
from flow.algorithms import REGISTRY
from flow.cli.main import COMMANDS, main

WIDTH = 100
"""Columns of a terminal in which the help is written."""
FLOW: Mapping[str, Sequence[str]] = {
    "Running": (
        "simulate",
        "resume",
        "Result",
        "Config",
        "ModelOptions",
        "ScheduleOptions",
        "PrivacyOptions",
        "TorchModel",
        "preset",
    ),
    "Data": ("Population",),
    "Comparing": ("compare", "resume_comparison", "Comparison", "SharedOptions"),
    "One client's own model": ("adapt", "load", "PersonalModel"),
    "Code of your own": ("register", "register_metric", "Metric", "Callback"),
    "Errors and the version": ("UserError", "Diverged", "__version__"),
}
"""Every name of flow.__all__, by purpose."""
BESIDE = ("flow.data.DataOptions", "flow.server.options.ServerOptions")
"""What the fields of a configuration are made of and flow itself does not pass on."""
KERNELS: Mapping[str, Sequence[str]] = {
    "Layers": ("RoutedGRU", "GRU"),
    "Cells": ("RoutedGRUCell", "GRUCell"),
    "Functions": ("routed_gru", "backends", "instruction_sets", "explain"),
    "The version": ("__version__",),
}
"""Every name of flow_kernels.__all__, by purpose."""


def pages() -> dict[str, str]:
    """The Markdown of every reference page, by its path on the site."""
    return {
        "reference/flow.md": _of_package(
            "flow", FLOW, "What `import flow` offers.", {"Data": BESIDE[:1], "Running": BESIDE[1:]}
        ),
        "reference/building-blocks.md": _building_blocks(),
        "reference/flow-kernels.md": _of_package("flow_kernels", KERNELS, "What `import flow_kernels` offers.", {}),
        "reference/algorithms.md": _algorithms(),
        "reference/command-line.md": _command_line(),
    }


def documented() -> dict[str, str]:
    """By name, the path under which the reference has an object; names alone where they are not in doubt."""
    paths = [f"{package.__name__}.{name}" for package in (flow, flow_kernels, building_blocks) for name in package.__all__]
    paths += BESIDE
    names: dict[str, str] = {}
    for path in paths:
        names[path] = path
        names.setdefault(path.rpartition(".")[2], path)
    return names


def _of_package(name: str, groups: Mapping[str, Sequence[str]], about: str, beside: Mapping[str, Sequence[str]]) -> str:
    lines = [f"# {name}", "", about, ""]
    for title, members in groups.items():
        lines += [f"## {title}", ""]
        for path in (*(f"{name}.{member}" for member in members), *beside.get(title, ())):
            lines += [directive(path), ""]
    return "\n".join(lines)


def _building_blocks() -> str:
    lines = ["# flow.building_blocks", "", directive("flow.building_blocks", members=False, heading=False), ""]
    for name in building_blocks.__all__:
        if name not in flow.__all__:  # has its place already
            lines += [directive(f"flow.building_blocks.{name}", level=2), ""]
    return "\n".join(lines)


def _algorithms() -> str:
    lines = [
        "# Options of the algorithms",
        "",
        "Every algorithm has a class of options. On the command line a field `inner_lr` is the option `--inner-lr`. In",
        "Python it is an argument of the class. What the algorithms compute is in [Algorithms](../algorithms.md).",
        "",
    ]
    for name, algorithm in REGISTRY.items():
        options = algorithm.options
        path = f"{options.__module__}.{options.__qualname__}"
        lines += [f"## {name}", "", algorithm.about, "", f"The options are `{path}`.", ""]
        lines += ["| field | default |", "| --- | --- |"]
        lines += [f"| `{field.name}` | `{getattr(options(), field.name)!r}` |" for field in fields(options)]
        lines += [""]
    return "\n".join(lines)


def _command_line() -> str:
    lines = ["# The command line", "", "This is the help that every command prints.", "", "## flow", "", _text(help_of([])), ""]
    for name in COMMANDS:
        lines += [f"## flow {name}", "", _text(help_of([name])), ""]
    return "\n".join(lines)


def help_of(command: Sequence[str]) -> str:
    """What `flow COMMAND --help` prints, without colours, in lines of WIDTH columns."""
    output = io.StringIO()
    with _terminal(), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """A terminal of WIDTH columns that has no colours."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR", "TERM")}
    os.environ.update({"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _text(text: str) -> str:
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    return "\n".join(("```text", *lines, "```"))


def directive(path: str, *, level: int = 3, members: bool = True, heading: bool = True) -> str:
    """The line that has mkdocstrings write what an object's docstring says."""
    options = [f"heading_level: {level}"]
    if not members:
        options.append("members: false")
    if not heading:
        options.append("show_root_heading: false")
    return "\n".join((f"::: {path}", "    options:", *(f"      {option}" for option in options)))
