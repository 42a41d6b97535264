"""One token a Unicode character, with a stated policy for characters that training did not see."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from seqkit.errors import DataError
from seqkit.tokenizers.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    REPLACEMENT,
    StreamDecoder,
    TokenArray,
    check_id,
    encode_unicode,
    printable,
    smallest_dtype,
)

if TYPE_CHECKING:
    from seqkit.recipe import tokenizer_schema

Unseen = Literal["bytes", "unk", "error"]

_NUM_CODE_POINTS = 0x110000
_NUM_HEX_DIGITS = 16
_LATIN1_SIZE = 256


class CharTokenizer:
    """Ids 0 … C-1 are the C characters of the vocabulary in code-point order; what follows depends on ``unseen``.

    - ``bytes``: 16 tokens, the hexadecimal digits. An unseen character is spelled as its UTF-8 bytes, two digits
      a byte, so ``decode(encode(x)) == x`` for every text that UTF-8 can write. Digits and not 256 byte tokens,
      because unseen characters are rare while every token adds a row to the output layer, which each step of
      training pays for. The digit tokens are not the characters '0' … 'f'.
    - ``unk``: one token, which stands for any unseen character and decodes to U+FFFD.
    - ``error``: none; an unseen character raises ``DataError``.

    Args:
        characters: The vocabulary, in code-point order, each character once.
        unseen: The policy.

    Raises:
        ValueError: ``characters`` is out of order, repeats one, holds half of a surrogate pair, or leaves no
            token at all.

    >>> tokenizer = CharTokenizer("ab", unseen="bytes")
    >>> tokenizer.encode("bé")  # b, then c3 a9 by the digits 2 … 17
    [1, 14, 5, 12, 11]
    >>> tokenizer.decode([1, 14, 5, 12, 11])
    'bé'
    """

    type: ClassVar[str] = "char"
    unit: ClassVar[str] = "character"
    line_based: ClassVar[bool] = False

    def __init__(self, characters: str, *, unseen: Unseen = "bytes") -> None:
        if any(a >= b for a, b in pairwise(characters)):
            raise ValueError("the characters are not in code-point order, each once")
        try:
            code_points = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4")
        except UnicodeEncodeError as error:
            raise ValueError("the characters hold half of a surrogate pair") from error
        extra = {"bytes": _NUM_HEX_DIGITS, "unk": 1, "error": 0}[unseen]
        if len(characters) + extra == 0:
            raise ValueError("there are no characters")
        self.characters = characters
        self.unseen = unseen
        self.vocab_size = len(characters) + extra
        self.unk_id = len(characters) if unseen == "unk" else None
        newline = characters.find("\n")
        self.line_end_id = newline if newline >= 0 else None
        self.start_id = newline if newline >= 0 else len(characters) if unseen == "bytes" else 0
        self.dtype = smallest_dtype(self.vocab_size)
        # The id just past the characters marks what is unseen: a digit no character maps to, <unk>, or no id.
        self._unseen_mark = len(characters)
        # One entry beyond the last character: larger code points are clipped to it.
        table_size = int(code_points[-1]) + 2 if characters else 1
        self._id_of_code_point: TokenArray = np.full(
            table_size, self._unseen_mark, dtype=smallest_dtype(self._unseen_mark + 1)
        )
        self._id_of_code_point[code_points] = np.arange(len(characters))
        self._code_point_of_id = np.append(code_points, np.uint32(ord(REPLACEMENT)))
        # bytes.translate is some ten times faster than an indexed look-up; it serves ASCII text and small ids.
        self._id_of_ascii: bytes | None = None
        if self._unseen_mark < _LATIN1_SIZE:
            latin1 = np.minimum(np.arange(_LATIN1_SIZE), table_size - 1)
            self._id_of_ascii = self._id_of_code_point[latin1].tobytes()

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> CharTokenizer:
        """The tokenizer from its saved fields.

        Raises:
            ValueError: A field is missing, unknown or wrong.
        """
        if set(fields) != {"unseen", "characters"}:
            raise ValueError("the fields must be unseen and characters")
        characters, unseen = fields["characters"], fields["unseen"]
        if not isinstance(characters, str):
            raise ValueError("characters is not a string")
        for policy in get_args(Unseen):
            if unseen == policy:
                return cls(characters, unseen=policy)
        raise ValueError(f"unseen is none of {', '.join(get_args(Unseen))}")

    def encode(self, text: str) -> list[int]:
        """See ``Tokenizer.encode``."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> TokenArray:
        """See ``Tokenizer.encode_array``."""
        ids: TokenArray
        if self._id_of_ascii is not None and text.isascii():
            ids = np.frombuffer(text.encode("ascii").translate(self._id_of_ascii), dtype=np.uint8)
        else:
            code_points = np.frombuffer(encode_unicode(text, "utf-32-le"), dtype="<u4")
            ids = self._id_of_code_point.take(code_points, mode="clip")
        if self.unseen != "unk":
            is_unseen = ids == self._unseen_mark
            if is_unseen.any():
                if self.unseen == "error":
                    self._refuse(text[int(is_unseen.argmax())])
                return self._spell_unseen(text, ids, is_unseen)
        return ids.astype(self.dtype, copy=False)

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer.decode``."""
        array = np.asarray(ids, dtype=np.int64)
        if not array.size:
            return ""
        check_id(int(array.min()), self.vocab_size)
        check_id(int(array.max()), self.vocab_size)
        if self.unseen != "bytes" or int(array.max()) < len(self.characters):
            return self._code_point_of_id[array].tobytes().decode("utf-32-le")
        stream = self.stream_decoder()
        return "".join([stream.push(token_id) for token_id in array.tolist()]) + stream.flush()

    def stream_decoder(self) -> StreamDecoder:
        """See ``Tokenizer.stream_decoder``."""
        return _CharStreamDecoder(self)

    def token_text(self, token_id: int) -> str:
        """The character, escaped if unprintable; ``<unk>``; or ``<hex a>`` for a digit."""
        check_id(token_id, self.vocab_size)
        if token_id < len(self.characters):
            return printable(self.characters[token_id])
        return "<unk>" if self.unseen == "unk" else f"<hex {token_id - len(self.characters):x}>"

    def last_boundary(self, text: str) -> int:
        """See ``Tokenizer.last_boundary``: between any two characters."""
        return len(text)

    def to_json(self) -> str:
        """See ``Tokenizer.to_json``."""
        fields = {
            FORMAT_KEY: FORMAT_VERSION,
            "type": self.type,
            "unseen": self.unseen,
            "characters": self.characters,
        }
        return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"

    def _spell_unseen(self, text: str, ids: TokenArray, is_unseen: npt.NDArray[np.bool_]) -> TokenArray:
        """Replace each unseen character's mark by two digits for each of its UTF-8 bytes.

        Args:
            text: N characters.
            ids: Shape (N,), ``_unseen_mark`` where unseen.
            is_unseen: Shape (N,), True where unseen.

        Returns:
            Ids, shape (N - unseen + 2 · bytes of the unseen,).
        """
        code_points = np.frombuffer(encode_unicode(text, "utf-32-le"), dtype="<u4")[is_unseen]
        utf8 = np.frombuffer(code_points.tobytes().decode("utf-32-le").encode("utf-8"), dtype=np.uint8)
        num_tokens = np.ones(len(ids), dtype=np.int64)
        num_tokens[is_unseen] = 2 * (1 + np.searchsorted([0x80, 0x800, 0x10000], code_points, side="right"))
        ends = num_tokens.cumsum()
        spelled = np.empty(int(ends[-1]), dtype=self.dtype)
        is_digit = np.ones(len(spelled), dtype=np.bool_)
        is_digit[ends[~is_unseen] - 1] = False
        spelled[~is_digit] = ids[~is_unseen]
        digits = np.stack([utf8 >> 4, utf8 & 0xF], axis=1).reshape(-1)
        spelled[is_digit] = len(self.characters) + digits.astype(np.int64)
        return spelled

    def _refuse(self, character: str) -> NoReturn:
        """Raise the error of the policy ``error``."""
        raise DataError(
            f"character '{printable(character)}' (U+{ord(character):04X}) is not in the vocabulary",
            hint="tokenizer.unseen bytes or unk accepts every character",
        )


class _CharStreamDecoder:
    """Holds back digits until they spell a character."""

    def __init__(self, tokenizer: CharTokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._high_digit: int | None = None

    def push(self, token_id: int) -> str:
        tokenizer = self._tokenizer
        check_id(token_id, tokenizer.vocab_size)
        digit = token_id - len(tokenizer.characters)
        if digit < 0:
            return self.flush() + tokenizer.characters[token_id]
        if tokenizer.unseen == "unk":
            return REPLACEMENT
        if self._high_digit is None:
            self._high_digit = digit
            return ""
        byte = self._high_digit << 4 | digit
        self._high_digit = None
        return self._utf8.decode(bytes((byte,)))

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        if self._high_digit is not None:
            self._high_digit = None
            text += REPLACEMENT
        return text


def fit_char(config: tokenizer_schema.CharTokenizer, blocks: Iterable[str]) -> CharTokenizer:
    """Collect the characters of a text.

    Args:
        config: Policy for unseen characters, and the frequency below which a character counts as unseen.
        blocks: The training text, in pieces cut anywhere; read once, in constant memory.

    Returns:
        The tokenizer; the same for the same text however it is cut.

    Raises:
        DataError: No character is frequent enough and the policy has no token for the rest; or the text holds
            half of a surrogate pair.
    """
    counts = np.zeros(_NUM_CODE_POINTS, dtype=np.int64)
    for block in blocks:
        code_points: npt.NDArray[Any]
        if block.isascii():
            code_points = np.frombuffer(block.encode("ascii"), dtype=np.uint8)
        else:
            code_points = np.frombuffer(encode_unicode(block, "utf-32-le"), dtype="<u4")
        block_counts = np.bincount(code_points)
        counts[: len(block_counts)] += block_counts
    frequent = np.flatnonzero(counts >= config.min_frequency)
    if not len(frequent) and config.unseen == "error":
        raise DataError(
            f"no character occurs {config.min_frequency:,} times in the training text",
            hint="lower tokenizer.min_frequency",
        )
    return CharTokenizer("".join(map(chr, frequent.tolist())), unseen=config.unseen)
