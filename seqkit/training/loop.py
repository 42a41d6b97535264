"""The one training loop: a generator that makes one optimizer step at a time and yields what happened.

It evaluates nothing, writes nothing and prints nothing; :mod:`seqkit.training.session` does that between steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from seqkit.errors import NonFiniteLossError
from seqkit.recipe.training_schema import Training
from seqkit.training.optimizers import set_learning_rate
from seqkit.training.precision import Precision, autocast
from seqkit.training.schedules import learning_rate_factor
from seqkit.training.slices import SliceThreads
from seqkit.training.state import Progress, TrainState

if TYPE_CHECKING:
    from seqkit.training.distributed import Team


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

    @property
    def num_rows(self) -> int:
        """Sequences in it, which may be trained on apart."""
        ...

    @property
    def num_tokens(self) -> int:
        """Real target tokens: those that the loss sums over."""
        ...

    def every(self, step: int, first: int) -> Batch:
        """A batch of the rows ``first``, ``first + step``, and so on."""
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
    """Sum of the loss over its batches."""
    num_tokens: int
    """Their target tokens."""
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
    team: Team | None = None,
) -> Iterator[StepResult]:
    """Make optimizer steps until the budget is spent, yielding after each; ``config.accumulate`` batches a step.

    Args:
        state: Where to begin; updated in place, complete at every yield.
        batches: The training data.
        objective: The loss.
        config: The recipe's ``train`` section.
        clock: Seconds, monotonic. Time the caller spends between steps counts.
        team: The processes that make each step together, if there are several; only the leader's clock counts.

    Raises:
        NonFiniteLossError: The loss or the gradient norm is NaN or infinite; no update was made from it.
    """
    progress = state.progress
    began = clock() - progress.elapsed
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    state.model.train()
    while True:
        progress.elapsed = clock() - began
        spent = budget_spent(config, progress, batches)
        if team is not None:
            if not team.agree_to_step(state, wants_to=spent < 1):
                return
            spent = budget_spent(config, progress, batches)
        elif spent >= 1:
            return
        learning_rate = config.optimizer.lr * learning_rate_factor(
            config.schedule, step=progress.step, progress=spent, plateau_factor=progress.plateau_factor
        )
        set_learning_rate(state.optimizer, learning_rate)
        num_batches = batches.num_batches(progress.epoch)
        num_parts = min(config.accumulate, num_batches - progress.batch_index)
        parts = state.pieces.run(
            partial(_backward, state, batches, objective, num_parts, device, spent, team),
            num_rows=partial(_most_rows, batches, progress, num_parts),
            clear=partial(state.optimizer.zero_grad, set_to_none=True),
        )
        norm = None
        if config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, config.clip_value)
        if config.clip_norm is not None:
            if team is None:
                norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
            else:
                norm = team.clip_norm(parameters, config.clip_norm)
        nats = sum(float((part.nats if part.reported is None else part.reported).detach()) for part in parts)
        num_tokens = sum(part.num_tokens for part in parts)
        if not math.isfinite(nats) or (state.scaler is None and norm is not None and not math.isfinite(norm)):
            what = f"loss is {nats}" if not math.isfinite(nats) else f"gradient norm is {norm}"
            raise NonFiniteLossError(
                f"{what} at step {progress.step + 1} (learning rate {learning_rate:.3g})",
                hint="lower train.optimizer.lr, set train.clip_norm, or use precision fp32",
            )
        was_skipped = _update(state)
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None and not was_skipped:
            state.average.update()
        state.carry = parts[-1].carry
        _advance(progress, num_parts, num_batches, nats, num_tokens, was_skipped)
        progress.elapsed = clock() - began
        yield StepResult(progress.step, nats, num_tokens, learning_rate, norm, was_skipped)


def _backward(
    state: TrainState,
    batches: BatchSource,
    objective: Objective,
    num_parts: int,
    device: torch.device,
    spent: float,
    team: Team | None,
    num_pieces: int,
) -> list[LossSum]:
    """Run forward and backward on the next batches; leave the gradient of their mean over all tokens, unscaled.

    How many tokens there are in all is known only at the end. Until then the mean is over as many as there would be
    if all batches were as large as the first, which keeps fp16 gradients in range; then it is put right.

    Returns:
        What came of each batch, or each piece of one, without the graphs; of a team, what came of all batches in all
        processes.
    """
    progress, scaler = state.progress, state.scaler
    precision: Precision = state.precision  # type: ignore[assignment]
    parts: list[LossSum] = []
    divisor: float = 0
    carry = state.carry
    to_go = num_parts
    for whole in _in_pieces(batches, progress, num_parts, num_pieces):
        batch: Any = whole
        to_go -= 1
        if team is not None:
            # A team's batches are never in pieces. Its gradient is the mean of its processes' gradients.
            divisor = divisor or whole.num_tokens * num_parts / team.size
            batch = team.share(whole)
        with nullcontext() if team is None else team.accumulating(is_last=to_go == 0):
            loss = backward_batch(
                state.model,
                batch,
                None if batch.starts_fresh else carry,
                objective if team is None else team.loss,
                spent=spent,
                precision=precision,
                device=device,
                scaler=scaler,
                slices=state.slices,
                divisor=divisor,
                num_parts=num_parts * num_pieces,
            )
        divisor = divisor or loss.num_tokens * num_parts * num_pieces
        carry = loss.carry
        parts.append(loss)
    if team is not None:
        parts = [team.add_up(parts, [p for p in state.model.parameters() if p.requires_grad])]
        divisor = round(divisor * team.size)
    if scaler is not None:
        scaler.unscale_(state.optimizer)
    num_tokens = sum(part.num_tokens for part in parts)
    if num_tokens != divisor:
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, divisor / num_tokens)
    return parts


def _in_pieces(batches: BatchSource, progress: Progress, num_parts: int, num_pieces: int) -> Iterator[Batch]:
    """The batches of the next step, or the pieces of each, one after the other."""
    for number in range(num_parts):
        batch: Batch = batches.batch(progress.epoch, progress.batch_index + number)
        yield from pieces_of(batch, num_pieces)


def pieces_of(batch: Batch, num_pieces: int) -> Iterator[Batch]:
    """A batch whole, or by rows in so many pieces, fewer where it has fewer rows."""
    if num_pieces == 1:
        yield batch
        return
    step = min(num_pieces, batch.num_rows)
    for first in range(step):
        yield batch.every(step, first)


def _most_rows(batches: BatchSource, progress: Progress, num_parts: int) -> int:
    """Rows of the largest batch of the next step."""
    return max(batch.num_rows for batch in _in_pieces(batches, progress, num_parts, 1))


def backward_batch(
    model: nn.Module,
    batch: Batch,
    carry: Any,
    objective: Objective,
    *,
    spent: float,
    precision: Precision,
    device: torch.device,
    scaler: torch.amp.GradScaler | None = None,
    slices: SliceThreads | None = None,
    divisor: float = 0,
    num_parts: int = 1,
) -> LossSum:
    """Run forward and backward on one batch, adding to the parameters' gradients.

    Args:
        model: The model, in training mode.
        batch: The batch.
        carry: Hidden state from the batch before.
        objective: The loss.
        spent: Fraction of the budget that is behind.
        precision: Of the matrix products.
        device: Where the model is.
        scaler: Scales fp16 gradients.
        slices: Threads among which the rows are shared; they carry no state.
        divisor: What the gradient of the sum is divided by; 0: ``num_parts`` times the tokens of this batch.
        num_parts: Batches of the step.

    Returns:
        What came of it, without the graph.
    """

    def loss_of(part: Batch) -> tuple[Tensor, LossSum]:
        with autocast(precision, device):
            loss = objective(model, part, carry, spent)
        return loss.nats, replace(loss, nats=loss.nats.detach())

    if slices is None or batch.num_rows < slices.num_slices:
        nats, loss = loss_of(batch)
        mean = nats / (divisor or loss.num_tokens * num_parts)
        (scaler.scale(mean) if scaler is not None else mean).backward()
        return loss
    losses = slices.add_gradients(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        [partial(loss_of, batch.every(slices.num_slices, first)) for first in range(slices.num_slices)],
        lambda losses: 1 / (divisor or num_parts * sum(loss.num_tokens for loss in losses)),
    )
    reported = [loss.reported for loss in losses if loss.reported is not None]
    return LossSum(
        torch.stack([loss.nats for loss in losses]).sum(),
        sum(loss.num_tokens for loss in losses),
        reported=torch.stack(reported).sum() if reported else None,
    )


def _update(state: TrainState) -> bool:
    """Make the optimizer step; return whether fp16 scaling skipped it."""
    if state.scaler is None:
        state.optimizer.step()
        return False
    before = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return state.scaler.get_scale() < before


def _advance(
    progress: Progress, num_used: int, num_batches: int, nats: float, num_tokens: int, was_skipped: bool
) -> None:
    progress.step += 1
    progress.batch_index += num_used
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
