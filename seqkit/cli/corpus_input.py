"""Texts that a command reads once from beginning to end: what recipes name, and also stdin and pipes."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seqkit.cli.line_filter import BLOCK_BYTES, read_arrived
from seqkit.cli.streams import open_input
from seqkit.data.readers import TextFile, TextPart, decode_chunks, open_source
from seqkit.errors import UsageError
from seqkit.tokenizers.base import whole_tokens


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One file, pipe or named text."""

    num_bytes: int | None
    """Its size, where that is known beforehand."""
    blocks: Callable[[], Iterator[str]]
    """The text in pieces cut anywhere; may be called once. Raises DataError if it cannot be read as UTF-8."""

    def whole_words(self) -> Iterator[str]:
        r"""The text in pieces that are cut after a blank or a ``\n``.

        Raises:
            DataError: The text cannot be read as UTF-8, or has a word too long to hold in memory.
        """
        return whole_tokens(self.blocks(), _after_last_blank)


def open_corpora(names: Sequence[str]) -> list[Corpus]:
    """Find the texts, and check that all can be read, before the first is.

    Args:
        names: Files, globs, ``.gz``, pipes, ``builtin:NAME``, ``catalog:NAME[/SPLIT]``, ``-`` for stdin; stdin if
            there are none.

    Returns:
        Files and named texts in the order given, then pipes and stdin.

    Raises:
        UsageError: ``-`` is given twice, or stdin is a terminal or closed.
        MissingDataError: A file or a named corpus does not exist, or a glob matches nothing.
        DataError: A path is a folder or unreadable, or all files are empty.
    """
    streams = [name for name in names if name == "-" or _is_stream(name)]
    if streams.count("-") > 1:
        raise UsageError("`-` twice: stdin can be read only once")
    if not names:
        with open_input(None):  # is there anything to read?
            return [_stream(None)]
    others = [name for name in names if name not in streams]
    parts = open_source(others).parts if others else ()
    return [*map(_from_part, parts), *map(_stream, streams)]


def _is_stream(name: str) -> bool:
    """Whether a path is a pipe or a device, as ``<(command)`` gives one: it can be read, once."""
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _stream(name: str | None) -> Corpus:
    return Corpus(num_bytes=None, blocks=lambda: _stream_blocks(name))


def _stream_blocks(name: str | None) -> Iterator[str]:
    with open_input(name) as (stream, shown_name):
        descriptor = stream.fileno()
        yield from decode_chunks(iter(partial(read_arrived, descriptor, BLOCK_BYTES), b""), shown_name)


def _from_part(part: TextPart) -> Corpus:
    num_bytes = None
    if isinstance(part, TextFile) and part.path.suffix != ".gz":
        num_bytes = part.path.stat().st_size
    return Corpus(num_bytes=num_bytes, blocks=part.blocks)


def _after_last_blank(text: str) -> int:
    r"""Where the last word, which may go on, begins.

    >>> _after_last_blank("a b\nc")
    4
    """
    return max(text.rfind(" "), text.rfind("\n")) + 1
