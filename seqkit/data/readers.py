r"""Text in, as a stream: files, globs, ``.gz``, named corpora, and the lines of a filter's input.

Bytes are read as strict UTF-8. Only ``\n`` ends a line; carriage returns, Unicode line separators and a byte
order mark are characters like any other. Nothing here holds more than a block, or for ``iter_lines`` a line.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Protocol, cast

from seqkit.data.builtin import builtin_text
from seqkit.errors import DataError, MissingDataError

BLOCK_BYTES = 1 << 20
"""Bytes read at a time."""

MARK_BYTES = 1 << 26
"""Bytes of text between two marks: many enough to be worth a process's while, few enough to be done again."""

_LINE_END = ord("\n")
_UTF8_HINT = "convert it first, for instance with: iconv -f LATIN1 -t UTF-8"
_SCHEMES = ("builtin", "catalog")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place in a text from which it can be read without what precedes it."""

    position: int
    """Characters of the text before it."""
    part: int
    """Index of the part it is in."""
    offset: int
    """Bytes of the part before it; 0 in a part that can only be read from its beginning."""
    line: int
    """Line ends of the text before it: the 0-based number of the line it is in."""


TEXT_BEGINNING = Mark(position=0, part=0, offset=0, line=0)


@dataclass(frozen=True, kw_only=True)
class TextStats:
    """What one pass over a text counts."""

    num_chars: int
    """Unicode code points."""
    num_bytes: int
    """Bytes in UTF-8, uncompressed."""
    sha256: str
    """SHA-256 of those bytes, in hexadecimal digits."""
    num_line_ends: int
    """``\\n`` characters."""
    num_lines: int
    """Lines; a last one without ``\\n`` counts."""
    marks: tuple[Mark, ...] = field(default=(TEXT_BEGINNING,), repr=False)
    """The beginning, and after it one mark every ``MARK_BYTES`` or so where the text can be read from."""


class TextPart(Protocol):
    """One piece of a source: a file or a built-in corpus."""

    def blocks(self) -> Iterator[str]:
        """A new pass over the text, in pieces cut anywhere."""
        ...


@dataclass(frozen=True)
class TextFile:
    """A UTF-8 file, gzip-compressed if its name ends in ``.gz``."""

    path: Path

    @property
    def is_compressed(self) -> bool:
        """Whether it is; then it can only be read from its beginning."""
        return self.path.suffix == ".gz"

    def blocks(self, offset: int = 0) -> Iterator[str]:
        """The file's text in blocks of about ``BLOCK_BYTES`` bytes.

        Args:
            offset: Bytes to pass over, up to the beginning of a character; only of a file that is not compressed.

        Raises:
            DataError: The file is not UTF-8 (the line is named if it is read from its beginning), a damaged gzip
                file, or cannot be read.
        """
        return decode_chunks(_chunks(self.path, offset), self.path, names_lines=offset == 0)


@dataclass(frozen=True)
class TextSource:
    """A text that can be read again and again, as a stream."""

    name: str
    """The source as the user gave it."""
    parts: tuple[TextPart, ...]
    """What it consists of, joined as ``cat`` joins files."""

    def blocks(self, start: int = 0, end: int | None = None, *, after: Mark = TEXT_BEGINNING) -> Iterator[str]:
        """The characters [start, end) of the text, in blocks of at most about 1 MiB.

        Args:
            start: First character, 0-based; what precedes it is read and dropped.
            end: Character to stop before; None: the end of the text.
            after: A mark at or before ``start``, to read from there only.

        Raises:
            DataError: A part cannot be read as UTF-8 text.
        """
        position = after.position
        for number, part in enumerate(self.parts[after.part :], after.part):
            is_marked = number == after.part and after.offset > 0
            for block in part.blocks(after.offset) if is_marked and isinstance(part, TextFile) else part.blocks():
                if end is not None and position >= end:
                    return
                wanted = block[max(0, start - position) : None if end is None else end - position]
                position += len(block)
                if wanted:
                    yield wanted

    def measure(self) -> TextStats:
        """Count and hash the whole text in one pass, and mark places to read from.

        Raises:
            DataError: The text is empty, or a part cannot be read as UTF-8 text.
        """
        num_chars = num_bytes = num_line_ends = 0
        last = ""
        digest = hashlib.sha256()
        marks = [TEXT_BEGINNING]
        next_mark = MARK_BYTES
        for number, part in enumerate(self.parts):
            offset = 0
            can_seek = isinstance(part, TextFile) and not part.is_compressed
            for block in part.blocks():
                if num_bytes >= next_mark and (offset == 0 or can_seek):
                    marks.append(Mark(position=num_chars, part=number, offset=offset, line=num_line_ends))
                    next_mark = num_bytes + MARK_BYTES
                encoded = block.encode("utf-8")
                num_chars += len(block)
                num_bytes += len(encoded)
                offset += len(encoded)
                num_line_ends += _count_line_ends(encoded)
                last = block[-1:] or last
                digest.update(encoded)
        if not num_chars:
            raise DataError("is empty", path=self.name)
        return TextStats(
            num_chars=num_chars,
            num_bytes=num_bytes,
            sha256=digest.hexdigest(),
            num_line_ends=num_line_ends,
            num_lines=num_line_ends + (last != "\n"),
            marks=tuple(marks),
        )


def _count_line_ends(text: bytes) -> int:
    # Not at the top: filters read lines without it.
    import numpy as np

    # Four times as fast as bytes.count, in the one pass that every start makes over its texts.
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == _LINE_END))


def utf8_size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    # Python knows of each string whether it is ASCII.
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def decode_chunks(chunks: Iterable[bytes], name: Path | str, *, names_lines: bool = True) -> Iterator[str]:
    """Text whose bytes arrive in pieces cut anywhere, in pieces cut anywhere.

    Args:
        chunks: Consecutive pieces of UTF-8.
        name: What to call the text in an error.
        names_lines: Whether the first piece begins the text, so that lines can be counted.

    Raises:
        DataError: The text is not UTF-8; the line is named.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    num_lines_before = 0 if names_lines else None
    for chunk in chunks:
        text = _decode(decoder, chunk, final=False, path=name, num_lines_before=num_lines_before)
        if num_lines_before is not None:
            num_lines_before += chunk.count(b"\n")
        if text:
            yield text
    _decode(decoder, b"", final=True, path=name, num_lines_before=num_lines_before)


def open_source(source: str | list[str]) -> TextSource:
    """Find what ``source`` names, and check that it can be read.

    Args:
        source: ``builtin:NAME``, ``catalog:NAME[/SPLIT]``, a path, a glob (``**`` crosses folders; the matches are
            sorted), or a list of these. ``~`` expands. A file of exactly that name wins over a glob.

    Returns:
        The text of all of them in the order given.

    Raises:
        MissingDataError: A file or a named corpus does not exist, or a glob matches nothing.
        DataError: A path is a folder, a pipe or unreadable, or there are files and all are empty.
    """
    names = [source] if isinstance(source, str) else source
    text = TextSource(name=", ".join(names), parts=tuple(part for name in names for part in _parts_of(name)))
    if not text.parts:
        raise MissingDataError("the list of files is empty")
    files = [part.path for part in text.parts if isinstance(part, TextFile)]
    if len(files) == len(text.parts) and not any(path.stat().st_size for path in files):
        raise DataError("is empty", path=text.name)
    return text


def iter_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    r"""The lines of a stream, one as soon as it has arrived.

    Args:
        stream: UTF-8 bytes, for instance ``sys.stdin.buffer``.
        name: What to call the stream in an error.

    Yields:
        Each line without its ``\n``; a last one without ``\n`` counts, and a blank one is an empty string.

    Raises:
        DataError: A line is not UTF-8; the line is named.
    """
    for number, raw in enumerate(stream, start=1):
        yield _decode_line(raw, name, number).removesuffix("\n")


def checked_utf8(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines of a stream as they are, line ends included.

    Raises:
        DataError: A line is not UTF-8; the line is named.
    """
    for number, raw in enumerate(stream, start=1):
        _decode_line(raw, name, number)
        yield raw


def _decode_line(raw: bytes, name: str, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error, path=name, line=number) from error


def read_utf8(stream: IO[bytes], name: str) -> str:
    """All of a stream, as text.

    Raises:
        DataError: A line is not UTF-8; the line is named.
    """
    return "\n".join([*iter_lines(stream, name), ""]).removesuffix("\n")


def lines_of(blocks: Iterable[str]) -> Iterator[str]:
    r"""The lines of a text, as ``iter_lines`` gives those of a stream.

    >>> list(lines_of(["a\nb", "c\n", "\nd"]))
    ['a', 'bc', '', 'd']
    """
    rest: list[str] = []
    for block in blocks:
        first, *others = block.split("\n")
        rest.append(first)
        if others:
            yield "".join(rest)
            yield from others[:-1]
            # Pieces and not one growing string: a long line in many blocks would be copied over and over.
            rest = [others[-1]]
    last = "".join(rest)
    if last:
        yield last


def _parts_of(name: str) -> list[TextPart]:
    """The parts that one name stands for."""
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "builtin":
        return [builtin_text(rest)]
    if colon and scheme == "catalog":
        from seqkit.data.catalog import locate

        corpus, _, split = rest.partition("/")
        return [_text_file(path) for path in locate(corpus, split or None)]
    return [_text_file(path) for path in _paths_of(name)]


def _paths_of(name: str) -> list[Path]:
    """The files that a path or glob stands for; a plain path is taken as it is."""
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        # "~nobody": no such user, so the name can only be a file's.
        path = Path(name)
    try:
        exists = path.exists()
    except OSError:
        # Leave it to _text_file to say what is wrong with the path.
        exists = True
    if exists or not has_magic(str(path)):
        return [path]
    # glob.glob and not Path.glob, which also matches hidden files, as no shell does.
    matches = [Path(match) for match in sorted(glob(str(path), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if not match.is_dir()]
    if not files:
        raise MissingDataError("no file matches", path=name)
    return files


def _text_file(path: Path) -> TextFile:
    """The file at ``path``, checked.

    Raises:
        MissingDataError: There is none.
        DataError: It is a folder or a pipe, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError("is a folder", path=path, hint=f"name the files in it, for instance '{path}/*.txt'")
        if not stat.S_ISREG(mode):
            raise DataError("is not a regular file", path=path, hint="seqkit reads a text more than once; save it")
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        # ValueError: a name with a zero byte.
        raise MissingDataError("no such file", path=path, hint=_scheme_hint(str(path))) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    return TextFile(path)


def _scheme_hint(name: str) -> str | None:
    """A guess at a misspelt ``builtin:`` or ``catalog:``."""
    scheme, colon, rest = name.partition(":")
    near = get_close_matches(scheme, _SCHEMES, n=1) if colon else []
    return f"did you mean {near[0]}:{rest}?" if near else None


def _chunks(path: Path, offset: int) -> Iterator[bytes]:
    """The bytes of a file from ``offset`` on, decompressed, ``BLOCK_BYTES`` at a time.

    Raises:
        DataError: The file cannot be read, or is a damaged gzip file.
    """
    try:
        with cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(BLOCK_BYTES):
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip file: {error}", path=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from error


def _decode(
    decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool, path: Path | str, num_lines_before: int | None
) -> str:
    """Decode the next chunk of a file; ``num_lines_before`` line ends precede it, or nobody knows how many."""
    try:
        return decoder.decode(chunk, final=final)
    except UnicodeDecodeError as error:
        # The object is the chunk after what was held back of the last one, which holds no line end.
        line = None
        if num_lines_before is not None:
            line = num_lines_before + error.object.count(b"\n", 0, error.start) + 1
        raise not_utf8(error, path=path, line=line) from error


def not_utf8(error: UnicodeDecodeError, *, path: Path | str | None = None, line: int | None = None) -> DataError:
    """The error for bytes that are no UTF-8, at a line of a file or stream if they are named."""
    byte = error.object[error.start]
    return DataError(f"not UTF-8: byte 0x{byte:02x}: {error.reason}", path=path, line=line, hint=_UTF8_HINT)
