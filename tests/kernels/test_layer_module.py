"""RoutedGRU as a module: checkpoints, copies, dtypes, parametrizations, attributes, compilers."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from layer_cases import PACKED, PLAIN, close, naive
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, skip_init

import flow_kernels.modules.stack
from flow_kernels.functional import routed_gru
from flow_kernels.modules.cell import RoutedGRUCell
from flow_kernels.modules.layer import RoutedGRU

# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_checkpoint_of_torch_gru_loads(bias: bool, assign: bool) -> None:
    gru = nn.GRU(3, 4, 2, bias=bias, bidirectional=True)
    layer = RoutedGRU(3, 4, 2, bias=bias, bidirectional=True)
    router = {n: p.detach().clone() for n, p in layer.named_parameters() if n.startswith("router_")}
    checkpoint = gru.state_dict()
    with pytest.warns(UserWarning, match="checkpoint is one of a plain GRU; the local expert starts as a copy") as warned:
        result = layer.load_state_dict(checkpoint, assign=assign)
    assert [w.filename for w in warned] == [__file__]
    assert not result.missing_keys
    assert list(checkpoint) == list(gru.state_dict()), "the caller's dict was changed"
    state = layer.state_dict()
    for name, value in checkpoint.items():
        assert torch.equal(state[name], value)
        assert torch.equal(state["local_" + name], value)
        assert state["local_" + name].data_ptr() not in (value.data_ptr(), state[name].data_ptr())
    for name, value in router.items():
        assert torch.equal(state[name], value)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in layer.parameters())
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x)[0], gru(x)[0])  # two equal experts: the router does not matter


def test_checkpoint_of_a_model_with_a_torch_gru_loads() -> None:
    new: Any
    old: Any = nn.ModuleDict({"embed": nn.Embedding(5, 3), "gru": nn.GRU(3, 4), "head": nn.Linear(4, 5)})
    new = nn.ModuleDict({"embed": nn.Embedding(5, 3), "gru": RoutedGRU(3, 4), "head": nn.Linear(4, 5)})
    with pytest.warns(UserWarning, match="checkpoint is one of a plain GRU"):
        new.load_state_dict(old.state_dict())
    assert torch.equal(new["gru"].local_weight_ih_l0, old["gru"].weight_ih_l0)


@pytest.mark.parametrize("clients", [None, 3])
def test_own_checkpoint_loads_in_silence(clients: int | None) -> None:
    a, b = (RoutedGRU(3, 4, 2, bidirectional=True, num_clients=clients) for _ in range(2))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b.load_state_dict(torch.load(file, weights_only=True))
        b.load_state_dict(a.state_dict(), assign=True)
    for name, value in a.state_dict().items():
        assert torch.equal(b.state_dict()[name], value)


def _without(state: Any, name: str) -> dict[str, Tensor]:
    return {n: v for n, v in state.items() if n != name}


PLAIN_STATE, OWN_STATE = nn.GRU(3, 4).state_dict(), RoutedGRU(3, 4).state_dict()


@pytest.mark.filterwarnings("ignore:.*checkpoint is one of a plain GRU")
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_without(PLAIN_STATE, "weight_hh_l0"), r'Missing key.*"weight_hh_l0"'),
        (_without(OWN_STATE, "weight_hh_l0"), r'Missing key.*: "weight_hh_l0"\.'),
        (_without(OWN_STATE, "local_bias_ih_l0"), r'Missing key.*: "local_bias_ih_l0"\.'),
        (_without(OWN_STATE, "router_weight_l0"), r'Missing key.*: "router_weight_l0"\.'),
        ({**OWN_STATE, "more": torch.zeros(1)}, r'Unexpected key.*"more"'),
        ({**PLAIN_STATE, "more": torch.zeros(1)}, r'Unexpected key.*"more"'),
        (nn.GRU(3, 4, 2).state_dict(), r'Unexpected key.*"weight_ih_l1"'),
        ({**PLAIN_STATE, "weight_ih_l0": torch.zeros(12, 5)}, "size mismatch for weight_ih_l0"),
        ({**OWN_STATE, "local_weight_ih_l0": torch.zeros(12, 5)}, "size mismatch for local_weight_ih_l0"),
        ({}, "Missing key"),
    ],
)
def test_load_stays_strict(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        RoutedGRU(3, 4).load_state_dict(state)


def test_load_that_is_not_strict_reports_what_is_missing() -> None:
    result = RoutedGRU(3, 4).load_state_dict(_without(OWN_STATE, "local_weight_hh_l0"), strict=False)
    assert result == (["local_weight_hh_l0"], [])
    with pytest.warns(UserWarning, match="checkpoint is one of a plain GRU"):
        result = RoutedGRU(3, 4).load_state_dict(_without(PLAIN_STATE, "weight_hh_l0"), strict=False)
    assert result == (["weight_hh_l0", "local_weight_hh_l0"], [])


def test_checkpoint_of_one_model_goes_to_every_client() -> None:
    many: Any = RoutedGRU(3, 4, num_clients=3)
    gru: Any = nn.GRU(3, 4)
    single: Any = RoutedGRU(3, 4)
    with pytest.warns(UserWarning, match="each of the 3 clients starts from a copy of it") as warned:
        many.load_state_dict(single.state_dict())
    assert len(warned) == 1
    for name, parameter in many.named_parameters():
        assert torch.equal(parameter, torch.stack([single.state_dict()[name]] * 3)), name
        assert parameter.is_contiguous()
    router = many.router_weight_l0.detach().clone()
    with pytest.warns(UserWarning, match="RoutedGRU: the checkpoint") as warned:
        many.load_state_dict(gru.state_dict())
    assert len(warned) == 2
    assert torch.equal(many.local_weight_hh_l0[2], gru.weight_hh_l0)
    assert torch.equal(many.router_weight_l0, router)
    with pytest.warns(UserWarning, match="each of the 3 clients"):
        many.load_state_dict(single.state_dict(), assign=True)
    with torch.no_grad():
        many.weight_ih_l0[0].zero_()  # the clients share no memory with each other, nor with the checkpoint
    assert torch.equal(many.weight_ih_l0[1], single.weight_ih_l0)
    assert single.weight_ih_l0.all()
    with pytest.raises(RuntimeError, match="size mismatch"):
        single.load_state_dict(many.state_dict())


# ---------------------------------------------------------------- copies, dtypes, attributes


def test_deepcopy_and_pickle() -> None:
    layer, (x, hx) = PLAIN.layer(temperature=0.5, routing="hard"), PLAIN.data()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)
        assert torch.equal(other(x, hx)[0], layer(x, hx)[0])
        with torch.no_grad():
            other.weight_ih_l0.zero_()
        assert layer.weight_ih_l0.any()
        assert not torch.equal(other(x, hx)[0], layer(x, hx)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Storage only: with the same rounded weights and input the output is the exact one, rounded."""
    layer = PLAIN.layer().to(dtype)
    x, hx = PLAIN.data()
    assert hx is not None
    single = RoutedGRU(3, 4, bidirectional=True, dtype=dtype)
    single.load_state_dict({n: v for n, v in layer.state_dict().items() if "_l0" in n})
    x, hx = x.to(dtype), hx[:2].to(dtype)
    output, h_n, q = single(x, hx, return_routing=True)
    assert {output.dtype, h_n.dtype, q.dtype} == {dtype}
    exact = copy.deepcopy(single).double()(x.double(), hx.double(), return_routing=True)
    for mine, theirs in zip((output, h_n, q), exact, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize(("own", "autocast"), [(torch.float64, torch.bfloat16), (torch.float32, torch.float16)])
def test_autocast_computes_in_the_dtype_of_the_parameters(own: torch.dtype, autocast: torch.dtype) -> None:
    """Unless it is float32 under bfloat16, for which see test_bfloat16.py."""
    layer, cell = RoutedGRU(3, 4, dtype=own), RoutedGRUCell(3, 4, dtype=own)
    x, hx = torch.randn(5, 2, 3).to(autocast), torch.randn(1, 2, 4).to(autocast)
    packed = PACKED.to(autocast)
    expected = layer(x.to(own), hx.to(own))[0], layer(packed.to(own))[0].data, cell(x[0].to(own), hx[0].to(own))
    with torch.autocast("cpu", dtype=autocast):
        got = layer(x, hx)[0], layer(packed)[0].data, cell(x[0], hx[0])
        full = layer(x.to(own), hx.to(own))[0], layer(packed.to(own))[0].data, cell(x[0].to(own), hx[0].to(own))
        assert (x.float() @ x.float().mT).dtype == autocast  # autocast is on
        with pytest.raises(ValueError, match="RNN input dtype"):
            layer(torch.ones(5, 2, 3, dtype=torch.int64))
    for results in (got, full):
        for mine, theirs in zip(results, expected, strict=True):
            assert torch.equal(mine, theirs)


def test_parametrizations_and_pruning() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    expected = layer(x, hx)[0]
    for name in ("weight_hh_l0", "local_weight_ih_l1_reverse", "router_weight_l0"):
        parametrizations.weight_norm(layer, name)
    close(layer(x, hx)[0], expected)
    scale = layer.parametrizations.router_weight_l0.original0
    layer(x, hx)[0].sum().backward()
    assert scale.grad is not None
    assert scale.grad.any()
    with torch.no_grad():
        scale.mul_(3)
    assert not torch.allclose(layer(x, hx)[0], expected)
    for name in ("weight_hh_l0", "local_weight_ih_l1_reverse", "router_weight_l0"):
        parametrize.remove_parametrizations(layer, name)
    with torch.no_grad():
        layer.router_weight_l0.div_(3)
    close(layer(x, hx)[0], expected)
    prune.l1_unstructured(layer, "local_weight_hh_l0", amount=0.5)
    pruned = layer(x, hx)[0]
    assert not torch.allclose(pruned, expected)
    prune.remove(layer, "local_weight_hh_l0")
    close(layer(x, hx)[0], pruned)


def test_replaced_parameters_are_used() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    layer.weight_ih_l0 = nn.Parameter(torch.zeros_like(layer.weight_ih_l0))
    close(layer(x, hx)[0], naive(layer, x, hx, [5] * 4, "mixture")[0])
    other = PLAIN.layer()
    state = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    output = torch.func.functional_call(other, state, (x,))[0]
    assert not output.any()
    assert other(x)[0].any()


def test_vmap_over_stacked_layers_is_num_clients() -> None:
    torch.manual_seed(0)
    layers = [RoutedGRU(3, 4, bidirectional=True, dtype=torch.float64) for _ in range(3)]
    state, _ = torch.func.stack_module_state(layers)
    many = RoutedGRU(3, 4, bidirectional=True, num_clients=3, dtype=torch.float64)
    many.load_state_dict(state)
    x = torch.randn(3, 5, 2, 3, dtype=torch.float64)

    def run(weights: dict[str, Tensor], input: Tensor) -> Any:
        return torch.func.functional_call(layers[0], weights, (input,), {"return_routing": True})

    for mine, theirs in zip(torch.func.vmap(run)(state, x), many(x, return_routing=True), strict=True):
        close(mine, theirs)


def test_checkpointing_keeps_numbers_and_gradients() -> None:
    layer, (x, hx) = PLAIN.layer(), PLAIN.data()
    grads = []
    for recompute in (False, True):
        layer.zero_grad()
        if recompute:
            output, _ = torch.utils.checkpoint.checkpoint(layer, x, hx, use_reentrant=False)
        else:
            output, _ = layer(x, hx)
        output.square().sum().backward()
        grads.append([p.grad for p in layer.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_attributes_that_code_for_torch_gru_reads() -> None:
    layer, gru = RoutedGRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    names = ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    for name in (*names, "proj_size"):
        assert getattr(layer, name) == getattr(gru, name)
    shapes = [[w.shape for w in weights] for weights in gru.all_weights]
    assert [[w.shape for w in weights] for weights in layer.all_weights] == shapes
    assert layer.all_weights[3][1] is layer.weight_hh_l1_reverse
    assert [len(w) for w in RoutedGRU(3, 4, bias=False).all_weights] == [2]
    before = [p.data_ptr() for p in layer.parameters()]
    layer.flatten_parameters()
    assert [p.data_ptr() for p in layer.parameters()] == before


def test_parameter_names_and_shapes() -> None:
    layer = RoutedGRU(3, 4, 2, bidirectional=True)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert len(shapes) == 40
    assert shapes["weight_ih_l1_reverse"] == shapes["local_weight_ih_l1_reverse"] == (12, 8)
    assert shapes["local_bias_hh_l0"] == (12,)
    assert shapes["router_weight_l0"] == (2, 7)
    assert shapes["router_weight_l1"] == (2, 12)
    assert shapes["router_bias_l1_reverse"] == (2,)
    assert not [n for n, _ in RoutedGRU(3, 4, bias=False).named_parameters() if "bias" in n]
    many = RoutedGRU(3, 4, 2, bidirectional=True, num_clients=5)
    assert {name: tuple(p.shape) for name, p in many.named_parameters()} == {n: (5, *s) for n, s in shapes.items()}


def test_repr() -> None:
    assert repr(RoutedGRU(3, 4)) == repr(nn.GRU(3, 4)).replace("GRU", "RoutedGRU")
    options: Any = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    assert repr(RoutedGRU(3, 4, **options)) == repr(nn.GRU(3, 4, **options)).replace("GRU", "RoutedGRU")
    layer = RoutedGRU(3, 4, temperature=0.5, routing="hard", num_clients=2, backend="reference")
    assert repr(layer) == "RoutedGRU(3, 4, temperature=0.5, routing=hard, num_clients=2, backend=reference)"
    assert repr(RoutedGRUCell(3, 4, False)) == "RoutedGRUCell(3, 4, bias=False)"


def test_on_the_meta_device() -> None:
    layer = RoutedGRU(3, 4, device="meta")
    output, h_n = layer(torch.randn(5, 2, 3, device="meta"))
    assert output.shape == (5, 2, 4)
    assert h_n.shape == (1, 2, 4)
    real = skip_init(RoutedGRU, 3, 4)
    real.load_state_dict(RoutedGRU(3, 4).state_dict())
    assert real(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


# ---------------------------------------------------------------- compilers


@torch.library.custom_op("flow_kernels_tests::recurrence", mutates_args=())
def recurrence(
    x: Tensor, hx: Tensor | None, weights: list[Tensor], lengths: Tensor | None, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """An opaque operator in the place of the loop over time, so that a graph does not depend on T."""
    y, h_n, q = routed_gru(x, hx, *weights, lengths=lengths, batch_first=batch_first, backend="reference")
    return y.contiguous(), h_n.contiguous(), q.contiguous()


@recurrence.register_fake
def _(
    x: Tensor, hx: Tensor | None, weights: list[Tensor], lengths: Tensor | None, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = weights[1].shape[-1]
    batch = x.shape[0] if batch_first else x.shape[1]
    return x.new_empty(*x.shape[:2], hidden), x.new_empty(batch, hidden), x.new_empty(*x.shape[:2], 2)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_one_graph_for_every_length_and_batch(monkeypatch: pytest.MonkeyPatch, batch_first: bool, padded: bool) -> None:
    def opaque(x: Tensor, hx: Tensor | None, *weights: Tensor, lengths: Tensor | None, batch_first: bool, **_: Any) -> Any:
        return recurrence(x, hx, list(weights), lengths, batch_first)

    monkeypatch.setattr(flow_kernels.modules.stack, "routed_gru", opaque)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    layer = RoutedGRU(3, 4, 2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        # a first size like no other: PyTorch takes equal sizes of the first call for one and the same
        for steps, batch in ((5, 8), (7, 2), (4, 6), (9, 9)):
            x = torch.randn(*((batch, steps) if batch_first else (steps, batch)), 3, dtype=torch.float64)
            lengths = torch.randint(1, steps + 1, (batch,)) if padded else None
            got = compiled(x, return_routing=True, lengths=lengths)
            for mine, theirs in zip(got, layer(x, return_routing=True, lengths=lengths), strict=True):
                close(mine, theirs)
    assert counter.frame_count == 1


def test_compiled_reference_trains() -> None:
    torch._dynamo.reset()
    layer = RoutedGRU(2, 3, bidirectional=True, dtype=torch.float64, backend="reference")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, lengths = torch.randn(2, 3, 2, dtype=torch.float64), torch.tensor([2, 1, 2])
    grads = []
    for run in (layer, compiled):
        layer.zero_grad()
        output, h_n, q = run(x, lengths=lengths, return_routing=True)
        (output.square().sum() + h_n.sum() + q[..., 0].sum()).backward()
        grads.append([p.grad for p in layer.parameters()])
    for a, b in zip(*grads, strict=True):
        close(a, b)


def test_compiled_with_a_packed_sequence() -> None:
    torch._dynamo.reset()
    layer = RoutedGRU(3, 4, backend="reference")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.no_grad():
        (output, h_n), (expected, h_expected) = compiled(PACKED), layer(PACKED)
    assert torch.equal(output.data, expected.data)
    assert torch.equal(h_n, h_expected)


def test_export_with_a_dynamic_batch() -> None:
    layer = RoutedGRU(2, 3, 2, batch_first=True, dtype=torch.float64, backend="reference").eval()
    program = torch.export.export(
        layer,
        (torch.randn(4, 2, 2, dtype=torch.float64),),
        {"return_routing": True},
        dynamic_shapes={"input": {0: torch.export.Dim("batch", min=2)}, "return_routing": None},
    )
    x = torch.randn(7, 2, 2, dtype=torch.float64)
    for mine, theirs in zip(program.module()(x, return_routing=True), layer(x, return_routing=True), strict=True):
        close(mine, theirs)


def test_a_gru_checkpoint_cannot_make_up_a_router_on_meta() -> None:
    layer = RoutedGRU(3, 4, device="meta")
    checkpoint = torch.nn.GRU(3, 4).state_dict()
    with pytest.warns(UserWarning, match="plain GRU"), pytest.raises(RuntimeError, match=r"Missing key.*router_weight_l0"):
        layer.load_state_dict(checkpoint, assign=True)
