"""Scores of two clients: of one with a router, and of one without."""

import numpy as np

from flow.evaluation.score import Cost, Score

ROUTED = Score(
    id="\N{GREEK SMALL LETTER ALPHA}\n",
    group="g",
    held_out=False,
    texts=12,
    train_tokens=7,
    tokens=3,
    counts={"global": {"accuracy": 2, "loss": 0.1 + 0.2}, "soft": {"accuracy": 0, "loss": float("inf")}},
    local_weights=np.array([0.1, 1.0, 0.3], np.float32),
    steps=np.array([0, 5, 2]),
    calibration=np.arange(6.0).reshape(3, 2) / 3,
    passage={"tokens": ["a", "\n"], "local_weight": [0.1234, 1.0], "personal_correct": None},
    predicted=np.array([[4, -1], [7, -1]], np.int32),
    cost=Cost(2**40, 0, 1e-300),
)
PLAIN = ROUTED._replace(id="b", tokens=1, local_weights=None, steps=np.array([4]), counts={"personal": {"accuracy": 1}})
