"""C++ kernels of local training on the CPU; docs/cpu-kernels.md describes them.

They compute the routed GRU forward and backward (:mod:`.gru`), and a vocabulary head with its router and its cross-entropy.
They also take SGD steps over the parameters of K clients, and add up uploads.

The functions are plain functions on tensors, not registered ops: their callers write the backward pass by hand. Every tensor
has a leading K.
A client's numbers depend on its own rows alone, to the bit: neither other clients nor padding nor threads leave a trace.
"""

from flow_kernels.call import Weights
from flow_kernels.training import gru
from flow_kernels.training.checks import BAD_TARGET, DTYPES, multiplies_bfloat16, refusal
from flow_kernels.training.head import Head, HeadLoss, head_loss
from flow_kernels.training.router import route, route_backward
from flow_kernels.training.sgd import Step, sgd_
from flow_kernels.training.sums import accumulate_, split, total_of

__all__ = [
    "BAD_TARGET", "DTYPES", "Head", "HeadLoss", "Step", "Weights", "accumulate_", "gru", "head_loss", "multiplies_bfloat16",
    "refusal", "route", "route_backward", "sgd_", "split", "total_of",
]  # fmt: skip
