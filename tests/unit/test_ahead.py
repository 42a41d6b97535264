"""Values made ahead by a thread: the same ones, and a thread that ends with its owner."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from seqkit.data.ahead import MadeAhead


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


class Made:
    """Makes lists, and remembers for which epochs and in which thread; waits where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, epoch: int, is_wanted: Callable[[], bool]) -> list[int] | None:
        self.calls.append((epoch, threading.current_thread() is threading.main_thread()))
        while not self.may_go_on.is_set():
            if not is_wanted():
                return None
            time.sleep(0.001)
        return [epoch]


def test_what_is_not_prepared_is_made_when_asked_for() -> None:
    make = Made()
    values: MadeAhead[list[int]] = MadeAhead(make)
    first = values.get(3)
    assert first == [3] and values.get(3) is first
    assert values.get(4) == [4]
    assert values.get(3) == [3]
    assert make.calls == [(3, True), (4, True), (3, True)]


def test_what_is_prepared_is_made_once_and_in_a_thread() -> None:
    make = Made()
    values: MadeAhead[list[int]] = MadeAhead(make)
    assert values.get(0) == [0]
    for _ in range(3):
        values.prepare(1)
    assert values.get(0) == [0], "what is at hand stays there"
    assert values.get(1) == [1]
    values.prepare(2)
    assert values.get(2) == [2]
    assert make.calls == [(0, True), (1, False), (2, False)]


def test_it_is_waited_for() -> None:
    make = Made()
    values: MadeAhead[list[int]] = MadeAhead(make)
    make.may_go_on.clear()
    values.prepare(1)
    timer = threading.Timer(0.05, make.may_go_on.set)
    timer.start()
    assert values.get(1) == [1]
    timer.join()
    assert make.calls == [(1, False)]


def test_another_epoch_than_the_prepared_one() -> None:
    make = Made()
    values: MadeAhead[list[int]] = MadeAhead(make)
    make.may_go_on.clear()
    values.prepare(1)
    timer = threading.Timer(0.05, make.may_go_on.set)
    timer.start()
    assert values.get(5) == [5]
    timer.join()
    assert make.calls == [(1, False), (5, True)]
    values.prepare(6)
    assert values.get(6) == [6]


@pytest.mark.parametrize(("num_epochs", "epochs"), [(2, [1]), (1.5, [1]), (1, []), (None, [1, 2])])
def test_no_epoch_is_prepared_that_will_not_come(num_epochs: float | None, epochs: list[int]) -> None:
    make = Made()
    for epoch in (1, 2):
        values: MadeAhead[list[int]] = MadeAhead(make, num_epochs=num_epochs)
        values.prepare(epoch)
        if epoch in epochs:
            assert values.get(epoch) == [epoch]
    assert make.calls == [(epoch, False) for epoch in epochs]


def test_an_error_is_raised_where_the_value_is_asked_for() -> None:
    failures = [OSError("no disk")]

    def make(epoch: int, is_wanted: Callable[[], bool]) -> int:
        if failures and epoch == 1:
            raise failures.pop()
        return epoch

    values: MadeAhead[int] = MadeAhead(make)
    assert values.get(0) == 0
    values.prepare(1)
    assert values.get(0) == 0
    with pytest.raises(OSError, match="no disk"):
        values.get(1)
    assert values.get(1) == 1


def test_the_thread_ends_when_its_owner_is_gone() -> None:
    make = Made()
    make.may_go_on.clear()
    values: MadeAhead[list[int]] = MadeAhead(make)
    values.prepare(1)
    while not make.calls:
        time.sleep(0.001)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "make-epoch-1"]
    del values
    gc.collect()
    assert not thread.is_alive()


def test_the_process_does_not_wait_for_the_value() -> None:
    code = """
import time
from seqkit.data.ahead import MadeAhead

def make(epoch, is_wanted):
    print("began", flush=True)
    while is_wanted():
        time.sleep(0.01)
    print("ended", flush=True)

values = MadeAhead(make)
values.prepare(1)
time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "began\nended\n", "")
