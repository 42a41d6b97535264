"""What a new validation loss means: a best model, one evaluation fewer to wait, or a cut of the learning rate."""

from __future__ import annotations

from seqkit.recipe.schema import Plateau, Training
from seqkit.training.state import Progress


def note_validation_loss(progress: Progress, loss: float, config: Training) -> bool:
    """Record a validation loss in ``progress``; return whether it is the best so far.

    The plateau schedule cuts the learning rate after ``patience`` evaluations that did not improve, as
    ``ReduceLROnPlateau`` does; early stopping counts evaluations that did not improve by ``min_delta``.
    """
    previous = progress.best_loss
    min_delta = config.early_stopping.min_delta if config.early_stopping is not None else 0.0
    improves_enough = previous is None or loss < previous - min_delta
    progress.num_without_improvement = 0 if improves_enough else progress.num_without_improvement + 1
    is_best = previous is None or loss < previous
    if is_best:
        progress.best_loss, progress.best_step = loss, progress.step
    if isinstance(config.schedule, Plateau):
        progress.plateau_wait = 0 if is_best else progress.plateau_wait + 1
        if progress.plateau_wait > config.schedule.patience:
            progress.plateau_factor *= config.schedule.factor
            progress.plateau_wait = 0
    return is_best
