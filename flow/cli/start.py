"""Where the program `flow` begins. What needs neither torch nor the kernels is answered before they are loaded, and a machine
on which they cannot be loaded gets one sentence."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NoReturn

from flow.cli import script_of
from flow.terminal.looks import clean_line


def start() -> NoReturn:
    """Run the command line and leave with its exit code."""
    try:
        code = _code(sys.argv[1:])
    except KeyboardInterrupt:  # while torch is loaded
        clean_line()
        code = 130
    # Nothing is left but to wait for threads: a signal from now on ends the process at once, and does not disturb the
    # interpreter while it ends its threads, which would end in std::terminate.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _code(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "completion" and (script := script_of(arguments[1])) is not None:
        return _printed(script.encode())
    try:
        from flow.cli.main import main
    except (ImportError, RuntimeError, OSError) as error:  # a package that is missing or broken, or FLOW_CPU_ISA
        if arguments[:1] == ["doctor"]:
            return _examined("--json" in arguments)
        reason = " ".join(f"{error}".split())
        print(f"flow: cannot be loaded ({reason}); `flow doctor` looks at every package and says more", file=sys.stderr)
        return 2
    return main(arguments)


def _printed(content: bytes) -> int:
    """Write to the standard output, past its buffer; the exit code."""
    try:
        while content:
            content = content[os.write(1, content) :]
    except BrokenPipeError:  # as in `flow completion bash | head`
        return 141
    except OSError as error:
        print(f"flow: the standard output cannot be written ({error.strerror or error})", file=sys.stderr)
        return 2
    return 0


def _examined(as_json: bool) -> int:
    """The examination without what cannot be loaded, and so without the benchmark."""
    from flow.doctor import examination

    findings = list(examination.examined(measure=False))
    if as_json:
        document = {"command": "doctor", "format": 1, "flow": None, **examination.content(findings)}
        print(json.dumps(document, indent=1, default=str))
    else:
        for finding in findings:
            print("\n".join(examination.lines_of(finding, coloured=False)))
        print(examination.conclusion(findings))
    return 0 if examination.is_well(findings) else 1
