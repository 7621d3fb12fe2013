"""Processes that start at once: copies of one that has imported torch and done nothing else.

A new interpreter spends seconds on that import, more than on most of what a test wants of it. A copy is a process of its own
all the same, with an environment, streams, signals and an exit code of its own. What is read while the interpreter starts or
torch is imported, such as PYTHONHASHSEED or OMP_THREAD_LIMIT, cannot be given to it; its OMP_NUM_THREADS is 1.
"""

import atexit
import contextlib
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from subprocess import CompletedProcess
from threading import Thread
from typing import IO

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def context() -> ForkServerContext:
    """That of multiprocessing whose processes are such copies."""
    forkserver_context = get_context("forkserver")
    forkserver_context.set_forkserver_preload(["torch", "torch._dynamo"])
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return forkserver_context


class Forked:
    """A process that does what `python` does with these arguments, which start with a file or with "-c" and a program.

    The streams are pipes for text. What there is of subprocess.Popen is as it is there.
    """

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str] | None = None, paths: Sequence[str] = ()) -> None:
        pipes = get_context("forkserver")
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = (pipes.Pipe(duplex=False) for _ in range(3))
        given = list(arguments), dict(os.environ if env is None else env), [*paths, ROOT]
        self._process = context().Process(target=_become, args=(*given, theirs_in, theirs_out, theirs_err))
        self._process.start()
        self.pid = self._process.pid
        for end in (theirs_in, theirs_out, theirs_err):
            end.close()
        self.stdin = _opened(ours_in, "w")
        self.stdout, self.stderr = _opened(ours_out, "r"), _opened(ours_err, "r")

    @property
    def returncode(self) -> int | None:
        """None while it runs, minus the signal that ended it, or its exit code."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"the process has not ended after {timeout} seconds")
        return self.returncode

    def communicate(self, text: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Give it a text, close the stream, and read all that it still prints and says; nothing the second time."""
        if self.stdin.closed:
            return "", ""
        output = ["", ""]

        def read(number: int) -> None:
            with (self.stdout, self.stderr)[number] as stream:
                output[number] = stream.read()

        readers = [Thread(target=read, args=(number,)) for number in (0, 1)]
        for reader in readers:
            reader.start()
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(text)
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return output[0], output[1]

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()


def python(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, paths: Sequence[str] = ()
) -> CompletedProcess[str]:
    """Run a program to its end, as `python -c`.

    Args:
        code: the program.
        arguments: what it finds in sys.argv.
        env: all of its environment; None for that of this process.
        paths: further folders in which it finds modules.
    """
    process = Forked(["-c", code, *arguments], env, paths)
    stdout, stderr = process.communicate()
    return CompletedProcess([code, *arguments], process.wait(), stdout, stderr)


def _opened(end: Connection, mode: str) -> IO[str]:
    """A pipe's end as a file of text."""
    file = os.fdopen(os.dup(end.fileno()), mode, encoding="utf-8")
    end.close()
    return file


def _become(
    arguments: list[str], env: dict[str, str], paths: list[str], stdin: Connection, stdout: Connection, stderr: Connection
) -> None:
    """What the copy does."""
    for number, end in enumerate((stdin, stdout, stderr)):
        os.dup2(end.fileno(), number)
        end.close()
    # As in an interpreter of its own, a file object that is dropped must not close the stream: a program may put another in its
    # place over the same descriptor.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = paths
    code = 0
    try:
        sys.argv = arguments if arguments[0] != "-c" else ["-c", *arguments[2:]]
        if arguments[0] == "-c":
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if code and not isinstance(stopped.code, int):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)
