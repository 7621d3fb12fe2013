"""How many of torch's operations stand around the CUDA kernels: each is a launch, and a short call is nothing else."""

from __future__ import annotations

import collections
import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from problems import NAMES, make
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flow_kernels.backends.gpu import cuda, products
from flow_kernels.call import Inputs, Options, OutputGradients, Saved, Weights

BF16 = torch.bfloat16
ALLOCATIONS = ("aten.empty", "aten.new_empty", "aten.empty_like")
CHECKS_OF_LENGTHS = 4  # of the values, on the CPU; on a GPU it is as many comparisons and an assertion


class NoKernels:
    """The extension without its kernels: outputs stay as they were allocated."""

    def size(self) -> int:
        return ctypes.sizeof(cuda.Problem)

    def forward(self, problem: int, stream: int) -> int:
        return 0

    backward = forward


class Operations(TorchDispatchMode):
    """Counts what is neither a view nor an allocation. A product counts as one, as on a GPU: the CPU widens its operands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: collections.Counter[str] = collections.Counter()
        self.in_product = False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not self.in_product and not operation.is_view and not str(operation).startswith(ALLOCATIONS):
            self.names[str(operation)] += 1
        return operation(*args, **(kwargs or {}))

    @contextmanager
    def product(self) -> Iterator[None]:
        self.names["product"] += 1
        self.in_product = True
        yield
        self.in_product = False


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Operations:
    counted, multiply = Operations(), products.product

    def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        with counted.product():
            return multiply(a, b, out)

    monkeypatch.setattr(products, "product", product)
    return counted


@pytest.mark.parametrize(
    ("route", "routing", "lengths", "forward", "backward"),
    [
        ("mixture", "soft", False, 3, 35),
        ("mixture", "soft", True, 3, 39),
        ("mixture", "straight_through", False, 3, 45),
        ("mixture", "hard", False, 3, 27),
        ("global", "soft", False, 1, 13),
    ],
)
@pytest.mark.parametrize("clients", [1, 3])
def test_operations_a_call(
    operations: Operations, clients: int, route: str, routing: str, lengths: bool, forward: int, backward: int
) -> None:
    problem = make(clients, 4, 3, 5, 20, lengths=lengths, route=route)
    x, h0, *weights = (problem.tensors[n].to(BF16) for n in NAMES)
    used = Weights(*weights).used_by(route)
    inputs = Inputs(x, h0, used, problem.options.get("lengths"), None, Options(route, routing))
    kernels = cuda.Kernels(NoKernels())
    with operations:
        y, h_n, q, gates = kernels.forward(inputs, True)
    assert operations.names.total() == forward + CHECKS_OF_LENGTHS * lengths, operations.names
    for tensor in (y, h_n, q, gates):
        tensor.zero_()
    operations.names.clear()
    wanted = [t is not None for t in inputs.tensors]
    given = OutputGradients(torch.zeros_like(y), torch.zeros_like(h_n), torch.zeros_like(q))
    with operations:
        kernels.backward(given, Saved(y, q, gates), inputs, wanted)
    assert operations.names.total() == backward, operations.names


def test_products_of_16_bits_are_written_where_they_belong() -> None:
    """On a GPU by an overload of torch's that the CPU does not have, so that only its signature can be seen here."""
    assert "ScalarType out_dtype, *, Tensor(a!) out" in str(torch.ops.aten.bmm.dtype_out._schema)
    a, b = torch.randn(2, 3, 4).to(BF16), torch.randn(2, 4, 5).to(BF16)
    for convert in (Tensor.float, Tensor.contiguous):
        out = torch.empty(2, 3, 5)
        assert products.product(convert(a), convert(b), out) is out
        assert torch.equal(out, torch.bmm(a.float(), b.float()))


def test_a_pair_of_numbers_is_read_at_a_multiple_of_four() -> None:
    """Gradients of q may begin anywhere in somebody's tensor."""
    everything = torch.arange(9.0).to(BF16)
    for first in (0, 1):
        pairs = everything[first : first + 8].view(1, 4, 2)
        moved = cuda.launch._in_pairs(pairs)
        assert moved.data_ptr() % 4 == 0 and torch.equal(moved, pairs)
        assert (moved.data_ptr() == pairs.data_ptr()) == (first == 0)
