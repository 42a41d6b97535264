"""Files beside a filter's input whose line n belongs to line n of the input, read along in step and in flat memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice

from seqkit.cli.line_filter import BLOCK_BYTES, Block, LineInput, first_lines, open_lines
from seqkit.data.readers import decode_chunks, lines_of
from seqkit.errors import DataError, UsageError

_HINT = "line n of one belongs to line n of the other"


@dataclass
class SideFile:
    """A file beside the input."""

    name: str
    lines: Iterator[str]
    num_read: int = 0

    def take(self, count: int) -> list[str]:
        """The next lines, fewer where the file ends."""
        taken = list(islice(self.lines, count))
        self.num_read += len(taken)
        return taken


@dataclass
class AlignedLines:
    """The input and the files beside it."""

    lines: LineInput
    sides: dict[str, SideFile] = field(default_factory=dict)
    """By what they are for."""

    def __iter__(self) -> Iterator[tuple[Block, dict[str, list[str]]]]:
        """Blocks of the input, each with the lines that belong to its lines.

        Raises:
            DataError: A side file has fewer lines than the input, or more, both counts named; before that, all lines
                that it has lines for were yielded. Or it is not UTF-8.
        """
        num_lines = 0
        for block in self.lines:
            count = _num_lines(block.data)
            taken = {key: side.take(count) for key, side in self.sides.items()}
            short = min((self.sides[key] for key in taken), key=lambda side: side.num_read, default=None)
            num_lines += count
            if short is not None and short.num_read < num_lines:
                shortest = count - (num_lines - short.num_read)
                if shortest:
                    cut = Block(first_lines(block.data, shortest), block.first_line)
                    yield cut, {key: texts[:shortest] for key, texts in taken.items()}
                num_lines += sum(_num_lines(rest.data) for rest in self.lines)
                raise _unequal(short.name, short.num_read, self.lines.name, num_lines)
            yield block, taken
        for side in self.sides.values():
            more = sum(1 for _ in side.lines)
            if more:
                raise _unequal(side.name, side.num_read + more, self.lines.name, num_lines)


@contextmanager
def open_aligned_lines(name: str | None, sides: dict[str, str | None], *, max_lines: int) -> Iterator[AlignedLines]:
    """Open an input and the files beside it.

    Args:
        name: The input: a file, or stdin for ``-`` and ``None``.
        sides: By what they are for, files beside it; ``None``: there is none.
        max_lines: Lines in a block, at most.

    Raises:
        UsageError: stdin is read twice, or a terminal.
        MissingDataError: A file does not exist.
        DataError: Files that can be counted beforehand have different numbers of lines.
    """
    given = {key: side for key, side in sides.items() if side is not None}
    if [name or "-", *given.values()].count("-") > 1:
        raise UsageError("`-` twice: stdin can be read only once")
    with ExitStack() as stack:
        lines = stack.enter_context(open_lines(name, max_lines=max_lines))
        num_lines = _count_ahead(lines.descriptor)
        opened = {}
        for key, side in given.items():
            beside = stack.enter_context(open_lines(side))
            count = _count_ahead(beside.descriptor)
            if count is not None and num_lines is not None and count != num_lines:
                raise _unequal(beside.name, count, lines.name, num_lines)
            blocks = decode_chunks((block.data for block in beside), beside.name)
            opened[key] = SideFile(beside.name, lines_of(blocks))
        yield AlignedLines(lines, opened)


def _count_ahead(descriptor: int | None) -> int | None:
    """The lines still to be read from a file, which is left as it is; ``None`` for a pipe and the like."""
    if descriptor is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    count, last = 0, b"\n"
    while data := os.pread(descriptor, BLOCK_BYTES, position):
        count += data.count(b"\n")
        position, last = position + len(data), data[-1:]
    return count + (last != b"\n")


def _num_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _unequal(side: str, num_side_lines: int, name: str, num_lines: int) -> DataError:
    return DataError(f"{side} has {num_side_lines:,} lines but {name} has {num_lines:,}", hint=_HINT)
