"""Batches that have nothing to do with each other, each computed by a thread with one core of its own.

On a CPU most operations of a decoding step are too small to gain much from a second core. Batches side by side keep
all cores at work, and what comes out does not depend on how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from seqkit.decoding.model import AttentiveModel, State

Item = TypeVar("Item")
Result = TypeVar("Result")


class SideBySide:
    """Threads for batches.

    Args:
        num_threads: How many, at least 2.
    """

    def __init__(self, num_threads: int) -> None:
        assert num_threads > 1, "one thread needs no others"
        self.num_threads = num_threads
        self._stop = threading.Event()

    def watched(self, model: AttentiveModel) -> AttentiveModel:
        """The model for the threads: they end at its next step when the work is broken off, by a signal for one."""
        return _Watched(model, self._stop)

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """What ``work`` makes of each item, in order; a single item has the calling thread and all cores to itself."""
        if len(items) < 2:
            yield from map(work, items)
            return
        num_threads = torch.get_num_threads()
        # PyTorch keeps this number for each thread.
        pool = ThreadPoolExecutor(self.num_threads, "batch", initializer=torch.set_num_threads, initargs=(1,))
        self._stop.clear()
        try:
            yield from pool.map(work, items)
        finally:
            # Whatever ended this, an error in a batch or a signal in this thread: no thread goes on for nothing.
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            self._stop.clear()
            # A part of PyTorch takes the number that was last set anywhere.
            torch.set_num_threads(num_threads)


class _Stopped(Exception):  # noqa: N818 - ends a thread whose result nobody waits for
    """The work was broken off."""


class _Watched:
    """A model that takes no step once it is stopped."""

    def __init__(self, model: AttentiveModel, stop: threading.Event) -> None:
        self._model = model
        self._stop = stop

    def initial_state(self, source: Any, batch_size: int) -> State:
        return self._model.initial_state(source, batch_size)

    def step(self, state: State, token_B: Tensor) -> tuple[Tensor, State]:
        if self._stop.is_set():
            raise _Stopped
        return self._model.step(state, token_B)

    def reorder(self, state: State, index_N: Tensor) -> State:
        return self._model.reorder(state, index_N)

    def attention(self, state: State) -> Tensor | None:
        return self._model.attention(state)
