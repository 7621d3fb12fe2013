"""The extensions of the kernels, and the GPU with what it needs."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flow.doctor.findings import Finding

DRIVER = Path("/proc/driver/nvidia/version")
_COMPILER = re.compile(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+")
_REBUILD = "run pip install . in the project's folder, with a C++ compiler there"


def compiler_of(path: Path) -> str:
    """The compiler that a binary says it was built with; empty where it says nothing."""
    match = _COMPILER.search(path.read_bytes())
    return "" if match is None else match[0].decode()


def check_extensions() -> Iterator[Finding]:
    """The extension of the CPU kernels, which all runs need to be fast, and that of the CUDA kernels."""
    import flow_kernels

    states = flow_kernels.backends()
    for name, backend, verdict, remedy in (("_C", "cpu", "broken", _REBUILD), ("_cuda", "cuda", "absent", "")):
        spec = importlib.util.find_spec(f"flow_kernels.{name}")
        if spec is None or spec.origin is None:
            text = "not built" if name == "_cuda" else states[backend]
            yield Finding("kernels", f"flow_kernels.{name}", text, verdict, remedy)  # type: ignore[arg-type]
            continue
        path = Path(spec.origin)
        compiler = compiler_of(path)
        facts = {"path": path, "compiler": compiler, "state": states[backend]}
        text = f"built with {compiler}" if compiler else "built"
        working = "not built" not in states[backend]
        text = f"{text}; {states[backend]}"
        yield Finding(
            "kernels", f"flow_kernels.{name}", text, "ok" if working else "broken", "" if working else _REBUILD, facts
        )


def check_gpu() -> Iterator[Finding]:
    """A GPU, its driver, and what computes on it; a machine without one lacks nothing that runs need."""
    import torch

    import flow_kernels

    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.is_file() else shutil.which("nvidia-smi") or ""
    build = torch.version.cuda
    facts: dict[str, Any] = {"torch_cuda": build, "driver": driver or None, "devices": []}
    if not torch.cuda.is_available():
        text = f"none; driver: {driver or 'none'}; torch: {f'built for CUDA {build}' if build else 'built without CUDA'}"
        remedy = ""
        if driver and build is None:
            remedy = "install a torch that is built for CUDA, see pytorch.org/get-started/locally"
        elif driver:
            remedy = "the driver is here and torch sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        yield Finding("gpu", "GPU", text, "warning" if remedy else "absent", remedy, facts)
    else:
        names = []
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            capability = f"{properties.major}.{properties.minor}"
            names.append(f"{properties.name}, compute capability {capability}, {properties.total_memory / 1e9:.0f} GB")
        text = f"{'; '.join(names)}; driver: {driver or 'not known'}; torch: built for CUDA {build}"
        yield Finding("gpu", "GPU", text, facts={**facts, "devices": names})
    states = flow_kernels.backends()
    for backend, remedy in (("triton", "pip install 'flow-fl[gpu]'"), ("cuda", "FLOW_CUDA=1 pip install . with nvcc 13")):
        state = states[backend]
        here = state.startswith("available")
        wanted = torch.cuda.is_available() and not here
        yield Finding(
            "gpu", f"backend {backend}", state, "ok" if here else "absent", remedy if wanted else "", {"state": state}
        )
