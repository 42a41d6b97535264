"""When a run is evaluated and saved: at tenths of its budget, and not at the cost of training."""

from __future__ import annotations

from typing import Any

import pytest

from seqkit.recipe.training_schema import EarlyStopping, Training
from seqkit.training.cadence import has_stalled, is_evaluation_due, is_save_due, passes_a_tenth
from seqkit.training.state import Progress


def evaluations(config: Training, *, num_steps: int, step_seconds: float, seconds: float) -> list[int]:
    """The steps after which a run is evaluated whose steps and evaluations take that long."""
    progress, found = Progress(), []
    while progress.step < num_steps:
        progress.step += 1
        progress.elapsed += step_seconds
        spent = max(
            progress.step / config.max_steps if config.max_steps else 0,
            progress.elapsed / (60 * config.max_minutes) if config.max_minutes else 0,
        )
        if is_evaluation_due(config, progress, min(1.0, spent)):
            found.append(progress.step)
            progress.evaluation_seconds += seconds
            progress.last_evaluation_seconds = seconds
            if spent < 1:
                progress.elapsed += seconds
        progress.tenths_passed = int(10 * spent)
        if spent >= 1:
            break
    return found


def test_cheap_evaluations_come_at_each_tenth_of_the_time() -> None:
    # 600 steps of a second; 5 s are less than a tenth of each minute.
    found = evaluations(Training(max_minutes=10), num_steps=999, step_seconds=1.0, seconds=5.0)
    assert found == [60, 115, 170, 225, 280, 335, 390, 445, 500, 555]


@pytest.mark.parametrize("seconds", [1.0, 6.0, 15.0, 30.0, 200.0])
def test_slow_evaluations_take_a_tenth_of_the_time_but_for_the_first_and_the_last(seconds: float) -> None:
    config = Training(max_minutes=2)
    found = evaluations(config, num_steps=9999, step_seconds=0.125, seconds=seconds)
    assert found[0] == 96, "the first one comes at the first tenth: nobody knows yet what it costs"
    # The last is after the budget. What lies between is paid from a tenth of the two minutes.
    assert (len(found) - 2) * seconds <= 12.0
    assert len(found) >= 2


def test_where_steps_are_the_tighter_limit_the_clock_decides_nothing() -> None:
    for limits in ({"max_steps": 50}, {"max_steps": 50, "max_minutes": 600}):
        config = Training.model_validate(limits)
        found = evaluations(config, num_steps=50, step_seconds=1.0, seconds=500.0)
        assert found == list(range(5, 55, 5))


def test_the_pace_that_a_recipe_sets_holds_whatever_it_costs() -> None:
    config = Training(max_minutes=1, evaluate_every=7)
    assert evaluations(config, num_steps=99, step_seconds=1.0, seconds=10.0) == [7, 14, 21, 28, 29]


@pytest.mark.parametrize(
    ("limits", "passed", "evaluated", "is_best", "expected"),
    [
        ({}, False, True, False, True),
        ({}, True, False, False, True),
        ({}, False, False, False, False),
        # A recipe that evaluates by steps is not saved by tenths.
        ({"evaluate_every": 7}, True, False, False, False),
        ({"checkpoint_every": 7}, True, True, False, False),
        ({"checkpoint_every": 7}, False, True, True, True),
        ({"checkpoint_every": 4}, False, False, False, True),
    ],
)
def test_what_is_saved(limits: dict[str, Any], passed: bool, evaluated: bool, is_best: bool, expected: bool) -> None:
    progress = Progress(step=8, evaluated_step=8 if evaluated else 6, best_step=8 if is_best else 6)
    assert is_save_due(Training(max_steps=99, **limits), progress, passed_a_tenth=passed) is expected


def test_tenths() -> None:
    progress = Progress(tenths_passed=3)
    assert [passes_a_tenth(progress, spent) for spent in (0.3, 0.399, 0.4, 0.75, 1.0)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_run_has_stalled_after_patience() -> None:
    config = Training(max_steps=9, early_stopping=EarlyStopping(patience=2))
    assert [has_stalled(config, Progress(num_without_improvement=number)) for number in (0, 1, 2, 3)] == [
        False,
        False,
        True,
        True,
    ]
    assert not has_stalled(Training(max_steps=9), Progress(num_without_improvement=99))
