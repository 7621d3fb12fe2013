"""Compile a Triton kernel for a GPU that is not there, and read what the assembler used."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from optional import present
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flow_kernels.backends.gpu.triton import backward, forward, tiles
from flow_kernels.backends.gpu.triton.tiles import Tile

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may use
TENSOR_CORES = {"UTCHMMA", "HGMMA", "HMMA"}
FLOAT32 = ("xg", "scores", "state", "slope", "ddq", "dlogit", "direct", "partials", "dh0")
NUMBERS = {"step": "i32", "inverse_temperature": "fp32"} | dict.fromkeys(
    ("INPUTS", "B", "T", "N", "stride_t", "stride_b"), "i32"
)
KERNELS = {
    ("forward", "step"): forward.step_forward, ("forward", "sequence"): forward.sequence_forward,
    ("backward", "step"): backward.step_backward, ("backward", "sequence"): backward.sequence_backward,
}  # fmt: skip


class Used(NamedTuple):
    registers: int
    stack: int  # bytes a thread spills
    spills: int  # instructions that load or store them
    shared: int  # bytes
    products: dict[str, int]  # instructions by kind: UTCHMMA, HGMMA and HMMA on tensor cores, FFMA not


def compiled(kernel: Any, dtype: str, arch: int, warps: int, **constants: Any) -> Used:
    """kernel as for tensors of dtype ("fp32", "fp16", "bf16") from torch's allocator."""
    names = kernel.arg_names
    types = {
        n: NUMBERS.get(n) or ("*i64" if n in ("lengths", "offsets") else "*fp32" if n in FLOAT32 else f"*{dtype}")
        for n in names
    }
    aligned = [n for n in names if n not in constants and types[n].startswith("*")]
    return built(kernel, types, aligned, arch, warps, constants)


def built(kernel: Any, types: dict[str, str], aligned: list[str], arch: int, warps: int, constants: dict[str, Any]) -> Used:
    """A kernel whose arguments have these types, some of them multiples of 16."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
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
    products = {kind: len(re.findall(rf"\b{kind}\b", code)) for kind in (*TENSOR_CORES, "FFMA")}
    return Used(registers, stack, len(re.findall(r"\b(?:LDL|STL)\b", code)), made.metadata.shared, products)


def compile_tile(direction: str, mode: str, tile: Tile, dtype: str, arch: int, hidden: int, **changes: Any) -> Used:
    """A line of the table as a problem with all that costs registers: both experts, biases, lengths, reverse, saved gates."""
    given: dict[str, Any] = dict(
        H=hidden,
        ROUTE="mixture",
        HAS_LENGTHS=True,
        PACKED=False,
        REVERSE=True,
        WIDE=False,
        PRECISION=tile.precision,
        BH=tile.units,
        BM=tile.sequences,
    )
    if not changes.get("PACKED"):
        given["offsets"] = None
    if direction == "forward":
        given |= dict(ROUTING="soft", HAS_BIAS0=True, HAS_BIAS1=True, ROUTER_BIAS=True, SAVE=True)
    else:
        given |= dict(ROUTED=True, HAS_DY=True, HAS_DQ=True)
    if mode == "step":
        given |= dict(BK=tile.sum, STAGES=tile.stages)
        if direction == "forward":
            given |= dict(ROW=-(-changes.get("H", hidden) // 8) * 8)
        else:
            given |= dict(TILES=tiles.power_of_two(-(-hidden // tile.units), 1))
    return compiled(KERNELS[direction, mode], dtype, arch, tile.warps, **given | changes)


def check(direction: str, mode: str, tile: Tile, dtype: str, arch: int, hidden: int, **changes: Any) -> None:
    """Nothing is spilled, it fits, and products are made where they should be."""
    used = compile_tile(direction, mode, tile, dtype, arch, hidden, **changes)
    assert used.stack == 0 and used.spills == 0, used
    assert used.registers <= 255 and used.registers * 32 * tile.warps <= 65536, used
    assert used.shared <= SHARED[arch], used
    on_tensor_cores = dtype != "fp32" or tile.precision == "tf32"
    wide = {90: "HGMMA", 100: "UTCHMMA"}.get(arch, "HMMA")  # with 64 rows on the left
    expected = "FFMA" if not on_tensor_cores else wide if tile.units == 64 else "HMMA"
    others = TENSOR_CORES - {expected}
    assert used.products[expected] and not any(used.products[kind] for kind in others), used
