"""The nearest match to a mistyped word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` most likely stands for, or None where nothing is near.

    Args:
        word: What was typed.
        choices: What could have been meant; the first wins a tie.

    >>> did_you_mean("num_layer", ["d_model", "num_layers"])
    'num_layers'
    >>> did_you_mean("ml", ["lm", "tag"])
    'lm'
    """
    by_folded: dict[str, str] = {}
    for choice in choices:
        by_folded.setdefault(choice.casefold(), choice)
    folded = word.casefold()
    for candidate in difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6):
        return by_folded[candidate]
    letters = sorted(folded)
    return next((choice for key, choice in by_folded.items() if sorted(key) == letters), None)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """``; did you mean X?`` to end a message with, or nothing where nothing is near."""
    near = did_you_mean(word, choices)
    return f"; did you mean {near}?" if near else ""
