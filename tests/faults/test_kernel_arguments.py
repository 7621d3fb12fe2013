"""Broken calls of flow_kernels._C and of flow_kernels.training: each is refused with a sentence or computes the right thing."""

from __future__ import annotations

import copy
import ctypes
import pickle
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from kernel_calls import FUNCTIONS, GUARD, PROBLEMS, RAW, Draw, Problem
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training import Step, accumulate_, sgd_

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
REFUSALS = (RuntimeError, TypeError, ValueError)
_C = cpu._C


@pytest.fixture(autouse=True)
def poisoned_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu._kernels, "poison", True)


# ---- what can be wrong with a tensor --------------------------------------------------------------------------------


def negated(t: Tensor) -> Tensor:
    """The same numbers, whose negatives lie in memory."""
    return t if t.dtype == torch.bool else torch._neg_view(-t)


def freed(t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def freed_behind_an_offset(t: Tensor) -> Tensor:
    """Its address is not null: it is the offset."""
    long = torch.cat((t.flatten(), t.flatten()))
    view = long[t.numel() :].view(t.shape)
    long.untyped_storage().resize_(0)
    return view


def expanded(t: Tensor) -> Tensor:
    """Overlaps itself: all rows of dimension 0 are one."""
    return t[:1].expand(t.shape)


def transposed(t: Tensor) -> Tensor:
    if t.dim() < 2:
        return strided(t)
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def strided(t: Tensor) -> Tensor:
    return torch.stack((t, t), -1)[..., 0]


def misaligned(t: Tensor) -> Tensor:
    memory = bytearray(t.numel() * t.element_size() + 1)
    return torch.frombuffer(memory, dtype=t.dtype, offset=1).view(t.shape).copy_(t)


def longer(t: Tensor) -> Tensor:
    return torch.cat((t, t[:1]))


def wider(t: Tensor) -> Tensor:
    return torch.cat((t, t[..., :1]), -1)


def a_leaf(t: Tensor) -> Tensor:
    return t.detach().requires_grad_() if t.dtype.is_floating_point else t


def first_changed(value: int | float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        if t.dtype != torch.bool:
            t.view(-1)[0] = int(value) if not t.dtype.is_floating_point else min(float(value), 30.0)
        return t

    return change


HARMFUL: dict[str, Callable[[Tensor], Any]] = {
    "freed": freed, "freed behind an offset": freed_behind_an_offset, "longer": longer, "wider": wider,
    "a dimension more": lambda t: t.unsqueeze(0), "empty": lambda t: t[:0].clone(), "one number": lambda t: torch.ones(()),
    "float16": lambda t: t.half(), "complex": lambda t: t.to(torch.complex64), "uint8": lambda t: t.to(torch.uint8),
    "another device": lambda t: t.to("meta"), "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor([torch.ones(2)]), "a list": lambda t: t.tolist(), "a string": lambda t: "x",
    "a class": lambda t: Tensor, "an array": lambda t: t.detach().numpy(), "an integer": lambda t: 2**70,
    "without memory": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
}  # fmt: skip
"""No call may accept these, whatever the argument."""
STRANGE: dict[str, Callable[[Tensor], Any]] = {
    "negated": negated, "expanded": expanded, "transposed": transposed, "strided": strided, "misaligned": misaligned,
}  # fmt: skip
"""No call may accept these for what it changes."""
HARMLESS: dict[str, Callable[[Tensor], Any]] = {
    "absent": lambda t: None, "a leaf": a_leaf, "double": lambda t: t.double(), "int32": lambda t: t.int(),
    "far": first_changed(2**62), "lowest": first_changed(-(2**63)), "minus one": first_changed(-1), "ten": first_changed(10),
}  # fmt: skip
"""Some calls take these for some arguments, and then compute the right thing."""
SCALARS: dict[str, list[Any]] = {
    "threads": [0, -1, 2, 2**31 - 1, 2**31, -(2**63), 2**70, None, "two", 1.5],
    "temperature": [0.0, -1.0, float("nan"), float("inf"), 1e300, None, "warm"],
    "route": ["global", "local", "", "x" * 100_000, None, 1, "mixture\0"],
    "routing": ["", "softly", None, b"\xff", "\udc80"],
}


def overlapping(problem: Problem, name: str, rng: random.Random) -> Tensor | None:
    """The argument as a view of the memory of another, a few elements in where that is long enough."""
    mine = problem.arguments[name]
    others = [
        t
        for other, t in problem.arguments.items()
        if other != name and usable(t) and t.dtype == mine.dtype and t.numel() >= mine.numel()
    ]
    if not others:
        return None
    other: Tensor = rng.choice(others)
    start = rng.randint(0, other.numel() - mine.numel())
    return other.flatten()[start : start + mine.numel()].view(mine.shape)


def break_some(problem: Problem, rng: random.Random) -> str:
    """Break an argument or two; their names and what is wrong with them now."""
    a = problem.arguments
    possible = [n for n in a if a[n] is not None and (isinstance(a[n], Tensor) or n not in problem.fixed)]
    names = rng.sample(possible, rng.choice((1, 1, 2)))
    return " and ".join(break_one(problem, name, rng) for name in names)


def break_one(problem: Problem, name: str, rng: random.Random) -> str:
    a = problem.arguments
    if not isinstance(a[name], Tensor):
        a[name] = rng.choice(SCALARS[name])
        return f"{name} = {a[name]!r:.20}"
    kinds = HARMFUL | STRANGE | HARMLESS
    if name in problem.fixed:  # no other numbers
        kinds = {kind: change for kind, change in kinds.items() if kind not in HARMLESS and kind != "expanded"}
    kind = rng.choice([*kinds] if name in problem.fixed else [*kinds, "overlapping"])
    broken = overlapping(problem, name, rng) if kind == "overlapping" else kinds[kind](a[name])
    if kind != "overlapping" or broken is not None:
        a[name] = broken
    return f"{name}: {kind}"


# ---- the calls ------------------------------------------------------------------------------------------------------


def assert_right(results: dict[str, Any], expected: dict[str, Tensor], dtype: torch.dtype, why: str) -> None:
    tolerance = 3e-4 if dtype == torch.float32 else 1e-9
    for name, want in expected.items():
        got = results.get(name)
        if got is None:
            continue  # not wanted
        got = got.detach().sum(0) if name == "total" else got.detach()
        assert got.shape == want.shape, f"{why}: {name}"
        worst = (got.double() - want.double()).abs().max()
        assert worst <= tolerance * (1 + want.double().abs().max()), f"{why}: {name} is off by {worst}"


def outcome(problem: Problem, draw: Draw, why: str) -> str:
    """Call, hold the result or the refusal against what is right; "right", or the sentence of the refusal."""
    a = problem.arguments
    before = [buffer.clone() for buffer in draw.buffers]
    copies = {n: v.detach().clone() if usable(v) else v for n, v in a.items()}
    try:
        result = problem.call(a)
    except REFUSALS as error:
        result = str(error)
    assert not isinstance(result, str) or len(result) > 10, f"{why}: {result!r} says nothing"
    refused = not isinstance(result, dict) and result != 0
    written = [a[n].untyped_storage().data_ptr() for n in problem.written if usable(a[n])]
    for now, then in zip(draw.buffers, before, strict=True):
        if refused or now.untyped_storage().data_ptr() not in written:
            assert torch.equal(now, then), f"{why}: a tensor that must not change has changed"
        else:
            assert (now[:GUARD] == 0xA5).all() and (now[-GUARD:] == 0xA5).all(), f"{why}: written past an end"
    if refused:
        return str(result)
    results = {n: a[n] for n in problem.written} | (result if isinstance(result, dict) else {})
    assert_right(results, problem.expected(copies), draw.dtype, why)
    return "right"


def usable(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
        return False
    return not value._is_zerotensor() and (not value.numel() or value.untyped_storage().nbytes() > 0)


def seed_of(*labels: object) -> int:
    return zlib.crc32(repr(labels).encode())


def problems(name: str, count: int) -> Iterator[tuple[Problem, Draw, random.Random]]:
    make, call = PROBLEMS[name]
    for n in range(count):
        draw = Draw(n, (torch.float32, torch.float64)[n % 2])
        yield make(draw, call), draw, random.Random(seed_of(name, n))


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_whole_is_computed(name: str) -> None:
    for problem, draw, _ in problems(name, 4):
        assert outcome(problem, draw, name) == "right"


@pytest.mark.parametrize("name", PROBLEMS)
def test_broken_calls_are_refused_or_right(name: str) -> None:
    """About a thousand in all; every one is drawn from its number alone."""
    outcomes = []
    for problem, draw, rng in problems(name, 60):
        why = f"{name}, {break_some(problem, rng)}"
        outcomes.append(outcome(problem, draw, why))
    assert 0 < outcomes.count("right") < len(outcomes)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("kind", [*HARMFUL, *STRANGE])
def test_what_no_kernel_can_take_is_refused(name: str, kind: str) -> None:
    """Every tensor of every call in turn."""
    make, call = PROBLEMS[name]
    for argument in make(Draw(0, torch.float32), call).arguments:
        draw = Draw(0, torch.float32)
        problem = make(draw, call)
        value = problem.arguments[argument]
        if not isinstance(value, Tensor) or (kind in STRANGE and argument not in problem.written):
            continue
        problem.arguments[argument] = (HARMFUL | STRANGE)[kind](value)
        assert outcome(problem, draw, f"{argument}: {kind}") != "right", argument


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_inputs_are_read_right_or_refused(name: str, kind: str) -> None:
    make, call = PROBLEMS[name]
    for argument in make(Draw(0, torch.float32), call).arguments:
        draw = Draw(0, torch.float32)
        problem = make(draw, call)
        value = problem.arguments[argument]
        if not isinstance(value, Tensor) or argument in problem.written or value.dtype == torch.bool:
            continue
        if kind == "expanded" and argument in problem.fixed:  # other numbers than an earlier call had
            continue
        problem.arguments[argument] = STRANGE[kind](value)
        verdict = outcome(problem, draw, f"{argument}: {kind}")
        if name in ("head_loss", "route", "route_backward"):
            assert verdict == "right" or kind == "expanded", f"{argument}: {verdict}"


def test_sentences() -> None:
    """What a reader is told, of the raw kernels' forward and of functions that change a tensor."""
    make, call = PROBLEMS["gru.forward"]
    sentences = {
        "negated": r"input is a view with its negative bit set, .*pass tensor\.resolve_neg\(\)",
        "freed": "input has no memory: its storage was freed",
        "freed behind an offset": "input has no memory: its storage was freed",
        "misaligned": r"input must be aligned to its 4 bytes; pass a clone\(\)",
        "strided": "input must be contiguous",
        "expanded": "input must be contiguous",
        "sparse": "input must be a dense tensor on the CPU",
        "complex": "input must be float32, float64 or bfloat16",
        "another device": "input must be a dense tensor on the CPU",
        "a string": "input must be a dense tensor on the CPU",
    }
    for kind, sentence in sentences.items():
        problem = make(Draw(0, torch.float32), call)
        problem.arguments["input"] = (HARMFUL | STRANGE)[kind](problem.arguments["input"])
        with pytest.raises(RuntimeError, match=sentence):
            problem.call(problem.arguments)
    problem = make(Draw(0, torch.float32), call)
    problem.arguments["lengths"] = problem.arguments["lengths"].int()
    with pytest.raises(RuntimeError, match=r"lengths is int32 \[2, 4\] and must be int64 \[2, 4\]"):
        problem.call(problem.arguments)
    for bias in (freed(torch.ones(2, 2)), freed_behind_an_offset(torch.ones(2, 2))):
        problem = make(Draw(0, torch.float32), call)
        problem.arguments["router_bias"] = bias
        with pytest.raises(RuntimeError, match="router_bias has no memory"):
            problem.call(problem.arguments)
    p = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"parameter is written and shares memory with gradient; pass a clone\(\) of one"):
        sgd_([Step(p, p)], lr=0.1)
    with pytest.raises(RuntimeError, match="parameter is written and shares memory with parameter"):
        sgd_([Step(p, torch.ones(2, 3)), Step(p, torch.ones(2, 3))], lr=0.1)
    assert (p == 1).all()
    total = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="total is written and shares memory with uploads"):
        accumulate_(total, [total[:2]], [torch.ones(2, dtype=torch.float64)])
    numbers: list[Any] = [[1.0, 2.0]]
    with pytest.raises(TypeError, match="uploads must be a tensor, got list"):
        accumulate_(total, numbers, [torch.ones(1, dtype=torch.float64)])


# ---- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_changed_counts_up_its_version(name: str) -> None:
    make, call = PROBLEMS[name]
    problem = make(Draw(0, torch.float32), call)
    a = problem.arguments
    # guarded tensors of one buffer each: versions of their own
    before = {n: t._version for n, t in a.items() if isinstance(t, Tensor)}
    problem.call(a)
    assert {n for n, version in before.items() if a[n]._version != version} == set(problem.written)


def test_backward_through_what_sgd_has_changed_is_refused() -> None:
    parameter, velocity = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = (parameter * parameter).sum()
    sgd_([Step(parameter, torch.ones(2, 3), momentum=velocity)], lr=0.1, momentum=0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        inside = torch.ones(2, 3)
        sgd_([Step(inside, torch.ones(2, 3))], lr=0.25)
        assert (inside == 0.75).all()


# ---- the module itself ----------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None, 0, -1, 2**31, 2**63, 2**70, -(2**70), 1.5, float("nan"), "", "avx\0", "\udc80", b"\xff", "x" * 1_000_000, [], (), {},
    object(), torch.ones(2), Tensor, np.ones(2), Ellipsis, lambda: None,
]  # fmt: skip


@pytest.mark.parametrize("function", ["isa", "has_isa", "select_isa", "division", "Kernels"])
def test_functions_of_the_module_with_anything(function: str) -> None:
    call, before = getattr(_C, function), _C.isa()
    rng = random.Random(function)
    for n in range(400):
        arguments = [rng.choice(JUNK) for _ in range(n % 10)]
        try:
            result = call(*arguments)
        except (*REFUSALS, AttributeError, OverflowError, UnicodeError):
            continue
        assert not (function == "has_isa" and result) and not (function == "select_isa" and not result), arguments
    assert _C.isa() == before


def test_no_name_of_an_instruction_set_is_no_crash() -> None:
    for call in (_C.has_isa, _C.select_isa):
        with pytest.raises(TypeError, match="must be a string, got NoneType"):
            call(None)
    assert not _C.has_isa("baseline\0") and _C.has_isa("baseline")
    assert _C.select_isa("nonsense") != 0 and _C.isa() in cpu.ISAS


def test_division_of_anything() -> None:
    rng = random.Random(1)
    sizes = [0, 1, 2, 3, 17, 64, 1000, 2**20, 2**31, 2**40, 2**55, 2**62, 2**63 - 1, -1, -(2**63)]
    accepted = 0
    for _ in range(2000):
        five = [rng.choice(sizes[:8] if rng.random() < 0.7 else sizes) for _ in range(5)]
        dtype, threads = rng.choice((0, 1, 2, 3, -1)), rng.choice((1, 2, 7, 0, -1, 2**31 - 1))
        try:
            used, tiles, workspace = _C.division(*five, dtype, threads, rng.random() < 0.5)
        except ValueError:
            continue
        accepted += 1
        assert 1 <= used <= min(threads, 256) and 1 <= tiles <= five[2] and 0 < workspace < 2**62, five
    assert 100 < accepted < 1900


def test_kernels_without_a_constructor_are_refused() -> None:
    for made in (_C.Kernels.__new__(_C.Kernels), copy_of(copy.copy), copy_of(copy.deepcopy), copy_of(pickled)):
        if made is None:  # cannot be copied at all
            continue
        assert made.poison is False
        for make, call in RAW.values():
            problem = make(Draw(0, torch.float32), call)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cpu, "_kernels", made)
                with pytest.raises(ValueError, match=r"made without its constructor; make it by Kernels\(torch\.Tensor\)"):
                    problem.call(problem.arguments)

    class Own(_C.Kernels):  # type: ignore[misc, name-defined]  # the extension has no annotations
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        Own()


def copy_of(copier: Callable[[Any], Any]) -> Any:
    try:
        return copier(cpu._kernels)
    except (TypeError, pickle.PicklingError):
        return None


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_foreign_capsules_are_refused() -> None:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    memory = ctypes.create_string_buffer(256)  # zeros: version 0.0 and no older one
    address = ctypes.addressof(memory)
    names = [b"something", b"dltensor", None, b"dlpack_exchange_api_v2"]

    def class_with(value: Any) -> type:
        return type("Foreign", (), {"__dlpack_c_exchange_api__": value, "is_neg": None, "untyped_storage": None})

    for value in (None, 1, "capsule", Tensor, *(new(address, name, None) for name in names)):
        with pytest.raises(TypeError, match=r"a capsule with the name dlpack_exchange_api; pass torch\.Tensor"):
            _C.Kernels(class_with(value))
    right = b"dlpack_exchange_api"
    with pytest.raises(ImportError, match="no DLPack exchange interface of version 1"):
        _C.Kernels(class_with(new(address, right, None)))

    class Endless:
        @property
        def __dlpack_c_exchange_api__(self) -> Any:
            return self.__dlpack_c_exchange_api__

    with pytest.raises(RecursionError):
        _C.Kernels(Endless())


def test_tuples_of_the_wrong_length_are_refused() -> None:
    make, call = PROBLEMS["head"]
    a = make(Draw(0, torch.float32), call).arguments
    six = (a["projection_weight"],) * 6
    given = dict(weights=six, best=(None,) * 3, gradients=(None,) * 6)
    for name, sizes in {"weights": (0, 5, 7), "best": (0, 2, 4), "gradients": (0, 5, 7)}.items():
        for size in sizes:
            w, best, gradients = (given | {name: (None,) * size}).values()
            with pytest.raises(RuntimeError, match=r"must be a tuple of [36]"):
                cpu._kernels.head(a["x"], a["targets"], w, None, a["nats"], a["counts"], best, None, None, gradients, False, 1)
    for step in ((), (None,) * 4, (None,) * 6, None, 1, [None] * 5, "steps"):
        with pytest.raises(RuntimeError, match="a step must be a tuple"):
            cpu._kernels.sgd([step], None, 0.1, 0.0, 0.0, 0.0, 0.0, 1)
    for size in (0, 11, 13):
        with pytest.raises(RuntimeError, match="twelve tensors"):
            cpu._kernels.forward((None,) * size, None, None, "mixture", "soft", 1.0, True, False, False, False, 1, *(None,) * 4)


def test_packed_rows_with_any_offsets() -> None:
    """Offsets are read before anything else is: each is compared, none is trusted."""
    make, call = PROBLEMS["forward"]
    rng = random.Random(2)
    accepted = 0
    for n in range(300):
        draw = Draw(n, torch.float32)
        a = make(draw, call).arguments
        offsets = [0, 2, 4, 5]
        if n:
            for _ in range(rng.randint(1, 2)):
                offsets[rng.randrange(4)] = rng.choice((0, 1, 2, 3, 4, 5, 6, -1, 2**62, 2**63 - 1, -(2**63)))
        weights = [a[name][:1].contiguous() for name in list(a)[2:12]]
        x, h0, lengths = draw.normal(1, 5, 5), draw.normal(1, 2, 7), torch.tensor([[3, 2]])
        y, h_n, q = draw.blank(1, 5, 7), draw.blank(1, 2, 7), draw.blank(1, 5, 2)
        options = ("mixture", "soft", 1.0, False, False, False, False, 1)
        try:
            status = cpu._kernels.forward((x, h0, *weights), lengths, torch.tensor(offsets), *options, y, h_n, q, None)
        except REFUSALS:
            status = 1
        if status == 0:
            accepted += 1
            assert offsets == [0, 2, 4, 5] and y.isfinite().all()
        for buffer in draw.buffers:
            assert (buffer[:GUARD] == 0xA5).all() and (buffer[-GUARD:] == 0xA5).all()
    assert accepted


def test_other_threads_may_select_an_instruction_set() -> None:
    """A call keeps the one it has begun with, or says that its workspace is of another."""
    usable_isas = [isa for isa in cpu.ISAS if _C.has_isa(isa)]
    stop = threading.Event()

    def select() -> None:
        while not stop.is_set():
            for isa in usable_isas:
                _C.select_isa(isa)

    other = threading.Thread(target=select)
    other.start()
    try:
        outcomes = []
        for name in ("head", "sgd by rows", "forward"):
            outcomes += [outcome(problem, draw, name) for problem, draw, _ in problems(name, 30)]
    finally:
        stop.set()
        other.join()
    assert set(outcomes) <= {"right", "5"} and "right" in outcomes


def test_several_threads_at_once() -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for problem, draw, _ in problems(name, 20):
                assert outcome(problem, draw, name) == "right"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("head", "forward", "router", "sgd", "accumulate")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@pytest.mark.parametrize("name", ["lr", "clip", "mu", "weight_decay", "momentum"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_step_of_sgd_refuses_options_that_are_no_steps(name: str, value: float) -> None:
    parameter = torch.ones(1, 3)
    options: dict[str, Any] = {"lr": 0.1, name: value}
    with pytest.raises(ValueError, match=f"sgd_: {name} must be a finite number of at least 0, got {value!r}"):
        sgd_([Step(parameter, torch.ones(1, 3))], **options)
    assert (parameter == 1).all()


def test_an_option_of_bytes_that_are_no_text_is_named() -> None:
    problem, _, _ = next(iter(problems("forward", 1)))
    problem.arguments["routing"] = b"a\xff"
    with pytest.raises(RuntimeError, match=r"routing 'a\?' is unknown"):
        problem.call(problem.arguments)
