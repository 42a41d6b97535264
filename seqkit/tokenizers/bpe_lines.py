r"""Whole lines to pieces at the speed of C: no Python code runs for a line, nor for a word that was met before.

Bytes go in and come out: pieces are written with a ``▁``, which would make each character of a Python string two
bytes wide. And words are kept together with the blank or line end that follows them, so that all there is to do is to
divide the lines at blanks, look words up, and join what is found. Both together are twice as fast as the same on
strings with line ends as words of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqkit.tokenizers.bpe import BpeTokenizer

MAX_CACHED_WORDS = 1 << 18
MAX_CACHED_BYTES = 1 << 26
MAX_CACHED_WORD_BYTES = 200

_EMPTY_WORD = b"\xff"
"""An empty word that ends a line, which would otherwise look like a blank line; no byte of UTF-8."""

_BYTES_AT_ONCE = 1 << 15
"""Few enough that the words stay in a processor's cache until they are joined again."""


class LineEncoder:
    r"""Does to bytes what ``BpeTokenizer.encode_lines_to_text`` does to text.

    Args:
        tokenizer: Fitted.
        ids: Write ids instead of pieces.

    >>> from seqkit.tokenizers.bpe import BpeTokenizer
    >>> from seqkit.tokenizers.bpe_text import BUILT_IN_PIECES
    >>> tokenizer = BpeTokenizer([*BUILT_IN_PIECES, "a", "b", "▁", "ab"], [("a", "b")], unseen="unk")
    >>> LineEncoder(tokenizer, ids=True).encode(b"ab b\n\nb")
    b'6 7 6 5\n\n6 5'
    """

    def __init__(self, tokenizer: BpeTokenizer, *, ids: bool = False) -> None:
        self._words = WordTable(lambda word: tokenizer.write_word(word, ids=ids).encode(), blank=b" ", line_end=b"\n")

    def encode(self, lines: bytes) -> bytes:
        r"""The lines, with pieces in place of words.

        Args:
            lines: UTF-8, each line ended by ``\n`` except perhaps the last.

        Returns:
            As many lines, ended in the same way; one blank between two pieces.
        """
        return self._words.translate(lines)


class WordTable(dict[bytes, bytes]):
    r"""What stands for each word and the blank or ``\n`` that follows it, in bounded memory.

    The key of a word that ends its line ends in ``\n``. When full it is emptied, for frequent words are soon back.

    Args:
        make: What stands for a word.
        blank: What stands for the blank after it.
        line_end: What stands for the line end after it.

    >>> table = WordTable(lambda word: word.encode()[::-1], blank=b"_", line_end=b"$")
    >>> table.translate(b"abc de\n\n f")
    b'cba_ed$$_f'
    """

    def __init__(self, make: Callable[[str], bytes], *, blank: bytes, line_end: bytes) -> None:
        super().__init__()
        self._make = make
        self._blank = blank
        self._line_end = line_end
        self._num_bytes = 0

    def translate(self, lines: bytes) -> bytes:
        r"""What stands for lines of text; for a blank one nothing but ``line_end``.

        Args:
            lines: UTF-8, each line ended by ``\n`` except perhaps the last.
        """
        if not lines:
            return b""
        if not lines.endswith(b"\n"):
            return self.translate(lines + b"\n").removesuffix(self._line_end)
        return b"".join([self._translate(part) for part in _parts(lines)])

    def _translate(self, lines: bytes) -> bytes:
        words = lines.replace(b" \n", b" " + _EMPTY_WORD + b"\n").replace(b"\n", b"\n ").split(b" ")
        words.pop()
        return b"".join(map(self.__getitem__, words))

    def __missing__(self, key: bytes) -> bytes:
        if key == b"\n":
            return self._line_end
        word, end = (key[:-1], self._line_end) if key.endswith(b"\n") else (key, self._blank)
        made = self._make("" if word == _EMPTY_WORD else word.decode()) + end
        if len(key) > MAX_CACHED_WORD_BYTES:
            return made
        if len(self) >= MAX_CACHED_WORDS or self._num_bytes >= MAX_CACHED_BYTES:
            self.clear()
            self._num_bytes = 0
        self[key] = made
        self._num_bytes += len(key) + len(made)
        return made


def _parts(lines: bytes) -> Iterator[bytes]:
    """``lines`` in parts of whole lines."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + _BYTES_AT_ONCE) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end
