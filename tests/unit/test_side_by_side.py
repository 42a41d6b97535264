"""Batches in threads: the same results in the same order, and nothing goes on once the work is broken off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_models import MemoryModel, random_table

from seqkit.tasks.side_by_side import SideBySide


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_with_one_core_each() -> None:
    both_there = threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, int]:
        # Neither goes on before both are at work.
        both_there.wait()
        return item * item, torch.get_num_threads()

    assert list(SideBySide(2).map(work, [5, 3, 4, 2])) == [(25, 1), (9, 1), (16, 1), (4, 1)]
    assert torch.get_num_threads() == 2


def test_a_single_item_has_all_cores_and_no_thread() -> None:
    def work(_: int) -> tuple[int, str]:
        return torch.get_num_threads(), threading.current_thread().name

    assert list(SideBySide(2).map(work, [1])) == [(2, threading.current_thread().name)]
    assert list(SideBySide(2).map(work, [])) == []


def test_an_error_in_one_batch_ends_the_steps_of_the_others() -> None:
    side_by_side, is_stepping = SideBySide(2), threading.Event()
    model: Any = side_by_side.watched(MemoryModel(random_table(3, seed=1)))  # type: ignore[arg-type]
    ended: list[str] = []

    def work(item: int) -> None:
        if item == 0:
            assert is_stepping.wait(30)
            raise ValueError("in a batch")
        state = model.initial_state(None, 1)
        try:
            # For ever, but for the stop.
            while True:
                _, state = model.step(state, torch.tensor([0]))
                is_stepping.set()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    with pytest.raises(ValueError, match="in a batch"):
        list(side_by_side.map(work, [0, 1, 2, 3]))
    assert set(ended) == {"_Stopped"}
    assert torch.get_num_threads() == 2
    # And the next work finds nothing stopped.
    steps = side_by_side.map(lambda token: model.step(model.initial_state(None, 1), torch.tensor([token]))[0], [0, 1])
    assert [logits_BV.shape for logits_BV in steps] == [(1, 3), (1, 3)]
