"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

import flow_kernels
from benchmarks.common import compiler

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ASSUMED = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}


def describe() -> dict[str, Any]:
    return {
        "processor": processor(),
        "vendor": _cpuinfo("vendor_id"),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "caches_assumed": sorted(set(ASSUMED) - set(_read_caches())),
        "system": f"{platform.system()} {platform.release()}",
        "backends": flow_kernels.backends(),
    }


def versions() -> dict[str, str]:
    by_name = {"python": platform.python_version(), "torch": torch.__version__}
    by_name["torch's vector code"] = torch.backends.cpu.get_cpu_capability()
    for name in ("jax", "jaxlib", "numpy"):
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            by_name[name] = "not installed"
    try:
        by_name["compiler of the probe"] = compiler.version("c++")
    except compiler.Missing as missing:
        by_name["compiler of the probe"] = str(missing)
    return by_name


def today() -> str:
    return time.strftime("%Y-%m-%d")


def processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    return next((line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith(key)), "")


def caches() -> dict[str, int]:
    """Bytes of the data caches that one core sees, {"L1", "L2", "L3"}; a common size where the system does not say."""
    return ASSUMED | _read_caches()


def _read_caches() -> dict[str, int]:
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        sizes["L" + level] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
    return sizes
