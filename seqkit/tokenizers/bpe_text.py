r"""The words of a text and the runs they consist of: how text is cut before byte-pair encoding sees it.

Only U+0020 separates words and only ``\n`` ends a line; tabs, no-break spaces, U+2028 and the like are ordinary
characters of words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Literal

Boundary = Literal["start", "end"]
"""Which end of a word its pieces mark: the start with ``▁``, or the end with ``</w>``."""

Split = Literal["punctuation", "blanks"]
"""Where merges stop: at the edges of runs of letters, of numerals and of anything else, or only at blanks."""

Normalization = Literal["none", "nfc", "nfkc"]
"""Unicode normalization form that a text is brought into before anything else."""

Unseen = Literal["bytes", "unk", "keep"]
"""What becomes of a character that has no piece."""

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"

BUILT_IN_PIECES = (PAD, UNK, BOS, EOS)
"""The pieces that every tokenizer has; a learned one has them as 0, 1, 2 and 3."""

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""The pieces that spell a character which has none of its own: one for each byte of UTF-8."""

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
"""``▁``, which stands before a word."""

WORD_END = "</w>"
"""What the last symbol of a word carries in the notation of Sennrich et al. (2016)."""

CONTINUED = "@@"
"""What a piece that does not end its word is written with, where words are marked at the end."""

LONGEST_RUN = 1 << 16
"""Characters of a run; what is longer is cut, because merging takes some hundred times as much memory."""

_CHARACTERS_AT_ONCE = 1 << 16
_ASCII_RUN = re.compile("[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+")
_LETTER, _NUMERAL, _OTHER = range(3)
_KIND_OF_CATEGORY = {"L": _LETTER, "M": _LETTER, "N": _NUMERAL}


def normalize(text: str, form: Normalization) -> str:
    """``text`` in a normalization form; NFKC makes blanks of some characters."""
    return text if form == "none" else unicodedata.normalize("NFC" if form == "nfc" else "NFKC", text)


def units(word: str, split: Split) -> list[str]:
    """The parts of ``word`` that merges do not cross; the empty word has one, which is empty."""
    parts = [word] if split == "blanks" or not word else runs(word)
    if len(word) > LONGEST_RUN:
        parts = [part[i : i + LONGEST_RUN] for part in parts for i in range(0, len(part), LONGEST_RUN)]
    return parts


def runs(word: str) -> list[str]:
    """``word`` cut into runs of letters and marks, of numerals, and of anything else.

    The marks are those that Unicode combines with the letter before them: an accent stays with its letter.

    >>> runs("don't"), runs("(2020)."), runs("abc"), runs("")
    (['don', "'", 't'], ['(', '2020', ').'], ['abc'], [])
    """
    # Most words need no look at each character in Python.
    if word.isalpha():
        return [word]
    if word.isascii():
        return _ASCII_RUN.findall(word)
    return ["".join(run) for _, run in groupby(word, _kind)]


@lru_cache(maxsize=1 << 12)
def _kind(character: str) -> int:
    return _KIND_OF_CATEGORY.get(unicodedata.category(character)[0], _OTHER)


def check_special_tokens(special_tokens: Sequence[str], boundary: Boundary, normalization: Normalization) -> None:
    """Refuse special tokens that could be taken for something else, or never be found.

    Raises:
        ValueError: One is too short, repeated, reserved or not normalized, or holds a blank or a mark.
    """
    for token in special_tokens:
        if len(token) < 2 or " " in token or "\n" in token:
            raise ValueError(f"the special token {token!r} must be two or more characters without a blank"[:200])
        if special_tokens.count(token) > 1 or token in BUILT_IN_PIECES or token in BYTE_PIECES:
            raise ValueError(f"the special token {token!r} is there already"[:200])
        if WORD_START in token if boundary == "start" else token.endswith((WORD_END, CONTINUED)):
            raise ValueError(f"the special token {token!r} looks like a piece with the mark of a word"[:200])
        if normalize(token, normalization) != token:
            raise ValueError(
                f"the special token {token!r} is not in {normalization.upper()}, as the text will be"[:200]
            )


def parts_of_lines(block: str) -> Iterator[str]:
    """``block`` in parts of whole lines, small enough that their words stay in a processor's cache."""
    start = 0
    while start < len(block):
        end = block.rfind("\n", start, start + _CHARACTERS_AT_ONCE) + 1 or block.find("\n", start) + 1 or len(block)
        yield block[start:end]
        start = end


class ReservedStrings:
    """Names of pieces that must not come out of merges as well.

    Args:
        strings: Names of at least two characters.

    >>> ReservedStrings(["</s>", "aba"]).cut("x</s>ababa")
    ['x</s', '>ab', 'ab', 'a']
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = sorted(strings)
        pattern = "|".join(map(re.escape, self._strings)) or "(?!)"
        self._pattern = re.compile(pattern)
        # Looking ahead only, for occurrences may overlap.
        self._overlapping = re.compile(f"(?={pattern})")

    def occur_in(self, text: str) -> bool:
        """Whether one of them does."""
        return self._pattern.search(text) is not None

    def cut(self, text: str) -> list[str]:
        """``text`` cut before the last character of each occurrence, so that no part holds one."""
        edges = {0, len(text)}
        for match in self._overlapping.finditer(text):
            start = match.start()
            edges.update(start + len(name) - 1 for name in self._strings if text.startswith(name, start))
        return [text[a:b] for a, b in pairwise(sorted(edges))]
