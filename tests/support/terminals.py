"""Commands in a terminal of a width of one's own, and what they write there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def _own_terminal() -> None:
    """So that Ctrl-C is a signal to the process, and one that it heeds: what runs in the background of a script ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A process whose standard streams are a terminal; a context manager that ends it.

    Args:
        command: the program and its arguments.
        folder: in which it runs.
        columns: of the terminal.
        environment: variables beside those of this process; None takes one away.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, columns: int = 80, environment: Mapping[str, str | None] | None = None
    ) -> None:
        self._control, end = pty.openpty()
        self.resize(columns)
        # pytest sets COLUMNS in some places, and the machine that tests this may be continuous integration
        own: dict[str, str | None] = {"TERM": "xterm-256color", "COLUMNS": None, "LINES": None, "CI": None, "NO_COLOR": None}
        every = {**os.environ, **own, **(environment or {})}
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={name: value for name, value in every.items() if value is not None},
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(end)
        self.text = ""

    def resize(self, columns: int) -> None:
        """Have another width, and say so as a window does."""
        fcntl.ioctl(self._control, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._control, text.encode())

    def until(self, word: str, seconds: float = 60) -> str:
        """Wait until a word is written; returns all that was written so far."""
        limit = time.monotonic() + seconds
        while word not in self.text:
            assert time.monotonic() < limit and self._read(), f"{word!r} was not written: {self.text!r}"
        return self.text

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Wait for the end; the exit code, and all that was written."""
        limit = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < limit, self.text
        return self._process.wait(10), self.text

    def _read(self) -> bool:
        """Take what is written; False where the terminal is closed."""
        ready, _, _ = select.select([self._control], [], [], 0.2)
        if not ready:
            return self._process.poll() is None
        try:
            content = os.read(self._control, 1 << 16)
        except OSError:  # every end of it is closed
            return False
        self.text += content.decode(errors="replace")
        return bool(content)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._control)
