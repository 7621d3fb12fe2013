"""What passes between processes that share an evaluation."""

import numpy as np
import pytest
from score_cases import PLAIN, ROUTED

from flow.evaluation import gather
from flow.evaluation.score import Score


@pytest.mark.parametrize("scores", [[], [ROUTED], [PLAIN], [PLAIN, ROUTED, PLAIN], [ROUTED, ROUTED]])
def test_scores_come_out_as_they_went_in(scores: list[Score]) -> None:
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
