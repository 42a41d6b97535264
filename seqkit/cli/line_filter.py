r"""The line contract of the filters, written once: N lines in, N lines out, in order, answered as they arrive.

- Only ``\n`` ends a line. A last line without one is a line, and its answer has none either, as with ``sed``.
- Input is taken as it comes: all that has arrived, up to ``BLOCK_BYTES``, is answered and flushed before more is
  waited for. So a slow pipe gets its answers at once, a fast one is served in large blocks, and memory stays flat
  but for a line that is longer than a block.
- Bytes that are no UTF-8 end the work with an error that names the line, after all lines before it were answered.
- A filter that answers a block with another number of lines is a bug and stops the program.

A filter is a function from text to text, a :data:`Transform`; :func:`run_filter` does the rest.
"""

from __future__ import annotations

import functools
import gzip
import os
import select
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from seqkit.cli.streams import open_binary_output, open_input
from seqkit.data.readers import not_utf8
from seqkit.errors import DataError

BLOCK_BYTES = 1 << 20
"""Input taken at once, at most; a longer line is taken whole."""

MAX_LINE_BYTES = 1 << 28
"""Longest line; what has no line end at all, such as a binary file, must not fill the memory."""

Transform = Callable[[str, int], str]
r"""Whole lines and the number of the first one, from 1 on, to as many lines.

Each line but the last of the input ends in ``\n``; what a last one without becomes may end in it. What comes out may
depend on a line and its number, never on the lines beside it: where a block is cut is chance. Raises
:class:`LineFault`.
"""

ByteTransform = Callable[[bytes, int], bytes]
"""The same from UTF-8 to UTF-8, for filters so fast that decoding would be felt."""


class LineFault(Exception):  # noqa: N818 - becomes a DataError once the line's number is known
    """A transform cannot use a line.

    Args:
        index: The line, counted from 0 at the first one of the block.
        message: What is wrong with it.
        hint: What to do about it.
    """

    def __init__(self, index: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Block:
    r"""Consecutive lines of the input, as bytes."""

    data: bytes
    r"""Whole lines, each with its ``\n`` but for a last one of the input that has none; never empty."""
    first_line: int
    """Number of the first line, from 1 on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a block became."""

    data: bytes
    """The answers to its lines, or to those before the first that is at fault."""
    fault: tuple[int, str, str | None] | None = None
    """Number of the line at fault, what is wrong, and a hint."""


class LineInput:
    """Reads whole lines, waiting only while there is no byte at all.

    Args:
        read: Waits for bytes and returns those there are, at most as many as it is told; ``b""`` at the end.
        descriptor: What to ask whether there are more at this moment; None: reading never waits.
        name: What to call the input in messages.
        max_lines: Lines in a block, at most.
    """

    def __init__(
        self, read: Callable[[int], bytes], *, descriptor: int | None, name: str, max_lines: int | None = None
    ) -> None:
        self._read = read
        self._max_lines = max_lines
        self._begun: list[bytes] = []
        self._begun_bytes = 0
        self._fault: DataError | None = None
        self._next_line = 1
        self.descriptor = descriptor
        self.name = name
        self.is_exhausted = False
        self.ready: deque[Block] = deque()
        """Blocks that were read and nobody has taken yet."""

    def __iter__(self) -> Iterator[Block]:
        while True:
            while self.ready:
                yield self.ready.popleft()
            if self.is_exhausted:
                return
            self.fill()

    def fill(self) -> None:
        """Wait for bytes, take all that are there up to ``BLOCK_BYTES``, and put the whole lines in ``ready``.

        Raises:
            DataError: A line is longer than ``MAX_LINE_BYTES``.
        """
        if self._fault is not None:
            raise self._fault
        pieces = [self._read(BLOCK_BYTES)]
        num_bytes = len(pieces[0])
        while pieces[-1] and num_bytes < BLOCK_BYTES and self._has_more():
            pieces.append(self._read(BLOCK_BYTES - num_bytes))
            num_bytes += len(pieces[-1])
        self.is_exhausted = not pieces[-1]
        data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        end = len(data) if self.is_exhausted else data.rfind(b"\n") + 1
        if end or self.is_exhausted:
            # In pieces until now: a long line that grew by one block after the other would be copied each time.
            self._add(b"".join([*self._begun, data[:end]]) if self._begun else data[:end])
            self._begun, self._begun_bytes = [], 0
        if end < len(data):
            self._begun.append(data[end:])
            self._begun_bytes += len(data) - end
            if self._begun_bytes > MAX_LINE_BYTES:
                raise DataError(
                    f"more than {MAX_LINE_BYTES:,} bytes without a line end",
                    path=self.name,
                    line=self._next_line,
                    hint=r"a line ends at \n alone; is this a text?",
                )

    def has_next_now(self) -> bool:
        """Take what has arrived; whether the next block, the end or a fault can be had without waiting."""
        try:
            while not self.ready and not self.is_exhausted and self._fault is None and self._has_more():
                self.fill()
        except DataError as error:
            self._fault = error
        return bool(self.ready) or self.is_exhausted or self._fault is not None or self.descriptor is None

    def _has_more(self) -> bool:
        if self.descriptor is None:
            return False
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def _add(self, data: bytes) -> None:
        """Put whole lines in ``ready``, divided into blocks of ``max_lines``."""
        start = 0
        while start < len(data):
            end = start if self._max_lines is not None else len(data)
            for _ in range(self._max_lines or 0):
                end = data.find(b"\n", end) + 1 or len(data)
                if end == len(data):
                    break
            part = data[start:end]
            self.ready.append(Block(part, self._next_line))
            self._next_line += part.count(b"\n")
            start = end


@contextmanager
def open_lines(name: str | None, *, max_lines: int | None = None) -> Iterator[LineInput]:
    """Open a file (``.gz`` is decompressed), a pipe, or stdin for ``-`` or no name.

    Raises:
        UsageError: No input was named and stdin is a terminal or closed.
        MissingDataError: The file does not exist.
        DataError: While reading: a damaged gzip file.
    """
    with open_input(name) as (stream, shown_name):
        if name is not None and Path(name).suffix == ".gz":
            with gzip.open(stream) as file:
                read = functools.partial(_read_gzip, file, shown_name)
                yield LineInput(read, descriptor=None, name=shown_name, max_lines=max_lines)
            return
        descriptor = stream.fileno()
        read = functools.partial(read_arrived, descriptor)
        yield LineInput(read, descriptor=descriptor, name=shown_name, max_lines=max_lines)


def run_filter(
    transform: Transform,
    *,
    source: str | None,
    output: str | None,
    batch_size: int | None = None,
    workers: int = 1,
) -> None:
    """Send the lines of ``source`` through ``transform`` to ``output``; see :func:`run_byte_filter`."""
    run_byte_filter(on_text(transform), source=source, output=output, batch_size=batch_size, workers=workers)


def run_byte_filter(
    transform: ByteTransform,
    *,
    source: str | None,
    output: str | None,
    batch_size: int | None = None,
    workers: int = 1,
) -> None:
    """Send the lines of ``source`` through ``transform`` to ``output``.

    Args:
        transform: The filter.
        source: A file, or stdin for ``-`` and None.
        output: A file that appears whole or not at all, or stdout for ``-`` and None.
        batch_size: Lines answered at once, at most; None: as many as have arrived.
        workers: Processes; 1: this one alone. More cost a tenth to a quarter of the work, so they pay on idle cores.

    Raises:
        DataError: A line is not UTF-8, or the transform cannot use it; those before it were answered.
        UsageError: There is no input.
        MissingDataError: The file does not exist.
    """
    with ExitStack() as stack:
        lines = stack.enter_context(open_lines(source, max_lines=batch_size))
        sink = stack.enter_context(open_binary_output(output))
        answers = _answers(lines, lambda block: answer_block(block, transform), workers)
        # Closed however this ends, so that no worker outlives it.
        for answer in stack.enter_context(closing(answers)):
            write_answer(answer, sink, lines.name)


def write_answer(answer: Answer, sink: IO[bytes], name: str) -> None:
    """Write the answer to a block, and raise the fault of its line if there is one.

    Args:
        answer: What the block became.
        sink: Where it goes; flushed.
        name: What to call the input in messages.

    Raises:
        DataError: The fault.
    """
    sink.write(answer.data)
    sink.flush()
    if answer.fault is not None:
        line, message, hint = answer.fault
        raise DataError(message, path=name, line=line, hint=hint)


def on_text(transform: Transform) -> ByteTransform:
    """A filter of text as one of UTF-8."""
    return lambda lines, first_line: transform(lines.decode("utf-8"), first_line).encode("utf-8")


def answer_block(block: Block, transform: ByteTransform) -> Answer:
    r"""Send one block through a transform.

    >>> answer_block(Block(b"a\n\xc3\xa9\n", 1), on_text(lambda text, _: text.upper())).data.decode()
    'A\nÉ\n'
    >>> answer_block(Block(b"a\nb\xff\nc\n", 8), on_text(lambda text, _: text.upper())).fault[:2]
    (9, 'not UTF-8: byte 0xff: invalid start byte')

    Raises:
        RuntimeError: The transform broke the contract.
    """
    lines, fault = block.data, None
    try:
        lines.decode("utf-8")
    except UnicodeDecodeError as error:
        lines = lines[: lines.rfind(b"\n", 0, error.start) + 1]
        told = not_utf8(error)
        fault = (block.first_line + lines.count(b"\n"), told.message, told.hint)
    try:
        answered = transform(lines, block.first_line) if lines else b""
    except LineFault as error:
        lines = first_lines(lines, error.index)
        answered = transform(lines, block.first_line) if lines else b""
        fault = (block.first_line + error.index, error.message, error.hint)
    num_ends, num_answered = lines.count(b"\n"), answered.count(b"\n")
    # A last line without an end may get one, as objects of JSON do; or its answer is empty.
    may_be_ended = not lines.endswith(b"\n") and answered.endswith(b"\n")
    if num_answered not in (num_ends, num_ends + may_be_ended):
        raise RuntimeError(f"{num_ends} line ends became {num_answered}, from input line {block.first_line} on")
    return Answer(answered, fault)


def _answers(lines: LineInput, work: Callable[[Block], Answer], workers: int) -> Generator[Answer, None, None]:
    """The answers to all blocks in order, from this process and, if so wanted, from others."""
    for block in lines:
        yield work(block)
        if workers > 1:
            # From the second block on: the first one filled the caches, which all then share.
            break
    if lines.ready or not lines.is_exhausted:
        from seqkit.cli.worker_pool import answers_in_order

        yield from answers_in_order(lines, work, workers)


def first_lines(lines: bytes, num_lines: int) -> bytes:
    r"""The first lines of a block.

    >>> first_lines(b"a\nb\nc\n", 2)
    b'a\nb\n'
    """
    end = 0
    for _ in range(num_lines):
        end = lines.index(b"\n", end) + 1
    return lines[:end]


def read_arrived(descriptor: int, size: int) -> bytes:
    """What has arrived on a descriptor; waits for the first byte."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            # Whoever shares the pipe made it non-blocking; "nothing yet" must not be taken for the end.
            select.select([descriptor], [], [])


def _read_gzip(file: gzip.GzipFile, name: str, size: int) -> bytes:
    """The next decompressed bytes of a file."""
    try:
        return file.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip file: {error}", path=name) from error
