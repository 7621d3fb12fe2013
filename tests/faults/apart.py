"""Functions in processes of their own, which are killed, cut short or run out of memory without harm to this one.

A child is a copy of this process by fork, so it starts in milliseconds with everything imported. Therefore this process must
have computed nothing with more than one thread: campaigns run in a process that a test or `make campaign` starts for them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

PAGE = resource.getpagesize()
WAITING = 20  # other processes may leave this machine little time


class Ended(NamedTuple):
    """A child that has ended."""

    value: Any
    """What its function returned, through JSON; None where it did not return."""
    code: int
    """Its exit code, or minus the signal that ended it."""
    out: str
    err: str
    late: bool = False
    """Whether it was killed because its time was over."""

    @property
    def last_line(self) -> str:
        """The last line of stderr; bars of progress write over their line."""
        lines = [line.strip() for line in self.err.replace("\r", "\n").split("\n")]
        return next((line for line in reversed(lines) if line), "")


def apart(
    function: Callable[[], Any], *, seconds: float = 60.0, memory: int | None = None, prepare: Callable[[], None] | None = None
) -> Ended:
    """Call a function in a child; what it prints and says is kept.

    Args:
        seconds: of processor time, after which it is killed; also after WAITING times as many on the clock.
        memory: bytes that it may map beyond what this process has mapped; None: no limit.
        prepare: called before in the child, after its streams are there.
    """
    streams = [os.memfd_create(name) for name in ("value", "out", "err")]
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _become(function, streams, math.ceil(seconds), memory, prepare)
    late = _wait(pid, WAITING * seconds)
    _, status = os.waitpid(pid, 0)
    value, out, err = (_content(stream) for stream in streams)
    code = os.waitstatus_to_exitcode(status)
    return Ended(json.loads(value) if value else None, code, out, err, late or code == -signal.SIGXCPU)


def _wait(pid: int, seconds: float) -> bool:
    """Wait for a child to end; kill it where it does not in time. Returns whether that was so."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if poll.poll(seconds * 1000):
            return False
        os.kill(pid, signal.SIGKILL)
        poll.poll()
        return True
    finally:
        os.close(handle)


def _content(stream: int) -> str:
    size = os.fstat(stream).st_size
    content = os.pread(stream, size, 0).decode("utf-8", "replace")
    os.close(stream)
    return content


def _become(
    function: Callable[[], Any], streams: list[int], seconds: int, memory: int | None, prepare: Callable[[], None] | None
) -> None:
    """What the child does; it never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[1], 1)
        os.dup2(streams[2], 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
        sys.stderr = open(  # noqa: SIM115
            2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
        vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr)  # by name they are final
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        if memory is not None:
            mapped = int(open("/proc/self/statm").read().split()[0]) * PAGE  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
        if prepare is not None:
            prepare()
        value = function()
        os.pwrite(streams[0], json.dumps(value).encode(), 0)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def command(*arguments: str, **limits: Any) -> Ended:
    """`flow` with these arguments, in a child."""
    from flow.cli.main import main

    def call() -> None:
        raise SystemExit(main(list(arguments)))

    return apart(call, **limits)


def judged_refusal(ended: Ended) -> str:
    """Whether a command that must say one sentence and exit with 2 does: "refused", or what is wrong."""
    if ended.late:
        return "it has not ended in time"
    if ended.code != 2:
        return f"exit {ended.code}: {ended.last_line[:300]}"
    if "Traceback" in ended.err:
        return f"a traceback: {ended.last_line[:300]}"
    if not ended.last_line.startswith("flow: "):
        return f"the last line is not what flow says: {ended.last_line[:300]!r}"
    return "refused"
