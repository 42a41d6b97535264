"""Tokens as labels that a person reads at a glance."""

from __future__ import annotations

_WORD_START = "▁"
_SPACE = "␣"
_JOINED = "·"


def token_labels(tokens: tuple[str, ...], *, unit: str) -> tuple[str, ...]:
    """What to write beside a token's row or column.

    Pieces say with ``▁`` that a word begins. Here it is those that continue a word that say so, with a dot, so that
    words stand as they are; punctuation is known to follow what stands before it. Blanks are made visible.

    Args:
        tokens: As ``Tokenizer.token_text`` gives them.
        unit: What they are, as ``Tokenizer.unit``.

    >>> token_labels(("▁Hund", "e", "▁", ".", "</s>"), unit="piece")
    ('Hund', '·e', '␣', '.', '</s>')
    >>> token_labels(("e", " "), unit="character")
    ('e', '␣')
    """
    return tuple(map(_piece_label, tokens)) if unit == "piece" else tuple(map(_visible, tokens))


def _piece_label(piece: str) -> str:
    if piece.startswith(_WORD_START):
        return _visible(piece.removeprefix(_WORD_START) or " ")
    is_special = piece.startswith("<") and piece.endswith(">")
    return piece if is_special or not any(map(str.isalnum, piece)) else _JOINED + piece


def _visible(token: str) -> str:
    return _SPACE * len(token) if token.isspace() else token
