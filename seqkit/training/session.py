"""A whole training run: the loop with evaluation, checkpoints, metrics and a clean stop, as a stream of events.

The caller shows the events; nothing here prints.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import seqkit
from seqkit.errors import CheckpointError, InterruptedRunError, NonFiniteLossError
from seqkit.models.build import count_parameters
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import Checkpoint, write_checkpoint
from seqkit.runs.folder import RunFolder
from seqkit.runs.metrics_log import MetricsLog
from seqkit.training.averaging import WeightAverage
from seqkit.training.cadence import has_stalled, is_evaluation_due, is_save_due, passes_a_tenth
from seqkit.training.loop import backward_batch, budget_spent, epochs_done, make_scaler, train_steps
from seqkit.training.optimizers import build_optimizer
from seqkit.training.plateau import note_scores
from seqkit.training.precision import Precision, PrecisionChoice, autocast, probe_precision, require_precision
from seqkit.training.prepared import Prepared
from seqkit.training.slices import SliceThreads
from seqkit.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """A step went by; for progress displays."""

    step: int
    spent: float
    """Fraction of the budget, 0 to 1."""
    elapsed: float
    """Seconds since training began."""
    loss: float
    """Of this batch, nats per token."""
    num_tokens: int
    """Target tokens of this batch."""


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


class _EvaluationAbandonedError(Exception):
    """A signal came during an evaluation."""


Event = Ticked | Reported | Evaluated | Saved


def make_state(
    prepared: Prepared, recipe: Recipe, *, seed: int, device: torch.device, checkpoint: Checkpoint | None
) -> tuple[TrainState, PrecisionChoice | None]:
    """Build model and optimizer, or take them up from a checkpoint, and settle the precision.

    Args:
        prepared: The task with its data.
        recipe: The resolved recipe.
        seed: Seeds the global random state before the model is built.
        device: Where to train.
        checkpoint: Where to go on from; ``None`` starts anew.

    Returns:
        The state, and what the precision probe found if it ran.

    Raises:
        CheckpointError: The checkpoint does not fit the recipe's model.
    """
    config = recipe.train
    torch.manual_seed(seed)
    model = prepared.build_model().to(device)
    optimizer = build_optimizer(config.optimizer, model, device)
    slices = _slices(prepared, recipe, device)
    choice = None
    if checkpoint is not None:
        if checkpoint.train_state is None:
            raise CheckpointError(f"{checkpoint.path}: has no train state, so training cannot go on from it")
        _load_weights(model, checkpoint)
        precision = checkpoint.train_state["precision"]
    elif config.precision == "auto":
        choice = probe_precision(model, _probe_step(model, prepared, device, slices), device)
        precision = choice.precision
    else:
        precision = config.precision
        if precision != "fp32":
            require_precision(model, _probe_step(model, prepared, device, slices), precision, device)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        precision=precision,
        average=WeightAverage(model, config.ema) if config.ema is not None else None,
        scaler=make_scaler(precision, device),
        slices=slices,
    )
    if checkpoint is not None:
        try:
            state.load_state_dict(checkpoint.train_state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint.path}: its train state does not fit the recipe ({error})") from None
    return state, choice


class Session:
    """One run from its first step, or from where it stopped, to the end of its budget.

    Args:
        prepared: The task with its data.
        recipe: The resolved recipe.
        recipe_text: The same as YAML, kept in every checkpoint.
        state: Where to begin.
        run: The run folder; locked by the caller.
        stop: Tells the number of the signal that asked us to stop, if one did; asked after every step.
        how_to_resume: The hint shown when stopped.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        prepared: Prepared,
        recipe: Recipe,
        recipe_text: str,
        state: TrainState,
        run: RunFolder,
        *,
        stop: Callable[[], int | None],
        how_to_resume: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepared = prepared
        self._recipe = recipe
        self._config = recipe.train
        self._recipe_text = recipe_text
        self._state = state
        self._run = run
        self._stop = stop
        self._how_to_resume = how_to_resume
        self._clock = clock
        self._device = next(state.model.parameters()).device
        self._saved_step: int | None = None

    def events(self) -> Iterator[Event]:
        """Train, evaluate and save, yielding what happens.

        Raises:
            InterruptedRunError: ``stop`` told so; everything was saved first.
            NonFiniteLossError: The loss ran away; the message names the last good checkpoint.
        """
        with MetricsLog(self._run.metrics_path) as metrics:
            metrics.truncate_after(self._state.progress.step)
            yield from self._events(metrics)

    @property
    def final_metrics(self) -> dict[str, Any]:
        """Scores and counts of the whole run."""
        progress = self._state.progress
        return {
            "step": progress.step,
            "epoch": self._epoch(),
            "elapsed": progress.elapsed,
            "num_tokens": progress.num_tokens,
            "best_by": self._config.best_by,
            "best_step": progress.best_step,
            **{f"best_{key}": progress.best_scores.get(key) for key in ("loss", self._config.best_by)},
            **{f"valid_{key}": value for key, value in progress.scores.items()},
        }

    def _events(self, metrics: MetricsLog) -> Iterator[Event]:
        progress, config = self._state.progress, self._config
        if self._has_stalled():
            # Early stopping had ended the run when a signal came; without it, nothing more would have been trained.
            return
        if progress.owes_evaluation:
            # A signal had come while it ran; until it is done, training must not go on.
            yield from self._settle(metrics, self._spent(), passed_a_tenth=False)
        if self._spent() < 1:
            # Some data is made anew for each epoch: that of the first one is set-up, so before the clock goes on.
            self._prepared.batches.num_batches(progress.epoch)
        last_report = self._clock()
        tokens_since = 0
        steps = train_steps(self._state, self._prepared.batches, self._prepared.loss, config, clock=self._clock)
        while not self._has_stalled():
            try:
                result = next(steps, None)
            except NonFiniteLossError as error:
                raise self._with_last_checkpoint(error) from None
            if result is None:
                return
            tokens_since += result.num_tokens
            spent = self._spent()
            loss = result.nats / result.num_tokens
            yield Ticked(
                step=result.step, spent=spent, elapsed=progress.elapsed, loss=loss, num_tokens=result.num_tokens
            )
            if result.was_skipped:
                logger.warning(
                    "step %d skipped: fp16 gradients overflowed (%d so far)", result.step, progress.num_skipped
                )
            if result.step % config.log_every == 0 or spent >= 1:
                now = self._clock()
                rate = tokens_since / max(now - last_report, 1e-9)
                last_report, tokens_since = now, 0
                yield self._report(metrics, result.learning_rate, result.grad_norm, rate, spent)
            progress.owes_evaluation = is_evaluation_due(config, progress, spent)
            passed_a_tenth = passes_a_tenth(progress, spent)
            progress.tenths_passed = int(10 * spent)
            began = self._clock()
            yield from self._settle(metrics, spent, passed_a_tenth=passed_a_tenth)
            last_report += self._clock() - began
        logger.info("stopping early: no improvement in %d evaluations", progress.num_without_improvement)

    def _settle(self, metrics: MetricsLog, spent: float, *, passed_a_tenth: bool) -> Iterator[Event]:
        """What is due between two steps: evaluation, a checkpoint, the end of a run that a signal stops."""
        progress = self._state.progress
        if progress.owes_evaluation:
            try:
                yield self._evaluate(metrics)
            except _EvaluationAbandonedError:
                logger.info("left the evaluation; it is made up when the run goes on")
        signal_number = self._stop()
        is_last = self._has_stalled() or spent >= 1
        if is_last or signal_number is not None or is_save_due(self._config, progress, passed_a_tenth=passed_a_tenth):
            yield self._save()
        if signal_number is not None:
            raise InterruptedRunError(
                f"stopped by a signal; saved step {progress.step:,}",
                signal_number=signal_number,
                hint=self._how_to_resume,
            )

    def _report(
        self, metrics: MetricsLog, learning_rate: float, grad_norm: float | None, rate: float, spent: float
    ) -> Reported:
        progress = self._state.progress
        loss = progress.window_nats / progress.window_tokens
        progress.window_nats, progress.window_tokens = 0.0, 0
        values = {"loss": loss, "learning_rate": learning_rate}
        if grad_norm is not None:
            values["grad_norm"] = grad_norm
        epoch = self._epoch()
        metrics.report(
            step=progress.step,
            epoch=epoch,
            split="train",
            **values,
            num_tokens=progress.num_tokens,
            num_skipped=progress.num_skipped,
            tokens_per_second=rate,
            elapsed=progress.elapsed,
        )
        return Reported(
            step=progress.step,
            epoch=epoch,
            loss=loss,
            learning_rate=learning_rate,
            tokens_per_second=rate,
            spent=spent,
        )

    def _evaluate(self, metrics: MetricsLog) -> Evaluated:
        progress, model = self._state.progress, self._state.model
        precision: Precision = self._state.precision  # type: ignore[assignment]
        began = self._clock()
        model.eval()
        try:
            with self._saved_weights():
                with autocast(precision, self._device):
                    scores = self._prepared.evaluate(model, self._leave_if_stopped)
                sample = None
                if self._config.sample_length:
                    number = progress.num_evaluations
                    sample = self._prepared.show_sample(model, length=self._config.sample_length, number=number)
        finally:
            model.train()
        self._state.progress.scores = scores
        loss = scores["loss"]
        if not math.isfinite(loss):
            raise self._with_last_checkpoint(
                NonFiniteLossError(
                    f"validation loss is {loss} at step {progress.step} (learning rate {self._learning_rate():.3g})",
                    hint="lower train.optimizer.lr",
                )
            )
        is_best = note_scores(progress, scores, self._config)
        seconds = self._clock() - began
        progress.owes_evaluation = False
        progress.evaluated_step = progress.step
        progress.num_evaluations += 1
        progress.evaluation_seconds += seconds
        progress.last_evaluation_seconds = seconds
        metrics.report(
            step=progress.step,
            epoch=self._epoch(),
            split="valid",
            **scores,
            best_by=self._config.best_by,
            is_best=is_best,
            elapsed=progress.elapsed,
            seconds=seconds,
        )
        return Evaluated(
            step=progress.step,
            scores=scores,
            best_by=self._config.best_by,
            is_best=is_best,
            sample=sample,
            spent=self._spent(),
        )

    def _leave_if_stopped(self) -> None:
        """Between two parts of an evaluation: a long one must not keep a signal waiting."""
        if self._stop() is not None:
            raise _EvaluationAbandonedError

    def _save(self) -> Saved:
        progress, model = self._state.progress, self._state.model
        tree = self._state.state_dict()
        with self._saved_weights():
            weights = model.state_dict()
            for name, tensor in weights.items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    where = f"step {progress.step} (learning rate {self._learning_rate():.3g})"
                    raise self._with_last_checkpoint(
                        NonFiniteLossError(f"weight {name} is not finite at {where}", hint="lower train.optimizer.lr")
                    )
            path = write_checkpoint(
                self._run.path,
                progress.step,
                weights=weights,
                tokenizers=self._prepared.tokenizer_files,
                recipe=self._recipe_text,
                facts=self._facts(),
                train_state=tree,
                best_step=progress.best_step,
            )
        self._saved_step = progress.step
        self._run.prune(self._config.keep_last)
        return Saved(step=progress.step, path=path)

    def _saved_weights(self) -> AbstractContextManager[None]:
        """A context in which the model holds the weights that are evaluated and saved: the average, if kept."""
        return self._state.average.swapped_in() if self._state.average is not None else nullcontext()

    def _facts(self) -> dict[str, Any]:
        progress = self._state.progress
        return {
            "format_version": 1,
            **self._prepared.facts(),
            "step": progress.step,
            "epoch": self._epoch(),
            "num_tokens": progress.num_tokens,
            "num_parameters": count_parameters(self._state.model),
            "precision": self._state.precision,
            "is_averaged": self._state.average is not None,
            "scores": progress.scores if progress.evaluated_step == progress.step else {},
            "versions": {
                "seqkit": seqkit.__version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
        }

    def _spent(self) -> float:
        return min(1.0, budget_spent(self._config, self._state.progress, self._prepared.batches))

    def _epoch(self) -> float:
        return round(epochs_done(self._state.progress, self._prepared.batches), 6)

    def _learning_rate(self) -> float:
        rate: float = self._state.optimizer.param_groups[0]["lr"]
        return rate

    def _has_stalled(self) -> bool:
        return has_stalled(self._config, self._state.progress)

    def _with_last_checkpoint(self, error: NonFiniteLossError) -> NonFiniteLossError:
        last = self._run.latest_checkpoint()
        where = f"the last good checkpoint is {last}" if last is not None else "no checkpoint was saved before it"
        return NonFiniteLossError(f"{error.message}; {where}", hint=error.hint)


def try_step(state: TrainState, prepared: Prepared) -> None:
    """Run forward and backward on the first batch and throw the result away: does it fit, does it run?"""
    precision: Precision = state.precision  # type: ignore[assignment]
    _probe_step(state.model, prepared, next(state.model.parameters()).device, state.slices)(precision)


def _load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint.path}: its weights do not fit the recipe's model ({reason})") from None


def _slices(prepared: Prepared, recipe: Recipe, device: torch.device) -> SliceThreads | None:
    """Threads that share the rows of each batch, where there is more than one and nothing forbids it."""
    if device.type != "cpu" or prepared.carries_state or recipe.train.precision == "fp16":
        return None
    num_slices = recipe.train.slices or torch.get_num_threads()
    return SliceThreads(num_slices) if num_slices > 1 else None


def _probe_step(
    model: nn.Module, prepared: Prepared, device: torch.device, slices: SliceThreads | None
) -> Callable[[Precision], None]:
    batch = prepared.batches.batch(0, 0)

    def run_step(precision: Precision) -> None:
        model.train()
        # As at the end, where a step takes the most: scheduled sampling grows with what is spent.
        backward_batch(model, batch, None, prepared.loss, spent=1.0, precision=precision, device=device, slices=slices)
        model.zero_grad(set_to_none=True)

    return run_step
