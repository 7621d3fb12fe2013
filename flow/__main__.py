"""``python -m flow``: the same as the command ``flow``."""

from flow.cli.start import start

start()
