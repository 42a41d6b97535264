"""The one training loop: a generator that makes one optimizer step at a time and yields what happened.

It evaluates nothing, writes nothing and prints nothing; :mod:`seqkit.training.session` does that between steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqkit.errors import NonFiniteLossError
from seqkit.recipe.schema import Training
from seqkit.training.optimizers import set_learning_rate
from seqkit.training.precision import Precision, autocast
from seqkit.training.schedules import learning_rate_factor
from seqkit.training.state import Progress, TrainState


@dataclass(frozen=True)
class LossSum:
    """A loss as sum and count, so that any split of a batch adds up exactly."""

    nats: Tensor
    """Sum of negative log-likelihoods; a scalar with gradient."""
    num_tokens: int
    """Real target tokens in the sum."""
    reported: Tensor | None = None
    """What is shown and logged, where that is not what is minimised: the likelihood under label smoothing."""
    carry: Any = None
    """Hidden state to hand to the next batch, detached; ``None`` where nothing is carried."""


class Batch(Protocol):
    """One batch; what is inside is between the data and the objective."""

    @property
    def starts_fresh(self) -> bool:
        """Whether the carried state is dropped before this batch."""
        ...


class BatchSource(Protocol):
    """Batches by position: a function of (seed, epoch, index), so that a run can go on anywhere."""

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch (0-based); epochs may differ."""
        ...

    def batch(self, epoch: int, index: int) -> Any:
        """The batch at a position."""
        ...


Objective = Callable[[nn.Module, Any, Any, float], LossSum]
"""(model, batch, carry, fraction of the budget spent) → loss."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step did."""

    step: int
    """Steps done, this one included."""
    nats: float
    """Sum of the loss over the batch."""
    num_tokens: int
    learning_rate: float
    grad_norm: float | None
    """Global gradient norm before clipping, where ``clip_norm`` asks for it."""
    was_skipped: bool
    """fp16 gradients overflowed: no update was made."""


def epochs_done(progress: Progress, batches: BatchSource) -> float:
    """Passes over the training data made, with the part of the one under way."""
    if progress.batch_index == 0:
        # Asking for its number of batches might have an epoch made ready that the budget never reaches.
        return float(progress.epoch)
    return progress.epoch + progress.batch_index / batches.num_batches(progress.epoch)


def budget_spent(config: Training, progress: Progress, batches: BatchSource) -> float:
    """Fraction of the budget spent; at 1 or more, training is done. The tightest of the limits counts."""
    spent = 0.0
    if config.max_steps is not None:
        spent = max(spent, progress.step / config.max_steps)
    if config.max_epochs is not None:
        spent = max(spent, epochs_done(progress, batches) / config.max_epochs)
    if config.max_minutes is not None:
        spent = max(spent, progress.elapsed / (60 * config.max_minutes))
    return spent


def train_steps(
    state: TrainState,
    batches: BatchSource,
    objective: Objective,
    config: Training,
    *,
    clock: Callable[[], float],
) -> Iterator[StepResult]:
    """Make optimizer steps until the budget is spent, yielding after each.

    Args:
        state: Where to begin; updated in place, complete at every yield.
        batches: The training data.
        objective: The loss.
        config: The recipe's ``train`` section.
        clock: Seconds, monotonic. Time the caller spends between steps counts.

    Raises:
        NonFiniteLossError: The loss or the gradient norm is NaN or infinite; no update was made from it.
    """
    progress = state.progress
    began = clock() - progress.elapsed
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    precision: Precision = state.precision  # type: ignore[assignment]
    state.model.train()
    while True:
        progress.elapsed = clock() - began
        spent = budget_spent(config, progress, batches)
        if spent >= 1:
            return
        learning_rate = config.optimizer.lr * learning_rate_factor(
            config.schedule, step=progress.step, progress=spent, plateau_factor=progress.plateau_factor
        )
        set_learning_rate(state.optimizer, learning_rate)
        batch = batches.batch(progress.epoch, progress.batch_index)
        with autocast(precision, device):
            loss = objective(state.model, batch, None if batch.starts_fresh else state.carry, spent)
        mean = loss.nats / loss.num_tokens
        scaler = state.scaler
        (scaler.scale(mean) if scaler is not None else mean).backward()
        if scaler is not None:
            scaler.unscale_(state.optimizer)
        norm = None
        if config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, config.clip_value)
        if config.clip_norm is not None:
            norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        nats = float((loss.nats if loss.reported is None else loss.reported).detach())
        if not math.isfinite(nats) or (scaler is None and norm is not None and not math.isfinite(norm)):
            what = f"loss is {nats}" if not math.isfinite(nats) else f"gradient norm is {norm}"
            raise NonFiniteLossError(
                f"{what} at step {progress.step + 1} (learning rate {learning_rate:.3g})",
                hint="lower train.optimizer.lr, set train.clip_norm, or use precision fp32",
            )
        was_skipped = _update(state)
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None and not was_skipped:
            state.average.update()
        state.carry = loss.carry
        _advance(progress, batches.num_batches(progress.epoch), nats, loss.num_tokens, was_skipped)
        progress.elapsed = clock() - began
        yield StepResult(progress.step, nats, loss.num_tokens, learning_rate, norm, was_skipped)


def _update(state: TrainState) -> bool:
    """Make the optimizer step; return whether fp16 scaling skipped it."""
    if state.scaler is None:
        state.optimizer.step()
        return False
    before = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return state.scaler.get_scale() < before


def _advance(progress: Progress, num_batches: int, nats: float, num_tokens: int, was_skipped: bool) -> None:
    progress.step += 1
    progress.batch_index += 1
    if progress.batch_index == num_batches:
        progress.epoch += 1
        progress.batch_index = 0
    progress.num_tokens += num_tokens
    progress.window_nats += nats
    progress.window_tokens += num_tokens
    progress.num_skipped += was_skipped


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """A gradient scaler for fp16, whose gradients would underflow; none for the others."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
