"""Sums of uploads on a GPU that no order changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import on
from flow_kernels.training.gpu import sgd_kernels as kernels
from flow_kernels.training.gpu.arguments import fitting

SIZE = 512
"""Numbers of a program."""


@torch.no_grad()
def accumulate_(total: Tensor, uploads: Sequence[Tensor], weights: Sequence[Tensor], *, fresh: bool) -> None:
    """:func:`flow_kernels.training.accumulate_`."""
    n = total[0].numel()
    if not uploads or not n:
        raise RuntimeError(
            "flow_kernels.training: there must be at least one upload of at least one number; leave out the call"
        )
    fitting("total", total, tuple(total.shape), uploads[0], torch.float64)
    with on(total.device):
        for upload, factors in zip(uploads, weights, strict=True):
            upload = upload.contiguous()
            fitting("uploads", upload, (len(upload), *total.shape[1:]), total, torch.float32)
            fitting("weights", factors, (len(upload),), total)
            kernels.accumulate[(-(-n // SIZE),)](
                upload, factors, total, len(upload), n, FRESH=fresh, SIZE=SIZE, enable_fp_fusion=False
            )
            fresh = False
