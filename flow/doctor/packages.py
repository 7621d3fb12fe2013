"""Versions, and the optional packages: which are here, and what each would give."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from collections.abc import Iterator

from flow.doctor.findings import Finding

AREA = "packages"
DISTRIBUTION = "flow-fl"
NEEDED = ("torch", "numpy", "safetensors", "tyro", "tqdm", "jinja2")
EXTRAS = {
    "gpu": "the Triton kernels, on a machine with a GPU",
    "tokenizers": "--tokenizer FILE.json",
    "data": "--data FILE.parquet, and other published formats",
    "frames": "results as pandas DataFrames",
    "onnx": "flow export --format onnx",
    "serve": "flow serve",
    "flower": "flow deploy on devices",
    "hf": "--data hf:OWNER/NAME",
    "privacy": "--dp-epsilon and --dp-noise",
    **{name: f"--log {name}" for name in ("tensorboard", "mlflow", "wandb", "trackio")},
}
"""What an extra gives, by its name."""
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*?(?:>=([\d.]+))?[^;]*(?:;.*)?")
_EXTRA = re.compile(r"extra\s*==\s*['\"](\w+)['\"]")


def check() -> Iterator[Finding]:
    """Python, what flow needs, flow itself, and its extras."""
    yield Finding(AREA, "Python", platform.python_version(), facts={"version": platform.python_version()})
    for name in NEEDED:
        yield _needed(name)
    yield from _own()
    for extra, gives in EXTRAS.items():
        yield _optional(extra, gives)


def _needed(name: str) -> Finding:
    """A package without which flow does not start: imported, since a package that is there may be broken."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a package may raise anything while it is imported
        reason = f"cannot be imported ({type(error).__name__}: {error})"
        return Finding(AREA, name, reason, "broken", f"run: pip install --force-reinstall {name}")
    version = _version(name) or "without a version"
    return Finding(AREA, name, version, facts={"version": version})


def _own() -> Iterator[Finding]:
    try:
        import flow_kernels
    except Exception as error:
        remedy = "unset FLOW_CPU_ISA" if "FLOW_CPU_ISA" in str(error) else "run pip install . in the project's folder"
        yield Finding(AREA, "flow_kernels", f"cannot be imported ({error})", "broken", remedy)
        return
    version = flow_kernels.__version__
    yield Finding(AREA, "flow", version, facts={"version": version})
    yield Finding(AREA, "flow_kernels", version, facts={"version": version})


def _optional(extra: str, gives: str) -> Finding:
    """An extra, by the packages that the distribution says it consists of."""
    needed = packages_of(extra)
    if needed is None:
        text = f"not known to the {DISTRIBUTION} that is installed; for {gives}"
        return Finding(AREA, f"extra {extra}", text, "absent", f"pip install '{DISTRIBUTION}[{extra}]'", {"gives": gives})
    versions = {name: _version(name) for name in needed}
    missing = [name for name, version in versions.items() if version is None]
    name, facts = f"extra {extra}", {"gives": gives, "packages": versions}
    if missing:
        text = f"{', '.join(missing)} not installed; for {gives}"
        return Finding(AREA, name, text, "absent", f"pip install '{DISTRIBUTION}[{extra}]'", facts)
    old = [f"{name} {versions[name]} is older than {least}" for name, least in needed.items() if _older(versions[name], least)]
    if old:
        return Finding(AREA, name, "; ".join(old), "warning", f"run: pip install --upgrade '{DISTRIBUTION}[{extra}]'", facts)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(AREA, name, listed or "nothing to install on this system", facts=facts)


def packages_of(extra: str) -> dict[str, str | None] | None:
    """The packages of an extra on this system, with the oldest version that will do; None where the distribution is not
    installed, or has no such extra."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    result: dict[str, str | None] = {}
    known = False
    for requirement in requirements:
        of_extra = _EXTRA.search(requirement)
        match = _REQUIREMENT.fullmatch(requirement)
        other_system = "platform_system" in requirement and f"'{platform.system()}'" not in requirement.replace('"', "'")
        if of_extra is not None and of_extra[1] == extra and match is not None:
            known = True
            if not other_system:
                result[match[1]] = match[2]
    return result if known else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _older(version: str | None, least: str | None) -> bool:
    """Whether a version is below the oldest one that will do, by its numbers."""
    if version is None or least is None:
        return False
    numbers = [[int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3]] for text in (version, least)]
    return numbers[0] < numbers[1]
