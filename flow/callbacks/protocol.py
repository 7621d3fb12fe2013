"""What a callback is."""

from __future__ import annotations

from typing import Any, Protocol

Data = dict[str, Any]
"""What JSON can hold: numbers, texts, None, lists and dictionaries. It is a copy of the callback's own."""


class Callback(Protocol):
    """What is called while a run goes on. A class that inherits from it overrides what it needs; the rest does nothing.

    Every method gets data of its own, so that what it does with them changes nothing in the run. A method that raises an
    Exception is named in a warning, and its callback is called no more in this run. KeyboardInterrupt and SystemExit end the
    run as they do elsewhere. One object may see several runs, one after the other, as in a comparison. Where a run has several
    processes, the first calls.
    """

    def run_started(self, run: Data) -> None:
        """A run begins or goes on.

        Args:
            run: ``name``, unique beside the runs of its folder; ``algorithm``; ``folder``, absolute, or None; ``config``, the
                options of config.json; ``rounds`` of the whole run; ``done``, how many of them were done before, and
                ``earlier``, their rows.
        """
        return

    def round_done(self, row: Data) -> None:
        """A round is done, evaluated and in metrics.jsonl.

        Args:
            row: its row of metrics.jsonl, as in ``Result.metrics``.
        """
        return

    def evaluation_done(self, evaluation: Data) -> None:
        """An evaluation is done: one along the run, just before :meth:`round_done` of its round, or the final one.

        Args:
            evaluation: ``round``; ``final``, whether it is the final one, of all clients; the summaries ``seen`` and
                ``unseen``, with the fields of evaluation.json.
        """
        return

    def run_ended(self, run: Data) -> None:
        """A run ended, in whatever way.

        Args:
            run: ``outcome``, which is "finished", "failed" or "stopped" (by Ctrl-C, or by a signal); ``reason``, a text where
                it is not finished, else None; ``rounds`` that are done; ``run``, the content of run.json, or None.
        """
        return
