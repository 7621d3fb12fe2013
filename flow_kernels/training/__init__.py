"""C++ kernels of local training on the CPU: the routed GRU forward and backward (:mod:`.gru`), a vocabulary head with its
router and its cross-entropy, SGD over the parameters of K clients, and sums of uploads. See docs/cpu-kernels.md.

Plain functions on tensors, not registered ops: what calls them writes its backward pass by hand. Everything has a leading K.
A client's numbers depend on its own rows alone, to the bit: neither other clients nor padding nor threads leave a trace.
"""

from flow_kernels.call import Weights
from flow_kernels.training import gru
from flow_kernels.training.checks import BAD_TARGET, DTYPES, refusal
from flow_kernels.training.head import Head, HeadLoss, head_loss
from flow_kernels.training.router import route, route_backward
from flow_kernels.training.sgd import Step, sgd_
from flow_kernels.training.sums import accumulate_, split, total_of

__all__ = [
    "BAD_TARGET", "DTYPES", "Head", "HeadLoss", "Step", "Weights", "accumulate_", "gru", "head_loss", "refusal", "route",
    "route_backward", "sgd_", "split", "total_of",
]  # fmt: skip
