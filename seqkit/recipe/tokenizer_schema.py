"""The schema of a recipe's `tokenizer` section; by itself, since learning a tokenizer needs no more."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from seqkit.recipe.config import Config, LocalPath, NonNegativeInt, PositiveInt, Probability


class CharTokenizer(Config):
    """One token a Unicode character."""

    type: Literal["char"]
    """One token a character."""
    joint: bool | None = None
    """Translation only: one vocabulary for both sides, fitted on both; null: yes for bpe and byte, else no."""
    unseen: Literal["bytes", "unk", "error"] = "bytes"
    """A character that training did not see: spelled as its UTF-8 bytes, one `<unk>`, or an error."""
    min_frequency: PositiveInt = 1
    """Characters seen fewer times than this in training count as unseen."""


class ByteTokenizer(Config):
    """One token a UTF-8 byte: 256 tokens, no training."""

    type: Literal["byte"]
    """One token a UTF-8 byte."""
    joint: bool | None = None
    """Translation only: one vocabulary for both sides, fitted on both; null: yes for bpe and byte, else no."""


class WordTokenizer(Config):
    """One token a blank-separated word, and one `<eos>` a line end."""

    type: Literal["word"]
    """One token a blank-separated word, one `<eos>` a line."""
    joint: bool | None = None
    """Translation only: one vocabulary for both sides, fitted on both; null: yes for bpe and byte, else no."""
    max_size: PositiveInt | None = None
    """Keep at most this many words, the most frequent first (ties in code-point order)."""
    min_frequency: PositiveInt = 1
    """Words seen fewer times than this in training become `<unk>`."""
    lowercase: bool = False
    """Lower-case the text first."""


_LEARNING_KEYS = (
    "min_frequency",
    "character_coverage",
    "special_tokens",
    "boundary",
    "split",
    "normalization",
    "unseen",
)


class BpeTokenizer(Config):
    """Byte-pair encoding (Sennrich et al. 2016): pieces of words, and one `</s>` a line end."""

    type: Literal["bpe"]
    """Pieces of words, merged from frequent pairs (Sennrich et al. 2016)."""
    joint: bool | None = None
    """Translation only: one vocabulary for both sides, fitted on both; null: yes for bpe and byte, else no."""
    vocab_size: PositiveInt | None = None
    """Pieces in all: special ones, bytes, single characters and what merges make."""
    num_merges: NonNegativeInt | None = None
    """Merges to learn, instead of `vocab_size`."""
    path: LocalPath | None = None
    """A tokenizer made before by `seqkit bpe learn`, instead of learning one."""
    dropout: Probability = 0.0
    """Drop each merge with this probability, anew in each training epoch (BPE-dropout, Provilkov et al. 2020);
    validation and use are without."""
    min_frequency: PositiveInt = 2
    """A pair that occurs fewer times than this is not merged."""
    character_coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the text's characters that have a piece of their own; the rarest beyond it count as unseen."""
    special_tokens: list[str] = []
    """Blank-separated words that are one piece each, never learned from, such as `<2de>`."""
    boundary: Literal["start", "end"] = "start"
    """Which end of a word is marked: the start by `▁`, or the end by `</w>` (as subword-nmt has it)."""
    split: Literal["punctuation", "blanks"] = "punctuation"
    """Where merges stop: at the edges of runs of letters, numerals and other characters, or only at blanks."""
    normalization: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalization of the text; case is always kept."""
    unseen: Literal["bytes", "unk"] = "bytes"
    """A character without a piece: spelled as its UTF-8 bytes, or one `<unk>`."""

    @model_validator(mode="after")
    def _one_way_to_make_it(self) -> BpeTokenizer:
        ways = ("vocab_size", "num_merges", "path")
        given = [name for name in ways if getattr(self, name) is not None]
        if not given:
            raise ValueError("give vocab_size, num_merges or path")
        if len(given) > 1:
            raise ValueError(f"give only one of {' and '.join(given)}")
        if self.path is not None:
            for name in _LEARNING_KEYS:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} says how to learn a tokenizer, but path names one made before")
        return self

    @field_validator("special_tokens")
    @classmethod
    def _words_apart(cls, tokens: list[str]) -> list[str]:
        for token in tokens:
            if len(token) < 2 or " " in token or "\n" in token:
                raise ValueError(f"{token!r} must be two or more characters without a blank")
            if tokens.count(token) > 1:
                raise ValueError(f"{token!r} is there twice")
        return tokens


TokenizerConfig = Annotated[CharTokenizer | ByteTokenizer | WordTokenizer | BpeTokenizer, Field(discriminator="type")]
