# mypy: ignore-errors
"""Products of K clients with matrices of their own, read by their strides and rounded as they are loaded. In Triton."""

import triton
import triton.language as tl

from flow_kernels.backends.gpu.triton.parts import multiply

_SIZES = ["ROWS", "COLUMNS", "SUM"]


@triton.jit(do_not_specialize=_SIZES)
def grouped(
    a, b, out, ROWS, COLUMNS, SUM, a_client, a_row, a_sum, b_client, b_sum, b_column, out_client, out_row, out_column,
    ADD: tl.constexpr, FORMAT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: tiles, clients. out [K, ROWS, COLUMNS] is a [K, ROWS, SUM] times b [K, SUM, COLUMNS]; ADD: and what it was."""
    k = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(COLUMNS, BN)
    m = (tl.program_id(0) // across * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tl.program_id(0) % across * BN + tl.arange(0, BN)).to(tl.int64)
    inside = (m < ROWS)[:, None] & (n < COLUMNS)[None, :]
    to = out + k * out_client + m[:, None] * out_row + n[None, :] * out_column
    total = tl.zeros((BM, BN), tl.float32)
    if ADD:
        total = tl.load(to, mask=inside, other=0.0)
    left, right = a + k * a_client + m[:, None] * a_row, b + k * b_client + n[None, :] * b_column
    for first in tl.range(0, SUM, BK, num_stages=STAGES):
        j = first + tl.arange(0, BK)
        x = tl.load(left + j[None, :] * a_sum, mask=(m < ROWS)[:, None] & (j < SUM)[None, :], other=0.0)
        y = tl.load(right + j[:, None] * b_sum, mask=(j < SUM)[:, None] & (n < COLUMNS)[None, :], other=0.0)
        total = multiply(x.to(FORMAT), y.to(FORMAT), total, PRECISION)
    tl.store(to, total, mask=inside)
