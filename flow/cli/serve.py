"""``flow serve``."""

from __future__ import annotations

from dataclasses import dataclass

from flow.cli.command import Command, Form, parsed
from flow.cli.own_code import Loaded, loaded
from flow.errors import one_line
from flow.parallel.processes import Ranks
from flow.serving.server import check_packages, serve


@dataclass(frozen=True, kw_only=True)
class Serve(Loaded):
    """Serve a page on this machine alone, on which an adapted model goes on with what one types, coloured by the expert that
    counts. Nothing is stored, and nothing is loaded from elsewhere. Ctrl-C ends it."""

    port: int = 8765
    """Of http://127.0.0.1:PORT/; 0: a free one."""


def _serve(arguments: list[str], ranks: Ranks) -> None:
    chosen: Serve = parsed(FORM, arguments)
    check_packages()
    model = loaded(chosen)
    print(one_line(model.report["private"]))
    serve(model, chosen.port, lambda address: print(f"serving: {address} (Ctrl-C ends it)", flush=True))


FORM = Form(Serve, "flow serve")
USAGE = "  serve FOLDER        a page on this machine that goes on with what one types, by an adapted model\n"
COMMAND = Command("serve", USAGE, _serve, lambda: {"": FORM})
