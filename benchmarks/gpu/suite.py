"""All tests but those that steps of their own run, on as many processes as are given:
`python -m benchmarks.gpu.suite FILE 14`. What needs a package that is not installed is left out by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu import checks
from benchmarks.gpu.sources import ROOT

# Files that need a package which a machine without a network may lack, by what says so in them.
NEEDS = {"tyro": ("flow.cli", '"-m", "flow"')} | {
    package: (f"\nimport {package}\n", f"\nfrom {package} ")
    for package in ("h5py", "msgpack", "pyarrow", "tokenizers", "pandas", "datasets")
}


def left_out(tests: Path, installed: Callable[[str], bool]) -> dict[str, str]:
    """Test files that cannot run here, and why."""
    reasons = {}
    for file in sorted(tests.rglob("test_*.py")):
        text = file.read_text()
        for package, signs in NEEDS.items():
            if any(sign in text for sign in signs) and not installed(package):
                reasons[str(file.relative_to(tests.parent))] = f"{package} is not installed"
    return reasons


def main(part: Path, processes: int) -> int:
    missing = left_out(ROOT / "tests", lambda name: importlib.util.find_spec(name) is not None)
    for file, why in missing.items():
        print(f"left out: {file}: {why}", flush=True)
    ignored = [f"--ignore={file}" for file in missing]
    return checks.run(part, processes, ["-m", "not gpu and not slow", "--continue-on-collection-errors", *ignored, "tests"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
