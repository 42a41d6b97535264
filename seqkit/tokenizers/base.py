"""What every tokenizer offers, and how a stream of text becomes a stream of token ids.

A tokenizer is pure: it touches no file and keeps no state between calls. Reading, fitting by name and saving are
in ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqkit.errors import DataError

TokenArray = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids in the smallest of uint8, uint16 and uint32 that holds the vocabulary; may be read-only."""

FORMAT_KEY = "seqkit_tokenizer"
"""First key of a saved tokenizer; its value is the version of the format."""

FORMAT_VERSION = 1

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What bytes that are no UTF-8, and characters that became ``<unk>``, are decoded to."""

MAX_TOKEN_CHARACTERS = 1 << 24
"""Longest run of characters without a token boundary; a longer one would have to be held in memory whole."""


class StreamDecoder(Protocol):
    """Turns token ids into text one by one, as they are drawn.

    The texts returned by ``push`` and a last ``flush``, joined, equal ``Tokenizer.decode`` of all the ids.
    """

    def push(self, token_id: int) -> str:
        """Text that is certain after ``token_id``; empty while a character is incomplete.

        Raises:
            ValueError: The id is outside the vocabulary.
        """
        ...

    def flush(self) -> str:
        """What is still held back, an incomplete character as U+FFFD; the decoder is then as new."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def type(self) -> str:
        """Name in the registry: ``char``, ``byte``, ``word``, ``bpe``."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids; they are 0 … vocab_size - 1."""
        ...

    @property
    def unit(self) -> str:
        """What a token is, for "nats per …": ``character``, ``byte``, ``word`` or ``piece``."""
        ...

    @property
    def line_based(self) -> bool:
        """Whether lines are the text's units, so that a text should be divided only at line ends."""
        ...

    @property
    def start_id(self) -> int:
        """The token that a text conventionally follows, where there is no text before it."""
        ...

    @property
    def unk_id(self) -> int | None:
        """The token that stands for everything not in the vocabulary; None if every text has its own tokens."""
        ...

    @property
    def line_end_id(self) -> int | None:
        """The token that every line end becomes, and nothing else; None if there is none."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of uint8, uint16 and uint32 that holds every id."""
        ...

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``.

        Raises:
            DataError: ``text`` cannot be written in UTF-8 (half a surrogate pair), or holds a character outside
                the vocabulary where the tokenizer refuses those.
        """
        ...

    def encode_array(self, text: str) -> TokenArray:
        """The same ids as ``encode``, shape (tokens,), of type ``dtype``; the fast way for long texts."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``.

        Raises:
            ValueError: An id is outside the vocabulary.
        """
        ...

    def stream_decoder(self) -> StreamDecoder:
        """A new decoder for ids that arrive one by one.

        To continue a prompt, push the prompt's ids first and drop what they return: a word tokenizer then knows
        that a blank is due before the first new word.
        """
        ...

    def token_text(self, token_id: int) -> str:
        """A printable form of one token, for reports."""
        ...

    def last_boundary(self, text: str) -> int:
        """The greatest i such that, whatever follows, text[:i] and text[i:] + more can be encoded separately."""
        ...

    def to_json(self) -> str:
        """All there is to know about the tokenizer, as one JSON object; ``registry`` reads it back."""
        ...


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the ids 0 … vocab_size - 1.

    >>> smallest_dtype(256), smallest_dtype(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def encode_unicode(text: str, encoding: str) -> bytes:
    """``text`` in UTF-8 or UTF-32.

    Raises:
        DataError: ``text`` holds half of a surrogate pair, which no UTF can write.
    """
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds U+{ord(text[error.start]):04X} at character {error.start + 1:,}: "
            "half of a surrogate pair, which UTF-8 cannot write"
        ) from error


def check_id(token_id: int, vocab_size: int) -> None:
    """Refuse an id outside the vocabulary, which Python would take as an index from the end if negative.

    Raises:
        ValueError: The id is outside 0 … vocab_size - 1.
    """
    if not 0 <= token_id < vocab_size:
        raise ValueError(f"token id {token_id} is outside the vocabulary of {vocab_size:,}")


def printable(text: str) -> str:
    r"""``text`` with unprintable characters escaped, so that a report stays on its line.

    >>> printable("a\n"), printable("é")
    ('a\\n', 'é')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def whole_tokens(blocks: Iterable[str], last_boundary: Callable[[str], int]) -> Iterator[str]:
    """Move the cuts between blocks of a text to token boundaries.

    Args:
        blocks: Consecutive pieces of a text, cut anywhere.
        last_boundary: ``Tokenizer.last_boundary``.

    Yields:
        Pieces of the same text that can be encoded one by one.

    Raises:
        DataError: More than ``MAX_TOKEN_CHARACTERS`` characters without a boundary.
    """
    rest = ""
    for block in blocks:
        text = rest + block
        cut = last_boundary(text)
        if cut:
            yield text[:cut]
        rest = text[cut:]
        if len(rest) > MAX_TOKEN_CHARACTERS:
            raise DataError(
                f"the text holds a word or line of more than {MAX_TOKEN_CHARACTERS:,} characters",
                hint="text without blanks, or for type bpe without line ends, needs tokenizer.type char or byte",
            )
    if rest:
        yield rest


def encode_blocks(tokenizer: Tokenizer, blocks: Iterable[str]) -> Iterator[TokenArray]:
    """Encode a stream of text in memory that does not grow with the text.

    Args:
        tokenizer: What to encode with.
        blocks: Consecutive pieces of a text, cut anywhere.

    Yields:
        Ids; joined they equal ``tokenizer.encode_array`` of the whole text.

    Raises:
        DataError: As ``Tokenizer.encode``; or a word too long to hold in memory.
    """
    for text in whole_tokens(blocks, tokenizer.last_boundary):
        yield tokenizer.encode_array(text)


def encode_lines(tokenizer: Tokenizer, lines: Sequence[str]) -> tuple[TokenArray, npt.NDArray[np.int64]]:
    """Encode lines, all at once where line ends have a token: some times as fast as one by one.

    Args:
        tokenizer: What to encode with.
        lines: At least one; without line ends.

    Returns:
        The ids of all lines, one after the other, without line ends; and the number of tokens of each line.

    Raises:
        DataError: As ``Tokenizer.encode``.
    """
    if tokenizer.line_end_id is None:
        rows = [tokenizer.encode_array(line) for line in lines]
        return np.concatenate(rows), np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    ids = tokenizer.encode_array("\n".join([*lines, ""]))
    is_end = ids == tokenizer.line_end_id
    lengths = np.diff(np.flatnonzero(is_end), prepend=-1) - 1
    assert len(lengths) == len(lines), "nothing but a line end is its token"
    return ids[~is_end], lengths
