"""What the figures were measured on, `python -m benchmarks.gpu.machine backends FILE`, and the two ceilings of the device,
`python -m benchmarks.gpu.machine rates FILE`"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import flow_kernels
from benchmarks.common.machine import processor, today
from benchmarks.gpu import device
from benchmarks.gpu.device import OnDevice
from benchmarks.gpu.steps import find
from flow.storage.files import write_json
from flow_kernels.backends.gpu import cuda

FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem", "power.limit")
PACKAGES = ("triton", "numpy", "matplotlib", "pybind11", "ninja", "cmake")


def describe(where: torch.device) -> dict[str, Any]:
    description: dict[str, Any] = {
        "date": today(),
        "stand_in": where.type != "cuda",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "backends": flow_kernels.backends(),
        "versions": versions(),
    }
    if where.type == "cuda":
        properties = torch.cuda.get_device_properties(where)
        description["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
        }
        description["nvidia_smi"] = ask_driver()
        description["clusters"] = clusters(where)
    return description


def clusters(where: torch.device) -> list[dict[str, Any]]:
    """How many clusters of the CUDA kernels the device runs at once, by H, direction and tile; none where they cannot run."""
    if cuda.refusal(torch.bfloat16, where) or cuda.limit(1, torch.cuda.get_device_capability(where)):
        return []
    rows = []
    for hidden, way in itertools.product((64, 128, 256, 384, 512), ("forward", "backward")):
        for batch in (8, 16) if way == "backward" or hidden > 256 else (8, 16, 32):
            # more clients than any device has clusters for: the tile is the smallest that is of use to the batch
            divided = cuda.division(10_000, batch, hidden, torch.bfloat16, way == "backward", where)
            sizes = {"tile": divided.tile, "blocks": divided.blocks, "at_once": divided.at_once}
            rows.append({"hidden": hidden, "way": way} | sizes)
    return rows


def ask_driver() -> dict[str, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"missing": "nvidia-smi is not on PATH"}
    asked = [tool, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    if done.returncode:
        return {"missing": f"nvidia-smi: exit status {done.returncode}"}
    return dict(zip(FIELDS, (value.strip() for value in done.stdout.splitlines()[0].split(",")), strict=True))


def versions() -> dict[str, str]:
    by_name = {"python": platform.python_version(), "torch": torch.__version__, "cuda of torch": torch.version.cuda or "none"}
    if torch.backends.cudnn.is_available():
        by_name["cudnn"] = str(torch.backends.cudnn.version())
    for name in PACKAGES:
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            by_name[name] = "not installed"
    try:
        done = subprocess.run([find("nvcc"), "--version"], capture_output=True, text=True, timeout=20)
        by_name["nvcc"] = next((line.strip() for line in done.stdout.splitlines() if "release" in line), "says nothing")
    except OSError:
        by_name["nvcc"] = "not installed"
    return by_name


def ceilings(where: torch.device) -> dict[str, float]:
    """Bytes a second of a copy (read and written), and FLOPs a second of a bfloat16 product of random numbers."""
    gpu = where.type == "cuda"
    source = torch.randn(1 << (30 if gpu else 20), device=where)
    target = torch.empty_like(source)
    n = 8192 if gpu else 256
    a, b = (torch.randn(n, n, device=where, dtype=torch.bfloat16) for _ in range(2))
    copy = OnDevice("copy", lambda: target.copy_(source), where)
    product = OnDevice("product", lambda: a @ b, where)
    work = {"copy_bytes_per_second": (copy, 2 * source.nbytes), "bf16_flops_per_second": (product, 2 * n**3)}
    rates = {}
    for name, (contender, amount) in work.items():
        contender.sample(0.0)
        rates[name] = amount / statistics.median(contender.sample(0.05 if gpu else 0.001).seconds for _ in range(5))
    return rates


if __name__ == "__main__":
    where = device.device()
    result = ceilings(where) if sys.argv[1] == "rates" else describe(where)
    write_json(Path(sys.argv[2]), result)
    print(result)
