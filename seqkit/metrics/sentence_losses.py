"""The sentences on which one system loses most against another, or which it translates worst."""

from __future__ import annotations

from collections.abc import Sequence


def largest_losses(
    baseline: Sequence[float], scores: Sequence[float], *, lower_is_better: bool, limit: int
) -> list[int]:
    """The sentences on which a system loses most against a baseline.

    Args:
        baseline: The baseline's score of each sentence.
        scores: The system's.
        lower_is_better: Whether low scores are good ones, as TER's are.
        limit: The most to return.

    Returns:
        0-based indices, the largest loss first, the earlier sentence first among equal ones; sentences without a
        loss are left out.

    >>> largest_losses([50.0, 50.0, 50.0], [40.0, 60.0, 10.0], lower_is_better=False, limit=3)
    [2, 0]
    """
    losses = [
        loss(before, after, lower_is_better=lower_is_better) for before, after in zip(baseline, scores, strict=True)
    ]
    order = sorted(range(len(losses)), key=lambda index: -losses[index])
    return [index for index in order if losses[index] > 0][:limit]


def loss(baseline: float, score: float, *, lower_is_better: bool) -> float:
    """How much worse a score is than the baseline's; negative if it is better."""
    return score - baseline if lower_is_better else baseline - score


def lowest_scores(scores: Sequence[float], *, lower_is_better: bool, limit: int) -> list[int]:
    """The sentences that are translated worst, the worst first, the earlier first among equal ones.

    >>> lowest_scores([50.0, 10.0, 30.0], lower_is_better=False, limit=2)
    [1, 2]
    """
    sign = -1 if lower_is_better else 1
    return sorted(range(len(scores)), key=lambda index: sign * scores[index])[:limit]
