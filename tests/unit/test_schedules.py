"""Learning-rate schedules at points worked by hand."""

from __future__ import annotations

import doctest
import math

import pytest

from seqkit.recipe.training_schema import Constant, Cosine, InverseSqrt, Linear, Plateau, Schedule
from seqkit.training import schedules
from seqkit.training.schedules import learning_rate_factor

EVERY_SCHEDULE: list[Schedule] = [
    Constant(type="constant", warmup_steps=4),
    Linear(type="linear", warmup_steps=4),
    Cosine(type="cosine", warmup_steps=4),
    InverseSqrt(type="inverse_sqrt", warmup_steps=4),
    Plateau(type="plateau", warmup_steps=4),
]


def test_example_in_docstring() -> None:
    failed, attempted = doctest.testmod(schedules)
    assert attempted and not failed


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Constant(type="constant"), 0.0, 1.0),
        (Constant(type="constant"), 0.9, 1.0),
        (Linear(type="linear"), 0.0, 1.0),
        (Linear(type="linear"), 0.7, 0.3),
        (Linear(type="linear"), 1.0, 0.0),
        (Linear(type="linear", final_fraction=0.2), 0.5, 0.6),
        (Linear(type="linear", final_fraction=0.2), 1.0, 0.2),
        (Cosine(type="cosine"), 0.0, 1.0),
        # cos(π / 3) = 1/2.
        (Cosine(type="cosine"), 1 / 3, 0.75),
        (Cosine(type="cosine"), 0.5, 0.5),
        (Cosine(type="cosine"), 1.0, 0.0),
        (Cosine(type="cosine", final_fraction=0.1), 1 / 3, 0.1 + 0.9 * 0.75),
        (Cosine(type="cosine", final_fraction=0.1), 1.0, 0.1),
    ],
)
def test_the_curve_over_the_budget(schedule: Schedule, progress: float, expected: float) -> None:
    # Without warm-up the step itself does not matter.
    for step in (0, 3, 700):
        assert learning_rate_factor(schedule, step=step, progress=progress) == pytest.approx(expected, abs=1e-12)


def test_a_budget_that_is_overdrawn_counts_as_spent() -> None:
    for schedule in (Linear(type="linear", final_fraction=0.25), Cosine(type="cosine", final_fraction=0.25)):
        assert learning_rate_factor(schedule, step=9, progress=1.7) == pytest.approx(0.25)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE, ids=lambda schedule: schedule.type)
def test_warm_up_rises_by_equal_steps_to_the_peak(schedule: Schedule) -> None:
    factors = [learning_rate_factor(schedule, step=step, progress=0.0) for step in range(4)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0])
    # The first step never has a rate of 0, and the curve goes on below the warm-up.
    later = learning_rate_factor(schedule, step=1, progress=0.5)
    curve = {"linear": 0.5, "cosine": 0.5}.get(schedule.type, 1.0)
    assert later == pytest.approx(0.5 * curve)


def test_inverse_square_root() -> None:
    # Vaswani et al. 2017, eq. 3, as a fraction of the peak, for the first, ... step.
    schedule = InverseSqrt(type="inverse_sqrt", warmup_steps=4)
    for number in range(1, 50):
        expected = min(number / 4, math.sqrt(4 / number))
        assert learning_rate_factor(schedule, step=number - 1, progress=0.3) == pytest.approx(expected)
    assert learning_rate_factor(schedule, step=15, progress=0.3) == pytest.approx(0.5)


def test_plateau_multiplies_by_its_cuts() -> None:
    schedule = Plateau(type="plateau", warmup_steps=2)
    assert learning_rate_factor(schedule, step=9, progress=0.3, plateau_factor=0.0625) == 0.0625
    assert learning_rate_factor(schedule, step=0, progress=0.0, plateau_factor=0.0625) == 0.03125
    # The others know no cuts.
    assert learning_rate_factor(Constant(type="constant"), step=9, progress=0.3, plateau_factor=0.25) == 1.0
