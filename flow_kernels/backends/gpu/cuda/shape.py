"""How a problem is divided into clusters, blocks and tiles of sequences: pure functions of its sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_HIDDEN = 512
SMS = 132  # of an H100 or H200; what a division reckons with where no device is asked


def cluster_size(hidden: int) -> int:
    """Blocks of a cluster: the fewest whose shared memory and registers hold the recurrent weights of both experts."""
    return next(blocks for most, blocks in ((64, 1), (128, 2), (256, 4), (384, 8), (MAX_HIDDEN, 16)) if hidden <= most)


def batch_tile(clients: int, batch: int, hidden: int, backward: bool, at_once: Callable[[int], int] | None = None) -> int:
    """Sequences of a cluster: the smallest tile with which all clusters run at once, otherwise the largest that is of use.

    at_once: how many clusters with a tile the device runs at once; without it, as many as 132 multiprocessors hold blocks.
    """
    tiles = (8, 16) if backward or hidden > 256 else (8, 16, 32)
    for tile in tiles:
        if clients * -(-batch // tile) <= _at_once(hidden, tile, at_once):
            return tile
    return next((tile for tile in tiles if tile >= batch), tiles[-1])


class Division(NamedTuple):
    """How one direction of a problem lies on the chip."""

    clusters: int
    blocks: int
    """Of a cluster."""
    tile: int
    """Sequences of a cluster."""
    at_once: int
    """Clusters that run at the same time; 0 where the device can run none."""

    @property
    def waves(self) -> int:
        """How many times the chip is filled, one after the other."""
        return -(-self.clusters // max(1, self.at_once))


def divide(clients: int, batch: int, hidden: int, backward: bool, at_once: Callable[[int], int] | None = None) -> Division:
    """The division that a launch of these sizes has; at_once as in :func:`batch_tile`."""
    tile = batch_tile(clients, batch, hidden, backward, at_once)
    most = max(0, _at_once(hidden, tile, at_once))
    return Division(clients * -(-batch // tile), cluster_size(hidden), tile, most)


def _at_once(hidden: int, tile: int, at_once: Callable[[int], int] | None) -> int:
    return at_once(tile) if at_once else SMS // cluster_size(hidden)


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def units(hidden: int, blocks: int) -> int:
    """Hidden units of a block (Shape::units of csrc/cuda/shape.h)."""
    return _round_up(hidden, 16) if blocks == 1 else _round_up(-(-hidden // blocks), 8)
