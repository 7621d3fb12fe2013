"""What layers, cells and routed_gru say to inputs of every odd kind, and what they take that torch takes: nothing ends in an
internal error, an AttributeError or a wrong number."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import flow_kernels
from flow_kernels import GRU, GRUCell, RoutedGRU, RoutedGRUCell

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors", "ignore:.*quantize", "ignore:Sparse CSR", "ignore:Sparse invariant"
)

T, B, N, H = 5, 2, 3, 4
WEIGHTS = {
    "weight_ih": (3 * H, N), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,),
    "local_weight_ih": (3 * H, N), "local_weight_hh": (3 * H, H), "local_bias_ih": (3 * H,), "local_bias_hh": (3 * H,),
    "router_weight": (2, N + H), "router_bias": (2,),
}  # fmt: skip


class Odd:
    """A kind of value that is no dense tensor of floating numbers on the CPU, and what is said to it."""

    def __init__(self, make: Callable[[Tensor], Any], error: type[Exception] | None, message: str) -> None:
        self.make, self.error, self.message = make, error, message


def nested(t: Tensor, layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor(list(t.unbind(0)) if t.dim() > 1 else [t], layout=layout)


# None stands for the type that torch.nn.GRU raises for a wrong dtype, or RuntimeError in routed_gru
ODD: dict[str, Odd] = {
    "list": Odd(lambda t: t.tolist(), TypeError, "must be a torch.Tensor, got list; "),
    "tuple": Odd(lambda t: (t, t), TypeError, "must be a torch.Tensor, got tuple; "),
    "number": Odd(lambda t: 1.0, TypeError, "must be a torch.Tensor, got float; make one with torch.as_tensor"),
    "string": Odd(lambda t: "x", TypeError, "must be a torch.Tensor, got str; "),
    "numpy": Odd(lambda t: t.numpy(), TypeError, "must be a torch.Tensor, got ndarray; pass torch.from_numpy"),
    "numpy scalar": Odd(lambda t: np.float32(1), TypeError, "must be a torch.Tensor, got float32; pass torch.from_numpy"),
    "sparse": Odd(lambda t: t.to_sparse(), ValueError, "has layout torch.sparse_coo; it must be dense: pass .*to_dense()"),
    "sparse csr": Odd(lambda t: t.to_sparse_csr(), ValueError, "has layout torch.sparse_csr; it must be dense"),
    "mkldnn": Odd(lambda t: t.to_mkldnn(), ValueError, "has layout torch._mkldnn; it must be dense"),
    "nested": Odd(lambda t: nested(t, torch.strided), ValueError, "is a nested tensor; it must be a padded one: pass"),
    "jagged": Odd(lambda t: nested(t, torch.jagged), ValueError, "is a nested tensor; it must be a padded one: pass"),
    "quantized": Odd(
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), ValueError, "has the quantized dtype torch.qint8; pass"
    ),
    "complex": Odd(lambda t: t.to(torch.complex64), None, "complex64"),
    "int": Odd(lambda t: t.long(), None, "int64"),
    "bool": Odd(lambda t: t.bool(), None, "bool"),
    "float8": Odd(lambda t: t.to(torch.float8_e4m3fn), None, "float8_e4m3fn"),
    "other float": Odd(lambda t: t.double(), None, "float64"),
    "meta": Odd(lambda t: t.to("meta"), None, "meta"),
    "no dimensions": Odd(lambda t: torch.tensor(1.0), None, "dim|shape|[0-9]D|-D"),
}
BAD = re.compile("internal error|please file|object has no attribute|not implemented|Could not run|unsupported operand", re.I)
BACKENDS = ["auto", "cpu", "reference"]


def says(call: Callable[[], Any], odd: Odd, name: str) -> None:
    """The call is refused in one sentence that names the argument and the rule."""
    kinds: Any = odd.error or (ValueError, RuntimeError)
    with pytest.raises(kinds) as info:
        call()
    text = str(info.value)
    assert re.search(odd.message, text), text
    assert not BAD.search(text), text
    assert "\n" not in text, text
    if odd.error is not None:
        assert type(info.value) is odd.error
        assert f"{name} " in text, text


def parameters(requires_grad: bool = False) -> dict[str, Any]:
    return {n: torch.randn(shape).requires_grad_(requires_grad) for n, shape in WEIGHTS.items()}


def makeable(kind: str, t: Tensor) -> Any:
    """The odd value made of a tensor; skipped where torch makes no such thing of its number of dimensions."""
    if kind == "sparse csr" and t.dim() < 2:
        pytest.skip("a CSR tensor has two dimensions")
    if kind == "nested" and t.dim() == 1:
        return torch.nested.nested_tensor([t])
    return ODD[kind].make(t)


@pytest.mark.parametrize("name", ["input", "hx", "weight_hh", "local_bias_ih", "router_weight"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_of_routed_gru(kind: str, name: str) -> None:
    given: dict[str, Any] = {"input": torch.randn(T, B, N), "hx": torch.randn(B, H), **parameters(requires_grad=True)}
    given[name] = makeable(kind, given[name].detach())
    for backend in BACKENDS:
        says(partial(flow_kernels.routed_gru, **given, backend=backend), ODD[kind], name)
    with torch.no_grad():
        says(lambda: flow_kernels.routed_gru(**given), ODD[kind], name)


LAYERS: dict[str, tuple[Callable[[str], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "RoutedGRU": (lambda b: RoutedGRU(N, H, backend=b), (T, B, N), (1, B, H)),
    "RoutedGRU, clients": (lambda b: RoutedGRU(N, H, num_clients=2, backend=b), (2, T, B, N), (2, 1, B, H)),
    "RoutedGRU, two layers": (lambda b: RoutedGRU(N, H, 2, bidirectional=True, backend=b), (T, B, N), (4, B, H)),
    "GRU": (lambda b: GRU(N, H, backend=b), (T, B, N), (1, B, H)),
    "RoutedGRUCell": (lambda b: RoutedGRUCell(N, H, backend=b), (B, N), (B, H)),
    "GRUCell": (lambda b: GRUCell(N, H, backend=b), (B, N), (B, H)),
}


@pytest.mark.parametrize("name", ["input", "hx"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_inputs_of_layers_and_cells(kind: str, layer: str, name: str) -> None:
    make, *shapes = LAYERS[layer]
    given: dict[str, Any] = {n: torch.randn(shape) for n, shape in zip(("input", "hx"), shapes, strict=True)}
    given[name] = makeable(kind, given[name])
    for backend in ("auto", "reference"):
        module = make(backend)
        says(partial(module, **given), ODD[kind], name)
        with torch.no_grad():
            says(partial(module, **given), ODD[kind], name)


@pytest.mark.parametrize("layer", LAYERS)
def test_no_input_at_all(layer: str) -> None:
    module = LAYERS[layer][0]("auto")
    with pytest.raises(TypeError, match=f"{type(module).__name__}: input must be a torch.Tensor, got None; pass the sequences"):
        module(None)
    nothing: Any = None
    with pytest.raises(TypeError, match=r"routed_gru: input must be a torch.Tensor, got None"):
        flow_kernels.routed_gru(nothing, None, **parameters())


def test_the_state_of_an_lstm() -> None:
    h = torch.zeros(1, B, H)
    with pytest.raises(TypeError, match=r"RoutedGRU: hx must be .*, got tuple; a GRU has one state: pass h alone"):
        RoutedGRU(N, H)(torch.randn(T, B, N), (h, h))


@pytest.mark.parametrize("kind", ["list", "numpy", "sparse", "string", "number", "bool", "float8"])
def test_odd_lengths(kind: str) -> None:
    lengths = makeable(kind, torch.tensor([1.0, 5.0]))
    for call in (
        lambda: RoutedGRU(N, H)(torch.randn(T, B, N), lengths=lengths),
        lambda: GRU(N, H)(torch.randn(T, B, N), lengths=lengths),
        lambda: flow_kernels.routed_gru(torch.randn(T, B, N), None, **parameters(), lengths=lengths),
        lambda: flow_kernels.routed_gru(torch.randn(T, B, N), torch.zeros(B, H), **parameters(), lengths=lengths),
    ):
        says(call, ODD[kind], "lengths")


@pytest.mark.parametrize("batch_sizes", [[2, 2, 1], (2, 2, 1), np.array([2, 2, 1])], ids=repr)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_odd_batch_sizes(batch_sizes: Any, backend: str) -> None:
    with pytest.raises(TypeError, match=r"routed_gru: batch_sizes must be a torch.Tensor, got"):
        flow_kernels.routed_gru(torch.randn(5, N), None, **parameters(), batch_sizes=batch_sizes, backend=backend)


def test_a_packed_sequence_where_it_does_not_belong() -> None:
    packed: Any = nn.utils.rnn.pack_sequence([torch.randn(4, N), torch.randn(2, N)])
    for call in (lambda: RoutedGRUCell(N, H)(packed), lambda: flow_kernels.routed_gru(packed, None, **parameters())):
        with pytest.raises(TypeError, match=r"got PackedSequence; pass its data as input and its batch_sizes to routed_gru"):
            call()
    with pytest.raises(TypeError, match=r"RoutedGRU: hx must be a torch.Tensor, got list"):
        RoutedGRU(N, H)(packed, [1.0])
    with pytest.raises(ValueError, match=r"RoutedGRU: hx has layout torch.sparse_coo"):
        RoutedGRU(N, H)(packed, torch.zeros(1, 2, H).to_sparse())


@pytest.mark.parametrize(
    "kind", ["sparse", "sparse csr", "mkldnn", "nested", "quantized", "complex", "int", "other float", "meta"]
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("layer", [RoutedGRU, RoutedGRUCell, GRU, GRUCell])
def test_odd_parameters_put_into_a_layer(layer: Any, kind: str, backend: str) -> None:
    module = layer(N, H, backend=backend)
    name = "weight_hh" if "Cell" in layer.__name__ else "weight_hh_l0"
    odd = makeable(kind, getattr(module, name).detach())
    shape = (B, N) if "Cell" in layer.__name__ else (T, B, N)
    says(lambda: functional_call(module, {name: odd}, (torch.randn(shape),)), ODD[kind], "weight_hh")


@pytest.mark.parametrize("temperature", [None, "1", [1.0], torch.ones(2), 1j], ids=repr)
def test_odd_temperatures(temperature: Any) -> None:
    for call in (
        lambda: RoutedGRU(N, H, temperature=temperature),
        lambda: RoutedGRUCell(N, H, temperature=temperature),
        lambda: flow_kernels.routed_gru(torch.randn(T, B, N), None, **parameters(), temperature=temperature),
    ):
        with pytest.raises(TypeError, match="temperature must be a number > 0, got"):
            call()


@pytest.mark.parametrize("option", ["route", "routing", "backend"])
@pytest.mark.parametrize("value", [None, 1, ["global"]], ids=repr)
def test_odd_options(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of .* got {re.escape(repr(value))}"):
        flow_kernels.routed_gru(torch.randn(T, B, N), None, **parameters(), **{option: value})


# ---------------------------------------------------------------- what torch takes


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.clone().requires_grad_() for t in tensors)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_empty_batch_is_that_of_torch_gru(options: dict[str, Any], batch_first: bool, with_hx: bool) -> None:
    theirs = nn.GRU(N, H, batch_first=batch_first, **options)
    number = theirs.num_layers * (2 if theirs.bidirectional else 1)
    x, hx = torch.randn((0, T, N) if batch_first else (T, 0, N)), torch.randn(number, 0, H)
    want = theirs(x, hx if with_hx else None)
    for kind in (RoutedGRU, GRU):
        for backend in BACKENDS:
            layer = kind(N, H, batch_first=batch_first, backend=backend, **options)
            leaf, state = leaves(x, hx)
            got = layer(leaf, state if with_hx else None)
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
            (got[0].sum() + got[1].sum()).backward()
            assert leaf.grad is not None and leaf.grad.shape == x.shape
            assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
            with torch.no_grad():
                assert layer(x)[0].shape == want[0].shape


def test_empty_batch_with_routing_lengths_and_clients() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    for backend in BACKENDS:
        output, h_n, q = RoutedGRU(N, H, backend=backend)(torch.randn(T, 0, N), lengths=none, return_routing=True)
        assert output.shape == (T, 0, H) and h_n.shape == (1, 0, H) and q.shape == (1, T, 0, 2)
        many = RoutedGRU(N, H, num_clients=3, backend=backend)
        output, h_n, q = many(torch.randn(3, T, 0, N), lengths=none.expand(3, 0), return_routing=True)
        assert output.shape == (3, T, 0, H) and h_n.shape == (3, 1, 0, H) and q.shape == (3, 1, T, 0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_over_empty_batches(backend: str) -> None:
    layer = RoutedGRU(N, H, backend=backend)
    weights = {n: torch.stack([p.detach()] * 3) for n, p in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        output, h_n = functional_call(layer, weights, (x,))
        value: Tensor = output.sum() + h_n.sum()
        return value

    x = torch.randn(3, T, 0, N)
    assert vmap(lambda x: layer(x)[0])(x).shape == (3, T, 0, H)
    for name, gradient in vmap(torch.func.grad(loss))(weights, x).items():
        assert gradient.shape == weights[name].shape and not gradient.any()
    assert vmap(lambda x: layer(x)[0])(torch.randn(0, T, B, N)).shape == (0, T, B, H)
    (output, _), leaf = layer(x[0]), layer.get_parameter("weight_hh_l0")
    (gradient,) = torch.autograd.grad(output, leaf, torch.randn(7, T, 0, H), is_grads_batched=True)
    assert gradient.shape == (7, *leaf.shape) and not gradient.any()


def test_no_time_steps_are_refused_as_by_torch() -> None:
    for module in (nn.GRU(N, H), RoutedGRU(N, H), GRU(N, H)):
        for shape in ((0, B, N), (0, 0, N), (0, N)):
            with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
                module(torch.randn(shape))
    with pytest.raises(RuntimeError, match=r"T must be at least 1, got T=0 \(input \[0, 2, 3\]\)"):
        flow_kernels.routed_gru(torch.randn(0, B, N), None, **parameters())


@pytest.mark.parametrize("kind", [RoutedGRUCell, GRUCell])
@pytest.mark.parametrize("sizes", [(3, 0), (0, 4), (0, 0), (3, 4)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_sizes_of_zero_in_a_cell_are_those_of_torch(kind: Any, sizes: tuple[int, int], batch: int) -> None:
    torch.manual_seed(0)
    theirs = nn.GRUCell(*sizes, dtype=torch.float64)
    torch.manual_seed(0)
    ours = kind(*sizes, dtype=torch.float64)
    x, h = (torch.randn(batch, n, dtype=torch.float64) for n in sizes)
    for args in ((x, h), (x,)):
        grads = []
        for module, more in ((ours, {"route": "global"} if kind is RoutedGRUCell else {}), (theirs, {})):
            given = leaves(*args)
            state = module(*given, **more)
            state.square().sum().backward()
            named = dict(module.named_parameters())
            grads.append([state.detach(), *(t.grad for t in given), *(named[n].grad for n, _ in theirs.named_parameters())])
            module.zero_grad()
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    if kind is RoutedGRUCell:
        state, q = ours(x, h, return_routing=True)
        assert state.shape == (batch, sizes[1]) and q.shape == (batch, 2)
        torch.testing.assert_close(q.sum(-1), torch.ones(batch, dtype=torch.float64))
        logits = torch.cat([x, h], -1) @ ours.router_weight.T + ours.router_bias
        torch.testing.assert_close(q, logits.softmax(-1))


@pytest.mark.parametrize("bias", [1, 0, None, "yes", True, False])
@pytest.mark.parametrize("kind", [RoutedGRUCell, GRUCell])
def test_bias_of_a_cell_is_whatever_counts_as_true(kind: Any, bias: Any) -> None:
    theirs, ours = nn.GRUCell(3, 4, bias), kind(3, 4, bias)
    assert (ours.bias_ih is None) == (theirs.bias_ih is None)
    assert ours(torch.randn(2, 3)).shape == (2, 4)


def test_a_fused_backend_by_name_needs_sizes() -> None:
    with pytest.raises(RuntimeError, match="backend='cpu' needs I and H of at least 1, got I=0 and H=4; use"):
        RoutedGRUCell(0, 4, backend="cpu")(torch.randn(2, 0))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((-1, 4), ValueError, "input_size must be at least 0, got -1"),
        ((3, 2**31), ValueError, "hidden_size must be at most 2147483647, got 2147483648; lower it"),
        ((3, -2), ValueError, "hidden_size must be at least 0, got -2"),
        ((3.0, 4), TypeError, "input_size should be of type int, got: float"),
        ((3, "4"), TypeError, "hidden_size should be of type int, got: str"),
    ],
)
def test_sizes_that_are_none(sizes: Any, error: type[Exception], message: str) -> None:
    for kind in (RoutedGRUCell, GRUCell):
        with pytest.raises(error, match=message):
            kind(*sizes)


def test_the_cell_names_shapes_as_they_were_passed() -> None:
    for args in ((torch.randn(0, 3), torch.randn(1, 4)), (torch.randn(2, 3), torch.randn(2, 5))):
        with pytest.raises(RuntimeError) as theirs:
            nn.GRUCell(3, 4)(*args)
        for kind in (RoutedGRUCell, GRUCell):
            with pytest.raises(RuntimeError, match=f"^{re.escape(str(theirs.value))}$"):
                kind(3, 4)(*args)


@pytest.mark.parametrize("index", [0.0, None, "0"])
def test_a_cell_of_a_layer_whose_number_is_no_integer(index: Any) -> None:
    with pytest.raises(TypeError, match=r"layer_index must be an int, got .*; pass 0 for the first layer"):
        flow_kernels.GRUCell.from_layer(flow_kernels.GRU(3, 4), index)


def test_a_temperature_that_no_float_can_hold() -> None:
    with pytest.raises(ValueError, match=r"temperature must be a finite number > 0, got 10+;"):
        RoutedGRU(3, 4, temperature=10**400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**62, 2), "input_size must be at most 2147483647, got 4611686018427387904; lower it"),
        ((2, 2**64), "hidden_size must be at most 2147483647, got 18446744073709551616; lower it"),
        ((2, 2, 2**62), "num_layers must be at most 65536, got 4611686018427387904; lower it"),
    ],
)
@pytest.mark.parametrize("layer", [RoutedGRU, GRU])
def test_sizes_beyond_any_memory_are_refused_at_once(layer: type, arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(*arguments)


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-30])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_tiny_temperature_routes_as_hard_routing_does(backend: str, temperature: float) -> None:
    torch.manual_seed(0)
    layer, hard = RoutedGRU(3, 4, temperature=temperature, backend=backend), RoutedGRU(3, 4, routing="hard", backend=backend)
    hard.load_state_dict(layer.state_dict())
    x = torch.randn(7, 5, 3)
    output, _ = layer(x)
    output.sum().backward()
    assert torch.equal(output, hard(x)[0])
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())
