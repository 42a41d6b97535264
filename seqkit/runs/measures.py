"""The validation scores that can decide which checkpoint is best: which way is better, and how each is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One kind of score."""

    higher_is_better: bool
    label: str
    """What stands before the number where scores of several kinds may stand; empty for the usual one."""
    decimals: int


MEASURES = {
    "loss": Measure(higher_is_better=False, label="", decimals=4),
    "bleu": Measure(higher_is_better=True, label="BLEU ", decimals=2),
}
"""By the name that ``train.best_by`` and the rows of a metrics log give them."""


def gain(name: str, score: float, reference: float) -> float:
    """By how much ``score`` is better than ``reference``; negative where it is worse.

    >>> gain("loss", 1.5, 2.0), gain("bleu", 30.0, 32.0)
    (0.5, -2.0)
    """
    return score - reference if MEASURES[name].higher_is_better else reference - score


def show_score(name: str, score: float) -> str:
    """A score as people read it.

    >>> show_score("loss", 1.45), show_score("bleu", 41.5)
    ('1.4500', 'BLEU 41.50')
    """
    measure = MEASURES[name]
    return f"{measure.label}{score:.{measure.decimals}f}"
