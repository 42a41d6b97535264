"""What happens in a training run, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """A step went by; for progress displays."""

    step: int
    spent: float
    """Fraction of the budget, 0 to 1."""
    elapsed: float
    """Seconds since training began."""
    loss: float
    """Of this step, nats per token."""
    num_tokens: int
    """Target tokens of this step."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A row of training metrics was written."""

    step: int
    epoch: float
    loss: float
    """Mean since the last report, nats per token."""
    learning_rate: float
    tokens_per_second: float
    spent: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The validation set was scored."""

    step: int
    scores: dict[str, float]
    best_by: str
    """Which of the scores decides."""
    is_best: bool
    sample: str | None
    spent: float


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The average of the last checkpoints was scored, as ``average_last`` asks."""

    step: int
    num_checkpoints: int
    scores: dict[str, float]
    best_by: str
    """Which of the scores decides."""
    is_last: bool
    """Whether it scored better than the last weights, and takes their place."""
    is_best: bool


Event = Ticked | Reported | Evaluated | Saved | Averaged
