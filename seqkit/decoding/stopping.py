"""Stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    r"""Passes text on until one of the stop strings appears; the stop string itself is held back.

    The stop string that is complete first counts, of several complete at once the longest; so the result does not
    depend on where the text is cut into pieces.

    Args:
        stops: Stop strings; empty ones are ignored.

    >>> matcher = StopMatcher(["\n\n"])
    >>> matcher.push("one\n"), matcher.push("two"), matcher.push("\n\nthree"), matcher.is_stopped
    ('one', '\ntwo', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take the next piece; return what is now known to stand before any stop string."""
        if self.is_stopped:
            return ""
        self._held += text
        found = [(index + len(stop), index) for stop in self._stops if (index := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            _, start = min(found)
            ready, self._held = self._held[:start], ""
            return ready
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        ready, self._held = self._held[:split], self._held[split:]
        return ready

    def flush(self) -> str:
        """What was held back because it might have begun a stop string."""
        ready, self._held = self._held, ""
        return ready


def _overlap(text: str, stop: str) -> int:
    r"""Length of the longest end of ``text`` that begins ``stop``.

    >>> _overlap("ab\n", "\n\n")
    1
    """
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
