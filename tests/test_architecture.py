"""The structure that docs/architecture.md describes, read off the imports: rooms in their order, and arrows that must not be.

Every import counts, wherever it stands: at the top of a module, inside a function or for type checkers only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("flow", "flow_kernels")
FACES = {package: (package, f"{package}.__main__") for package in PACKAGES}  # what only passes names on


class Arrow(NamedTuple):
    """One import."""

    module: str
    imports: str

    def __str__(self) -> str:
        return f"{self.module} -> {self.imports}"


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages, by its name."""
    paths = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imported(module: str, source: str) -> Iterator[str]:
    """The modules of the packages that a module imports; a name that is no module counts as the module it comes from."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import in line {node.lineno}; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in modules():
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


@cache
def arrows() -> tuple[Arrow, ...]:
    """All imports between modules; a package passes on what lies in it, which is no arrow."""
    return tuple(
        Arrow(module, name)
        for module, path in modules().items()
        for name in dict.fromkeys(imported(module, path.read_text(encoding="utf-8")))
        if not name.startswith(module + ".")
    )


def rooms(package: str) -> dict[str, set[str]]:
    """The table of the page: every room of a package, from the bottom up, with the rooms that it may import."""
    table = PAGE.read_text(encoding="utf-8").split(f"<!-- rooms of {package} -->")[1].split("<!-- end -->")[0]
    allowed = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and (name := re.fullmatch(r"`(\w+)`", cells[0])):
            allowed[name[1]] = set(re.findall(r"`(\w+)`", cells[2]))
    assert allowed, f"docs/architecture.md has no table of rooms of {package}"
    return allowed


def room_of(module: str) -> str:
    """The folder or the single file right below the package; another package is one room."""
    return module.split(".")[1] if "." in module else module


def between_rooms(package: str) -> Iterator[tuple[Arrow, str, str]]:
    """Arrows that leave a room of a package, with both rooms."""
    for arrow in arrows():
        if arrow.module.split(".")[0] != package or arrow.module in FACES[package]:
            continue
        other = arrow.imports.split(".")[0]
        source, target = room_of(arrow.module), other if other != package else room_of(arrow.imports)
        if source != target:
            yield arrow, source, target


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_names_every_room(package: str) -> None:
    here = {room_of(module) for module in modules() if module.split(".")[0] == package and module not in FACES[package]}
    assert set(rooms(package)) == here


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_runs_the_wrong_way(package: str) -> None:
    order = list(rooms(package))
    wrong = [
        f"{arrow}: {source} stands below {target} in docs/architecture.md and may not import it"
        for arrow, source, target in between_rooms(package)
        if target in order and order.index(target) > order.index(source)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_arrows_are_those_of_the_page(package: str) -> None:
    drawn = {(source, target) for source, all_of_them in rooms(package).items() for target in all_of_them}
    real: dict[tuple[str, str], list[str]] = {}
    for arrow, source, target in between_rooms(package):
        real.setdefault((source, target), []).append(str(arrow))
    new = [
        f"{source} -> {target} is not in docs/architecture.md: {real[source, target][0]}"
        for source, target in set(real) - drawn
    ]
    gone = [f"{source} -> {target} is in docs/architecture.md and in no module" for source, target in drawn - set(real)]
    assert not new + gone, "\n".join(sorted(new + gone))


def test_nothing_imports_itself_by_way_of_others() -> None:
    """Strongly connected modules, by Tarjan's algorithm."""
    after: dict[str, list[str]] = {module: [] for module in modules()}
    for arrow in arrows():
        after[arrow.module].append(arrow.imports)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    knots: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in after[module]:
            if other not in number:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            knot = [stack.pop()]
            while knot[-1] != module:
                knot.append(stack.pop())
            if len(knot) > 1:
                knots.append(sorted(knot))

    for module in after:
        if module not in number:
            visit(module)
    assert not knots, "\n".join(" -> ".join((*knot, knot[0])) for knot in knots)


FORBIDDEN = {
    "the kernels know the federated loop": (r"flow_kernels\..*|flow_kernels", r"flow(\..*)?"),
    "an algorithm knows another one": (
        r"flow\.algorithms\.(?!registry|shared)\w+",
        r"flow\.algorithms\.(?!interface|shared)\w+",
    ),
    "an algorithm knows a data source or the command line": (r"flow\.algorithms\..*", r"flow\.(data|cli)(\..*)?"),
    "the loop knows an algorithm by name": (r"flow\.(engine|simulation|evaluation)\..*", r"flow\.algorithms\.\w+"),
    "the federated loop knows a private kernel": (r"flow\..*", r"flow_kernels\.backends(\..*)?"),
    "a report knows what made it": (r"flow\.reports\..*", r"flow\.(algorithms|engine|simulation|comparison|cli)(\..*)?"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_arrows_that_must_never_be(what: str) -> None:
    start, end = (re.compile(pattern) for pattern in FORBIDDEN[what])
    assert any(start.fullmatch(module) for module in modules()) and any(end.fullmatch(module) for module in modules())
    wrong = [str(arrow) for arrow in arrows() if start.fullmatch(arrow.module) and end.fullmatch(arrow.imports)]
    assert not wrong, f"{what}: {', '.join(wrong)}"


def test_the_kernels_in_cpp_know_neither_python_nor_torch() -> None:
    """Bindings alone include pybind11; torch's headers nobody does."""
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            headers = re.findall(r"#include\s*[<\"]([^>\"]+)", path.read_text(encoding="utf-8"))
            python = [header for header in headers if header.startswith(("pybind11", "Python"))]
            assert not [header for header in headers if re.match(r"torch|ATen|c10", header)], path
            assert not python or path.parent.name in ("csrc", "bindings") or path.name == "bindings.cpp", f"{path}: {python}"


def test_few_modules_lie_flat() -> None:
    flat = sorted(path.name for path in (ROOT / "flow").glob("*.py"))
    assert len(flat) <= 11, flat


def test_an_arrow_the_wrong_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks see what is meant to be seen: an import of a lower room, inside a function."""
    hidden = "def f():\n    from flow.comparison import run\n"
    assert list(imported("flow.training.sgd", hidden)) == ["flow.comparison.run"]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flow.cli.main\n"
    assert list(imported("flow.training.sgd", typed)) == ["flow.cli.main"]
    more = (*arrows(), Arrow("flow.training.sgd", "flow.comparison.run"), Arrow("flow.comparison.run", "flow.training.sgd"))
    monkeypatch.setitem(globals(), "arrows", lambda: more)
    with pytest.raises(AssertionError, match=r"flow\.training\.sgd -> flow\.comparison\.run: training stands below comparison"):
        test_no_arrow_runs_the_wrong_way("flow")
    with pytest.raises(AssertionError, match=r"training -> comparison is not in docs/architecture\.md"):
        test_the_arrows_are_those_of_the_page("flow")
    with pytest.raises(AssertionError, match=r"flow\.training\.sgd"):
        test_nothing_imports_itself_by_way_of_others()
