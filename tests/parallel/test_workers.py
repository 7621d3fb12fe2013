"""The pool that computes groups of clients on several cores."""

import threading
import time

import pytest
import torch

from flow.model.interface import Model
from flow.model.language_model import LanguageModel
from flow.parallel.workers import Workers

MODEL = LanguageModel(5, 2, 3)


def test_results_come_in_order_from_threads_with_a_model_and_one_core_each() -> None:
    seen: dict[int, set[int]] = {}

    def work(model: Model, item: int) -> int:
        time.sleep(0.01 * (3 - item % 3))
        seen.setdefault(threading.get_ident(), set()).add(id(model))
        assert torch.get_num_threads() == 1
        return item * item

    torch.set_num_threads(2)
    with Workers(MODEL, 3) as workers:
        assert torch.get_num_threads() == 1
        assert list(workers.map(work, range(20))) == [n * n for n in range(20)]
    assert torch.get_num_threads() == 2
    models = [models for models in seen.values()]
    assert len(models) == 3 and all(len(own) == 1 for own in models)
    assert len(set.union(*models)) == 3 and id(MODEL) not in set.union(*models)


def test_few_results_are_held_at_a_time() -> None:
    started = []

    def work(model: Model, item: int) -> int:
        started.append(item)
        return item

    with Workers(MODEL, 2) as workers:
        results = workers.map(work, range(100))
        assert next(results) == 0
        time.sleep(0.05)
        assert len(started) <= 4


def test_an_error_reaches_the_caller() -> None:
    def work(model: Model, item: int) -> int:
        raise ValueError(f"item {item}")

    with Workers(MODEL, 2) as workers, pytest.raises(ValueError, match="item 0"):
        list(workers.map(work, range(5)))
