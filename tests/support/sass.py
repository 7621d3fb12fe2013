"""Machine code of the cluster kernels, as cuobjdump prints it: the loop over time, and what lies on a step's critical path."""

from __future__ import annotations

import re
from typing import NamedTuple

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([^\s;]+)([^;]*);", re.M)


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def instructions(text: str) -> list[Instruction]:
    """Those of one function."""
    return [Instruction(int(m[1], 16), m[2], m[3]) for m in INSTRUCTION.finditer(text)]


def time_loop(code: list[Instruction]) -> list[Instruction]:
    """The largest loop that sends to the peers."""
    places = {instruction.address: n for n, instruction in enumerate(code)}
    loops = []
    for end, instruction in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", instruction.operands) if instruction.name.startswith("BRA") else None
        begin = places.get(int(target[1], 16), end) if target else end
        if begin < end and any(i.name.startswith("UBLKCP") for i in code[begin : end + 1]):
            loops.append((end - begin, begin))
    length, begin = max(loops)
    return code[begin : begin + length + 1]


def critical(loop: list[Instruction]) -> list[Instruction]:
    """From the arrival of the peers' pieces to the sending of one's own, in the order of the text, which may go round."""
    arrival = max(n for n, i in enumerate(loop) if "PHASECHK" in i.name)
    sending = next(n for n, i in enumerate(loop) if i.name.startswith("UBLKCP"))
    return loop[arrival + 1 : sending] if arrival < sending else loop[arrival + 1 :] + loop[:sending]


def count(code: list[Instruction], name: str) -> int:
    """Instructions whose name begins so."""
    return sum(i.name.startswith(name) for i in code)
