"""Shared by all tests: one thread, NaN in every uninitialised tensor, and what the markers gpu, nvcc and triton need."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from command_line import here  # noqa: F401 (a fixture of several folders)
from torch.utils import deterministic

from flow.algorithms import registry
from flow.evaluation import registry as metric_registry
from flow_kernels.backends import cpu

# Where a failure must be reproducible from the log alone, the examples are the same every time.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


# What this machine lacks, by the marker of the tests that need it.
_MISSING: dict[str, str] = {}
if not torch.cuda.is_available():
    _MISSING["gpu"] = "no GPU: torch.cuda.is_available() is False"
if shutil.which(os.environ.get("CUDACXX", "nvcc")) is None:
    _MISSING["nvcc"] = "nvcc is not on PATH and CUDACXX names no program"
if absent := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
    _MISSING["server"] = f"not installed: {', '.join(absent)}"
if importlib.util.find_spec("triton") is None:
    _MISSING["triton"] = "triton is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    for item in items:
        for name, reason in _MISSING.items():
            marker = item.get_closest_marker(name)
            if marker is not None and not marker.kwargs.get("stand_in", False):
                item.add_marker(pytest.mark.skip(reason=reason))


# Data that tests prepare are theirs, and go with them.
_cache = tempfile.TemporaryDirectory()
os.environ["FLOW_CACHE"] = _cache.name


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _forget_what_was_registered() -> Iterator[None]:
    """What a test registers is known in that test alone."""
    before, metrics_before = dict(registry._registered), dict(metric_registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)
    metric_registry._registered.clear()
    metric_registry._registered.update(metrics_before)


@pytest.fixture(autouse=True)
def _restore_isa() -> Iterator[None]:
    before = cpu._C.isa()
    yield
    cpu._C.select_isa(before)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.empty returns NaN (and the largest integers) while this fixture is in use."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    assert torch.empty(3).isnan().all()
    monkeypatch.setattr(cpu._kernels, "poison", True)  # a kept workspace would hold the finite numbers of the call before
    yield
    torch.use_deterministic_algorithms(before)
