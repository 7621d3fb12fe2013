"""Rounds by Flower's SecAgg+: the server gets the weighted mean of the nodes' changes, and no single one.

The cryptography is Flower's: its SecAggPlusWorkflow at the server and its secaggplus_mod at the nodes. What is written here is
what goes into the sum and what the quantisation makes of it.

A node sends d, the weighted mean of its clients' changes, and the weight w, the sum of theirs. Flower multiplies d by w / W,
where W is the largest weight that a node can have. It rounds the product at random to one of Q steps between -clip and clip,
and adds up masked integers. The sums of n nodes stay below n Q, which must not reach the modulus 2^32: so Q is 2^31 / n, or the
power of two below. The mean of the changes is then wrong by less than :func:`error` in every number.
"""

from __future__ import annotations

MODULUS = 2**32
SHARE = 0.6
"""Of the nodes of a round, those that must be left at its end for the sum to be unmasked."""
LOSS = 64.0
"""The loss in nats a token travels among the changes, as this fraction of the range."""
LOSS_NAME = "loss/"


def steps(nodes: int) -> int:
    """Q, the steps between -clip and clip for a round of so many nodes."""
    return int(2 ** ((2**31 // nodes).bit_length() - 1))


def error(nodes: int, clip: float, largest: float, total: float) -> float:
    """A bound on what quantisation changes of any number of the mean.

    A node's product is wrong by less than 2 clip / Q, its weight by at most W / (2 Q). For n nodes the first moves the mean by
    less than 2 n clip / q, where q is the sum of the rounded weights in units of W / Q, and the second by at most n clip / q.

    Args:
        nodes: of the round.
        clip: the option.
        largest: W, the largest weight that a node can have.
        total: the sum of the nodes' weights.
    """
    return 3 * nodes * clip / (steps(nodes) * total / largest - nodes / 2)
