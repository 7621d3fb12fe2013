"""The kernels of bfloat16 products on AMX without a processor that has it: their own text, compiled against a model of the tile
instructions (tests/support/amx_model). Unverified on hardware. Where a processor has AMX, the tests that go through all
instruction sets run on it too."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import mixed_oracle
import pytest
import torch
from amx_model import FLAGS, INSTRUCTIONS, Model, build, compiler, on
from low_precision import error, in_torch
from low_precision import rounded as rounded_problem
from mixed_cases import LAYERS, SHAPES, draw, each, far, layer, run, train
from optional import present
from problems import make

from flow_kernels.backends import cpu
from flow_kernels.training import Weights, multiplies_bfloat16

pytestmark = pytest.mark.usefixtures("poisoned")
ALONE = Path(__file__).parent / "amx"
x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX belongs to x86-64")
# Of float32's digits; and where a number of many lies so near the middle of two of bfloat16 that it may go either way.
DIGITS, EITHER_WAY = 2e-6, 5e-4
LARGE = LAYERS[3:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pytest.importorskip("pybind11")
    return Model(build(tmp_path_factory.mktemp("amx")))


@pytest.fixture
def model(built: Model, poisoned: None) -> Iterator[Model]:
    """flow_kernels runs on the model, and multiplies by tiles."""
    before = built.products()
    with on(built):
        yield built
    assert built.products() > before


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_rounds_what_it_multiplies_and_nothing_else(model: Model, shape: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    x, targets, head, q = draw(shape)
    nats, exact = mixed_oracle.head(x, targets, head, q)
    loss, gradients = run(x, targets, head, q, True)
    assert gradients.keys() == exact.keys() and far(loss.nats, nats) < DIGITS
    for name, gradient in gradients.items():
        assert far(gradient, exact[name]) < DIGITS, name
    for k in range(len(x)):  # a client's bits are its own
        own = each(head, itemgetter(slice(k, k + 1)))
        alone, grads = run(x[k : k + 1], targets[k : k + 1], own, None if q is None else q[k : k + 1], True)
        assert torch.equal(alone.nats, loss.nats[k : k + 1])
        assert all(torch.equal(t, gradients[name][k : k + 1]) for name, t in grads.items())


@pytest.mark.parametrize("route", ["mixture", "global", "local"])
@pytest.mark.parametrize(("clients", "sizes"), LAYERS, ids=str)
def test_a_layer_rounds_what_it_multiplies_and_nothing_else(
    model: Model, clients: int, sizes: tuple[int, ...], route: str
) -> None:
    case = layer(clients, sizes, torch.float32)
    exact = mixed_oracle.layer(*case, route)
    mixed = train(*case, route, bfloat16=True, saved=True)
    assert mixed.keys() == exact.keys()
    for name, tensor in mixed.items():
        assert far(tensor, exact[name]) < (EITHER_WAY if (clients, sizes) in LARGE else DIGITS), name
    again = train(*case, route, bfloat16=True, saved=False)
    assert all(torch.equal(again[name], tensor) for name, tensor in mixed.items())
    torch.set_num_threads(3)
    again = train(*case, route, bfloat16=True, saved=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in mixed.items())


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")
def test_what_this_processor_computes_is_as_near(built: Model) -> None:
    """The oracle holds for AVX512_BF16, and both differ by the order of sums alone."""
    for shape in SHAPES:
        case = draw(shape)
        nats, exact = mixed_oracle.head(*case)
        loss, here = run(*case, True)
        with on(built):
            tiles_loss, tiles = run(*case, True)
        assert far(loss.nats, nats) < DIGITS and far(loss.nats, tiles_loss.nats) < DIGITS
        assert all(far(here[name], exact[name]) < DIGITS and far(here[name], tiles[name]) < DIGITS for name in exact)
    for clients, sizes in LAYERS:
        problem, close = layer(clients, sizes, torch.float32), EITHER_WAY if (clients, sizes) in LARGE else DIGITS
        want, here = mixed_oracle.layer(*problem, "mixture"), train(*problem, "mixture", True, True)
        with on(built):
            tiles = train(*problem, "mixture", True, True)
        for name, tensor in here.items():
            assert far(tensor, want[name]) < close and far(tensor, tiles[name]) < close, (sizes, name)


def test_padding_and_company_leave_no_trace(model: Model) -> None:
    k, b, t, i, h = 2, 40, 30, 19, 20
    tensors, _, dy = layer(k, (t, b, i, h), torch.float32)
    lengths = torch.zeros(k, b, dtype=torch.int64)
    for client, (rows, steps) in enumerate(((17, 21), (40, 30))):
        lengths[client, :rows] = torch.randint(1, steps + 1, (rows,), generator=torch.Generator().manual_seed(client))
        lengths[client, 0] = steps
    whole = train(tensors, lengths, dy, "mixture", True, True)
    assert all(value.isfinite().all() for value in whole.values())
    alone = {name: value[:1] for name, value in tensors.items()}
    alone["input"], alone["hx"] = alone["input"][:, :17, :21].contiguous(), alone["hx"][:, :17].contiguous()
    own = train(alone, lengths[:1, :17].contiguous(), dy[:1, :17, :21].contiguous(), "mixture", True, True)
    for name, value in own.items():
        got = whole[name][:1]
        if name in ("y", "q", "dx", "h_n", "dh0"):
            got = got[:, :17] if name in ("h_n", "dh0") else got[:, :17, :21]
        assert torch.equal(value, got), name
    assert {f"d{name}" for name in Weights._fields} < own.keys()


@pytest.mark.parametrize("sizes", [(1, 1, 2, 64, 64), (3, 5, 3, 9, 7), (1, 9, 17, 65, 65), (2, 33, 5, 16, 48)])
def test_layers_of_bfloat16_are_no_worse_than_torch(model: Model, sizes: tuple[int, ...]) -> None:
    bf16 = torch.bfloat16
    problem = rounded_problem(make(*sizes, route="mixture", temperature=0.7), bf16)
    exact, theirs = problem.run("reference"), in_torch(problem, bf16)
    for recompute in (False, True):
        problem.options["recompute"] = recompute
        ours = problem.run("cpu", bf16)
        for name, want in exact.items():
            got, rounding = present(ours[name]), error(present(want).to(bf16), present(want))
            assert got.dtype == bf16 and got.isfinite().all(), name
            assert error(got, present(want)) <= max(error(present(theirs[name]), present(want)), 2 * rounding), name


def compiled_and_run(folder: Path, source: str, *flags: str) -> str:
    """What a program of its own prints."""
    program = folder / Path(source).stem
    subprocess.run([compiler(), *FLAGS, "-O1", *flags, str(ALONE / source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_tile_loop_stays_in_bounds_and_the_model_notices_what_breaks_a_rule(tmp_path: Path) -> None:
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    probe = subprocess.run(
        [compiler(), *sanitizers, "-x", "c++", "-", "-o", tmp_path / "probe"],
        input="int main() {}",
        text=True,
        capture_output=True,
    )
    if probe.returncode:
        pytest.skip("this compiler has no AddressSanitizer")
    assert compiled_and_run(tmp_path, "tiles.cpp", *INSTRUCTIONS, *sanitizers) == "17954 products of tiles, 0 failures"


@x86
def test_tiles_are_used_where_processor_and_system_have_them(tmp_path: Path) -> None:
    here = re.fullmatch("0 failures, here ([01])", compiled_and_run(tmp_path, "support.cpp"))
    assert here is not None
    if here[1] == "0":
        assert not cpu._C.has_isa("avx512amx")


@x86
def test_the_extension_has_the_instructions() -> None:
    program, extension = shutil.which("objdump"), Path(cpu._C.__file__)
    if program is None:
        pytest.skip("objdump is not installed")
    if b"avx512amx" not in extension.read_bytes():
        pytest.skip("the extension was built by a compiler from before AMX")
    code = subprocess.run([program, "-d", "--no-show-raw-insn", extension], capture_output=True, text=True, check=True).stdout
    counts = {
        name: len(re.findall(rf"\b{name}\b", code))
        for name in ("ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tdpbf16ps")
    }
    assert all(counts.values()), counts
    assert counts["ldtilecfg"] <= counts["tilerelease"] < counts["tdpbf16ps"] < counts["tileloadd"], counts
