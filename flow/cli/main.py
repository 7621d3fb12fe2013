"""The command line: its commands, its usage and its exit codes. A new command is one file and one line here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from flow.cli import compare, prepare, report, run
from flow.errors import UserError
from flow.parallel.processes import Lost, Ranks, joined, leave
from flow.resources import short_of_memory
from flow.version import described

COMMANDS = {
    command.name: command
    for command in (
        run.COMMAND,
        report.COMMAND,
        compare.COMMAND,
        prepare.COMMAND,
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
  flow run fedavg --data synthetic --clients 300000 --final-clients 1000
  torchrun --nproc-per-node 4 -m flow run fedavg    on four processes: the same numbers, sooner
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user, 130 when interrupted, 141 when nobody reads on."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(described())
        return 0
    ranks = Ranks()
    try:
        ranks = joined()
        if arguments[0] not in COMMANDS:
            raise UserError(f"there is no command {arguments[0]!r}; the commands are {', '.join(COMMANDS)}")
        command = COMMANDS[arguments[0]]
        if ranks.size > 1 and not command.distributed:
            raise UserError(f"`flow {command.name}` runs in one process, not in {ranks.size}; start it without torchrun")
        command.call(arguments[1:], ranks)
    except UserError as error:
        if error.speaks if isinstance(error, Lost) else ranks.first:
            print(f"flow: {error}", file=sys.stderr, flush=True)
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
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `flow run --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        return 141
    finally:
        leave()
    return 0
