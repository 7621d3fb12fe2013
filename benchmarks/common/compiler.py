"""Small libraries compiled on the spot, for the processor they measure."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Whatever the compiler takes first: x86 and most others know -march=native, some only -mcpu=native, some neither.
NATIVE: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])


class Missing(RuntimeError):
    """Something optional is not here; the message says what and why, and goes into the tables."""


def find(language: str) -> list[str]:
    """The command of the C++ ("c++") or C ("c") compiler.

    Raises:
        Missing: there is none."""
    variable, names = ("CXX", ("c++", "g++", "clang++")) if language == "c++" else ("CC", ("cc", "gcc", "clang"))
    if chosen := os.environ.get(variable):
        if not shutil.which(shlex.split(chosen)[0]):
            raise Missing(f"{variable}={chosen!r} names no program; unset it or name a compiler")
        return shlex.split(chosen)
    for name in names:
        if shutil.which(name):
            return [name]
    raise Missing(f"no {language.upper()} compiler: none of {', '.join(names)} is on the path and {variable} is not set")


def version(language: str) -> str:
    lines = subprocess.run([*find(language), "--version"], capture_output=True, text=True).stdout.splitlines()
    return lines[0] if lines else "unknown"


def library(source: str, folder: Path) -> tuple[Path, list[str]]:
    """Compile a file of this folder to a shared library in `folder`; returns it and the flags that named the processor.

    Raises:
        Missing: no compiler, or it refuses the source; the message has its first error."""
    path = HERE / source
    command = find("c++" if path.suffix == ".cpp" else "c")
    out = folder / (path.stem + ".so")
    standard = ["-std=c++17", "-pthread", "-Wno-psabi"] if path.suffix == ".cpp" else []
    for native in NATIVE:
        flags = [*standard, "-O3", "-ffp-contract=fast", "-shared", "-fPIC", *native]
        done = subprocess.run([*command, *flags, str(path), "-o", str(out)], capture_output=True, text=True)
        if done.returncode == 0:
            return out, native
    errors = (
        [line for line in done.stderr.splitlines() if "error" in line]
        or done.stderr.splitlines()
        or [f"exit status {done.returncode}"]
    )
    raise Missing(f"{shlex.join(command)} cannot compile {source}: {errors[0]}")
