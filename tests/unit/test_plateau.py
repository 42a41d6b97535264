"""What a validation loss sets off: best model, learning-rate cuts, early stopping."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seqkit.recipe.schema import EarlyStopping, Plateau, Training
from seqkit.training.plateau import note_validation_loss
from seqkit.training.state import Progress


def note_all(losses: list[float], config: Training) -> tuple[Progress, list[bool], list[float]]:
    """The progress after the losses of steps 10, 20, ...; after each whether it was the best, and the factor."""
    progress = Progress()
    bests, factors = [], []
    for number, loss in enumerate(losses, start=1):
        progress.step = 10 * number
        bests.append(note_validation_loss(progress, loss, config))
        factors.append(progress.plateau_factor)
    return progress, bests, factors


def test_the_best_loss_and_its_step_are_remembered() -> None:
    progress, bests, factors = note_all([3.0, 2.0, 2.5, 2.0, 1.5, 1.75], Training(max_steps=100))
    # Equal is not better: the first of equals stays the best.
    assert bests == [True, True, False, False, True, False]
    assert (progress.best_loss, progress.best_step) == (1.5, 50)
    assert factors == [1.0] * 6, "only the plateau schedule cuts"
    assert progress.num_without_improvement == 1


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        (0, [1, 1, 0.5, 0.25, 0.25, 0.125, 0.0625, 0.03125]),
        (1, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        (2, [1, 1, 1, 1, 1, 1, 1, 0.5]),
    ],
)
def test_the_learning_rate_is_cut_after_patience(patience: int, expected: list[float]) -> None:
    losses = [3.0, 2.0, 2.5, 2.25, 1.5, 1.75, 1.5, 2.0]
    config = Training(max_steps=100, schedule=Plateau(type="plateau", factor=0.5, patience=patience))
    _, _, factors = note_all(losses, config)
    assert factors == expected
    # PyTorch's own scheduler with no threshold agrees.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0)
    for loss, factor in zip(losses, factors, strict=True):
        scheduler.step(loss)
        assert optimizer.param_groups[0]["lr"] == factor


def test_early_stopping_counts_evaluations_without_improvement() -> None:
    config = Training(max_steps=100, early_stopping=EarlyStopping(patience=3))
    for losses, expected in [
        ([3.0], 0),
        ([3.0, 3.0], 1),
        ([3.0, 3.5, 3.25], 2),
        ([3.0, 3.5, 2.75], 0),
        ([3.0, 3.5, 2.75, 2.75, 2.8, 4.0], 3),
    ]:
        progress, _, _ = note_all(losses, config)
        assert progress.num_without_improvement == expected


def test_a_fall_below_min_delta_is_a_best_model_but_no_improvement() -> None:
    config = Training(max_steps=100, early_stopping=EarlyStopping(patience=3, min_delta=0.25))
    progress, bests, _ = note_all([3.0, 2.875, 2.5], config)
    assert bests == [True, True, True]
    assert progress.num_without_improvement == 0
    progress, bests, _ = note_all([3.0, 2.5, 2.375], config)
    assert bests == [True, True, True]
    assert (progress.best_loss, progress.num_without_improvement) == (2.375, 1)
