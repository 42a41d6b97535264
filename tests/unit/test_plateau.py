"""What a validation loss sets off: best model, learning-rate cuts, early stopping."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seqkit.recipe.seq2seq_schema import Seq2SeqTraining
from seqkit.recipe.training_schema import EarlyStopping, Plateau, Training
from seqkit.training.plateau import note_scores
from seqkit.training.state import Progress


def note_all(losses: list[float], config: Training) -> tuple[Progress, list[bool], list[float]]:
    """The progress after the losses of steps 10, 20, ...; after each whether it was the best, and the factor."""
    progress = Progress()
    bests, factors = [], []
    for number, loss in enumerate(losses, start=1):
        progress.step = 10 * number
        bests.append(note_scores(progress, {"loss": loss}, config))
        factors.append(progress.plateau_factor)
    return progress, bests, factors


def test_the_best_loss_and_its_step_are_remembered() -> None:
    progress, bests, factors = note_all([3.0, 2.0, 2.5, 2.0, 1.5, 1.75], Training(max_steps=100))
    # Equal is not better: the first of equals stays the best.
    assert bests == [True, True, False, False, True, False]
    assert (progress.best_scores, progress.best_step) == ({"loss": 1.5}, 50)
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
    assert (progress.best_scores["loss"], progress.num_without_improvement) == (2.375, 1)


def test_small_gains_add_up_to_one_that_counts() -> None:
    config = Training(max_steps=100, early_stopping=EarlyStopping(patience=3, min_delta=0.25))
    # Each is an eighth better than the one before: every second one is a quarter below the last that counted.
    losses = [3.0, 2.875, 2.75, 2.625, 2.5, 2.375]
    waits = [note_all(losses[:number], config)[0].num_without_improvement for number in range(1, 7)]
    assert waits == [0, 1, 0, 1, 0, 1]
    # Gains that do not add up to it in time do not.
    assert note_all([3.0, 2.99, 2.98, 2.97], config)[0].num_without_improvement == 3


def test_what_the_best_so_far_did_not_earn_does_not_hide_what_comes() -> None:
    config = Training(max_steps=100, early_stopping=EarlyStopping(patience=9, min_delta=1.0))
    progress, bests, _ = note_all([5.0, 4.5, 4.75, 4.0], config)
    assert bests == [True, True, False, True]
    assert (progress.counted_score, progress.num_without_improvement) == (4.0, 0)


def test_by_bleu_higher_is_better_whatever_the_loss() -> None:
    config = Seq2SeqTraining(
        max_steps=100,
        best_by="bleu",
        early_stopping=EarlyStopping(patience=3, min_delta=0.5),
        schedule=Plateau(type="plateau", factor=0.5, patience=0),
    )
    progress = Progress()
    bests, waits, factors = [], [], []
    for number, (loss, bleu) in enumerate([(3.0, 0.0), (2.0, 1.0), (1.0, 0.5), (2.5, 1.25), (2.5, 1.5)], start=1):
        progress.step = 10 * number
        bests.append(note_scores(progress, {"loss": loss, "bleu": bleu, "perplexity": 9.0}, config))
        waits.append(progress.num_without_improvement)
        factors.append(progress.plateau_factor)
    assert bests == [True, True, False, True, True]
    assert waits == [0, 0, 1, 2, 0]
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert (progress.best_step, progress.best_scores["loss"], progress.best_scores["bleu"]) == (50, 2.5, 1.5)
