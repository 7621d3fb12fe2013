"""What passes between processes that share an evaluation."""

import numpy as np
import pytest

from flow.evaluation import gather
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
    cost=Cost(2**40, 0, 1e-300),
)
PLAIN = ROUTED._replace(id="b", tokens=1, local_weights=None, steps=np.array([4]), counts={"personal": {"accuracy": 1}})


@pytest.mark.parametrize("scores", [[], [ROUTED], [PLAIN], [PLAIN, ROUTED, PLAIN], [ROUTED, ROUTED]])
def test_scores_come_out_as_they_went_in(scores):
    received = gather._decoded(gather._encoded(scores))
    assert len(received) == len(scores)
    for own, other in zip(received, scores, strict=True):
        for name in Score._fields:
            value, expected = getattr(own, name), getattr(other, name)
            assert type(value) is type(expected), name
            if isinstance(expected, np.ndarray):
                assert value.dtype == expected.dtype and np.array_equal(value, expected)
            else:
                assert value == expected, name
        assert own.gain() == other.gain()
