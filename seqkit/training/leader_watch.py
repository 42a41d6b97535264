"""Ending a follower whose leader is gone, wherever its main thread waits.

A process may wait for another inside PyTorch for minutes, where no signal and no news reach it: for a connection that
nobody accepts any more, or for one to be taken down. A thread asks meanwhile whether the training is over. What
``--devices`` starts has a pipe for that (:mod:`seqkit.training.processes`); this is for processes on several machines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_JOIN_S = 5.0


@dataclass(frozen=True)
class News:
    """That the training is over."""

    message: str | None
    """What to say about it; None if the one that ended it has said so itself."""
    exit_code: int


class LeaderWatch:
    """While its ``with`` block runs, end this process some time after the leader has ended, or has fallen silent.

    Args:
        ask: Asks the leader whether the training is over; it may take as long as it likes.
        on_end: Ends this process; called in a thread.
        grace_s: What the main thread has to notice by itself.
        timeout_s: How long an answer may take.
        every_s: Seconds between two looks.
    """

    def __init__(
        self,
        ask: Callable[[], News | None],
        on_end: Callable[[News], None],
        *,
        grace_s: float,
        timeout_s: float,
        every_s: float = 0.5,
    ) -> None:
        self._ask = ask
        self._on_end = on_end
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._every_s = every_s
        self._is_over = threading.Event()
        self._news: News | None = None
        self._num_answers = 0
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._ask_leader, self._watch_leader)
        ]

    def note_end(self, news: News) -> None:
        """The main thread has heard it; there is nothing to ask any more, but the time that it has begins."""
        self._news = news

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            # A thread that comes back from PyTorch after the interpreter has gone would take the process down.
            thread.join(_JOIN_S)

    def _ask_leader(self) -> None:
        while self._news is None and not self._is_over.wait(self._every_s):
            news = self._ask()
            self._num_answers += 1
            if news is not None:
                # Else what the main thread has noted meanwhile stays.
                self._news = news

    def _watch_leader(self) -> None:
        silent_s, num_answers = 0.0, 0
        while self._news is None and silent_s < self._timeout_s:
            if self._is_over.wait(self._every_s):
                return
            # Not by the clock, which goes on while this process is stopped, and the leader perhaps with it.
            silent_s = silent_s + self._every_s if num_answers == self._num_answers else 0.0
            num_answers = self._num_answers
        news = self._news or News(f"process 0 has not answered for {self._timeout_s:g} s", 1)
        if not self._is_over.wait(self._grace_s):
            self._on_end(news)
