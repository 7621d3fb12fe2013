"""The latency probes: every .cu in probes/ compiled for Hopper and run; each prints JSON, one object a line.
`python -m benchmarks.gpu.latencies FILE`"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.steps import find
from flow.storage.files import write_json

FOLDER = Path(__file__).resolve().parent / "probes"
SECONDS = 15  # a probe that takes longer hangs


def run(sources: list[Path], nvcc: str, work: Path) -> dict[str, Any]:
    """What each printed, by its name: {"lines": [...]}, or {"failed": why}."""
    compiling = {
        source: subprocess.Popen(
            [nvcc, "-arch=sm_90a", "-O3", str(source), "-o", str(work / source.stem)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for source in sources
    }
    compiled = {source: (process.communicate()[0], process.returncode) for source, process in compiling.items()}
    return {source.stem: probe(work / source.stem, *compiled[source]) for source in sources}


def probe(program: Path, message: str, status: int) -> dict[str, Any]:
    if status:
        return {"failed": f"nvcc: exit status {status}: {message.strip()[-1000:]}"}
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {SECONDS} s"}
    if done.returncode:
        return {"failed": f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}"}
    try:
        return {"lines": [json.loads(line) for line in done.stdout.splitlines() if line.strip()]}
    except json.JSONDecodeError as error:
        return {"failed": f"printed something else than JSON lines ({error}): {done.stdout[:300]!r}"}


def main(file: Path) -> int:
    sources = sorted(FOLDER.glob("*.cu"))
    if not sources:
        raise SystemExit(f"{FOLDER} holds no .cu file: there is nothing to probe")
    with tempfile.TemporaryDirectory() as work:
        results = run(sources, find("nvcc"), Path(work))
    write_json(file, results)
    print(json.dumps(results, indent=1))
    return 1 if any("failed" in result for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
