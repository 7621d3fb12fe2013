"""Tools of torch that take a layer apart: what works gives the layer's numbers, what cannot work says what to use instead."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _flags

from flow_kernels import GRU, GRUCell, RoutedGRU, RoutedGRUCell

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:.*legacy TorchScript"
)
KINDS = [RoutedGRU, RoutedGRUCell, GRU, GRUCell]


def sample(kind: type[nn.Module]) -> Tensor:
    return torch.randn(2, 3) if "Cell" in kind.__name__ else torch.randn(2, 2, 3)


def first(result: Any) -> Tensor:
    """The output of a layer, the state of a cell."""
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


@pytest.mark.parametrize("kind", KINDS)
def test_script_names_the_way(kind: Any) -> None:
    for model in (kind(3, 4), nn.Sequential(nn.Identity(), kind(3, 4, backend="reference"))):
        with pytest.raises(
            RuntimeError, match=rf"^{kind.__name__} cannot be compiled by torch.jit.script; use torch.export.export"
        ):
            torch.jit.script(model)


@pytest.mark.parametrize("kind", KINDS)
def test_trace_without_gradients_or_of_the_reference(kind: Any) -> None:
    x, other = sample(kind), sample(kind)
    layer = kind(3, 4)
    with pytest.raises(RuntimeError, match=r"torch.jit.trace records this backend without gradients only; trace under"):
        torch.jit.trace(layer, (x,))
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        assert torch.equal(first(torch.jit.load(file)(other)), first(layer(other)))
    layer.backend = "reference"
    torch.testing.assert_close(first(torch.jit.trace(layer, (x,))(other)), first(layer(other)))


class Only(nn.Module):
    """What the older exporter needs: it passes arguments by place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return first(self.inner(x))


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_by_the_older_exporter(kind: Any) -> None:
    """A fused backend is refused in a sentence. The reference passes every conversion; only the package onnx may be missing."""
    file: Any = io.BytesIO()  # torch takes an open file too, which its annotation leaves out
    with pytest.raises(RuntimeError, match="an operator of its own, which ONNX does not have; export with backend='reference'"):
        torch.onnx.export(Only(kind(3, 4).eval()), (sample(kind),), file, dynamo=False)
    model = Only(kind(3, 4, backend="reference").eval())
    if importlib.util.find_spec("onnx") is None:  # asked for after the graph is converted
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match=r"^Module onnx is not installed!$"):
            torch.onnx.export(model, (sample(kind),), file, dynamo=False)
    else:
        torch.onnx.export(model, (sample(kind),), file, dynamo=False)
        assert file.getvalue()


@pytest.mark.parametrize(("kind", "strict"), [*((kind, False) for kind in KINDS), (RoutedGRU, True)])
def test_onnx_by_the_newer_exporter(kind: Any, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with torch.export under a flag; what follows needs the package onnxscript."""
    torch._dynamo.reset()
    monkeypatch.setattr(_flags, "_is_onnx_exporting", True)
    with pytest.raises(RuntimeError, match="an operator of its own, which ONNX does not have; export with backend='reference'"):
        torch.export.export(kind(3, 4), (sample(kind),), strict=strict)
    program = torch.export.export(kind(3, 4, backend="reference"), (sample(kind),), strict=strict)
    targets = {str(node.target) for node in program.run_decompositions().graph.nodes if node.op == "call_function"}
    assert targets and all(target.startswith("aten.") or "getitem" in target for target in targets)


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_quantization_says_that_it_leaves_the_layer_in_float(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), kind(3, 4))
    with pytest.warns(
        UserWarning, match=rf"^{kind.__name__} is not quantized: .* so its weights stay float32; load one"
    ) as warned:
        quantized = torch.ao.quantization.quantize_dynamic(model)
    assert len([w for w in warned if "is not quantized" in str(w.message)]) == 1
    assert type(quantized[0]) is not nn.Linear
    x = sample(kind)
    assert torch.equal(first(quantized[1](x)), first(model[1](x)))
    assert not hasattr(quantized[1], "qconfig") and not hasattr(model[1], "qconfig")


def test_one_expert_in_torch_gru() -> None:
    """What docs/routed-gru.md shows for a checkpoint that goes back."""
    layer, gru = RoutedGRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    state, x = layer.state_dict(), torch.randn(5, 2, 3)
    gru.load_state_dict({n: v for n, v in state.items() if not n.startswith(("local_", "router_"))})
    torch.testing.assert_close(gru(x)[0], layer(x, route="global")[0])
    gru.load_state_dict({n.removeprefix("local_"): v for n, v in state.items() if n.startswith("local_")})
    torch.testing.assert_close(gru(x)[0], layer(x, route="local")[0])
    with pytest.raises(RuntimeError, match=r"Unexpected key.*local_weight_ih_l0"):
        gru.load_state_dict(state)
