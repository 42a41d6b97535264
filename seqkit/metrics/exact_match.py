"""How many outputs are exactly right: the measure of tasks with one right answer, such as dates or pronunciations."""

from __future__ import annotations

from collections.abc import Sequence


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Outputs that equal their reference, character by character, out of 100.

    Args:
        hypotheses: At least one.
        references: One for each.

    >>> exact_match(["1999-03-03", "2001-1-1"], ["1999-03-03", "2001-01-01"])
    50.0
    """
    num_right = sum(hyp == ref for hyp, ref in zip(hypotheses, references, strict=True))
    return 100 * num_right / len(hypotheses)
