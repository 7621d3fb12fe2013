"""`flow_kernels.GRU` against torch.nn.GRU over sizes: `python -m benchmarks.layer.gru_sweep` writes gru.json and prints tables.

Forward alone and a training step with all gradients, on one thread and on two; K layers at once against K separate nn.GRUs; at
some sizes against torch.compile of a loop over time too. With and without MKL's AVX-512 path where MKL asks for the vendor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.common import machine, mkl
from benchmarks.common.baselines import HoistedLoop
from benchmarks.common.compiler import Missing
from benchmarks.common.markdown import caption, table
from benchmarks.common.timing import Effort, compare
from benchmarks.layer.problem import Local
from flow.storage.files import write_json
from flow_kernels import GRU

RESULTS = Path(__file__).resolve().parent.parent / "results"
INPUTS = 64
BATCHES, STEPS, HIDDEN = (1, 4, 16, 64), (1, 20, 80), (32, 64, 128, 256, 512)
CLIENTS = (16, 128)
LOOPS = ((1, 1, 64), (1, 1, 256), (16, 20, 64), (16, 20, 256))
"""B, T and H at which a loop is compiled: torch.compile unrolls it, and takes up to a minute for each."""
MOST = 40_000_000
"""B T H (I + H) of the largest case: beyond it a step takes most of a second."""
EFFORT = Effort(seconds=0.02, turns=(5, 9), budget=0.5)
QUICK = Effort(seconds=0.002, turns=(1, 1), budget=0.0)
FLOOR = 0.97


class Case(NamedTuple):
    """K clients, 1 for a layer without the dimension; B sequences each, T steps, H hidden units."""

    clients: int
    batch: int
    steps: int
    hidden: int
    training: bool
    threads: int
    rival: str = "nn.GRU"


def cases(quick: bool) -> list[Case]:
    threads = [1, 2][: machine.describe()["cores"]]
    single = [
        Case(1, *sizes, training, count)
        for sizes in itertools.product(BATCHES, STEPS, HIDDEN)
        for training in (False, True)
        for count in threads
        if sizes[0] * sizes[1] * sizes[2] * (INPUTS + sizes[2]) <= MOST
    ]
    many = [Case(k, 4, 20, hidden, True, count) for k in CLIENTS for hidden in (32, 64, 128) for count in threads]
    loops = [Case(1, *sizes, training, 1, "a compiled loop") for sizes in LOOPS for training in (False, True)]
    return [single[0], single[-1], many[0], loops[0]] if quick else single + many + loops


def measure(case: Case, effort: Effort) -> dict[str, Any]:
    """The ratio of torch's time to ours, taken in turns, after outputs and gradients were compared."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    many = case.clients > 1
    ours = GRU(INPUTS, case.hidden, num_clients=case.clients if many else None)
    layers = [nn.GRU(INPUTS, case.hidden) for _ in range(case.clients)]
    states = [layer.state_dict() for layer in layers]
    ours.load_state_dict({name: torch.stack([s[name] for s in states]) if many else states[0][name] for name in states[0]})
    x = torch.randn(*([case.clients] if many else []), case.steps, case.batch, INPUTS)
    parts = list(x) if many else [x]
    compiled = case.rival != "nn.GRU"
    theirs: list[nn.Module] = [HoistedLoop([p.detach() for p in layers[0].parameters()])] if compiled else [*layers]
    calls = [torch.compile(layer, fullgraph=True) if compiled else layer for layer in theirs]

    def run(calls: Iterable[tuple[Any, Tensor]], parameters: list[nn.Parameter]) -> None:
        for parameter in parameters if case.training else ():
            parameter.grad = None
        for call, own in calls:
            if case.training:
                output(call(own)).sum().backward()
            else:
                with torch.no_grad():
                    call(own)

    mine, plain = [(ours, x)], list(zip(calls, parts, strict=True))
    own, others = list(ours.parameters()), [p for layer in theirs for p in layer.parameters()]
    check(ours, theirs, calls, x, parts)
    compared = compare(
        Local("ours", lambda: run(mine, own), case.threads),
        [Local(case.rival, lambda: run(plain, others), case.threads)],
        effort,
    )
    entry = compared["contenders"]
    return case._asdict() | {"seconds": entry["ours"]["seconds"]["median"], "ratio": entry[case.rival]["ratio"]}


def output(result: Any) -> Tensor:
    """Of a layer, which gives its last state too, or of a loop."""
    return result if isinstance(result, Tensor) else result[0]


def check(ours: nn.Module, theirs: list[nn.Module], calls: list[Any], x: Tensor, parts: list[Tensor]) -> None:
    """Raise RuntimeError where gradients differ; the parameters of all have one order."""
    ours(x)[0].sum().backward()
    for call, own in zip(calls, parts, strict=True):
        output(call(own)).sum().backward()
    rows = [[p.grad for p in layer.parameters()] for layer in theirs]
    for (name, parameter), *gradients in zip(ours.named_parameters(), *rows, strict=True):
        wanted = torch.stack(gradients).view_as(parameter)
        off, whole = float((parameter.grad - wanted).norm()), float(wanted.norm())
        if not off <= 1e-5 * whole:
            raise RuntimeError(f"the gradient of {name} is {off:.1e} away from torch's, whose norm is {whole:.1e}")


def tables(report: dict[str, Any]) -> str:
    """What the page shows: by way and number of threads the smallest and the median ratio, then single cases."""
    lines = [f"{caption(report)}.", ""]
    body = []
    for way, rows in report["ways"].items():
        for key in sorted({kind(row) for row in rows}):
            own = sorted(((row["ratio"]["median"], row) for row in rows if kind(row) == key), key=lambda pair: pair[0])
            low, row = own[0]
            below = sum(ratio < FLOOR for ratio, _ in own)
            place = f"B{row['batch']} T{row['steps']} H{row['hidden']}"
            what = ("training step" if key[2] else "forward") + (f", K = {key[1]}" if key[1] > 1 else "")
            middle, high = own[len(own) // 2][0], own[-1][0]
            body.append(
                [
                    f"{key[0]}, {way}",
                    what,
                    str(key[3]),
                    str(len(own)),
                    f"{low:.2f} ({place})",
                    f"{middle:.2f}",
                    f"{high:.2f}",
                    str(below),
                ]
            )
    head = ["beside", "", "threads", "sizes", "smallest ratio", "median", "largest", f"below {FLOOR}"]
    return "\n".join([*lines, *table(head, body)]) + "\n"


def kind(row: dict[str, Any]) -> tuple[str, int, bool, int]:
    """Rows that share a line of the table."""
    return row["rival"], row["clients"], row["training"], row["threads"]


def sweep(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for case in cases(quick):
        rows.append(measure(case, QUICK if quick else EFFORT))
        print(f"  {tuple(case)} {rows[-1]['ratio']['median']:.2f}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layer.gru_sweep", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three sizes: does it work? Not to be quoted")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gru.json")
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rows:  # a process of its own, for MKL's answer
        print(json.dumps(sweep(given.quick)))
        return
    started = time.time()
    ways = {"MKL as it is": sweep(given.quick)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mkl.vendor_library(Path(folder), "torch has MKL's best path")
            command = [sys.executable, "-m", "benchmarks.layer.gru_sweep", "--rows", *(["--quick"] if given.quick else [])]
            done = subprocess.run(
                command, env=os.environ | {"LD_PRELOAD": str(path)}, stdout=subprocess.PIPE, check=True, text=True
            )
            ways["MKL's AVX-512 path"] = json.loads(done.stdout)
        except Missing as why:
            print(f"MKL's AVX-512 path: {why}", file=sys.stderr)
    report = {
        "date": machine.today(),
        "minutes": round((time.time() - started) / 60, 1),
        "quick": given.quick,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "ways": ways,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "gru.json", report)
    print(tables(report))


if __name__ == "__main__":
    main()
