"""When a run is evaluated and saved."""

from __future__ import annotations

from seqkit.recipe.training_schema import Training
from seqkit.training.state import Progress

_SHARE = 0.1
"""Of the time gone by, what evaluations may take where the budget is time and the recipe sets no pace."""


def passes_a_tenth(progress: Progress, spent: float) -> bool:
    """Whether a step went over a tenth of the budget; ``progress`` knows those passed before."""
    return int(10 * spent) > progress.tenths_passed


def is_evaluation_due(config: Training, progress: Progress, spent: float) -> bool:
    """Whether the validation set is to be scored after this step.

    It is at the end, and every ``evaluate_every`` steps or, without it, at each tenth of the budget. Where the budget
    is time, an evaluation takes from training what it costs: one at a tenth is left out if, as long as the last one,
    it would bring all of them above a tenth of the time gone by. Where steps or epochs are the tighter limit, the
    clock decides nothing, so that the run can be repeated.

    Args:
        config: The recipe's ``train`` section.
        progress: Of the run.
        spent: Fraction of the budget.
    """
    if spent >= 1:
        return True
    if config.evaluate_every is not None:
        return progress.step % config.evaluate_every == 0
    if not passes_a_tenth(progress, spent):
        return False
    if config.max_minutes is None or progress.elapsed / (60 * config.max_minutes) < spent:
        return True
    return progress.evaluation_seconds + progress.last_evaluation_seconds <= _SHARE * progress.elapsed


def is_save_due(config: Training, progress: Progress, *, passed_a_tenth: bool) -> bool:
    """Whether a checkpoint is to be written after this step, at whatever follows from the recipe's own pace."""
    was_evaluated_now = progress.evaluated_step == progress.step
    if config.checkpoint_every is None:
        # A tenth whose evaluation was left out must still be safe from a power cut.
        return was_evaluated_now or (config.evaluate_every is None and passed_a_tenth)
    is_new_best = was_evaluated_now and progress.best_step == progress.step
    return is_new_best or progress.step % config.checkpoint_every == 0


def has_stalled(config: Training, progress: Progress) -> bool:
    """Whether early stopping ends the run."""
    stopping = config.early_stopping
    return stopping is not None and progress.num_without_improvement >= stopping.patience
