"""One token a blank-separated word, and one ``<eos>`` a line end, as word-level language models are scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from seqkit.tokenizers.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    StreamDecoder,
    TokenArray,
    check_id,
    printable,
    smallest_dtype,
    whole_tokens,
)

if TYPE_CHECKING:
    from seqkit.recipe import tokenizer_schema

UNK = "<unk>"
EOS = "<eos>"

_UNK_ID = 0
_EOS_ID = 1
_NUM_SPECIAL = 2
_BLANK = -1


class WordTokenizer:
    r"""Id 0 is ``<unk>``, id 1 is ``<eos>``, then the words.

    A line's words are what stands between runs of blanks and tabs; no other space divides, so a no-break space
    or a carriage return stays part of its word. Each line end is one ``<eos>``. The word ``<unk>`` in a text is
    the token ``<unk>``, as data sets with a closed vocabulary have it; ``<eos>`` in a text is a word like any
    other. ``decode`` writes one blank between words: it gives back the words and lines, not the spacing.

    Args:
        words: The vocabulary, most frequent first.
        lowercase: Lower-case a text before looking its words up.

    Raises:
        ValueError: A word is empty, repeated, holds a blank, a tab or a line end, is ``<unk>``, or cannot be
            written in UTF-8.

    >>> tokenizer = WordTokenizer(["the", "cat"])
    >>> tokenizer.encode(" the  cat \nthe dog\n")
    [2, 3, 1, 2, 0, 1]
    >>> tokenizer.decode([2, 3, 1, 2, 0, 1])
    'the cat\nthe <unk>\n'
    """

    type: ClassVar[str] = "word"
    unit: ClassVar[str] = "word"
    line_based: ClassVar[bool] = True
    start_id: ClassVar[int] = _EOS_ID
    unk_id: ClassVar[int | None] = _UNK_ID
    line_end_id: ClassVar[int | None] = _EOS_ID

    def __init__(self, words: Sequence[str], *, lowercase: bool = False) -> None:
        _check_words(words)
        self.words = tuple(words)
        self.lowercase = lowercase
        self.vocab_size = _NUM_SPECIAL + len(self.words)
        self.dtype = smallest_dtype(self.vocab_size)
        self._id_of_piece = {word: _NUM_SPECIAL + i for i, word in enumerate(self.words)}
        self._id_of_piece |= {UNK: _UNK_ID, "\n": _EOS_ID, "": _BLANK}

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> WordTokenizer:
        """The tokenizer from its saved fields.

        Raises:
            ValueError: A field is missing, unknown or wrong.
        """
        if set(fields) != {"lowercase", "words"}:
            raise ValueError("the fields must be lowercase and words")
        lowercase, words = fields["lowercase"], fields["words"]
        if not isinstance(lowercase, bool):
            raise ValueError("lowercase is neither true nor false")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("words is not a list of strings")
        return cls(words, lowercase=lowercase)

    def encode(self, text: str) -> list[int]:
        """See ``Tokenizer.encode``."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> TokenArray:
        """See ``Tokenizer.encode_array``."""
        pieces = _pieces(text, lowercase=self.lowercase)
        # One pass in C: no Python code runs for a word.
        ids = np.fromiter(map(self._id_of_piece.get, pieces, repeat(_UNK_ID)), dtype=np.int64, count=len(pieces))
        tokens: TokenArray = ids[ids != _BLANK].astype(self.dtype)
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer.decode``."""
        stream = self.stream_decoder()
        return "".join([stream.push(int(token_id)) for token_id in ids])

    def stream_decoder(self) -> StreamDecoder:
        """See ``Tokenizer.stream_decoder``."""
        return _WordStreamDecoder(self.words)

    def token_text(self, token_id: int) -> str:
        """The word, ``<unk>`` or ``<eos>``."""
        check_id(token_id, self.vocab_size)
        if token_id == _EOS_ID:
            return EOS
        return UNK if token_id == _UNK_ID else printable(self.words[token_id - _NUM_SPECIAL])

    def last_boundary(self, text: str) -> int:
        """See ``Tokenizer.last_boundary``: after a blank, a tab or a line end."""
        return 1 + max(text.rfind(" "), text.rfind("\n"), text.rfind("\t"))

    def to_json(self) -> str:
        """See ``Tokenizer.to_json``."""
        fields = {
            FORMAT_KEY: FORMAT_VERSION,
            "type": self.type,
            "lowercase": self.lowercase,
            "words": self.words,
        }
        return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"


class _WordStreamDecoder:
    """Writes a blank before a word unless it opens a line."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._at_line_start = True

    def push(self, token_id: int) -> str:
        check_id(token_id, _NUM_SPECIAL + len(self._words))
        if token_id == _EOS_ID:
            self._at_line_start = True
            return "\n"
        word = UNK if token_id == _UNK_ID else self._words[token_id - _NUM_SPECIAL]
        blank = "" if self._at_line_start else " "
        self._at_line_start = False
        return blank + word

    def flush(self) -> str:
        self._at_line_start = True
        return ""


def fit_word(config: tokenizer_schema.WordTokenizer, blocks: Iterable[str]) -> WordTokenizer:
    """Count the words of a text.

    Args:
        config: Which words to keep.
        blocks: The training text, in pieces cut anywhere; read once, in memory that grows with the number of
            different words only.

    Returns:
        The tokenizer, its words by falling frequency, ties in code-point order; the same for the same text
        however it is cut.

    Raises:
        DataError: A word too long to hold in memory.
    """
    counts: Counter[str] = Counter()
    for text in whole_tokens(blocks, WordTokenizer([]).last_boundary):
        counts.update(_pieces(text, lowercase=config.lowercase))
    for special in ("", "\n", UNK):
        del counts[special]
    frequent = [word for word, count in counts.items() if count >= config.min_frequency]
    frequent.sort(key=lambda word: (-counts[word], word))
    return WordTokenizer(frequent[: config.max_size], lowercase=config.lowercase)


def _pieces(text: str, *, lowercase: bool) -> list[str]:
    r"""The words of ``text``, its line ends as ``"\n"``, and some empty strings: cheaper to drop once looked up."""
    if lowercase:
        text = text.lower()
    return text.replace("\t", " ").replace("\n", " \n ").split(" ")


def _check_words(words: Sequence[str]) -> None:
    """Raise ValueError if ``words`` cannot be a vocabulary."""
    if len(set(words)) != len(words):
        raise ValueError("a word is repeated")
    for word in words:
        if word in ("", UNK) or " " in word or "\t" in word or "\n" in word:
            raise ValueError(f"{word!r} is no word")
    try:
        "".join(words).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a word holds half of a surrogate pair") from error
