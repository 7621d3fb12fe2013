"""The processor and its instruction sets, threads and what limits them, memory and disks."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from flow.doctor.findings import Finding

ROOT = Path("/")
NEEDS = {
    "avx2": ("avx2", "fma", "bmi2"),
    "avx512": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "avx512bf16": ("avx512_bf16",),
    "avx512amx": ("amx_tile", "amx_bf16"),
}
"""What /proc/cpuinfo calls the instructions of a set, beside those of the sets before it."""
LEAST_MEMORY = 1 << 30
LEAST_DISK = 1 << 30
LEAST_SHARED = 1 << 26


class Processor(NamedTuple):
    """A processor as Linux describes it; empty and 0 where it says nothing."""

    name: str
    vendor: str
    family: int
    model: int
    flags: frozenset[str]

    @property
    def generation(self) -> str:
        """The name of its design, of those that were measured."""
        zen4 = self.vendor == "AuthenticAMD" and self.family == 25 and (16 <= self.model < 32 or 96 <= self.model < 128)
        return "Zen 4" if zen4 else ""

    @property
    def title(self) -> str:
        """Its name with the design."""
        return f"{self.name} ({self.generation})" if self.generation else self.name


def processor(root: Path = ROOT) -> Processor:
    """The processor of this machine."""
    lines = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text_of(root / "proc/cpuinfo").partition("\n\n")[0], re.MULTILINE))

    def number(name: str) -> int:
        return int(lines[name]) if lines.get(name, "").isdigit() else 0

    name = lines.get("model name", "") or os.uname().machine
    flags = frozenset(lines.get("flags", "").split())
    return Processor(name, lines.get("vendor_id", ""), number("cpu family"), number("model"), flags)


def text_of(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_processor() -> Iterator[Finding]:
    """The processor, the instruction set in use and the others."""
    own = processor()
    facts = {"name": own.name, "generation": own.generation, "vendor": own.vendor, "family": own.family, "model": own.model}
    yield Finding("processor", "processor", own.title, facts=facts)
    import flow_kernels

    yield from instruction_sets(flow_kernels.instruction_sets(), own.flags, os.environ.get("FLOW_CPU_ISA", ""))


def instruction_sets(states: Mapping[str, str], flags: frozenset[str], forced: str) -> Iterator[Finding]:
    """What is to be told of the instruction sets.

    Args:
        states: of every set, the slowest first, "in use", "available" or "not here"; empty where the kernels are not built.
        flags: of the processor.
        forced: the value of FLOW_CPU_ISA.
    """
    if not states:
        return
    used = next(name for name, state in states.items() if state == "in use")
    here = [name for name, state in states.items() if state != "not here"]
    facts = {"in_use": used, "available": here, "forced": bool(forced)}
    if forced and used != here[-1]:
        remedy = "unset FLOW_CPU_ISA, unless the older set is wanted"
        text = f"{used}, forced by FLOW_CPU_ISA={forced!r} where {here[-1]} is faster"
        yield Finding("processor", "instruction set", text, "warning", remedy, facts)
    else:
        yield Finding("processor", "instruction set", f"{used}, of {', '.join(here)}", facts=facts)
    for name in states:
        if states[name] != "not here":
            continue
        missing = [flag for flag in NEEDS.get(name, ()) if flag not in flags]
        if missing or not flags:
            why = f"the processor has no {', '.join(missing)}" if missing else "not for this kind of processor"
            yield Finding("processor", name, f"not possible: {why}", "absent", "", {"missing": missing})
        else:
            remedy = "build with a newer compiler: pip install --force-reinstall --no-cache-dir . in the project's folder"
            yield Finding("processor", name, "the processor has it and this build has not", "warning", remedy)


class Limits(NamedTuple):
    """How many threads may compute."""

    machine: int
    """Cores of the machine."""
    affinity: int
    """Cores that this process may use."""
    quota: float | None
    """Cores that its control group may use at a time; None without a limit."""
    variable: str
    """OMP_NUM_THREADS."""
    torch: int
    """Threads that torch, and so a run, takes."""


def quota(root: Path = ROOT) -> float | None:
    """The processor time that control groups of this process allow, in cores; None without a limit."""
    limits = []
    for group in groups(root):
        allowed, _, period = text_of(group / "cpu.max").strip().partition(" ")
        if allowed.isdigit() and period.isdigit():
            limits.append(int(allowed) / int(period))
    older = root / "sys/fs/cgroup/cpu"
    allowed, period = (text_of(older / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if allowed.isdigit() and period.isdigit() and int(period):
        limits.append(int(allowed) / int(period))
    return min(limits) if limits else None


def groups(root: Path = ROOT) -> list[Path]:
    """The control groups (version 2) of this process, the innermost first."""
    top = root / "sys/fs/cgroup"
    lines = text_of(root / "proc/self/cgroup").splitlines()
    own = next((line[3:].strip() for line in lines if line.startswith("0::")), "/")
    inner = top / own.lstrip("/")
    return [inner, *(path for path in inner.parents if path.is_relative_to(top))]


def check_threads() -> Iterator[Finding]:
    """Threads, and whether those who decide how many agree."""
    import torch

    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    yield threads(Limits(machine, affinity, quota(), os.environ.get("OMP_NUM_THREADS", ""), torch.get_num_threads()))


def threads(limits: Limits) -> Finding:
    """What is to be told of the threads."""
    machine, affinity, allowed, variable, own = limits
    usable = affinity if allowed is None else min(affinity, max(1, int(allowed)))
    parts = [f"{own} of torch", f"{affinity} of {machine} cores may be used"]
    parts += [] if allowed is None else [f"the control group allows the time of {allowed:g}"]
    parts += [f"OMP_NUM_THREADS={variable}"] if variable else []
    facts = {"torch": own, "cores": machine, "affinity_cores": affinity, "quota_cores": allowed, "omp_num_threads": variable}
    remedy = ""
    if variable and not re.fullmatch(r"\d+(,\d+)*", variable):
        remedy = "set OMP_NUM_THREADS to a number, or unset it"
    elif allowed is not None and own > allowed:
        remedy = f"threads are slowed down when the time is used up: set OMP_NUM_THREADS={usable}, or give --threads {usable}"
    elif own > affinity:
        remedy = f"threads wait for one another on a core: set OMP_NUM_THREADS={usable}, or give --threads {usable}"
    elif own < usable:
        why = "raise or unset OMP_NUM_THREADS" if variable else f"set OMP_NUM_THREADS={usable}"
        remedy = f"{usable - own} of the cores would stay idle: {why}, or give --threads {usable}"
    return Finding("threads", "threads", ", ".join(parts), "warning" if remedy else "ok", remedy, facts)


def check_memory() -> Iterator[Finding]:
    """Memory, shared memory and the disk for temporary files."""
    from flow.resources import free_memory, size

    free = free_memory()
    total = re.search(r"^MemTotal:\s+(\d+) kB", text_of(ROOT / "proc/meminfo"), re.MULTILINE)
    every = int(total[1]) * 1024 if total else None
    limited = [int(text) for group in groups() if (text := text_of(group / "memory.max").strip()).isdigit()]
    facts = {"free_bytes": free, "total_bytes": every, "control_group_bytes": min(limited) if limited else None}
    if free is None:
        yield Finding("memory", "memory", "the system does not say", "absent", "", facts)
    else:
        text = f"{size(free)} free" + (f" of {size(every)}" if every else "")
        text += f", {size(min(limited))} allowed by the control group" if limited else ""
        short = "end other programs, or raise the limit of the container" if free < LEAST_MEMORY else ""
        yield Finding("memory", "memory", text, "warning" if short else "ok", short, facts)
    yield from _room("shared memory", Path("/dev/shm"), LEAST_SHARED, "start the container with --shm-size=1g")
    temporary = Path(tempfile.gettempdir())
    yield from _room("temporary files", temporary, LEAST_DISK, "name a folder with more room in TMPDIR")


def _room(name: str, folder: Path, least: int, remedy: str) -> Iterator[Finding]:
    """How much of a folder's disk is free."""
    from flow.resources import size

    if not folder.is_dir():
        yield Finding("memory", name, f"there is no {folder}", "absent")
        return
    usage = shutil.disk_usage(folder)
    facts = {"folder": folder, "free_bytes": usage.free, "total_bytes": usage.total}
    short = remedy if usage.free < least else ""
    text = f"{size(usage.free)} of {size(usage.total)} free in {folder}"
    yield Finding("memory", name, text, "warning" if short else "ok", short, facts)
