"""Penalties worked by hand, and the bound that lets a search stop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit.decoding.penalties import LengthPenalty, Penalties
from seqkit.decoding.score_keeper import uncovered

KINDS: list[LengthPenalty] = ["none", "average", "wu"]


@pytest.mark.parametrize(
    ("kind", "alpha", "length", "expected"),
    [
        ("none", 1.0, 7, 1.0),
        ("average", 1.0, 7, 7.0),
        ("average", 0.5, 9, 3.0),
        ("average", 0.0, 9, 1.0),
        # ((5 + 7) / 6)² and ((5 + 1) / 6)^0.6.
        ("wu", 2.0, 7, 4.0),
        ("wu", 0.6, 1, 1.0),
        ("wu", 0.0, 7, 1.0),
    ],
)
def test_length_penalties(kind: LengthPenalty, alpha: float, length: int, expected: float) -> None:
    assert Penalties(length_penalty=kind, alpha=alpha).divisor(length) == pytest.approx(expected)


def test_the_coverage_penalty_counts_what_was_not_looked_at() -> None:
    coverage = torch.tensor([[0.5, 1.0, 2.5], [0.25, 0.5, 0.0]], dtype=torch.float64)
    is_real = torch.tensor([[True, True, True], [True, True, False]])
    # What was looked at more than once counts as once; padding does not count.
    expected = [math.log(0.5), math.log(0.25 * 0.5)]
    assert uncovered(coverage, is_real).tolist() == pytest.approx(expected)
    everything = uncovered(coverage, None)
    assert everything[0].item() == pytest.approx(expected[0])
    # A position that was never looked at is bad, but still a number.
    assert -1000 < everything[1].item() < -700


@given(
    st.sampled_from(KINDS),
    st.floats(0, 3),
    st.floats(0, 1),
    st.integers(1, 60),
    st.integers(0, 60),
    st.lists(st.floats(-5, 0), max_size=60),
)
def test_no_continuation_scores_above_the_bound(
    kind: LengthPenalty, alpha: float, beta: float, length: int, room: int, more: list[float]
) -> None:
    penalties = Penalties(length_penalty=kind, alpha=alpha)
    log_prob, max_length = -0.3 * length, length + room
    bound = log_prob / penalties.divisor(max_length)
    more = more[:room]
    coverage = torch.full((1, 2), 0.4, dtype=torch.float64)
    score = (log_prob + math.fsum(more)) / penalties.divisor(length + len(more))
    assert score + beta * uncovered(coverage, None).item() <= bound
