"""Compile the Triton kernels of local training for a GPU that is not there, and read what the assembler used."""

from __future__ import annotations

from typing import Any

from triton_aot import Used, built

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
OPERANDS = ("f", "w0", "w1", "a", "b")
INTEGERS = ("targets", "counts", "bad", "rows", "tokens", "table", "firsts", "seconds", "taken")
SHORT = ("order", "best", "following", "named")
DOUBLES = ("nats", "weights", "total")
BYTES = ("present", "lead")
DISTANCES = (
    "a_client", "a_row", "a_sum", "b_client", "b_sum", "b_column", "out_client", "out_row", "out_column",
)  # fmt: skip
NUMBERS = (
    "N", "V", "D", "F_ROW", "W_ROW", "PER", "PARTS", "H", "K", "COUNT", "BLOCKS", "WIDTH", "SIZE", "ROWS", "COLUMNS", "SUM",
    *DISTANCES,
)  # fmt: skip
FLOATS = (
    "clip", "lr", "mu", "decay", "keep", "inverse_temperature", "stay", "share1", "keep2", "share2", "log1", "log2", "epsilon",
)  # fmt: skip


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
    of_16 = [n for n in names if n not in constants and (types[n].startswith("*") or n in ("F_ROW", "W_ROW", *DISTANCES))]
    return built(kernel, types, of_16, arch, warps, constants)
