"""Where a parallel text is cut, so that several processes can encode it: at the same line on both sides."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from seqkit.data.pairs import ParallelText, Side
from seqkit.data.readers import Mark, TextStats, lines_of


@dataclass(frozen=True, kw_only=True)
class PairChunk:
    """Some lines of a parallel text, and where on each side to begin to look for them."""

    first_line: int
    """0-based."""
    num_lines: int
    marks: dict[Side, Mark]
    """Each is in an earlier line, or at the beginning of the text."""

    def pairs(self, text: ParallelText) -> Iterator[tuple[str, str]]:
        """Its pairs, in order; fewer if the text has become shorter.

        Raises:
            DataError: A text cannot be read.
        """
        return zip(self._lines(text, "src"), self._lines(text, "tgt"), strict=False)

    def _lines(self, text: ParallelText, side: Side) -> Iterator[str]:
        mark = self.marks[side]
        blocks = text.side(side).blocks(mark.position, after=mark)
        return islice(lines_of(after_line_ends(blocks, self.first_line - mark.line)), self.num_lines)


def cut_pairs(stats: dict[Side, TextStats]) -> list[PairChunk]:
    """Cut a parallel text into chunks, which depend on the text alone.

    There is a cut at the line after each mark of the source, if the target has a mark since the last cut: so no text is
    read more than twice to find the lines of all chunks. A compressed file has no marks inside, and is not cut.

    Args:
        stats: Of each side; as many lines on both.
    """
    num_lines = stats["src"].num_lines
    src_marks, tgt_marks = stats["src"].marks, stats["tgt"].marks
    begins: list[tuple[int, Mark, Mark]] = [(0, src_marks[0], tgt_marks[0])]
    for src in src_marks[1:]:
        tgt = tgt_marks[bisect_right(tgt_marks, src.line, key=lambda mark: mark.line) - 1]
        last_line, _, last_tgt = begins[-1]
        if tgt.position > last_tgt.position and last_line < src.line + 1 < num_lines:
            begins.append((src.line + 1, src, tgt))
    ends = [*(line for line, _, _ in begins[1:]), num_lines]
    return [
        PairChunk(first_line=line, num_lines=end - line, marks={"src": src, "tgt": tgt})
        for (line, src, tgt), end in zip(begins, ends, strict=True)
    ]


def after_line_ends(blocks: Iterable[str], count: int) -> Iterator[str]:
    r"""What follows so many line ends.

    >>> list(after_line_ends(["a\nb", "c\n", "\nd\n", "e"], 2))
    ['\nd\n', 'e']
    """
    for block in blocks:
        if count == 0:
            yield block
            continue
        num_here = block.count("\n")
        if num_here >= count:
            rest = block.split("\n", count)[count]
            if rest:
                yield rest
        count = max(0, count - num_here)
