"""The command line: its commands, its usage and its exit codes. A new command is one file and one line here."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flow.cli import (
    adapt,
    compare,
    completion,
    data,
    deploy,
    doctor,
    export,
    predict,
    prepare,
    report,
    run,
    serve,
    streams,
    watch,
)
from flow.errors import UserError, one_line
from flow.parallel.processes import Lost, Ranks, joined, leave
from flow.resources import short_of_memory
from flow.terminal.looks import clean_line
from flow.version import described

COMMANDS = {
    command.name: command
    for command in (
        run.COMMAND,
        report.COMMAND,
        compare.COMMAND,
        prepare.COMMAND,
        data.COMMAND,
        adapt.COMMAND,
        predict.COMMAND,
        export.COMMAND,
        serve.COMMAND,
        watch.COMMAND,
        deploy.COMMAND,
        doctor.COMMAND,
        completion.COMMAND,
    )
}

USAGE = f"""\
usage: flow COMMAND [OPTIONS], or flow --version

Federated learning with per-instance routing between a global and a local expert.

commands:
{"".join(command.usage for command in COMMANDS.values())}
examples:
  flow run                                          Flow on Shakespeare, all defaults
  flow run fedavg --rounds 50                       the baseline, shorter
  flow run --rounds 3 --max-clients 60              a first look that takes seconds
  flow run flow --variant workshop --data mine.jsonl.gz
  flow data posts.csv --sample 3                    what is in a table of texts
  flow run fedavg --data synthetic --clients 300000 --final-clients 1000
  flow watch runs/mine                              its curves in a browser while it goes on
  flow adapt runs/mine --texts my-posts.csv --out me
  flow predict me "fix the"                         the next words, by one client's own model
  torchrun --nproc-per-node 4 -m flow run fedavg    on four processes: the same numbers, sooner
"""

NARROWEST = 20  # columns; in fewer than 4 the parser of options never ends to break its lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code. It is 0, 2 for a mistake of the user or an output that cannot be written, 130
    when interrupted, 141 when the output is closed, 143 when a scheduler asks for the end (SIGTERM)."""
    with streams.standard() as output:
        try:
            code = _run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit:  # the parser of options leaves by it
            if output.refusal() is None:
                raise
            code = 2
        refusal = output.refusal()
        if refusal is None:
            return code
        if refusal.errno == errno.EPIPE:  # as in `flow run --help | head`
            return 141
        print(
            f"flow: the standard output cannot be written ({refusal.strerror or refusal}); direct it to a terminal, to "
            "/dev/null or to a file on a disk with free space",
            file=sys.stderr,
            flush=True,
        )
        return 2


def _run(arguments: list[str]) -> int:
    """Run a command and return the exit code; what it prints may still be in a buffer."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(described())
        return 0
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    ranks = Ranks()
    try:
        ranks = joined()
        if arguments[0] not in COMMANDS:
            raise UserError(f"there is no command {arguments[0]!r}; the commands are {', '.join(COMMANDS)}")
        command = COMMANDS[arguments[0]]
        if ranks.size > 1 and not command.distributed:
            raise UserError(f"`flow {command.name}` runs in one process, not in {ranks.size}; start it without torchrun")
        with _terminable(ranks):
            return command.call(arguments[1:], ranks) or 0
    except UserError as error:
        if error.speaks if isinstance(error, Lost) else ranks.first:
            print(f"flow: {one_line(str(error))}", file=sys.stderr, flush=True)
        return 2
    except (MemoryError, RuntimeError) as error:
        reason = short_of_memory(error)
        if reason is None:
            raise
        print(
            f"flow: there is not enough memory ({reason}); lower chunk, threads, batch_size, sequence_length or the sizes of "
            "the model, or use a machine with more memory",
            file=sys.stderr,
            flush=True,
        )
        return 2
    except Terminated:
        return 143
    except KeyboardInterrupt:
        clean_line()
        return 130
    finally:
        leave()


class Terminated(KeyboardInterrupt):
    """The process is asked to end, by SIGTERM; it does what it does when it is interrupted."""


@contextmanager
def _terminable(ranks: Ranks) -> Iterator[None]:
    """Have SIGTERM raise Terminated; several processes hear it in :meth:`flow.parallel.processes.Ranks.together`."""
    alone = ranks.size == 1 and threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> None:
    raise Terminated
