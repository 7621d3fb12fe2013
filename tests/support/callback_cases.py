"""Callbacks that tests of callbacks and loggers share."""

from flow import Callback
from flow.callbacks import Data


class StopsAfter(Callback):
    """Interrupts the run, as Ctrl-C would."""

    def __init__(self, round: int) -> None:
        self.round = round

    def round_done(self, row: Data) -> None:
        if row["round"] == self.round:
            raise KeyboardInterrupt
