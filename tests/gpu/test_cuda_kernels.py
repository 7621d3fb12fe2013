"""The CUDA kernels without a GPU: their source text run by the CPU model of a cluster (tests/support/cuda_model.cpp), through
the adapter, against the float64 reference. No test here says that they run on a GPU: test_gpu_backends.py does, on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import forked
import pytest
import torch
from cuda_model import Model, build, use
from low_precision import assert_no_worse_than_torch, rounded
from optional import present
from problems import NAMES, assert_as_exact_as_torch, assert_same_bits, make
from torch import Tensor

import flow_kernels
from flow_kernels.backends.gpu import cuda
from flow_kernels.backends.gpu.cuda import launch, shape
from flow_kernels.training import Weights, gru

BF16, FP16 = torch.bfloat16, torch.float16
FAULTS = (
    "too many bytes expected", "a piece too few expected", "a barrier not armed again", "no wait", "the wrong parity",
    "sent before the block has written", "sent without a fence", "warps not synchronised", "sent to the other buffer",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(build(tmp_path_factory.mktemp("model")))


@pytest.fixture
def model(built: Model) -> Iterator[Model]:
    built.set()
    yield from use(built)


# One, two, four, eight and sixteen blocks a cluster; every tile of sequences; units and sequences that fill nothing evenly
SIZES = [
    (1, 1, 1, 1, 1), (3, 2, 3, 9, 20), (1, 5, 17, 5, 64), (2, 5, 3, 7, 65), (1, 2, 1, 3, 96), (1, 5, 17, 6, 127),
    (1, 2, 3, 5, 256), (1, 2, 17, 4, 300), (1, 2, 3, 4, 512),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "dtype"), [*((sizes, BF16) for sizes in SIZES), ((1, 5, 17, 5, 64), FP16), ((2, 5, 3, 7, 65), FP16)], ids=str
)
def test_no_worse_than_torch(model: Model, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    for bias, lengths in ((True, False), (False, True)):
        problem = rounded(make(*sizes, bias=bias, lengths=lengths, temperature=0.7, route="mixture"), dtype)
        assert_no_worse_than_torch(problem, dtype, "cuda")


@pytest.mark.parametrize("clients", [30, 45])  # as many as make the tiles 16 and 32 sequences
def test_large_tiles(model: Model, clients: int) -> None:
    assert cuda.batch_tile(clients, 33, 20, False) == (16 if clients == 30 else 32)
    problem = rounded(make(clients, 2, 33, 3, 20, lengths=True, route="mixture", temperature=1.0), BF16)
    assert_no_worse_than_torch(problem, BF16, "cuda")


@pytest.mark.parametrize(
    ("route", "routing"),
    [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")],
)
def test_every_route_routing_and_layout(model: Model, route: str, routing: str) -> None:
    for sizes, lengths, batch_first, reverse in (
        ((2, 5, 3, 4, 20), True, True, False),
        ((1, 5, 17, 4, 65), True, False, True),
        ((1, 3, 3, 4, 150), False, True, True),
    ):
        problem = make(
            *sizes, lengths=lengths, batch_first=batch_first, reverse=reverse, route=route, routing=routing, temperature=0.7
        )
        problem = rounded(problem, BF16)
        first = problem.run("cuda", BF16)
        problem.options["recompute"] = True
        assert_same_bits(first, problem.run("cuda", BF16))
        del problem.options["recompute"]
        assert_as_exact_as_torch(problem, {BF16: {"cuda": first}})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(7, 5, 3, 20), (3, 19, 2, 70)], ids=str)
def test_packed_is_padded_without_the_padding(model: Model, sizes: tuple[int, ...], reverse: bool) -> None:
    problem = make(1, *sizes, lengths=True, reverse=reverse)
    lengths = problem.options["lengths"] = problem.options["lengths"].sort(descending=True).values
    lengths[0, 0] = sizes[0]
    valid = torch.arange(sizes[0]).unsqueeze(1) < lengths[0]  # [T, B]
    padded = problem.run("cuda", BF16)
    leaves = {n: (t[0][valid] if n == "input" else t[0]).to(BF16).requires_grad_() for n, t in problem.tensors.items()}
    outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), batch_sizes=valid.sum(1), reverse=reverse, backend="cuda")
    dy, dh_n, dq = (g[0].to(BF16) for g in problem.output_grads)
    torch.autograd.backward(outputs, (dy[valid], dh_n, dq[valid]))
    for name, output in zip(("output", "h_n", "q"), outputs, strict=True):
        want = present(padded[name])[0]
        assert torch.equal(output, want if name == "h_n" else want[valid]), name
    for name, leaf in leaves.items():
        want = present(padded[f"d{name}"])[0]
        torch.testing.assert_close(leaf.grad, want[valid] if name == "input" else want, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("hidden", [20, 70, 150, 300, 400])
def test_any_order_of_warps_and_copies_gives_the_same_bits(model: Model, hidden: int) -> None:
    problem = make(1, 5, 3, 4, hidden, lengths=hidden == 70)
    first = problem.run("cuda", BF16)
    for order in range(1, 4):
        model.set(order=order)
        assert_same_bits(first, problem.run("cuda", BF16))


def noticed(model: Model, fault: int, run: Any, right: list[Tensor]) -> bool:
    """In some order of the warps: refused by the model, or other bits."""
    for order in range(4):
        model.set(fault, order)
        try:
            got = run()
        except RuntimeError as error:
            if "the cluster kernel did not start" not in str(error):
                raise
            return True
        finally:
            model.set()
        if not all(torch.equal(a, b) for a, b in zip(got, right, strict=True)):
            return True
    return False


@pytest.mark.parametrize("fault", range(1, 1 + len(FAULTS)), ids=FAULTS)
@pytest.mark.parametrize("hidden", [20, 70, 200, 400])
def test_a_planted_fault_is_noticed(model: Model, hidden: int, fault: int) -> None:
    """In the forward kernel, and alone in the backward kernel. One block alone has nothing to exchange. Forward, warps wait for
    each other in the middle of a step only where two share units."""
    assert model.faults == 1 + len(FAULTS)
    problem = make(1, 5, 3, 4, hidden)
    leaves = {n: t.to(BF16).requires_grad_() for n, t in problem.tensors.items()}
    dy, dh_n, dq = (g.to(BF16) for g in problem.output_grads)

    def forward() -> tuple[Tensor, ...]:
        return flow_kernels.routed_gru(*(leaves[n] for n in NAMES), backend="cuda")

    outputs = forward()

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, list(leaves.values()), (dy, dh_n, dq), retain_graph=True)

    name = FAULTS[fault - 1]
    alone = hidden <= 64 and name not in ("sent before the block has written", "warps not synchronised")
    apart = name == "warps not synchronised" and hidden <= 384
    assert noticed(model, fault, forward, list(outputs)) != (alone or apart)
    assert noticed(model, fault, backward, list(backward())) != alone


@pytest.mark.parametrize(
    ("hidden", "tile"), [(64, 8), (64, 16), (64, 32), (256, 8), (256, 16), (256, 32), (384, 8), (384, 16), (512, 8), (512, 16)]
)
def test_lanes_of_a_warp_use_different_banks_of_shared_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch, hidden: int, tile: int
) -> None:
    """In the loop over time: an access takes as many wavefronts as its bytes need."""
    monkeypatch.setattr(launch, "batch_tile", lambda k, b, h, backward, at_once: min(tile, 16) if backward else tile)
    problem = make(1, 2, tile, 3, hidden)
    model.count(True)
    problem.run("cuda", BF16)
    seen = model.wavefronts()
    model.count(False)
    functions = {where.split("<")[0] for where in seen}
    expected = {
        "begin",
        "route",
        "finish",
        "add_to_route",
        "turn",
        "pack",
        "store",
        "store_logit",
        "collect",
        "carry",
        "ldmatrix",
    }
    assert expected | ({"hand_over", "take_over"} if hidden == 512 else set()) <= functions
    assert {where: seen[where] for where in seen if not where.startswith("begin<") and seen[where][0] > seen[where][1]} == {}


def test_what_lies_past_a_length_is_never_read(model: Model) -> None:
    problem = make(2, 5, 3, 4, 70, lengths=True)
    clean = problem.run("cuda", BF16)
    past = torch.arange(5).view(1, -1, 1) >= problem.options["lengths"].unsqueeze(1)  # [K, T, B]
    problem.tensors["input"][past] = torch.nan
    for grad in (problem.output_grads[0], problem.output_grads[2]):
        grad[past] = torch.nan
    dirty = problem.run("cuda", BF16)
    assert not any(present(clean[name])[past].any() for name in ("output", "dinput"))
    assert_same_bits(clean, dirty)


@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_nan_reaches_its_own_sequence_alone(model: Model, routing: str) -> None:
    problem = make(2, 3, 4, 5, 70, routing=routing)
    problem.tensors["input"][1, 1, 2, 0] = torch.nan
    result, exact = problem.run("cuda", BF16), problem.run("reference")
    for name in ("output", "h_n", "q"):
        assert torch.equal(present(result[name]).isnan(), present(exact[name]).isnan()), name


def test_tensors_may_begin_anywhere_in_their_memory(model: Model) -> None:
    """At addresses that are no multiple of 4: weights are then read number by number, with the same bits."""
    problem = make(1, 3, 3, 4, 70)
    aligned = {n: t[0].to(BF16).requires_grad_() for n, t in problem.tensors.items()}
    shifted = {}
    for name, tensor in aligned.items():
        around = torch.full((tensor.numel() + 1,), torch.nan, dtype=BF16)
        around[1:] = tensor.detach().flatten()
        shifted[name] = around[1:].view(tensor.shape).requires_grad_()
    assert shifted["weight_hh"].data_ptr() % 4 == 2 and aligned["weight_hh"].data_ptr() % 4 == 0

    def run(leaves: dict[str, Tensor]) -> list[Tensor]:
        outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), backend="cuda")
        grads = tuple(leaves["hx"].new_ones(o.numel() + 1)[1:].view(o.shape) for o in outputs)
        return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), grads)]

    for a, b in zip(run(aligned), run(shifted), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_change_nothing_else(model: Model) -> None:
    every = make(2, 4, 3, 5, 20).run("cuda", BF16)
    frozen = frozenset(NAMES) - {"router_weight", "hx"}
    some = make(2, 4, 3, 5, 20, frozen=frozen).run("cuda", BF16)
    for name, got in some.items():
        if name.removeprefix("d") in frozen:
            assert got is None
        else:
            assert torch.equal(present(got), present(every[name])), name


def test_one_client_without_a_client_dimension(model: Model) -> None:
    problem = make(1, 3, 3, 4, 20)
    stacked = problem.run("cuda", BF16)
    y, h_n, q = flow_kernels.routed_gru(*(problem.tensors[n][0].to(BF16) for n in NAMES), backend="cuda")
    for name, got in (("output", y), ("h_n", h_n), ("q", q)):
        assert torch.equal(got, present(stacked[name])[0]), name


def test_vmap_makes_clients(model: Model) -> None:
    problem = make(3, 4, 3, 5, 70)
    tensors = [problem.tensors[n].to(BF16) for n in NAMES]

    def loss(*arguments: Tensor) -> Tensor:
        y, h_n, q = flow_kernels.routed_gru(*arguments, backend="cuda")
        return (y * y).sum() + h_n.sum() + q[..., 0].sum()

    stacked = torch.func.grad(loss, tuple(range(12)))(*tensors)
    mapped = torch.func.vmap(torch.func.grad(loss, tuple(range(12))))(*tensors)
    for name, a, b in zip(NAMES, stacked, mapped, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("save", [False, True])
def test_shapes_of_the_fake_op(model: Model, save: bool) -> None:
    problem = make(2, 4, 3, 5, 20, lengths=True)
    tensors = [problem.tensors[n].to(BF16) for n in NAMES]
    options = ("mixture", "straight_through", 1.0, False, True)
    args = (*tensors, problem.options["lengths"], None, *options, save)
    torch.library.opcheck(cuda.family.forward_op, args, test_utils=("test_schema", "test_faketensor"))
    y, h_n, q, saved = cuda.family.forward_op(*args)
    given = (torch.ones_like(y), torch.ones_like(h_n), torch.ones_like(q), y, q, saved, *args[:-1], [True] * 12)
    torch.library.opcheck(cuda.family.backward_op, given, test_utils=("test_schema", "test_faketensor"))


def test_bad_lengths(model: Model) -> None:
    problem = make(2, 4, 3, 5, 20)
    for bad in (0, 5):
        problem.options["lengths"] = torch.tensor([[4, 4, bad], [1, 2, 3]])
        with pytest.raises(ValueError, match=f"lengths: every length must lie in 1..T = 1..4, got {bad}"):
            problem.run("cuda", BF16)


def test_shared_memory_suffices_for_every_size(built: Model) -> None:
    room = built.library.flow_model_shared_limit()
    assert room == 227 * 1024
    for hidden in range(1, cuda.MAX_HIDDEN + 1):
        blocks = cuda.cluster_size(hidden)
        assert built.library.flow_model_units(hidden, blocks) == shape.units(hidden, blocks) <= 64
        for backward in (False, True):
            for tile in {cuda.batch_tile(k, b, hidden, backward) for k in (1, 40, 200) for b in (1, 9, 17, 64)}:
                assert built.library.flow_model_shared(hidden, blocks, tile, backward) <= room, (hidden, tile, backward)
    for most, blocks in ((64, 1), (128, 2), (256, 4), (384, 8), (512, 16)):
        assert cuda.cluster_size(most) == blocks
        if blocks > 1:  # half as many would not do: too many units for eight warps, or too much memory
            units = built.library.flow_model_units(most, blocks // 2)
            assert units > 64 or built.library.flow_model_shared(most, blocks // 2, 8, False) > room


def test_batch_tiles() -> None:
    assert cuda.batch_tile(1, 64, 512, False) == 8  # eight clusters of 16 blocks: all at once
    assert cuda.batch_tile(2, 64, 512, False) == 16
    assert cuda.batch_tile(32, 16, 256, False) == 16 and cuda.batch_tile(32, 16, 256, True) == 16
    assert cuda.batch_tile(32, 64, 256, False) == 32 and cuda.batch_tile(32, 64, 256, True) == 16
    assert cuda.batch_tile(500, 5, 64, False) == 8  # no larger than is of use
    assert cuda.batch_tile(1, 64, 512, False, lambda tile: 7) == 16  # a device that runs only seven such clusters at once


def test_limits() -> None:
    assert cuda.limit(512, (9, 0)) == "" and cuda.limit(1, (9, 0)) == ""
    assert "H at most 512, got 513" in cuda.limit(513, (9, 0))
    for capability, reason in (((8, 0), "is 8.0"), ((10, 0), "is 10.0"), (None, "is not known")):
        assert cuda.limit(64, capability).endswith(reason)
    assert "the input is on cpu" in cuda.refusal(BF16, torch.device("cpu"))


def test_without_driver_or_extension_the_reason_is_given() -> None:
    """Imported afresh: where flow_kernels._cuda cannot be imported, all else works and backends() says why."""
    code = (
        "import sys; sys.modules['flow_kernels._cuda'] = None\n"
        "import torch, flow_kernels\n"
        "from flow_kernels.backends.gpu import cuda\n"
        "print(flow_kernels.backends()['cuda']); print(cuda.refusal(torch.bfloat16, torch.device('cuda')))"
    )
    done = forked.python(code)
    reported = done.stdout.splitlines()
    assert not done.returncode and len(reported) == 2 and reported[0] == reported[1]
    assert reported[0].startswith("the extension flow_kernels._cuda is not built (") and "FLOW_CUDA=1" in reported[0]
    if not torch.cuda.is_available():
        here = cuda.status()
        assert "not built" in here or here == "no GPU: torch.cuda.is_available() is False"


def test_another_build_s_struct_is_refused() -> None:
    class Other:
        def size(self) -> int:
            return 8

    with pytest.raises(ImportError, match="built from other sources"):
        cuda.Kernels(Other())


@pytest.mark.parametrize("route", ["mixture", "global", "local"])
def test_local_training_in_bfloat16_scans_by_the_cluster(model: Model, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the C++ kernels of the CPU in float64; parameters and their gradients are float32, a sequence has length 0."""
    monkeypatch.setattr(cuda, "_kernels", cuda.Kernels(model))
    k, t, b, i, hidden = 2, 4, 3, 5, 20
    made = make(k, t, b, i, hidden, batch_first=True)
    lengths = torch.tensor([[4, 2, 0], [3, 4, 1]])
    inside = (torch.arange(t) < lengths.unsqueeze(-1)).unsqueeze(-1)
    dy, _, dq = (torch.where(inside, g, 0.0) if g.dim() == 4 else g for g in made.output_grads)
    results = []
    for backend, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        tensors = {name: tensor.to(dtype) for name, tensor in made.tensors.items()}
        x, h0, weights = tensors["input"], tensors["hx"], Weights(*(tensors[n] for n in Weights._fields)).used_by(route)
        out = dict[str, Any](y=x.new_empty(k, b, t, hidden), q=x.new_empty(k, b, t, 2))
        gates = x.new_empty(gru.gates_shape(k, b, t, hidden, route, on_gpu=backend == "cuda"))
        options = dict[str, Any](lengths=lengths, route=route, temperature=0.7, bfloat16=backend == "cuda", backend=backend)
        kept = gru.forward(x, h0, weights, **options, **out, h_n=torch.empty_like(h0), gates=gates)
        dx, gradients = torch.empty_like(x), Weights(*(None if w is None else torch.empty_like(w) for w in weights))
        of_outputs = dict[str, Any](dy=dy.to(dtype), dq=dq.to(dtype))
        gru.backward(x, h0, weights, **options, **out, gates=gates, **of_outputs, dx=dx, gradients=gradients, kept=kept)
        results.append((torch.where(inside, out["y"], 0.0), torch.where(inside, dx, 0.0), *gradients))
    for name, wanted, got in zip(("y", "dx", *Weights._fields), *results, strict=True):
        if wanted is not None:
            assert float((present(got) - wanted).abs().max() / wanted.abs().max()) < 3e-2, name
