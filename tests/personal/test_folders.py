"""Where an adapted folder may be made, and what is left of one whose process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flow.errors import UserError
from flow.personal import folder as folders

ROOT = Path(__file__).parents[2]


def killed() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(place: Path, name: str, *names: str) -> Path:
    """A hidden folder with files of these names."""
    folder = place / name
    folder.mkdir(mode=0o700)
    for own in names:
        (folder / own).write_text("x")
    return folder


def test_what_a_killed_process_left_goes_with_the_next_call(tmp_path: Path) -> None:
    gone, alive = killed(), os.getppid()
    stale = [
        left(tmp_path, f".me.{gone}.tmp", "vocabulary.json", "personal.safetensors", f".settings.json.{gone}.tmp"),
        left(tmp_path, f".other.{gone}.tmp", "model.onnx"),
        left(tmp_path, f".me.{os.getpid()}.tmp", "settings.json"),  # of a process of the same number, as in a container
    ]
    kept = [
        left(tmp_path, f".cache.{gone}.tmp", "settings.json", "precious.txt"),
        left(tmp_path, f".you.{alive}.tmp", "settings.json"),
        left(tmp_path, f".you.{os.getpid()}.tmp", "settings.json"),  # another thread of this process
        left(tmp_path, ".me.tmp"),
        left(tmp_path, f"me.{gone}.tmp"),
    ]
    file, link = tmp_path / f".file.{gone}.tmp", tmp_path / f".link.{gone}.tmp"
    file.write_text("x")
    link.symlink_to(kept[-1])
    with folders.new(tmp_path / "me", "out") as partial:
        assert not any(path.exists() for path in stale if path != partial) and list(partial.iterdir()) == []
        assert all(path.exists() for path in (*kept, file, link))
    assert (tmp_path / "me").is_dir() and not partial.exists()


def test_a_process_that_is_killed_while_it_writes(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom flow.personal.folder import new\n"
        "with new(Path('me'), 'out') as partial:\n    (partial / 'settings.json').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL and len(list(tmp_path.glob(".me.*.tmp"))) == 1
    with folders.new(tmp_path / "you", "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["you"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("r", "lies in the run's own folder"),
        ("r/me", "lies in the run's own folder"),
        ("link/me", "lies in the run's own folder"),
        ("r/../r/a/b", "which stays as it is; give a folder outside of it"),
    ],
)
def test_a_folder_within_another_is_refused(out: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "link").symlink_to("r")
    with pytest.raises(UserError, match=message):
        folders.check_outside(tmp_path / out, "out", tmp_path / "r", "the run's own folder")
    for other in ("me", "r2", "r/../me"):
        folders.check_outside(tmp_path / other, "out", tmp_path / "r", "the run's own folder")
