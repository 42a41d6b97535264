"""Which followers still show signs of life while the leader waits for their word: each counts on in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

_LOOK_EVERY_S = 1.0


class Pulses:
    """Watches counts that stop when their process does.

    Args:
        count: The count of a process now.
        ranks: The processes.
        timeout_s: How long a count may stand still.
        clock: Tells the seconds.
    """

    def __init__(
        self,
        count: Callable[[int], int],
        ranks: Iterable[int],
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._timeout_s = timeout_s
        self._clock = clock
        self._counts = dict.fromkeys(ranks, -1)
        self._silent_s = dict.fromkeys(self._counts, 0.0)
        self._looked_at = clock()

    def silent(self) -> int | None:
        """The first process whose count has stood still for too long; cheap enough to be asked again and again."""
        now = self._clock()
        passed = now - self._looked_at
        if passed < _LOOK_EVERY_S:
            return None
        self._looked_at = now
        for rank, before in self._counts.items():
            self._counts[rank] = self._count(rank)
            # The clock also goes on while this process is stopped, perhaps with all others: that tells nothing.
            silent_s = self._silent_s[rank] + min(passed, 2 * _LOOK_EVERY_S)
            self._silent_s[rank] = 0.0 if self._counts[rank] != before else silent_s
        return next((rank for rank, silent_s in self._silent_s.items() if silent_s > self._timeout_s), None)
