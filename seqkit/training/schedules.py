"""Learning-rate schedules, as factors of the peak rate, fitted to whatever budget there is."""

from __future__ import annotations

import math

from seqkit.recipe.training_schema import Constant, Cosine, InverseSqrt, Linear, Plateau, Schedule


def learning_rate_factor(schedule: Schedule, *, step: int, progress: float, plateau_factor: float = 1.0) -> float:
    """What to multiply the peak learning rate by for one step.

    Args:
        schedule: The recipe's schedule.
        step: Steps already done; 0 for the first.
        progress: Fraction of the budget already spent, in [0, 1]: by steps, epochs or minutes.
        plateau_factor: Product of all cuts so far (``plateau`` only).

    >>> learning_rate_factor(Linear(type="linear"), step=5, progress=0.25)
    0.75
    """
    warmup = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    progress = min(1.0, progress)
    match schedule:
        case Constant():
            return warmup
        case Linear(final_fraction=final):
            return warmup * (1 - (1 - final) * progress)
        case Cosine(final_fraction=final):
            return warmup * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
        case InverseSqrt(warmup_steps=steps):
            return min(warmup, math.sqrt(steps / (step + 1)))
        case Plateau():
            return warmup * plateau_factor
