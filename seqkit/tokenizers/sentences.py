"""Sentences for encoder-decoder models: any tokenizer, with a start and an end token.

A tokenizer of subwords has these among its pieces; others get them as two ids after their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_text import UNK
from seqkit.tokenizers.char import CharTokenizer

_LINE_END = ord("\n")


@dataclass(frozen=True)
class SentenceVocabulary:
    """The ids of one side of an encoder-decoder model."""

    tokenizer: Tokenizer

    @property
    def has_own_ends(self) -> bool:
        """Whether the tokenizer itself has a start and an end token."""
        return self.tokenizer.type == "bpe"

    @property
    def vocab_size(self) -> int:
        """V: the tokenizer's ids and, where it has none, start and end."""
        return self.tokenizer.vocab_size + (0 if self.has_own_ends else 2)

    @property
    def bos_id(self) -> int:
        """What stands before the first token."""
        return self.eos_id - 1

    @property
    def eos_id(self) -> int:
        """What stands after the last token."""
        return self.tokenizer.start_id if self.has_own_ends else self.tokenizer.vocab_size + 1

    @property
    def never_written(self) -> list[int]:
        """Ids that a translation must not contain: start, padding, ``<unk>``, and what would end its line."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, BpeTokenizer):
            special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.id_of_piece[UNK]}
            return sorted({*special, *tokenizer.byte_ids[_LINE_END : _LINE_END + 1]})
        unknown = [] if tokenizer.unk_id is None else [tokenizer.unk_id]
        # Without a token of its own a line end is spelled in two that each have other uses, or it is <unk>.
        has_line_end = not isinstance(tokenizer, CharTokenizer) or "\n" in tokenizer.characters
        return sorted({self.bos_id, *unknown, *(tokenizer.encode("\n") if has_line_end else [])})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that hold no start or end."""
        return self.tokenizer.decode(ids)
