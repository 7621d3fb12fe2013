"""What local training computes as C++ kernels on the CPU: the routed GRU forward and backward (:mod:`.gru`), a vocabulary head
with its cross-entropy, SGD over the parameters of K clients, and sums of uploads. See docs/cpu-kernels.md.

Plain functions on tensors, not registered ops: what calls them writes its backward pass by hand. Everything has a leading K.
"""

from flow_kernels.call import Weights
from flow_kernels.training import gru
from flow_kernels.training.checks import BAD_TARGET, DTYPES, refusal
from flow_kernels.training.head import Head, HeadLoss, head_loss
from flow_kernels.training.sgd import Step, accumulate_, sgd_

__all__ = [
    "BAD_TARGET", "DTYPES", "Head", "HeadLoss", "Step", "Weights", "accumulate_", "gru", "head_loss", "refusal", "sgd_",
]  # fmt: skip
