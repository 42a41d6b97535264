"""A stretch of a text, and the chunks that several processes encode apart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from seqkit.data.readers import Mark, TextSource, TextStats

_SEARCHED_AT_ONCE = 1 << 16
"""Characters in which a token boundary is looked for at a time."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The characters [start, end) of a text.

    It is divided into chunks at the marks of the text, so where they are depends on the text alone. A chunk begins at
    the first token boundary after its mark; one may be empty.
    """

    source: TextSource
    stats: TextStats
    start: int
    end: int

    def blocks(self) -> Iterator[str]:
        """Its text, in blocks of about 1 MiB."""
        return self._between(self.start, self.end)

    @property
    def num_chunks(self) -> int:
        """Chunks."""
        return len(self._marks) + 1

    def chunk_blocks(self, number: int, last_boundary: Callable[[str], int]) -> Iterator[str]:
        """The text of one chunk, in blocks of about 1 MiB; those of all chunks, joined, are the stretch.

        Args:
            number: Of the chunk, 0-based.
            last_boundary: ``Tokenizer.last_boundary``, which says where a text may be cut.
        """
        start = self._cut(self._marks[number - 1], last_boundary) if number else self.start
        end = self._cut(self._marks[number], last_boundary) if number < len(self._marks) else self.end
        return self._between(start, end)

    @cached_property
    def _marks(self) -> list[Mark]:
        """The marks inside."""
        return [mark for mark in self.stats.marks if self.start < mark.position < self.end]

    def _cut(self, mark: Mark, last_boundary: Callable[[str], int]) -> int:
        """The first place after a mark where the text may be cut, in characters; the end if there is none."""
        text = ""
        for block in self.source.blocks(mark.position, self.end, after=mark):
            for first in range(0, len(block), _SEARCHED_AT_ONCE):
                text += block[first : first + _SEARCHED_AT_ONCE]
                if last_boundary(text):
                    # The first and not the last one: so no chunk reaches beyond the end of the next.
                    length = bisect_left(range(len(text)), True, key=lambda n: last_boundary(text[:n]) > 0)
                    return mark.position + last_boundary(text[:length])
        return self.end

    def _between(self, start: int, end: int) -> Iterator[str]:
        """Characters [start, end) of the text."""
        marks = self.stats.marks
        after = marks[bisect_right(marks, start, key=lambda mark: mark.position) - 1]
        return self.source.blocks(start, end, after=after)
