"""What is measured: sizes, options, and how much work they mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2}
# Largest allowed |ours - theirs| / |theirs|, as norms, of the output, the gradient of x and that of all weights. Sums are taken
# in another order, and under bfloat16 PyTorch and JAX round the state at every step, where the layer carries float32.
AGREE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Case:
    """One problem. clients=0 is a layer without a client dimension; mode is "training" (forward + backward, all gradients),
    "forward" (no gradient is wanted) or "step" (one step of one sequence, no gradient)."""

    batch: int
    steps: int
    inputs: int
    hidden: int
    clients: int = 0
    dtype: str = "float32"
    route: str = "mixture"
    mode: str = "training"
    threads: int = 1

    @property
    def shape(self) -> str:
        clients = f"K{self.clients} " if self.clients else ""
        return f"{clients}B{self.batch} T{self.steps} I{self.inputs} H{self.hidden}"

    @property
    def experts(self) -> int:
        return 2 if self.route == "mixture" else 1

    @property
    def weights(self) -> int:
        """Numbers in the matrices of all experts and the router of one client."""
        router = 2 if self.route == "mixture" else 0
        return (self.experts * 3 * self.hidden + router) * (self.inputs + self.hidden)

    @property
    def flops(self) -> int:
        """Of the algorithm: the products, 2 for a multiply-add, forward once and backward twice. Nothing recomputed counts."""
        passes = 3 if self.mode == "training" else 1
        return passes * max(self.clients, 1) * 2 * self.batch * self.steps * self.weights

    @property
    def weight_bytes(self) -> int:
        return max(self.clients, 1) * self.weights * BYTES[self.dtype]

    @property
    def least_bytes(self) -> int:
        """Bytes of weights that must be read: the recurrent ones at every step, those of the input once; forward, and for
        training once more backward."""
        recurrent = self.weights * self.hidden // (self.inputs + self.hidden)
        read = recurrent * self.steps + self.weights - recurrent
        passes = 2 if self.mode == "training" else 1
        return passes * max(self.clients, 1) * read * BYTES[self.dtype]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
