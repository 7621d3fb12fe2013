"""Gradients of many output gradients at once (``is_grads_batched``, ``jacobian(vectorize=True)``, vmap of the backward op):
the numbers of a loop over the float64 reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from problems import NAMES, make
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import vmap

import flow_kernels
from flow_kernels import RoutedGRU, RoutedGRUCell, mapping
from flow_kernels.backends import cpu

ROUTES = ["mixture", "global", "local"]
ISAS = [isa for isa in cpu.ISAS if cpu._C.has_isa(isa)]
WANTED = {
    "all": NAMES,
    "input": ("input",),
    "states": ("hx", "input"),
    "weights": ("weight_hh", "router_weight", "local_bias_ih"),
}


def outputs_of(k: int | None, route: str, backend: str, **options: Any) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Leaves by name and the outputs of one call with awkward sizes; k None: no leading K."""
    problem = make(k or 1, 5, 3, 2, 7, lengths=bool(options.pop("padded", False)), route=route, **options)
    tensors = {n: t.clone() if k else t[0].clone() for n, t in problem.tensors.items()}
    given: dict[str, Any] = {n: v if k or not isinstance(v, Tensor) else v[0] for n, v in problem.options.items()}
    leaves = {n: t.requires_grad_() for n, t in tensors.items()}
    arguments: list[Any] = [leaves.get(n) for n in NAMES]
    return leaves, flow_kernels.routed_gru(*arguments, **given, backend=backend)


def compare(k: int | None, route: str, wanted: str, backend: str = "cpu", create_graph: bool = False, **options: Any) -> None:
    leaves, outputs = outputs_of(k, route, backend, **options)
    exact_leaves, exact = outputs_of(k, route, "reference", **{n: v for n, v in options.items() if n != "recompute"})
    grads = [torch.randn(4, *o.shape, dtype=torch.float64) for o in outputs]
    use = [0, 1, 2] if exact[2].requires_grad else [0, 1]  # q depends on nothing for one expert alone and for hard routing
    names = [
        n for n in WANTED[wanted] if route == "mixture" or (n.startswith("local_") == (route == "local") or n in NAMES[:2])
    ]
    names = [n for n in names if n in leaves and (2 in use or not n.startswith("router"))]
    got = torch.autograd.grad(
        [outputs[i] for i in use],
        [leaves[n] for n in names],
        [grads[i] for i in use],
        is_grads_batched=True,
        create_graph=create_graph,
    )
    for j in range(4):
        own = [grads[i][j] for i in use]
        want = torch.autograd.grad([exact[i] for i in use], [exact_leaves[n] for n in names], own, retain_graph=True)
        for name, a, b in zip(names, got, want, strict=True):
            torch.testing.assert_close(a[j], b, rtol=1e-10, atol=1e-12, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("k", [None, 2])
def test_grads_of_many_output_gradients(k: int | None, route: str, wanted: str) -> None:
    compare(k, route, wanted)


@pytest.mark.parametrize("wanted", ["all", "states"])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"padded": True, "reverse": True},
        {"bias": False},
        {"recompute": True},
        {"create_graph": True},
        {"backend": "reference"},
        {"routing": "hard"},
        {"routing": "straight_through"},
    ],
    ids=str,
)
def test_grads_of_many_output_gradients_with_options(options: dict[str, Any], k: int | None, wanted: str) -> None:
    compare(k, "mixture", wanted, **options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("wanted", ["all", "states"])
def test_grads_of_many_output_gradients_on_every_instruction_set(isa: str, wanted: str) -> None:
    cpu._C.select_isa(isa)
    compare(None, "mixture", wanted)


@pytest.mark.parametrize("wanted", ["all", "states"])
@pytest.mark.parametrize("k", [None, 2])
def test_a_part_of_the_mapped_dimension_at_a_time(monkeypatch: pytest.MonkeyPatch, k: int | None, wanted: str) -> None:
    monkeypatch.setattr(mapping, "FOLDED_BYTES", 1)
    compare(k, "mixture", wanted)
    monkeypatch.setattr(mapping, "FOLDED_BYTES", 40_000)  # some, and a remainder
    compare(k, "mixture", wanted)


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("mapped", ["dy", "dh_n", "input", "weights", "gates", "lengths", "all"])
@pytest.mark.parametrize("weights_wanted", [True, False])
def test_vmap_of_the_backward_op(mapped: str, k: int | None, batch_first: bool, save: bool, weights_wanted: bool) -> None:
    """Some arguments mapped, each in a dimension of its own; compared with one call for every element."""
    t, b, i, h = 4, 3, 2, 5
    problem = make(k or 1, t, b, i, h, lengths=True, batch_first=batch_first)
    given = {n: x if k else x[0] for n, x in {**problem.tensors, "lengths": problem.options["lengths"]}.items()}
    tensors = [given.get(n) for n in NAMES] + [given["lengths"], None]
    options = ["mixture", "soft", 0.9, batch_first, False]
    y, h_n, q, gates = torch.ops.flow_kernels.routed_gru(*tensors, *options, save)
    grads = [torch.randn_like(y), torch.randn_like(h_n), None]
    args = [*grads, y, q, gates, *tensors]
    wanted = [True, True, *[weights_wanted] * 10]
    names = mapping.TENSORS_OF_BACKWARD
    chosen = {"weights": NAMES[2:], "all": names}.get(mapped, (mapped,))
    dims: list[int | None] = [None] * len(names)
    stacks: list[Any] = list(args)
    for n, (name, tensor) in enumerate(zip(names, args, strict=True)):
        if name in chosen and tensor is not None and tensor.numel():
            dim = n % (tensor.dim() + 1) - (0 if n % 2 else tensor.dim() + 1)  # from the left and from the right
            several = [tensor.flip(-1) if name == "lengths" else tensor, tensor.roll(1, -1), tensor]
            if name not in ("lengths", "gates", "y", "q"):
                several = [x * (1 + 0.1 * m) for m, x in enumerate(several)]
            dims[n], stacks[n] = dim, torch.stack(several, dim)
    if all(along is None for along in dims):
        return  # gates that were not saved

    def backward(*tensors: Any) -> Any:
        return torch.ops.flow_kernels.routed_gru_backward(*tensors, *options, wanted)

    got = vmap(backward, in_dims=tuple(dims))(*stacks)
    for m in range(3):
        single = [x if along is None else x.select(along, m) for x, along in zip(stacks, dims, strict=True)]
        for a, b_ in zip(got, backward(*single), strict=True):
            torch.testing.assert_close(a[m], b_, rtol=1e-10, atol=1e-12)


def test_packed_rows() -> None:
    tensors = {n: t[0].requires_grad_() for n, t in make(1, 1, 3, 2, 7).tensors.items()}
    tensors["input"] = torch.randn(5, 2, dtype=torch.float64).requires_grad_()

    def run(backend: str) -> Tensor:
        args = [tensors[n] for n in NAMES]
        return flow_kernels.routed_gru(*args, batch_sizes=torch.tensor([3, 2]), backend=backend)[0]

    for names in (("input", "hx"), NAMES):
        leaves, grads = [tensors[n] for n in names], torch.randn(4, 5, 7, dtype=torch.float64)
        got = torch.autograd.grad(run("cpu"), leaves, grads, is_grads_batched=True)
        for j in range(4):
            for a, b in zip(got, torch.autograd.grad(run("reference"), leaves, grads[j]), strict=True):
                torch.testing.assert_close(a[j], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_jacobian_of_the_layer(route: str) -> None:
    layer = RoutedGRU(2, 5, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    x, hx = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)

    def run(*args: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = layer(*args, route=route)
        return output, h_n

    got = jacobian(run, (x, hx), vectorize=True)
    layer.backend = "reference"
    for mine, theirs in zip(got, jacobian(run, (x, hx)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_jacobian_in_forward_mode() -> None:
    layer, x = RoutedGRU(2, 5, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    forward = jacobian(lambda x: layer(x)[0], x, vectorize=True, strategy="forward-mode")
    torch.testing.assert_close(forward, jacobian(lambda x: layer(x)[0], x, vectorize=True))
    layer.backend = "cpu"
    with pytest.raises(RuntimeError, match="no forward-mode derivative; use backend='reference'"):
        jacobian(lambda x: layer(x)[0], x, vectorize=True, strategy="forward-mode")


@pytest.mark.parametrize("clients", [None, 2])
def test_gradcheck_of_the_cell_with_batched_gradients(clients: int | None) -> None:
    cell = RoutedGRUCell(2, 3, num_clients=clients, dtype=torch.float64)
    lead = () if clients is None else (clients,)
    x, h = (torch.randn(*lead, 2, n, dtype=torch.float64, requires_grad=True) for n in (2, 3))
    assert torch.autograd.gradcheck(lambda *a: cell(*a, return_routing=True), (x, h), check_batched_grad=True)


def test_gradcheck_of_the_layer_with_batched_gradients() -> None:
    layer = RoutedGRU(2, 3, dtype=torch.float64)
    names = [n for n, _ in layer.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(x: Tensor, *weights: Tensor) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    x = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters), check_batched_grad=True)


@pytest.mark.filterwarnings("ignore:Please use .torch.vmap")
def test_levels_of_the_older_vmap_within_each_other() -> None:
    layer, x = (
        RoutedGRU(2, 5, dtype=torch.float64, backend="cpu"),
        torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True),
    )
    output = layer(x)[0]
    grads = torch.randn(2, 3, *output.shape, dtype=torch.float64)

    def of(g: Tensor) -> Tensor:
        return torch.autograd.grad(output, x, g, retain_graph=True)[0]

    older = torch._vmap_internals.vmap
    got = older(older(of))(grads)
    for a in range(2):
        for b in range(3):
            torch.testing.assert_close(got[a, b], of(grads[a, b]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(older(lambda g: older(lambda s: of(g) * s)(torch.ones(2)))(grads[0])[:, 0], got[0])
