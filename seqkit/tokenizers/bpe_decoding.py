"""From the pieces of byte-pair encoding back to text: whole texts, lines of pieces or ids, and one id at a time."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence

import numpy as np

from seqkit.tokenizers.base import REPLACEMENT, check_id, printable
from seqkit.tokenizers.bpe_text import (
    BOS,
    BYTE_PIECES,
    CONTINUED,
    EOS,
    PAD,
    UNK,
    WORD_END,
    WORD_START,
    Boundary,
    Unseen,
    parts_of_lines,
)

_BYTE_OF_PIECE = {piece: byte for byte, piece in enumerate(BYTE_PIECES)}
_SHOWN_CHARACTERS = 60


class LineError(ValueError):
    """A line that cannot be decoded.

    Args:
        line_index: The line, counted from 0 at the first one of the block.
        message: What is wrong with it; one line.
    """

    def __init__(self, line_index: int, message: str) -> None:
        super().__init__(message)
        self.line_index = line_index
        self.message = message


class PieceDecoder:
    """What pieces spell.

    A piece's text has the blank before it (``start``) or after it (``end``), and each line then loses the one at its
    edge. Bytes above 0x7F are half surrogate pairs until a text is whole, as Python's ``surrogateescape`` has it.

    Args:
        pieces: The vocabulary.
        written: How each piece is written in a line of pieces.
        special_tokens: Pieces that are whole words.
        boundary: Which end of a word is marked.
        unseen: With ``bytes`` there are pieces for bytes; with ``keep`` any text may stand for a piece.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        written: Sequence[str],
        special_tokens: Sequence[str],
        *,
        boundary: Boundary,
        unseen: Unseen,
    ) -> None:
        self._boundary = boundary
        start, end = (" ", "") if boundary == "start" else ("", " ")
        fixed = {PAD: "", UNK: REPLACEMENT + end, BOS: "", EOS: "\n"}
        fixed |= {token: start + token + end for token in special_tokens}
        if unseen == "bytes":
            fixed |= {piece: bytes([byte]).decode("ascii", "surrogateescape") for piece, byte in _BYTE_OF_PIECE.items()}
        self._texts = tuple(fixed[piece] if piece in fixed else self._text_of(piece) for piece in pieces)
        # Nothing may end a line before its time: neither </s> nor a byte, which becomes one that is no UTF-8.
        in_line = [
            "" if piece == EOS else text.replace("\n", "\udcff")
            for piece, text in zip(pieces, self._texts, strict=True)
        ]
        self._text_of_id = {str(token_id): text for token_id, text in enumerate(in_line)} | {"\n": "\n", "": ""}
        self._text_of_written = _KeepingTable() if unseen == "keep" else {"": ""}
        self._text_of_written |= dict(zip(written, in_line, strict=True)) | {"\n": "\n"}
        if boundary == "end":
            self._text_of_written[UNK + CONTINUED] = REPLACEMENT

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer.decode``."""
        token_ids = np.asarray(ids, dtype=np.int64)
        if not token_ids.size:
            return ""
        check_id(int(token_ids.min()), len(self._texts))
        check_id(int(token_ids.max()), len(self._texts))
        return _from_bytes(self._without_marks("".join(map(self._texts.__getitem__, token_ids.tolist()))))

    def decode_lines(self, block: str, *, ids: bool) -> str:
        """See ``BpeTokenizer.decode_lines_to_text``.

        Raises:
            LineError: A line holds what is no piece, or no id.
        """
        table = self._text_of_id if ids else self._text_of_written
        try:
            # All in C: no Python code runs for a line or a piece.
            texts = [
                "".join(map(table.__getitem__, part.replace("\n", " \n ").split(" "))) for part in parts_of_lines(block)
            ]
        except KeyError:
            raise self._line_error(block, table, ids=ids) from None
        text = "".join(map(self._without_marks, texts))
        return _from_bytes(text) if ids or "<0x" in block else text

    def stream(self) -> BpeStreamDecoder:
        """See ``Tokenizer.stream_decoder``."""
        return BpeStreamDecoder(self._texts, self._boundary)

    def _text_of(self, piece: str) -> str:
        """The text of an ordinary piece."""
        if self._boundary == "start":
            return piece.replace(WORD_START, " ")
        return piece.removesuffix(WORD_END) + " " if piece.endswith(WORD_END) else piece

    def _without_marks(self, text: str) -> str:
        """``text`` without the blank that marks the first or last word of each line."""
        if self._boundary == "start":
            return text.removeprefix(" ").replace("\n ", "\n")
        return text.removesuffix(" ").replace(" \n", "\n")

    def _line_error(self, block: str, table: Mapping[str, str], *, ids: bool) -> LineError:
        """The error for the first line that holds what is not in ``table``."""
        index, field = next(
            (index, field)
            for index, line in enumerate(block.split("\n"))
            for field in line.split(" ")
            if field not in table
        )
        shown = printable(field[:_SHOWN_CHARACTERS]) + "…" * (len(field) > _SHOWN_CHARACTERS)
        if not ids:
            return LineError(index, f"'{shown}' is not a piece of this tokenizer")
        if field.isascii() and field.removeprefix("-").isdigit():
            return LineError(index, f"token id {shown} is outside the vocabulary of {len(self._texts):,}")
        return LineError(index, f"'{shown}' is not a token id")


class _KeepingTable(dict[str, str]):
    """Text of a written piece, of one outside the vocabulary too, as subword-nmt writes and reads them."""

    def __missing__(self, written: str) -> str:
        return written.removesuffix(CONTINUED) if written.endswith(CONTINUED) else written + " "


class BpeStreamDecoder:
    """Holds back the bytes of an incomplete character, and a blank until it is known not to end a line.

    Args:
        texts: What each id adds to a text.
        boundary: At which edge of a line a blank is taken off.
    """

    def __init__(self, texts: Sequence[str], boundary: Boundary) -> None:
        self._texts = texts
        self._boundary = boundary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_at_line_start = True
        self._blank = ""

    def push(self, token_id: int) -> str:
        """See ``StreamDecoder.push``."""
        check_id(token_id, len(self._texts))
        return self._without_marks(self._utf8.decode(self._texts[token_id].encode("utf-8", "surrogateescape")))

    def flush(self) -> str:
        """See ``StreamDecoder.flush``."""
        text = self._without_marks(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        self._is_at_line_start = True
        self._blank = ""
        return text

    def _without_marks(self, text: str) -> str:
        if self._boundary == "start":
            if not text:
                return ""
            if self._is_at_line_start:
                text = "\n" + text
                self._is_at_line_start = text.endswith("\n")
                return text.replace("\n ", "\n")[1:]
            self._is_at_line_start = text.endswith("\n")
            return text.replace("\n ", "\n")
        text = (self._blank + text).replace(" \n", "\n")
        self._blank = " " if text.endswith(" ") else ""
        return text.removesuffix(" ")


def _from_bytes(text: str) -> str:
    """``text`` with the bytes in it decoded; those that are no UTF-8 become U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
