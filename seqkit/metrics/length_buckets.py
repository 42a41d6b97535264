"""Scores by sentence length: does a model hold up on long sentences?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkit.metrics.translation import Row, TranslationMetric, TranslationScore

DEFAULT_UPPER_BOUNDS = (10, 20, 30)
"""Buckets of up to 10, 11 to 20, 21 to 30 and more than 30 words."""


@dataclass(frozen=True, kw_only=True)
class LengthBucket:
    """The segments whose lengths lie in a range."""

    shortest: int
    longest: int | None
    """None: without end."""
    segments: tuple[int, ...]
    """Their indices, 0-based, in order."""

    @property
    def label(self) -> str:
        """The range as a column heading: ``≤10``, ``11–20``, ``>30``."""
        if self.longest is None:
            return f">{self.shortest - 1}" if self.shortest else "any"
        if self.shortest == 0:
            return f"≤{self.longest}"
        return f"{self.shortest}–{self.longest}" if self.shortest < self.longest else str(self.longest)


def length_buckets(lengths: Sequence[int], upper_bounds: Sequence[int] = DEFAULT_UPPER_BOUNDS) -> list[LengthBucket]:
    """Sort segments into buckets by length; every segment is in exactly one.

    Args:
        lengths: Of each segment, in any unit.
        upper_bounds: The longest length of each bucket but the last, rising, from 0 up; none: one bucket.

    Raises:
        ValueError: The bounds do not rise, or one is negative.

    >>> [(bucket.label, bucket.segments) for bucket in length_buckets([4, 10, 11, 99], [10, 20])]
    [('≤10', (0, 1)), ('11–20', (2,)), ('>20', (3,))]
    """
    bounds = list(upper_bounds)
    if bounds != sorted(set(bounds)) or any(bound < 0 for bound in bounds):
        raise ValueError(f"the bounds of length buckets must rise from 0 or more, found {bounds}")
    starts = [0, *(bound + 1 for bound in bounds)]
    buckets = []
    for shortest, longest in zip(starts, [*bounds, None], strict=True):
        inside = [
            index
            for index, length in enumerate(lengths)
            if shortest <= length and (longest is None or length <= longest)
        ]
        buckets.append(LengthBucket(shortest=shortest, longest=longest, segments=tuple(inside)))
    return buckets


def scores_by_length(
    metric: TranslationMetric, rows: Sequence[Row], buckets: Sequence[LengthBucket]
) -> list[TranslationScore | None]:
    """The score of each bucket's segments together; None where a bucket is empty."""
    return [metric.score([rows[index] for index in bucket.segments]) if bucket.segments else None for bucket in buckets]
