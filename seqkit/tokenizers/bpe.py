"""Byte-pair encoding (Sennrich et al. 2016): words spelled in pieces that were merged from frequent pairs.

How one word is spelled is in ``bpe_words.py``, learning in ``bpe_learning.py``, other programs' files in
``bpe_formats.py``. Here is the tokenizer: whole texts, ids, written pieces and the way back.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar, get_args

import numpy as np

from seqkit.tokenizers.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    StreamDecoder,
    TokenArray,
    check_id,
    encode_unicode,
    printable,
    smallest_dtype,
)
from seqkit.tokenizers.bpe_decoding import PieceDecoder
from seqkit.tokenizers.bpe_lines import LineEncoder, WordTable
from seqkit.tokenizers.bpe_text import (
    BOS,
    BUILT_IN_PIECES,
    BYTE_PIECES,
    CONTINUED,
    EOS,
    PAD,
    UNK,
    WORD_END,
    WORD_START,
    Boundary,
    Normalization,
    Split,
    Unseen,
    check_special_tokens,
    normalize,
)
from seqkit.tokenizers.bpe_words import MergeStep, WordSpeller

_FIELDS = ("boundary", "split", "normalization", "unseen", "special_tokens", "pieces", "merges")
_ARRAY_TYPE = {1: "B", 2: "H", 4: "I"}


class BpeTokenizer:
    r"""Token i is ``pieces[i]``.

    A line's words are what stands between its blanks (U+0020); two blanks in a row have an empty word between them.
    A word is cut into runs (see ``bpe_text.runs``) and each run into pieces by applying ``merges`` in their order. A
    line end is the token ``</s>``, and a blank line has no other token.

    ``decode(encode(x)) == x`` for every text that UTF-8 can write, if ``unseen`` is ``bytes`` and ``normalization``
    is ``none``; with another normalization it is the normalized text.

    Args:
        pieces: The vocabulary, each piece once, none with a blank or a line end in it.
        merges: Pairs of pieces, the first to be merged first; what they make is a piece too.
        special_tokens: Pieces that stand for a whole blank-separated word, such as ``<2de>``.
        boundary: ``start``: a word is spelled from ``▁`` and its characters; a ``▁`` in the text itself counts as
            unseen. ``end``: the last symbol of a word carries ``</w>``; written pieces carry ``@@`` unless they end a
            word, as subword-nmt has it.
        split: Whether a word is cut into runs at ``punctuation`` and the like, or merges stop only at ``blanks``.
        normalization: Unicode normalization of a text before it is encoded.
        unseen: A character without a piece is spelled as its UTF-8 ``bytes``, which are pieces; becomes ``<unk>``,
            which decodes to U+FFFD; or, for tokenizers that come from subword-nmt, is written as itself
            (``keep``) though its id is that of ``<unk>``.

    Raises:
        ValueError: The parts do not make a tokenizer; the message is one line.

    >>> letters = ["e", "l", "o", "r", "w", "▁"]
    >>> tokenizer = BpeTokenizer([*BUILT_IN_PIECES, *letters, "lo", "low"], [("l", "o"), ("lo", "w")], unseen="unk")
    >>> tokenizer.encode("low lower\n")
    [9, 11, 9, 11, 4, 7, 3]
    >>> tokenizer.decode([9, 11, 9, 11, 4, 7, 3])
    'low lower\n'
    >>> tokenizer.encode_lines_to_text("low lower\n\nwe\n")
    '▁ low ▁ low e r\n\n▁ w e\n'
    """

    type: ClassVar[str] = "bpe"
    unit: ClassVar[str] = "piece"
    line_based: ClassVar[bool] = True

    def __init__(
        self,
        pieces: Sequence[str],
        merges: Sequence[tuple[str, str]],
        *,
        special_tokens: Sequence[str] = (),
        boundary: Boundary = "start",
        split: Split = "punctuation",
        normalization: Normalization = "none",
        unseen: Unseen = "bytes",
    ) -> None:
        self.pieces = tuple(pieces)
        self.merges = tuple(merges)
        self.special_tokens = tuple(special_tokens)
        self.boundary: Boundary = boundary
        self.split: Split = split
        self.normalization: Normalization = normalization
        self.unseen: Unseen = unseen
        self.vocab_size = len(self.pieces)
        self.id_of_piece = {piece: i for i, piece in enumerate(self.pieces)}
        _check(self)
        self.dtype = smallest_dtype(self.vocab_size)
        self.pad_id, self.bos_id, self.eos_id = (self.id_of_piece[piece] for piece in (PAD, BOS, EOS))
        self.unk_id = None if unseen == "bytes" else self.id_of_piece[UNK]
        self.start_id = self.eos_id
        self.line_end_id: int | None = self.eos_id
        self.byte_ids = tuple(self.id_of_piece[piece] for piece in BYTE_PIECES) if unseen == "bytes" else ()
        self.speller = WordSpeller(
            self.id_of_piece,
            self.merges,
            special_tokens=self.special_tokens,
            boundary=boundary,
            split=split,
            unseen=unseen,
        )
        self._written = tuple(self._write(piece) for piece in self.pieces)
        if len(set(self._written)) < len(self._written):
            twice = next(piece for piece in self._written if self._written.count(piece) > 1)
            raise ValueError(f"two pieces are both written {twice!r}"[:200])
        self._id_table = WordTable(
            lambda word: self._bytes_of(self._ids_of_word(word)), blank=b"", line_end=self._bytes_of([self.eos_id])
        )
        self._line_encoders = [LineEncoder(self, ids=ids) for ids in (False, True)]
        self._decoder = PieceDecoder(self.pieces, self._written, self.special_tokens, boundary=boundary, unseen=unseen)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> BpeTokenizer:
        """The tokenizer from its saved fields.

        Raises:
            ValueError: A field is missing, unknown or wrong.
        """
        if set(fields) != set(_FIELDS):
            raise ValueError(f"the fields must be {', '.join(_FIELDS)}")
        merges = []
        for merge in _strings(fields, "merges"):
            left, _, right = merge.partition(" ")
            merges.append((left, right))
        return cls(
            _strings(fields, "pieces"),
            merges,
            special_tokens=_strings(fields, "special_tokens"),
            boundary=_choice(fields, "boundary", get_args(Boundary)),
            split=_choice(fields, "split", get_args(Split)),
            normalization=_choice(fields, "normalization", get_args(Normalization)),
            unseen=_choice(fields, "unseen", get_args(Unseen)),
        )

    def to_json(self) -> str:
        """See ``Tokenizer.to_json``."""
        fields = {
            FORMAT_KEY: FORMAT_VERSION,
            "type": self.type,
            "boundary": self.boundary,
            "split": self.split,
            "normalization": self.normalization,
            "unseen": self.unseen,
            "special_tokens": self.special_tokens,
            "pieces": self.pieces,
            "merges": [f"{left} {right}" for left, right in self.merges],
        }
        return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"

    def encode(self, text: str) -> list[int]:
        """See ``Tokenizer.encode``."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> TokenArray:
        """See ``Tokenizer.encode_array``."""
        ids = self._id_table.translate(encode_unicode(text, "utf-8"))
        return np.frombuffer(ids, dtype=self.dtype)

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer.decode``."""
        return self._decoder.decode(ids)

    def stream_decoder(self) -> StreamDecoder:
        """See ``Tokenizer.stream_decoder``."""
        return self._decoder.stream()

    def token_text(self, token_id: int) -> str:
        """The piece."""
        check_id(token_id, self.vocab_size)
        return printable(self.pieces[token_id])

    def last_boundary(self, text: str) -> int:
        """See ``Tokenizer.last_boundary``: after a line end, since every line begins as a word does."""
        return 1 + text.rfind("\n")

    def encode_lines_to_text(self, block: str, *, ids: bool = False) -> str:
        r"""The lines of ``block``, with pieces in place of words.

        Args:
            block: Lines, each ended by ``\n`` except perhaps the last.
            ids: Write ids instead of pieces.

        Returns:
            As many lines, ended in the same way; one blank between two pieces.

        Raises:
            DataError: ``block`` holds half of a surrogate pair.
        """
        return self._line_encoders[ids].encode(encode_unicode(block, "utf-8")).decode()

    def decode_lines_to_text(self, block: str, *, ids: bool = False) -> str:
        r"""The text that lines of pieces spell; undoes ``encode_lines_to_text``.

        ``<pad>``, ``<s>`` and ``</s>`` are nothing, and a byte that would end the line becomes U+FFFD, so that there
        are always as many lines as before.

        Args:
            block: Lines, each ended by ``\n`` except perhaps the last.
            ids: The lines hold ids instead of pieces.

        Raises:
            LineError: A line holds what is no piece, or no id.
        """
        return self._decoder.decode_lines(block, ids=ids)

    def write_word(self, word: str, *, ids: bool = False) -> str:
        """How ``encode_lines_to_text`` writes one word, which has no blank and no line end; nothing is cached."""
        if ids:
            return " ".join(map(str, self._ids_of_word(word)))
        if self.unseen == "bytes":
            return " ".join([self._written[token_id] for token_id in self._ids_of_word(word)])
        return " ".join([piece for each in self._normalized(word) for piece in self._write_with_unseen(each)])

    def written(self, token_id: int) -> str:
        """A token as ``encode_lines_to_text`` writes it.

        Raises:
            ValueError: The id is outside the vocabulary.
        """
        check_id(token_id, self.vocab_size)
        return self._written[token_id]

    def trace(self, word: str) -> list[MergeStep]:
        """See ``WordSpeller.trace``; of the first word, should normalization make several of it."""
        return self.speller.trace(normalize(word, self.normalization).split(" ")[0])

    def _normalized(self, word: str) -> list[str]:
        """``word`` normalized, which may make several of it."""
        return [word] if self.normalization == "none" else normalize(word, self.normalization).split(" ")

    def _ids_of_word(self, word: str) -> list[int]:
        """A word's ids."""
        if self.normalization == "none":
            return self.speller.ids(word)
        return [token_id for each in self._normalized(word) for token_id in self.speller.ids(each)]

    def _write_with_unseen(self, word: str) -> list[str]:
        """The written pieces of a normalized word, of which an unseen character is one."""
        spelled = self.speller.spell(word)
        written = []
        for item, is_last in zip(spelled, [False] * (len(spelled) - 1) + [True], strict=True):
            if isinstance(item, int):
                written.append(self._written[item])
            else:
                goes_on = self.boundary == "end" and not is_last
                written.append((item if self.unseen == "keep" else UNK) + CONTINUED * goes_on)
        return written

    def _bytes_of(self, ids: list[int]) -> bytes:
        return array(_ARRAY_TYPE[self.dtype.itemsize], ids).tobytes()

    def _write(self, piece: str) -> str:
        """A piece as it is written."""
        if self.boundary == "start" or piece in (*BUILT_IN_PIECES, *self.special_tokens):
            return piece
        return piece.removesuffix(WORD_END) if piece.endswith(WORD_END) else piece + CONTINUED


def _strings(fields: Mapping[str, object], name: str) -> list[str]:
    """A field that is a list of strings."""
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is not a list of strings")
    return value


ChoiceT = TypeVar("ChoiceT", bound=str)


def _choice(fields: Mapping[str, object], name: str, choices: tuple[ChoiceT, ...]) -> ChoiceT:
    """A field that is one of a few words."""
    for choice in choices:
        if fields[name] == choice:
            return choice
    raise ValueError(f"{name} is none of {', '.join(choices)}")


def _check(tokenizer: BpeTokenizer) -> None:
    """Raise ValueError if a tokenizer's parts do not fit together."""
    pieces = tokenizer.id_of_piece.keys()
    if len(pieces) < tokenizer.vocab_size:
        raise ValueError("a piece is repeated")
    for piece in pieces:
        if not piece or " " in piece or "\n" in piece:
            raise ValueError(f"{piece!r} is no piece"[:200])
    try:
        "".join(pieces).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a piece holds half of a surrogate pair") from error
    mark = WORD_START if tokenizer.boundary == "start" else WORD_END
    reserved = {*BUILT_IN_PIECES, *tokenizer.special_tokens}
    if tokenizer.unseen == "bytes":
        reserved.update(BYTE_PIECES)
    missing = sorted({mark, *reserved} - pieces)
    if missing:
        raise ValueError(f"the piece {missing[0]!r} is missing"[:200])
    check_special_tokens(tokenizer.special_tokens, tokenizer.boundary, tokenizer.normalization)
    if tokenizer.unseen == "keep" and tokenizer.boundary == "start":
        raise ValueError("unseen keep needs the boundary end")
    if tokenizer.boundary == "end":
        reserved.add(WORD_END)
    if len(set(tokenizer.merges)) < len(tokenizer.merges):
        raise ValueError("a merge is repeated")
    for left, right in tokenizer.merges:
        for piece in (left, right, left + right):
            if piece not in pieces:
                raise ValueError(f"the merge {left!r} {right!r} needs {piece!r}, which is no piece"[:200])
            if piece in reserved:
                raise ValueError(f"the merge {left!r} {right!r} makes or takes {piece!r}, which is reserved"[:200])
