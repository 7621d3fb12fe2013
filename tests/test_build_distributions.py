"""The two distributions of this tree: what their sdists and wheels hold, and which flow-kernels flow-fl asks for.

CMake and Ninja are stand-ins that write an empty module, since what they compile is no matter here; `make wheels` compiles."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

import flow
import flow_kernels

ROOT = Path(__file__).parents[1]
VERSION = flow.__version__
COPIED = ("flow", "flow_kernels", "csrc", "packaging", "tests", "benchmarks")
CMAKE = """\
#!/bin/sh
for argument; do
  case $argument in
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=*) out=${argument#*=} ;;
    -S) sources=next ;;
    *) [ "$sources" != next ] || sources=$argument ;;
  esac
done
[ -z "$out" ] || { [ -f "$sources/CMakeLists.txt" ] && mkdir -p "$out" && : > "$out/_C.so"; }
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without what was built in it, and the stand-ins beside it."""
    folder = tmp_path_factory.mktemp("distributions")
    for name in ("cmake", "ninja"):
        (folder / name).write_text(CMAKE if name == "cmake" else "#!/bin/sh\n")
        (folder / name).chmod(0o755)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "build")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / "tree")
    return folder / "tree"


def built(kind: str, place: Path, out: Path) -> Path:
    """The sdist or the wheel that setuptools makes of a folder, in this environment."""
    program = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    stand_ins = next(parent for parent in place.parents if (parent / "cmake").exists())
    ran = subprocess.run(
        [sys.executable, "-c", program, out],
        cwd=place,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"PATH": f"{stand_ins}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return out / ran.stdout.splitlines()[-1]


class Built(NamedTuple):
    """A distribution: its sdist, and the wheels of the tree and of the sdist alone."""

    sdist: set[str]
    wheel: set[str]
    of_sdist: set[str]
    about: Message
    about_of_sdist: Message


def read(wheel: Path) -> tuple[set[str], Message]:
    """The files of a wheel, and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return names, Parser().parsestr(archive.read(about).decode())


def distribution(place: Path, out: Path) -> Built:
    """Build all of a distribution; the sdist is unpacked far from the tree."""
    sdist, wheel = built("sdist", place, out), built("wheel", place, out / "of-the-tree")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    files, about = read(wheel)
    of_sdist, about_of_sdist = read(built("wheel", unpacked, out / "of-the-sdist"))
    return Built(names, files, of_sdist, about, about_of_sdist)


@pytest.fixture(scope="module")
def kernels(tree: Path) -> Built:
    return distribution(tree / "packaging" / "flow-kernels", tree.parent / "flow-kernels")


@pytest.fixture(scope="module")
def simulator(tree: Path) -> Built:
    return distribution(tree, tree.parent / "flow-fl")


def files(*patterns: str) -> set[str]:
    """The files of the repository that match, by their paths."""
    paths = (path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if path.suffix not in (".pyc", ".so")}


def packaged(names: set[str]) -> set[str]:
    """The files of a wheel without its metadata."""
    return {name for name in names if ".dist-info/" not in name}


def test_the_wheel_of_flow_kernels_is_the_package_and_its_extension(kernels: Built) -> None:
    assert "flow_kernels/py.typed" in kernels.wheel
    assert packaged(kernels.wheel) == files("flow_kernels/**/*") | {"flow_kernels/_C.so"}
    assert kernels.of_sdist == kernels.wheel
    assert kernels.about["Name"] == "flow-kernels" and kernels.about["Version"] == VERSION
    assert kernels.about.get_all("Requires-Dist") == [
        "torch>=2.11",
        'triton>=3.6; platform_system == "Linux" and extra == "gpu"',
    ]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in kernels.wheel)


def test_the_wheel_of_flow_fl_is_the_package_and_its_data(simulator: Built) -> None:
    assert packaged(simulator.wheel) == files("flow/**/*")
    wanted = {
        "flow/py.typed",
        "flow/data/shakespeare.json.xz",
        "flow/serving/static/page.js",
        "flow/reports/templates/report.html.j2",
    }
    assert wanted <= simulator.wheel
    assert simulator.of_sdist == simulator.wheel
    assert simulator.about["Name"] == "flow-fl" and simulator.about["Version"] == VERSION
    assert any(name.endswith("licenses/flow/data/shakespeare-licence.txt") for name in simulator.wheel)


def test_sdists_have_the_sources_and_no_tests(kernels: Built, simulator: Built) -> None:
    assert files("flow_kernels/**/*", "csrc/**/*", "CMakeLists.txt") <= kernels.sdist
    assert files("flow/**/*", "pyproject.toml", "setup.py", "LICENSE", "README.md") <= simulator.sdist
    for sdist in (kernels.sdist, simulator.sdist):
        assert not [name for name in sdist if name.startswith(("tests", "benchmarks")) or name.endswith((".so", ".pyc"))]


def test_a_release_needs_the_kernels_of_its_version_and_a_checkout_builds_its_own(simulator: Built, tree: Path) -> None:
    released, checkout = (
        [line for line in about.get_all("Requires-Dist", []) if line.startswith("flow-kernels")]
        for about in (simulator.about_of_sdist, simulator.about)
    )
    assert released == [f"flow-kernels=={VERSION}"]
    # `make` has installed them in editable mode, and then they stay
    origin = json.loads(metadata.distribution("flow-kernels").read_text("direct_url.json") or "{}")
    kept = origin.get("dir_info", {}).get("editable", False)
    assert checkout == (released if kept else [f"flow-kernels @ {(tree / 'packaging' / 'flow-kernels').as_uri()}"])
    others = [
        [line for line in about.get_all("Requires-Dist", []) if not line.startswith("flow-kernels")]
        for about in (simulator.about_of_sdist, simulator.about)
    ]
    assert others[0] == others[1] and "torch>=2.11" in others[0]


def test_versions_agree() -> None:
    assert flow.__version__ == flow_kernels.__version__
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0] == VERSION and len(set(headings)) == len(headings)


def test_both_distributions_have_one_licence() -> None:
    assert (ROOT / "packaging" / "flow-kernels" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
