"""No Triton kernel reads or writes outside of the tensors that it is given. In the interpreter every tensor ends, or begins,
at a page that must not be touched (tests/support/guarded_triton.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
ROOT = SUPPORT.parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def _interpreted() -> None:
    import numpy
    from triton import __version__ as version

    triton_is, numpy_is = (tuple(map(int, v.split(".")[:2])) for v in (version, numpy.__version__))
    if triton_is < (3, 7) and numpy_is >= (2, 4):
        pytest.skip("Triton 3.6 cannot interpret a loop over a number given at run time with numpy 2.4 or later")


@pytest.mark.triton
@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("side", ["end", "start"])
def test_every_access_is_to_a_tensor(side: str) -> None:
    done = python(str(SUPPORT / "guarded_triton.py"), side)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7 and all(int(line.split()[-3]) >= 20 for line in lines), lines


@pytest.mark.triton
@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("fault", ["sequence", "step"])
def test_an_access_outside_ends_the_process(fault: str) -> None:
    done = python(str(SUPPORT / "guarded_triton.py"), "end", fault)
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr


def test_the_pages_around_a_tensor_cannot_be_read() -> None:
    code = (
        "import ctypes, guarded, torch; t = guarded.placed(torch.arange(10), {end}); ctypes.string_at(t.data_ptr() + {at}, 1)"
    )
    for end, inside, outside in ((True, 79, 80), (False, 0, -1)):
        assert python("-c", code.format(end=end, at=inside)).returncode == 0
        assert python("-c", code.format(end=end, at=outside)).returncode == -signal.SIGSEGV
