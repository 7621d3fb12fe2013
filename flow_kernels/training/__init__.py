"""Kernels of local training: C++ on the CPU (docs/cpu-kernels.md), Triton on a GPU (docs/gpu-kernels.md).

They compute the routed GRU forward and backward (:mod:`.gru`), and a vocabulary head with its router and its cross-entropy.
They also take steps of SGD and of Adam over the parameters of K clients, and add up uploads.

The functions are plain functions on tensors, not registered ops: their callers write the backward pass by hand. Every tensor
has a leading K.
On the CPU a client's numbers depend on its own rows alone, to the bit: neither other clients nor padding nor threads leave a
trace. What runs on a GPU has not run on one yet; docs/gpu-kernels.md says how it was tested.
"""

from flow_kernels.call import Weights
from flow_kernels.training import gru
from flow_kernels.training.adam import adam_
from flow_kernels.training.checks import BAD_TARGET, DTYPES, cell_of, finish, multiplies_bfloat16, on_gpu, refusal
from flow_kernels.training.gpu.grouped import explain_products
from flow_kernels.training.head import head_loss
from flow_kernels.training.plan import UpdateSizes, explain_run, explain_update, update_memory
from flow_kernels.training.records import Head, HeadLoss, Moments, Step
from flow_kernels.training.replay import Replayed, replays
from flow_kernels.training.router import route, route_backward
from flow_kernels.training.sgd import add_rows_, sgd_
from flow_kernels.training.sums import accumulate_, split, total_of

__all__ = [
    "BAD_TARGET", "DTYPES", "Head", "HeadLoss", "Moments", "Replayed", "Step", "UpdateSizes", "Weights", "accumulate_", "adam_",
    "add_rows_", "cell_of", "explain_products", "explain_run", "explain_update", "finish", "gru", "head_loss",
    "multiplies_bfloat16", "on_gpu", "refusal", "replays", "route", "route_backward", "sgd_", "split", "total_of",
    "update_memory",
]  # fmt: skip
