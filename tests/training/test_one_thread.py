"""Products whose bits depend neither on the number of threads nor on where a client's weights lie."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flow.training.threads import aligned, linear, one_thread


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def moved(tensor: Tensor, by: int) -> Tensor:
    """The same numbers, so many numbers behind the start of their memory."""
    memory = torch.full((by + tensor.numel(),), torch.nan)
    memory[by:] = tensor.flatten()
    return memory[by:].view(tensor.shape)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 37])
@pytest.mark.parametrize(("inputs", "outputs"), [(10, 16), (16, 3), (19, 30), (128, 90)])
def test_a_product_has_one_value(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    expected = F.linear(x.double(), weight.double(), bias.double())
    torch.set_num_threads(1)
    alone = linear(x, weight, bias)
    torch.testing.assert_close(alone.double(), expected, rtol=1e-5, atol=1e-5)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for by in (0, 1, 2, 3, 5, 8):
            assert torch.equal(linear(x, moved(weight, by), bias), alone), (threads, by)


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError), one_thread():
        torch.ones(2) @ torch.ones(3)
    assert torch.get_num_threads() == 2


def test_memory_is_copied_where_it_begins_elsewhere() -> None:
    tensor = torch.randn(4, 4)
    assert aligned(tensor) is tensor
    other = moved(tensor, 3)
    copy = aligned(other)
    assert copy.data_ptr() % 64 == 0 and torch.equal(copy, other)
