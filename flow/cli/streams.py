"""The standard streams while a command runs: one that the system refuses ends no work, and main says so in the end."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Written(io.FileIO):
    """A stream's descriptor. After the first refusal of the system everything is dropped, and the refusal is kept."""

    refusal: OSError | None = None

    def write(self, content: Any, /) -> int:
        if self.refusal is None:
            try:
                written = super().write(content)
                if written is not None:
                    return written
                self.refusal = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            except OSError as error:
                self.refusal = error
        return memoryview(content).nbytes


class Output:
    """The standard output of a command."""

    def __init__(self, written: _Written | None) -> None:
        self._written = written

    def refusal(self) -> OSError | None:
        """Why the system did not take all that was printed; None where it did."""
        sys.stdout.flush()
        return None if self._written is None else self._written.refusal


@contextmanager
def standard() -> Iterator[Output]:
    """Streams that raise nothing where a disk is full or a reader has left; closed ones lead to the null device.

    What cannot be printed on stderr is lost, and nobody can be told. What cannot be printed on stdout is lost too, and
    :meth:`Output.refusal` tells. Streams that are no longer the process's own, as in a test, stay what they are.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    output, messages = _on(sys.stdout, sys.__stdout__), _on(sys.stderr, sys.__stderr__)
    try:
        if output is not None:
            sys.stdout = _text(before[0], output)
        if messages is not None:
            sys.stderr = _text(before[1], messages)
        yield Output(output)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Lead standard streams that the shell closed, as in `flow run >&-`, to the null device.

    Otherwise a file that is opened later would get the number of such a stream, and what is printed would go into the file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)


def _on(stream: TextIO, own: TextIO | None) -> _Written | None:
    """The descriptor of a stream that is the process's own; None of another."""
    if own is None or stream is not own:
        return None
    with suppress(OSError):
        own.flush()
    return _Written(own.fileno(), "w", closefd=False)


def _text(stream: TextIO, written: _Written) -> TextIO:
    """A stream in the place of another, on the same descriptor and with the same habits."""
    assert isinstance(stream, io.TextIOWrapper)
    buffer: Any = written if stream.write_through else io.BufferedWriter(written)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
