"""The GPU backends' adapters on tensors of a GPU that is not there: torch's fake tensors have a shape, a dtype and a device. An
op that mixes two devices fails. The kernels are stubs that note what they are given."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode

import flow_kernels
from flow.algorithms.shared import gate, gate_at_once
from flow.algorithms.shared.experts import Expert, Experts, Memories
from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Route, names_of
from flow.training import descent, fused, work
from flow.training.batches import Data, batches
from flow.training.sgd import Sgd, Update
from flow_kernels import plan
from flow_kernels.backends.gpu import cuda
from flow_kernels.backends.gpu.cuda import launch as cuda_launch
from flow_kernels.backends.gpu.cuda import shape
from flow_kernels.call import NAMES, Inputs, Options, OutputGradients, Saved, Weights
from flow_kernels.training import accumulate_

GPU = torch.device("cuda", 1)  # not the first one: a tensor made on "cuda" alone would be on another
K, T, B, INPUTS, H = 3, 5, 4, 7, 20
CASES = [
    (Options(), {}),
    (Options(routing="hard", batch_first=True), dict(lengths=True)),
    (Options(routing="straight_through", reverse=True, temperature=0.5), dict(lengths=True, bias=False)),
    (Options(route="global"), dict(recompute=True)),
    (Options(route="local"), dict(lengths=True, recompute=True)),
    (Options(), dict(packed=True)),
]


class Extension:
    """In the place of flow_kernels._cuda: notes the problems; `active` clusters of any tile run at once."""

    def __init__(self, active: int = 33) -> None:
        self.clusters, self.problems, self.asked = active, list[tuple[bool, cuda.Problem]](), 0

    def size(self) -> int:
        return ctypes.sizeof(cuda.Problem)

    def active(self, address: int, backward: bool) -> int:
        self.asked += 1
        return self.clusters

    def error(self, code: int) -> str:
        return f"error {code}"

    def _note(self, address: int, backward: bool) -> int:
        self.problems.append((backward, cuda.Problem.from_buffer_copy(ctypes.string_at(address, self.size()))))
        return 0

    def forward(self, address: int, stream: int) -> int:
        return self._note(address, False)

    def backward(self, address: int, stream: int) -> int:
        return self._note(address, True)


class Kernel:
    """In the place of a Triton kernel."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launched(*arguments: Any, **constants: Any) -> None:
            assert grid and all(n >= 1 for n in grid)
            for n, argument in enumerate(arguments):
                assert not isinstance(argument, Tensor) or argument.device == GPU, f"argument {n} is on {argument.device}"
            self.launches += 1

        return launched


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Torch calls a "device guard" of the device's library in many ops. A torch without CUDA has none for it, and so the one of
    the device meta, which does nothing, takes its place in c10's table."""
    if torch.version.cuda is not None:
        yield
        return
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libc10.*"))))
    table = (ctypes.c_void_p * 15).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    of_cuda, of_meta = 1, 14  # c10::DeviceType
    assert table[of_cuda] is None and table[of_meta] is not None
    table[of_cuda] = table[of_meta]
    try:
        yield
    finally:
        table[of_cuda] = None


def product_of_shapes(a: Tensor, b: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """torch.bmm on fake tensors: torch 2.11 has no shapes for its overload with out_dtype."""
    made = torch.matmul(a, b)
    made = made if out_dtype is None else made.to(out_dtype)
    if out is None:
        return made
    assert (out.device, out.shape, out.dtype) == (made.device, made.shape, made.dtype)
    return out


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU as far as the adapters ask for one."""

    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)  # nothing is recorded
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda self: 16)
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::bmm.dtype_out", "Meta"):
        monkeypatch.setattr(torch, "bmm", product_of_shapes)
    with guarded(), FakeTensorMode():
        yield


def problem(dtype: torch.dtype, options: Options, bias: bool = True, lengths: bool = False, packed: bool = False) -> Inputs:
    def made(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=GPU)

    clients = () if packed else (K,)
    weights: dict[str, Tensor] = {}
    for prefix in ("", "local_"):
        weights |= {f"{prefix}weight_ih": made(*clients, 3 * H, INPUTS), f"{prefix}weight_hh": made(*clients, 3 * H, H)}
        if bias:
            weights |= {f"{prefix}{name}": made(*clients, 3 * H) for name in ("bias_ih", "bias_hh")}
    weights["router_weight"] = made(*clients, 2, INPUTS + H)
    if bias:
        weights["router_bias"] = made(*clients, 2)
    whole = torch.empty(*clients, B, dtype=torch.int64, device=GPU)
    offsets = torch.empty(T + 1, dtype=torch.int64, device=GPU) if packed else None
    steps = (T * B - 3,) if packed else (K, B, T) if options.batch_first else (K, T, B)
    given = Weights(**weights).used_by(options.route)
    return Inputs(made(*steps, INPUTS), made(*clients, B, H), given, whole if lengths or packed else None, offsets, options)


def both_ways(forward: Any, backward: Any, inputs: Inputs, recompute: bool) -> None:
    """Forward, then backward with every gradient."""
    y, h_n, q, gates = forward(inputs, not recompute)
    assert bool(gates.numel()) != recompute
    assert (y.shape, h_n.shape) == ((*inputs.x.shape[:-1], H), inputs.h0.shape) and q.shape == (*inputs.x.shape[:-1], 2)
    wanted = [t is not None for t in inputs.tensors]
    gradients = OutputGradients(torch.empty_like(y), torch.empty_like(h_n), torch.empty_like(q))
    listed = backward(gradients, Saved(y, q, gates), inputs, wanted)
    given = [(name, t) for name, t in zip(NAMES, inputs.tensors, strict=True) if t is not None]
    for (name, tensor), gradient in zip(given, listed, strict=True):
        assert (gradient.shape, gradient.dtype, gradient.device) == (tensor.shape, tensor.dtype, GPU), name
    for output in (y, h_n, q, gates):
        assert output.device == GPU


def on_cuda(inputs: Inputs, recompute: bool, extension: Extension) -> None:
    kernels = cuda.Kernels(extension)
    launched = kernels._launch

    def checked(call: Any, backward: bool, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            assert tensor is None or tensor.device == GPU, f"{name} is on {tensor.device}"
        launched(call, backward, **tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_launch", checked)
        both_ways(kernels.forward, kernels.backward, inputs, recompute)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("dtype", cuda.DTYPES, ids=str)
@pytest.mark.parametrize(("options", "flags"), CASES, ids=str)
def test_the_cuda_adapter_stays_on_one_device(options: Options, flags: dict[str, bool], dtype: torch.dtype) -> None:
    extension, recompute = Extension(), flags.get("recompute", False)
    inputs = problem(dtype, options, **{name: value for name, value in flags.items() if name != "recompute"})
    on_cuda(inputs, recompute, extension)
    assert [backward for backward, _ in extension.problems] == ([False, False, True] if recompute else [False, True])
    assert all(noted.device == GPU.index and noted.dtype == cuda.DTYPES.index(dtype) for _, noted in extension.problems)


@pytest.mark.triton
@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scan", ["step", "sequence"])
@pytest.mark.parametrize(("options", "flags"), CASES, ids=str)
def test_the_triton_adapter_stays_on_one_device(
    options: Options, flags: dict[str, bool], scan: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flow_kernels.backends.gpu import triton
    from flow_kernels.backends.gpu.triton import backward, forward, launch, tiles

    kernels = {name: Kernel() for name in ("step_forward", "sequence_forward", "step_backward", "sequence_backward")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(forward if name.endswith("forward") else backward, name, kernel)
    monkeypatch.setattr(tiles, "choose_tile", lambda *_: (scan, tiles.Tile(32, 16, 16)))
    recompute = flags.get("recompute", False)
    inputs = problem(dtype, options, **{name: value for name, value in flags.items() if name != "recompute"})
    family = triton.family
    both_ways(lambda *args: launch.forward(family, *args), lambda *args: launch.backward(family, *args), inputs, recompute)
    each = {name: kernel.launches for name, kernel in kernels.items() if kernel.launches}
    once = 1 if scan == "sequence" else T
    assert each == {f"{scan}_forward": once * (2 if recompute else 1), f"{scan}_backward": 1 if scan == "sequence" else T + 1}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("function", ["_in_pairs", "_slope_of_soft"])
def test_a_tensor_on_another_device_is_noticed(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of the adapter's functions makes lies on the first GPU."""
    made = getattr(cuda_launch, function)
    monkeypatch.setattr(cuda_launch, function, lambda *args: torch.empty_like(made(*args), device="cuda:0"))
    with pytest.raises(AssertionError, match="is on cuda:0"):
        on_cuda(problem(torch.bfloat16, Options(routing="straight_through")), False, Extension())


def test_an_op_on_two_devices_fails() -> None:
    """What the tests above rely on."""
    with FakeTensorMode():
        first, second = (torch.empty(2, device=f"cuda:{n}") for n in range(2))
        assert (first + first).device == first.device
        with pytest.raises(RuntimeError, match="device"):
            first + second
        with pytest.raises(RuntimeError, match="device"):
            first + torch.empty(2)


# The clusters that a device runs at once, clients, sequences, H: the tile forward and backward, and the clusters' waves.
DIVISIONS = [
    (33, (32, 16, 256), (16, 16), (1, 1)),
    (31, (32, 16, 256), (16, 16), (2, 2)),  # a client more than the chip has room for: no tile helps
    (30, (32, 16, 256), (16, 16), (2, 2)),
    (30, (32, 64, 256), (32, 16), (3, 5)),
    (31, (15, 32, 256), (16, 16), (1, 1)),
    (30, (16, 32, 256), (32, 16), (1, 2)),
    (8, (1, 64, 512), (8, 8), (1, 1)),
    (7, (1, 64, 512), (16, 16), (1, 1)),
    (6, (1, 64, 512), (16, 16), (1, 1)),
    (6, (7, 16, 512), (16, 16), (2, 2)),
    (6, (7, 5, 512), (8, 8), (2, 2)),
    (0, (1, 64, 512), (16, 16), (4, 4)),
]


@pytest.mark.parametrize(("active", "sizes", "tiles", "waves"), DIVISIONS, ids=str)
def test_the_tile_fits_the_clusters_that_run_at_once(
    active: int, sizes: tuple[int, int, int], tiles: tuple[int, int], waves: tuple[int, int]
) -> None:
    for backward in (False, True):
        divided = shape.divide(*sizes, backward, lambda tile: active)
        assert divided.tile == tiles[backward] == shape.batch_tile(*sizes, backward, lambda tile: active)
        assert divided.waves == waves[backward] and divided.at_once == active
        assert divided.clusters == sizes[0] * -(-sizes[1] // divided.tile)


def test_a_tile_that_fewer_clusters_have_room_for() -> None:
    """More shared memory a block may mean fewer at once: each tile is asked for its own."""
    assert shape.batch_tile(4, 32, 256, False, {8: 15, 16: 7, 32: 4}.__getitem__) == 32
    assert shape.batch_tile(4, 32, 256, False, {8: 16, 16: 7, 32: 4}.__getitem__) == 8
    error = shape.divide(4, 32, 256, False, lambda tile: -46)
    assert (error.tile, error.at_once) == (32, 0)  # the launch says what it is


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("active", [33, 31, 30, 7, 6])
def test_the_printed_plan_is_the_one_that_is_launched(active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    extension = Extension(active)
    kernels = cuda.Kernels(extension)
    monkeypatch.setattr(cuda, "_C", extension)
    monkeypatch.setattr(cuda, "_kernels", kernels, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU.index)
    plan._kept_name.cache_clear()
    text = str(
        flow_kernels.explain(
            batch_size=B,
            seq_len=T,
            input_size=INPUTS,
            hidden_size=H,
            num_clients=K,
            dtype=torch.bfloat16,
            device=GPU,
            backend="cuda",
        )
    )
    asked = extension.asked
    both_ways(kernels.forward, kernels.backward, problem(torch.bfloat16, Options()), False)
    assert asked >= 2 and extension.asked == asked  # the answers are kept
    for backward, noted in extension.problems:
        clusters, name = noted.K * -(-noted.B // noted.tile), "backward" if backward else "forward"
        waves = -(-clusters // active)
        assert f"{name} {clusters} clusters of {noted.blocks} block, batch tile {noted.tile}, {waves} wave" in text, text
    assert len(re.findall(f"at most {active}", text)) == 2 and "multiprocessors" not in text
    plan._kept_name.cache_clear()


def test_without_the_device_the_plan_says_what_it_assumes() -> None:
    text = cuda.describe(32, 20, 16, 300, 256, torch.bfloat16)
    assert text == (
        "forward 32 clusters of 4 blocks, batch tile 16, 1 wave of at most 33; backward 32 clusters of 4 blocks, batch tile "
        "16, 1 wave of at most 33; 20 steps in a launch, for 132 multiprocessors"
    )
    assert cuda.describe(32, 20, 16, 300, 256, torch.bfloat16, GPU) == text  # named, but not here


# ---- a phase of local training --------------------------------------------------------------------------------------


KERNELS = {
    "training.gpu.head_kernels": ("prepare", "forward", "rows", "backward_features", "features", "backward_weights"),
    "training.gpu.grouped_kernels": ("grouped",),
    "training.gpu.router_kernels": ("forward", "backward_rows", "backward_weights"),
    "training.gpu.sgd_kernels": ("norms", "update", "links", "add_rows", "accumulate"),
    "training.gpu.adam_kernels": ("adam",),
    "backends.gpu.triton.forward": ("step_forward", "sequence_forward"),
    "backends.gpu.triton.backward": ("step_backward", "sequence_backward"),
}


MODEL = LanguageModel(11, 5, 7, num_layers=2, projection_dim=4)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kernel]:
    """Every Triton kernel replaced; they say where the tensors lie that they are given."""
    made = {}
    for module, names in KERNELS.items():
        loaded = importlib.import_module(f"flow_kernels.{module}")
        for name in names:
            made[f"{module}.{name}"] = kernel = Kernel()
            monkeypatch.setattr(loaded, name, kernel)
    monkeypatch.setattr(descent, "refusal", lambda *_: "")
    monkeypatch.setattr(work, "refusal", lambda *_: "")
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setenv("FLOW_GRAPHS", "0")
    return made


@pytest.mark.triton
@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sgd",
    [Sgd(0.1, 2, 2), Sgd(0.1, 1, 2, 1.0, 0.5, 0.1), Sgd(0.1, 1, 2, client_optimizer="adam")],
    ids=["plain", "pulled", "adam"],
)
@pytest.mark.parametrize("route", ["global", "local", "mixture"])
def test_a_phase_stays_on_one_device(
    route: Route, sgd: Sgd, mixed: bool, stubs: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shapes = MODEL, {name: p.shape for name, p in MODEL.named_parameters()}
    monkeypatch.setattr(model, "mixed_precision", mixed)
    parameters: dict[str, Any] = {name: torch.empty(2, *shape, device=GPU) for name, shape in shapes.items()}
    tokens, lengths = torch.empty(6, 5, dtype=torch.int32, device=GPU), torch.empty(6, dtype=torch.int64, device=GPU)
    rows = (np.arange(3), np.arange(3, 5))
    data = Data(("a", "b"), rows, tokens, lengths, np.zeros(5, np.int64), np.full(6, 4))
    groups = {"global": ("global",), "local": ("local",), "mixture": ("global", "local", "router")}[route]
    anchor = {name: torch.empty_like(t) for name, t in parameters.items()} if sgd.momentum else None
    update = Update(names_of(parameters, *groups), route, gamma=0.1, mu=0.1, anchor=anchor)
    done = work.train(model, parameters, data, [update], sgd, Draw(1, 1, "train"), "global")
    assert done.nats.device == GPU and work.measure(model, parameters, data, route, 2).nats.device == GPU
    bias = parameters["head.bias"]
    total, weights = (torch.empty(shape, dtype=torch.float64, device=GPU) for shape in ((3, 11), 2))
    accumulate_(total, [bias], [weights], fresh=True)
    launches = {name.rpartition(".")[2]: kernel.launches for name, kernel in stubs.items() if kernel.launches}
    updates = 2 * sgd.epochs
    step = "update" if sgd.client_optimizer == "sgd" else "adam"
    assert launches[step] == launches["norms"] == updates and launches["accumulate"] == 1
    assert launches["sequence_backward"] == 2 * updates


@pytest.mark.triton
@pytest.mark.usefixtures("fake", "stubs")
@pytest.mark.parametrize("recalls", [False, True], ids=["", "memory"])
def test_the_gate_at_the_output_stays_on_one_device(recalls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "refusal", lambda *_: "")
    monkeypatch.setattr(fused, "AT_ONCE", 1)  # one client at a time
    parameters: dict[str, Any] = {name: torch.empty(2, *p.shape, device=GPU) for name, p in MODEL.named_parameters()}
    tokens, lengths = torch.empty(6, 5, dtype=torch.int32, device=GPU), torch.empty(6, dtype=torch.int64, device=GPU)
    data = Data(("a", "b"), (np.arange(3), np.arange(3, 5)), tokens, lengths, np.zeros(5, np.int64), np.full(6, 4))
    networks = tuple(Expert(parameters, route) for route in ("global", "local", "mixture"))
    experts = Experts(MODEL, networks, Memories(data, 11, 7), recalls, (3, 2))
    assert gate_at_once.able(experts)
    gates = {
        name: t.expand(2, *t.shape).contiguous() for name, t in gate.initial(3, recalls, 1, parameters["head.bias"]).items()
    }
    done = gate.train(gates, experts, data, Sgd(0.1, 2, 2, 1.0, 0.5), Draw(1, 1, "train"))
    assert done.nats.device == done.flops.device == GPU
    answers = gate.answering(gates, experts, "hard")
    for batch in batches(data, 2):
        assert all(part is not None and part.device == GPU and part.shape == batch.valid.shape for part in answers(batch))
