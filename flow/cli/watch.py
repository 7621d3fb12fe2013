"""``flow watch``."""

from __future__ import annotations

import sys
import threading
import webbrowser
from dataclasses import dataclass
from typing import Annotated

import tyro

from flow.cli.command import Command, Form, named_folder, parsed
from flow.errors import one_line
from flow.parallel.processes import Ranks
from flow.serving.server import check_packages, serve_application


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Serve a live page on this machine alone, with the curves of a run as they grow: loss, evaluations, speed, time left. The
    folder is that of a run, of a comparison, or one with several runs, which get a curve each; it need not be there yet. It is
    read and left as it is: nothing is written or locked, and nothing is loaded from elsewhere. Ctrl-C ends it."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Of a run or a comparison, or one with several runs."""

    port: int = 8766
    """Of http://127.0.0.1:PORT/; 0: a free one."""

    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in a browser."""


def _watch(arguments: list[str], ranks: Ranks) -> None:
    chosen: Watch = parsed(FORM, arguments)
    check_packages("watch")
    folder = named_folder("folder", chosen.folder)
    from flow.serving.watch.app import application
    from flow.serving.watch.folder import Watched

    def ready(address: str) -> None:
        print(f"watching {one_line(str(folder))}: {address} (Ctrl-C ends it)", flush=True)
        if chosen.open:  # a browser in the terminal would hold up the page
            threading.Thread(target=_open, args=(address,), daemon=True).start()

    serve_application(lambda port: application(Watched(folder), port), chosen.port, ready)


def _open(address: str) -> None:
    if not webbrowser.open(address):
        print(f"flow: no browser could be started; open {address} in one", file=sys.stderr, flush=True)


FORM = Form(Watch, "flow watch")
USAGE = "  watch FOLDER        a live page on this machine with the curves of a run, or of several, as they grow\n"
COMMAND = Command("watch", USAGE, _watch, lambda: {"": FORM})
