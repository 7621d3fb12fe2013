"""Compile the Triton kernels of local training for a GPU that is not there, and read what the assembler used."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from optional import present
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_aot import BIN, Used

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
OPERANDS = ("f", "w0", "w1")
INTEGERS = ("targets", "counts", "bad", "rows", "tokens", "table", "firsts")
SHORT = ("order", "best", "following", "named")
DOUBLES = ("nats", "weights", "total")
BYTES = ("present", "lead")
NUMBERS = ("N", "V", "D", "F_ROW", "W_ROW", "PER", "PARTS", "H", "K", "COUNT", "BLOCKS", "WIDTH", "SIZE")
FLOATS = ("clip", "lr", "mu", "decay", "keep", "inverse_temperature")


def type_of(name: str, operands: str) -> str:
    """The type of a kernel's argument of this name, in Triton's words."""
    table = (
        (OPERANDS, f"*{operands}"), (INTEGERS, "*i64"), (SHORT, "*i32"), (DOUBLES, "*fp64"), (BYTES, "*i8"), (NUMBERS, "i32"),
        (FLOATS, "fp32"),
    )  # fmt: skip
    return next((kind for names, kind in table if name in names), "*fp32")


def compiled(kernel: Any, operands: str, arch: int, warps: int, **constants: Any) -> Used:
    """A kernel for tensors from torch's allocator; operands: the type of what tensor cores multiply."""
    names = kernel.arg_names
    types = {name: type_of(name, operands) for name in names}
    of_16 = [n for n in names if n not in constants and (types[n].startswith("*") or n in ("F_ROW", "W_ROW"))]
    source = ASTSource(
        fn=kernel,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in of_16},
    )
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(made.asm["cubin"])
        usage, code = (
            subprocess.run([BIN / tool, option, cubin], check=True, capture_output=True, text=True).stdout
            for tool, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(present(re.search(rf"\b{what}:(\d+)", usage))[1]) for what in ("REG", "STACK"))
    products = {kind: len(re.findall(rf"\b{kind}\b", code)) for kind in ("HGMMA", "HMMA", "UTCHMMA", "FFMA")}
    return Used(registers, stack, len(re.findall(r"\b(?:LDL|STL)\b", code)), made.metadata.shared, products)
