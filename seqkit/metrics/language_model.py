"""Numbers for language models, with their units: nats per token, perplexity, bits per character and per byte."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

_LARGEST_EXPONENT = 700.0
"""exp of more overflows a float; perplexity is infinite there."""


@dataclass(frozen=True)
class LanguageModelScore:
    """Cross-entropy of a text under a model, by token, character and byte."""

    loss: float
    """Nats per token."""
    perplexity: float
    """exp(loss): per token, so only comparable under the same tokenizer."""
    bits_per_char: float
    """Bits per Unicode character of the text."""
    bits_per_byte: float
    """Bits per UTF-8 byte of the text; comparable whatever the tokenizer."""
    num_tokens: int
    num_chars: int
    num_bytes: int

    def as_dict(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)


def language_model_score(nats: float, *, num_tokens: int, num_chars: int, num_bytes: int) -> LanguageModelScore:
    """Turn a sum of negative log-probabilities into scores.

    Args:
        nats: Sum over all scored tokens, natural logarithm.
        num_tokens: Scored tokens.
        num_chars: Characters of the text they spell.
        num_bytes: UTF-8 bytes of that text.

    >>> score = language_model_score(math.log(2) * 8, num_tokens=4, num_chars=8, num_bytes=16)
    >>> round(score.perplexity, 6), round(score.bits_per_char, 6), round(score.bits_per_byte, 6)
    (4.0, 1.0, 0.5)
    """
    loss = nats / num_tokens
    bits = nats / math.log(2)
    return LanguageModelScore(
        loss=loss,
        perplexity=math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf,
        bits_per_char=bits / num_chars if num_chars else math.nan,
        bits_per_byte=bits / num_bytes if num_bytes else math.nan,
        num_tokens=num_tokens,
        num_chars=num_chars,
        num_bytes=num_bytes,
    )
