"""RoutedGRU inside what torch builds around a layer: transforms that do and do not compose, data-parallel training."""

from __future__ import annotations

import os
import socket
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

import flow_kernels
from flow_kernels import RoutedGRU, RoutedGRUCell


def loss_of(layer: RoutedGRU) -> Any:
    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y, h_n, q = functional_call(layer, parameters, (x,), {"return_routing": True})
        total: Tensor = y.square().sum() + h_n.sum() + q.square().sum()
        return total

    return loss


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "two layers, both ways"])
def test_vmap_of_grad_is_grad_one_by_one(options: dict[str, Any]) -> None:
    layer = RoutedGRU(5, 6, dtype=torch.float64, **options)
    loss = loss_of(layer)
    stacked = {n: torch.stack([p.detach() * (1 + 0.1 * k) for k in range(3)]) for n, p in layer.named_parameters()}
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    many = vmap(grad(loss))(stacked, x)
    for k in range(3):
        for name, want in grad(loss)({n: p[k] for n, p in stacked.items()}, x[k]).items():
            torch.testing.assert_close(many[name][k], want)


@pytest.mark.parametrize("wanted", ["weights", "input", "both"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "two layers, both ways"])
def test_backward_through_vmap_is_backward_one_by_one(options: dict[str, Any], wanted: str) -> None:
    """The forward pass alone is mapped: inside of vmap no tensor says that a gradient is wanted."""
    layer = RoutedGRU(5, 6, dtype=torch.float64, **options)
    loss = loss_of(layer)
    stacked = {n: torch.stack([p.detach() * (1 + 0.1 * k) for k in range(3)]) for n, p in layer.named_parameters()}
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    leaves = [*(stacked.values() if wanted != "input" else ()), *([x] if wanted != "weights" else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    many = torch.autograd.grad(vmap(loss)(stacked, x).sum(), leaves)
    alone = torch.autograd.grad(sum(loss({n: p[k] for n, p in stacked.items()}, x[k]) for k in range(3)), leaves)
    for own, want in zip(many, alone, strict=True):
        assert want.abs().max() > 1e-3
        torch.testing.assert_close(own, want)


@pytest.mark.parametrize("kind", [flow_kernels.GRU, RoutedGRU])
def test_backward_through_vmap_over_the_input_alone(kind: type[nn.Module]) -> None:
    """As of an ensemble of inputs: one set of weights for all of them."""
    layer = kind(5, 6, dtype=torch.float64)
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    many = torch.autograd.grad(vmap(lambda own: layer(own)[0])(x).square().sum(), list(layer.parameters()), allow_unused=True)
    alone = torch.autograd.grad(
        sum(layer(x[k])[0].square().sum() for k in range(3)), list(layer.parameters()), allow_unused=True
    )
    for own, want in zip(many, alone, strict=True):
        assert own is not None and want is not None
        torch.testing.assert_close(own, want)


def test_backward_through_vmap_of_the_cell() -> None:
    cell = RoutedGRUCell(5, 6, dtype=torch.float64)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    many = torch.autograd.grad(vmap(cell)(x).square().sum(), list(cell.parameters()))
    alone = torch.autograd.grad(sum(cell(x[k]).square().sum() for k in range(3)), list(cell.parameters()))
    for own, want in zip(many, alone, strict=True):
        torch.testing.assert_close(own, want)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_vmap_of_grad_never_gives_zeros(backend: str, fullgraph: bool) -> None:
    """torch cannot trace it (for any autograd.Function, whose backward it loses): refused, or run without compiling."""
    torch._dynamo.reset()
    layer = RoutedGRU(5, 6)
    transformed = vmap(grad(loss_of(layer)))
    args = {n: torch.stack([p.detach()] * 3) for n, p in layer.named_parameters()}, torch.randn(3, 4, 2, 5)
    compiled = torch.compile(transformed, backend=backend, fullgraph=fullgraph)
    if fullgraph:
        with pytest.raises(Exception, match="cannot trace this backend under vmap, grad"):
            compiled(*args)
        return
    try:
        got = compiled(*args)
    except Exception:  # after the graph break torch may trip over itself; loud is all that is asked for
        return
    for name, want in transformed(*args).items():
        torch.testing.assert_close(got[name], want)


def test_second_derivatives_by_the_reference() -> None:
    layer = RoutedGRU(3, 4, dtype=torch.float64, backend="reference")
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    first.square().sum().backward()
    weight = layer.get_parameter("weight_hh_l0")
    assert weight.grad is not None and weight.grad.any()
    layer.backend = "cpu"
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        first.square().sum().backward()


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = RoutedGRU(3, 4, num_layers=2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(x)[0])
        return out


def _train_a_part(rank: int, size: int, port: int, results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = Tagger()
    x = torch.randn(5, 4, 3)
    parallel = DistributedDataParallel(model)
    parallel(x.chunk(size, dim=1)[rank]).square().mean().backward()
    if rank == 0:
        results.update({n: p.grad.tolist() for n, p in model.named_parameters() if p.grad is not None})
    dist.destroy_process_group()
    os._exit(0)  # torch's DDP, freed here, joins a thread of gloo that may be waiting for the interpreter's lock


def test_distributed_data_parallel() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with forked.context().Manager() as manager:
        results = manager.dict()
        start_processes(_train_a_part, (2, port, results), nprocs=2, start_method="forkserver")
        averaged = dict(results)
    torch.manual_seed(0)
    model = Tagger()
    model(torch.randn(5, 4, 3)).square().mean().backward()
    assert averaged.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(torch.tensor(averaged[name]), parameter.grad)


@pytest.mark.parametrize("change", ["+=", "relu_", "setitem", "dropout", "detach_"])
def test_output_may_be_changed_in_place_as_that_of_torch_gru(change: str) -> None:
    torch.manual_seed(0)
    layer = RoutedGRU(8, 8)
    torch.manual_seed(0)
    gru = nn.GRU(8, 8)
    grads = []
    for module, options in ((layer, {"route": "global"}), (gru, {})):
        x = torch.ones(4, 3, 8).requires_grad_()
        out, h_n = module(x, **options)
        if change == "+=":
            out += x
        elif change == "relu_":
            out.relu_()
        elif change == "setitem":
            out[2:] = 0.0
        elif change == "dropout":
            torch.manual_seed(1)
            nn.functional.dropout(out, 0.5, inplace=True)
        else:
            out.detach_()
        (out.square().sum() + h_n.sum()).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_state_of_the_cell_may_be_detached_in_place() -> None:
    cell = RoutedGRUCell(3, 4)
    h = cell(torch.randn(2, 3))
    h.detach_()
    cell(torch.randn(2, 3), h).sum().backward()
    assert cell.weight_hh.grad is not None
