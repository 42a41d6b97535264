"""What new validation scores mean: a best model, one evaluation fewer to wait, or a cut of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping

from seqkit.recipe.training_schema import Plateau, Training
from seqkit.runs.measures import gain
from seqkit.training.state import Progress


def note_scores(progress: Progress, scores: Mapping[str, float], config: Training) -> bool:
    """Record validation scores in ``progress``; return whether they are the best so far, by ``config.best_by``.

    The plateau schedule cuts the learning rate after ``patience`` evaluations that did not improve, as
    ``ReduceLROnPlateau`` does. Early stopping counts evaluations that did not improve by ``min_delta`` over the last
    one that did: gains that are too small one by one count once they add up to it.
    """
    score = scores[config.best_by]
    counted = progress.counted_score
    min_delta = config.early_stopping.min_delta if config.early_stopping is not None else 0.0
    improves_enough = counted is None or ((won := gain(config.best_by, score, counted)) > 0 and won >= min_delta)
    if improves_enough:
        progress.counted_score = score
    progress.num_without_improvement = 0 if improves_enough else progress.num_without_improvement + 1
    is_best = note_best(progress, scores, config)
    if isinstance(config.schedule, Plateau):
        progress.plateau_wait = 0 if is_best else progress.plateau_wait + 1
        if progress.plateau_wait > config.schedule.patience:
            progress.plateau_factor *= config.schedule.factor
            progress.plateau_wait = 0
    return is_best


def note_best(progress: Progress, scores: Mapping[str, float], config: Training) -> bool:
    """Record validation scores in ``progress`` if they are the best so far, and return whether they are."""
    by = config.best_by
    is_best = not progress.best_scores or gain(by, scores[by], progress.best_scores[by]) > 0
    if is_best:
        progress.best_scores, progress.best_step = dict(scores), progress.step
    return is_best
