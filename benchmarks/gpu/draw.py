"""Tables and, where matplotlib is installed, pictures: `python -m benchmarks.gpu.draw gpu.json [MORE.json ...] FOLDER`

Results of several runs on one machine become one, later steps in the place of earlier ones, written to FOLDER/gpu.json.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import tables
from benchmarks.gpu.files import write
from benchmarks.gpu.session import SAME


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several runs as those of one.

    Raises:
        SystemExit: they are not known to be of one kind of GPU with one set of versions.
    """
    first, *others = reports
    results, steps = dict(first), {step["step"]: step for step in first["steps"]}
    for other in others:
        for what in SAME:
            mine, theirs = (report.get("backends", {}).get(what, "unknown") for report in (first, other))
            if mine != theirs or mine == "unknown":
                raise SystemExit(f"the runs differ in {what}: {mine} and {theirs}; only runs on one kind of machine are merged")
        results |= other
        steps |= {step["step"]: step for step in other["steps"]}
    return results | {"steps": list(steps.values()), "minutes": round(sum(report["minutes"] for report in reports), 1)}


def main(files: Sequence[Path], folder: Path) -> int:
    report = merged([json.loads(file.read_text()) for file in files])
    folder.mkdir(parents=True, exist_ok=True)
    if len(files) > 1:
        write(folder / "gpu.json", f"{json.dumps(report, indent=1)}\n".encode())
    text = tables.markdown(report)
    write(folder / "tables.md", text.encode())
    print(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed; where it is, python -m benchmarks.gpu.draw gpu.json FOLDER draws them")
        return 0
    from benchmarks.gpu import plots

    print(*(f"written: {path}" for path in plots.draw(report, folder)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1])))
