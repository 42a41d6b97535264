"""One token a UTF-8 byte: 256 tokens, nothing to learn, every text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from seqkit.tokenizers.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    StreamDecoder,
    TokenArray,
    check_id,
    encode_unicode,
)


class ByteTokenizer:
    """Token i is the byte i of the text's UTF-8 form.

    ``decode(encode(x)) == x`` for every text that UTF-8 can write. Ids that are no UTF-8, as a model may draw
    them, decode to U+FFFD.

    >>> ByteTokenizer().encode("é!")
    [195, 169, 33]
    """

    type: ClassVar[str] = "byte"
    unit: ClassVar[str] = "byte"
    line_based: ClassVar[bool] = False
    vocab_size: ClassVar[int] = 256
    start_id: ClassVar[int] = ord("\n")
    unk_id: ClassVar[int | None] = None
    line_end_id: ClassVar[int | None] = ord("\n")
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> ByteTokenizer:
        """The tokenizer; a saved one has no fields of its own.

        Raises:
            ValueError: There are fields.
        """
        if fields:
            raise ValueError(f"unexpected field {min(fields)!r}")
        return cls()

    def encode(self, text: str) -> list[int]:
        """See ``Tokenizer.encode``."""
        return list(encode_unicode(text, "utf-8"))

    def encode_array(self, text: str) -> TokenArray:
        """See ``Tokenizer.encode_array``."""
        return np.frombuffer(encode_unicode(text, "utf-8"), dtype=np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer.decode``."""
        array = np.asarray(ids, dtype=np.int64)
        if array.size:
            check_id(int(array.min()), self.vocab_size)
            check_id(int(array.max()), self.vocab_size)
        return array.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def stream_decoder(self) -> StreamDecoder:
        """See ``Tokenizer.stream_decoder``."""
        return _ByteStreamDecoder()

    def token_text(self, token_id: int) -> str:
        """The ASCII character, or ``<0x0a>``."""
        check_id(token_id, self.vocab_size)
        text = chr(token_id)
        return text if text.isascii() and text.isprintable() else f"<0x{token_id:02x}>"

    def last_boundary(self, text: str) -> int:
        """See ``Tokenizer.last_boundary``: between any two characters."""
        return len(text)

    def to_json(self) -> str:
        """See ``Tokenizer.to_json``."""
        return json.dumps({FORMAT_KEY: FORMAT_VERSION, "type": self.type}, indent=1) + "\n"


class _ByteStreamDecoder:
    """Holds back the first bytes of a character until its last has come."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        check_id(token_id, ByteTokenizer.vocab_size)
        return self._utf8.decode(bytes((token_id,)))

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text
