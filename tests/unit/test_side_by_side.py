"""Batches in processes: the same results in the same order, errors where somebody hears them, and nobody left over."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.errors import DataError, SeqkitError
from seqkit.tasks.side_by_side import SideBySide

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks with PyTorch loaded")

Start = Callable[..., SideBySide[Any, Any]]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[SideBySide[Any, Any]] = []

    def start_processes(work: Callable[[Any], Any], num_processes: int = 2) -> SideBySide[Any, Any]:
        started.append(SideBySide(work, num_processes))
        return started[-1]

    yield start_processes
    for side_by_side in started:
        side_by_side.close()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_come_in_order_from_processes_with_one_core_each(start: Start, tmp_path: Path) -> None:
    def work(item: int) -> tuple[int, int, int]:
        if item in {5, 3}:
            # Neither goes on before both are at work.
            (tmp_path / str(item)).touch()
            while not all((tmp_path / name).exists() for name in "53"):
                time.sleep(0.001)
        return item * item, torch.get_num_threads(), os.getpid()

    found = list(start(work).begin([5, 3, 4, 2]))
    assert [result[:2] for result in found] == [(25, 1), (9, 1), (16, 1), (4, 1)]
    assert len({process for *_, process in found}) == 2 and os.getpid() not in {process for *_, process in found}
    assert torch.get_num_threads() == 2


def test_what_is_begun_later_is_done_after_what_was_begun_before(start: Start) -> None:
    side_by_side = start(lambda item: item + 1)
    first, second, none = side_by_side.begin([1, 2, 3]), side_by_side.begin([4]), side_by_side.begin([])
    assert list(second) == [5] and list(none) == [] and list(first) == [2, 3, 4]
    assert not side_by_side.is_busy


def test_processes_stay_from_one_work_to_the_next(start: Start) -> None:
    side_by_side = start(lambda _: os.getpid())
    processes = set(side_by_side.begin(range(6)))
    answers = side_by_side.begin(range(6))
    # A reader who takes one answer after the other never learns that there are no more.
    assert {next(answers) for _ in range(6)} <= processes
    answers.close()
    assert set(side_by_side.begin(range(6))) <= processes


def test_an_answer_may_be_larger_than_a_pipe(start: Start) -> None:
    assert list(map(len, start(lambda size: b"x" * size).begin([3, 1_000_000, 5_000_000]))) == [3, 1_000_000, 5_000_000]


def test_an_expected_error_arrives_as_it_is(start: Start) -> None:
    def work(item: int) -> int:
        if item == 1:
            raise DataError("not a number", path="model", line=7, hint="train again")
        return item

    answers = start(work).begin([0, 1, 2])
    assert next(answers) == 0
    with pytest.raises(DataError, match="model:7: not a number") as raised:
        next(answers)
    assert raised.value.hint == "train again"


def test_another_error_comes_with_its_traceback_and_ends_all(start: Start) -> None:
    def work(item: int) -> int:
        if item == 0:
            raise ZeroDivisionError("in a batch")
        time.sleep(60)
        return item

    side_by_side = start(work)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)in a worker process.*ZeroDivisionError: in a batch"):
        list(side_by_side.begin([0, 1, 2]))
    assert not side_by_side.is_busy and time.monotonic() - began < 30


def test_a_process_that_is_killed_is_named(start: Start) -> None:
    def work(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    side_by_side = start(work)
    with pytest.raises(SeqkitError, match="a worker process ended by SIGKILL while it translated") as raised:
        list(side_by_side.begin([0, 1, 2, 3]))
    assert raised.value.hint is not None and "--batch-tokens" in raised.value.hint
    assert list(side_by_side.begin([5, 6])) == [5, 6], "the next work has new processes"


def test_processes_end_with_whom_they_belong_to() -> None:
    side_by_side = SideBySide[int, int](lambda _: os.getpid(), 2)
    processes = set(side_by_side.begin([1, 2, 3]))
    assert all(map(is_alive, processes))
    del side_by_side
    gc.collect()
    assert not any(map(is_alive, processes))


def test_closing_the_answers_ends_the_processes_at_once(start: Start, tmp_path: Path) -> None:
    def work(item: int) -> int:
        if item:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(60)
        return os.getpid()

    answers = start(work).begin([0, 1, 2])
    next(answers)
    while not (processes := [int(path.name) for path in tmp_path.iterdir()]):
        time.sleep(0.001)
    began = time.monotonic()
    answers.close()
    assert time.monotonic() - began < 30
    assert not any(map(is_alive, processes))
