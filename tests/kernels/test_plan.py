"""Which backend a problem gets, with GPUs and builds that are not there, and the tiles of the Triton backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flow_kernels
from flow_kernels import plan
from flow_kernels.backends import NAMES, load
from flow_kernels.backends.gpu import cuda, triton
from flow_kernels.backends.gpu.triton import tiles
from flow_kernels.training import UpdateSizes, explain_run, explain_update

CPU, GPU, OTHER = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
H100, A100, OLD = (9, 0), (8, 0), (7, 5)
SIZES = dict(clients=3, batch=5, steps=7, inputs=9)
_DTYPES = {"cuda": cuda.DTYPES, "triton": triton.DTYPES, "cpu": (F32, F64, BF16)}


def installed(*names: str) -> plan.Refusal:
    """A machine with these backends, which refuse what the real ones do."""

    def refusal(name: str, dtype: torch.dtype, device: torch.device) -> str:
        if name == "reference":
            return ""
        if name not in names:
            return "not installed"
        if device.type != ("cpu" if name == "cpu" else "cuda"):
            return f"not for {device}"
        return "" if dtype in _DTYPES[name] else f"not for {dtype}"

    return refusal


EVERYTHING = installed("cuda", "triton", "cpu")


@pytest.mark.parametrize(
    ("dtype", "device", "capability", "hidden", "refusal", "backend"),
    [
        (BF16, GPU, H100, 1, EVERYTHING, "cuda"),
        (BF16, GPU, H100, 512, EVERYTHING, "cuda"),
        (BF16, GPU, H100, 513, EVERYTHING, "triton"),
        (BF16, GPU, A100, 256, EVERYTHING, "triton"),
        (BF16, GPU, None, 256, EVERYTHING, "triton"),  # a capability that nobody knows
        (F32, GPU, H100, 256, EVERYTHING, "triton"),
        (F64, GPU, H100, 256, EVERYTHING, "reference"),
        (F32, GPU, OLD, 256, EVERYTHING, "reference"),
        (BF16, GPU, H100, 256, installed("triton", "cpu"), "triton"),
        (BF16, GPU, H100, 1024, installed("cuda", "cpu"), "reference"),
        (BF16, GPU, H100, 256, installed("cpu"), "reference"),
        (F32, CPU, None, 256, EVERYTHING, "cpu"),
        (F16, CPU, None, 256, EVERYTHING, "reference"),
        (F32, CPU, None, 256, installed("cuda", "triton"), "reference"),
        (F32, OTHER, None, 256, EVERYTHING, "reference"),
    ],
)
def test_the_fastest_that_runs(
    dtype: Any, device: Any, capability: Any, hidden: int, refusal: plan.Refusal, backend: str
) -> None:
    given: dict[str, Any] = dict(**SIZES, hidden=hidden, dtype=dtype, device=device, capability=capability, refusal=refusal)
    chosen = plan.choose_plan(**given)
    assert chosen.backend == backend
    assert chosen.details == load(backend).describe(3, 7, 5, 9, hidden, dtype) and chosen.details in str(chosen)
    order = plan.ORDER.get(device.type, ("reference",))
    skipped = order[: order.index(backend)]
    assert all(f"{name}: " in chosen.reason for name in skipped), "every faster one with its reason"
    for name in NAMES:  # asked for by name, what would not have been chosen is refused and never replaced
        if name in skipped or name not in order:
            if name != "reference":
                with pytest.raises(RuntimeError, match=f"backend='{name}' cannot run here"):
                    plan.choose_plan(**given, backend=name)
        else:
            assert plan.choose_plan(**given, backend=name).backend == name


def test_explained_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = dict(batch_size=16, seq_len=20, input_size=96, hidden_size=700, num_clients=4)
    if not torch.cuda.is_available():
        here = flow_kernels.explain(**sizes, device="cuda")
        assert here.backend == "reference" and "cuda: " in here.reason and "triton: " in here.reason
    monkeypatch.setattr(triton, "_why_missing", lambda: "")
    chosen = flow_kernels.explain(**sizes, device="cuda", capability=(9, 0), dtype=torch.bfloat16)
    assert chosen.backend == "triton"
    assert "forward one kernel a step, 176 programs of 16 units x 16 sequences" in chosen.details
    sizes["hidden_size"] = 33
    assert (
        "4 programs of 64 units"
        in flow_kernels.explain(**sizes, device="cuda", capability=(9, 0), dtype=torch.bfloat16, backend="triton").details
    )


def test_only_h_decides_the_name_that_every_call_asks_for() -> None:
    assert plan.name(F32, CPU, "auto", 5) == "cpu" and plan.name(F16, CPU, "auto", 5) == "reference"
    with pytest.raises(ValueError, match="backend must be one of"):
        plan.name(F32, CPU, "tpu", 5)


def test_tiles() -> None:
    for kind in ("half", "tf32", "ieee"):
        for direction in ("forward", "backward"):
            line = tiles.STEP[direction, kind]
            assert [t.units * t.sequences for t in line] == sorted((t.units * t.sequences for t in line), reverse=True)
            for k, b, h in ((1, 1, 1), (1, 16, 65), (5, 3, 128), (32, 64, 256), (128, 16, 1000)):
                kernel, tile = tiles.choose_tile(direction, kind, k, b, h)
                if kernel == "sequence":
                    assert h <= tile.units < 2 * max(h, 9), "one program has all units"
                    continue
                assert h > max(tiles.SEQUENCE[direction, kind]) and tile.sequences < 2 * max(b, 9)
                programs = k * -(-b // tile.sequences) * -(-h // tile.units)
                assert programs >= tiles.STREAMING_MULTIPROCESSORS or tile == line[-1]
    assert tiles.kind_of(BF16, True) == "half" and tiles.kind_of(F32, True) == "tf32" and tiles.kind_of(F32, False) == "ieee"


def test_what_local_training_costs_is_explained_on_paper() -> None:
    sizes: dict[str, Any] = dict(batch_size=16, seq_len=20, input_size=96, hidden_size=670, num_clients=10)
    assert not flow_kernels.explain(**sizes).cost
    update = flow_kernels.explain(**sizes, vocabulary_size=10_004, projection_size=96, dtype=torch.bfloat16)
    whole = UpdateSizes(10, 16, 20, 96, 670, 10_004, 96)
    assert explain_update(whole) in update.cost and update.cost in str(update) and "A run" not in update.cost
    run = flow_kernels.explain(
        **sizes, vocabulary_size=10_004, projection_size=96, sequences=400, rounds=2_000, dtype=torch.bfloat16
    )
    assert explain_run(whole, rounds=2_000, sequences=400) in run.cost
    assert "updates 75 of the global weights, 114 of the local expert, 7 of the routers" in run.cost


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 3}, "rounds=3 is of a language model, which has a vocabulary; give vocabulary_size too"),
        ({"vocabulary_size": 9, "rounds": 3}, "sequences=None and rounds=3 describe a run together; give both or neither"),
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1, got 0"),
    ],
)
def test_a_cost_that_cannot_be_explained(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_kernels.explain(batch_size=1, seq_len=1, input_size=1, hidden_size=1, **given)  # type: ignore[arg-type]
