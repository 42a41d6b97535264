r"""How a hypothesis is scored, and the best score that an unfinished one can still reach.

Of an output Y with log-probability log P(Y | X) (natural logarithm, the end token counted), the score is

    s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y)

with a length penalty lp and a coverage penalty cp (Wu et al. 2016, "Google's Neural Machine Translation System",
equation 14). \|Y\| counts predictions: every token and the end token. A hypothesis that was cut at the longest length
has no end token, so none is counted.

    none      lp = 1
    average   lp = \|Y\|^alpha                 alpha = 1 is the mean log-probability of a prediction
    wu        lp = ((5 + \|Y\|) / 6)^alpha     Wu et al. 2016; alpha 0.6 to 1 is usual, 0 is no penalty

    cp = beta · Σ_i log min(Σ_j p_ij, 1)

where p_ij is the attention of prediction j to source position i; what was never looked at counts as the smallest
normal number instead of 0, so that scores stay finite. ``score_keeper.py`` adds it up.

**The bound.** Let a live hypothesis have log-probability L and let no output be longer than M predictions. Whatever
is added, each token adds a log-probability of at most 0, so log P ≤ L ≤ 0. With alpha ≥ 0, lp grows with \|Y\| and is
positive, so dividing a number that is not positive by the largest lp attainable, lp(M), gives the largest quotient:
log P / lp(Y) ≤ L / lp(Y) ≤ L / lp(M). Each logarithm in cp is of a number that is at most 1, so cp ≤ 0. Hence

    s(Y, X) ≤ L / lp(M)    for every continuation Y of the hypothesis,

which for ``none`` is L itself. A search may stop as soon as the n-th best finished score is at least this bound for
every live hypothesis: none of them can enter the n best any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LengthPenalty = Literal["none", "average", "wu"]


@dataclass(frozen=True, kw_only=True)
class Penalties:
    """What turns a log-probability into a score; see the module's description."""

    length_penalty: LengthPenalty = "none"
    """lp."""
    alpha: float = 1.0
    """Exponent of lp; at least 0."""
    coverage_penalty: float = 0.0
    """Beta of cp; at least 0."""

    def divisor(self, length: float) -> float:
        """Lp of an output of ``length`` predictions, at least 1.

        >>> Penalties(length_penalty="wu", alpha=1.0).divisor(13), Penalties().divisor(13)
        (3.0, 1.0)
        """
        base = {"none": 1.0, "average": float(length), "wu": (5 + length) / 6}[self.length_penalty]
        return float(base**self.alpha)
