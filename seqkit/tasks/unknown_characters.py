"""How much of a line a tokenizer knows: a text in another script shows at once."""

from __future__ import annotations

from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.char import CharTokenizer


class UnknownCharacters:
    """Counts the characters, or for a word tokenizer the words, of which training saw none.

    Args:
        tokenizer: Of the source side.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown_ids = _unknown_ids(tokenizer)
        self._is_unknown: dict[str, bool] = {" ": False}
        self.unit = "word" if tokenizer.type == "word" else "character"

    def count(self, line: str, ids: list[int]) -> tuple[int, int]:
        """Unknown ones, and all but blanks.

        Args:
            line: A line.
            ids: Its tokens.
        """
        if self._unknown_ids.isdisjoint(ids):
            return 0, len(ids)
        if self.unit == "word":
            return sum(token_id in self._unknown_ids for token_id in ids), len(ids)
        characters = line.replace(" ", "")
        for character in set(characters) - self._is_unknown.keys():
            self._is_unknown[character] = not self._unknown_ids.isdisjoint(self._tokenizer.encode(character))
        return sum(map(self._is_unknown.__getitem__, characters)), len(characters)


def _unknown_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that stand for what training did not see: ``<unk>``, and those that spell bytes."""
    if tokenizer.unk_id is not None:
        return frozenset([tokenizer.unk_id])
    if isinstance(tokenizer, BpeTokenizer):
        return frozenset(tokenizer.byte_ids)
    if isinstance(tokenizer, CharTokenizer):
        return frozenset(range(len(tokenizer.characters), tokenizer.vocab_size))
    return frozenset()
