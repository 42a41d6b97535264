"""A whole training run: the loop with evaluation, checkpoints, metrics and a clean stop, as a stream of events.

The caller shows the events; nothing here prints.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import seqkit
from seqkit.errors import InterruptedRunError, NonFiniteLossError
from seqkit.models.build import count_parameters
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import write_checkpoint
from seqkit.runs.folder import RunFolder
from seqkit.runs.measures import gain
from seqkit.runs.metrics_log import MetricsLog
from seqkit.training.averaging import holding
from seqkit.training.cadence import has_stalled, is_evaluation_due, is_save_due, passes_a_tenth
from seqkit.training.checkpoint_average import average_checkpoints
from seqkit.training.events import Averaged, Evaluated, Event, Reported, Saved, Ticked
from seqkit.training.loop import budget_spent, epochs_done, train_steps
from seqkit.training.plateau import note_best, note_scores
from seqkit.training.precision import Precision, autocast
from seqkit.training.prepared import Prepared
from seqkit.training.state import TrainState

if TYPE_CHECKING:
    from seqkit.training.distributed import Team

logger = logging.getLogger(__name__)


class _EvaluationAbandonedError(Exception):
    """A signal came during an evaluation."""


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
        team: The processes that train together, if there are several; this one leads them.
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
        team: Team | None = None,
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
        self._team = team
        self._device = next(state.model.parameters()).device

    def events(self) -> Iterator[Event]:
        """Train, evaluate and save, yielding what happens.

        Raises:
            InterruptedRunError: ``stop`` told so; everything was saved first.
            NonFiniteLossError: The loss ran away; the message names the last good checkpoint.
        """
        with MetricsLog(self._run.metrics_path) as metrics:
            progress = self._state.progress
            # An average that was scored but not saved is scored again.
            metrics.truncate_after(progress.step, without=None if self._has_averaged() else "average")
            yield from self._events(metrics)
            if self._config.average_last is not None and not self._has_averaged():
                yield from self._average(metrics)

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
            if self._team is not None:
                self._team.wait_for_all()
        last_report = self._clock()
        tokens_since = 0
        steps = train_steps(
            self._state, self._prepared.batches, self._prepared.loss, config, clock=self._clock, team=self._team
        )
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
        signal_number = self._stop_signal()
        is_last = self._has_stalled() or spent >= 1
        is_due = is_last or is_save_due(self._config, progress, passed_a_tenth=passed_a_tenth)
        if is_due and self._config.average_last is not None:
            # What a signal saves is not among them: where a run was stopped must not change what it ends with.
            steps = [step for step in progress.steps_to_average if step != progress.step]
            progress.steps_to_average = [*steps, progress.step][-self._config.average_last :]
        if is_due or signal_number is not None:
            yield self._save()
        if signal_number is not None:
            raise self._interrupted(signal_number)

    def _interrupted(self, signal_number: int) -> InterruptedRunError:
        return InterruptedRunError(
            f"stopped by a signal; saved step {self._state.progress.step:,}",
            signal_number=signal_number,
            hint=self._how_to_resume,
        )

    def _has_averaged(self) -> bool:
        """Whether the average of the last checkpoints was made already, in this session or one before.

        Where it was no better it is not saved, and nothing else tells but that its members are pruned then; until
        then they are kept.
        """
        progress = self._state.progress
        return bool(progress.averaged_steps) or not all(
            self._run.checkpoint(step).is_dir() for step in progress.steps_to_average
        )

    def _average(self, metrics: MetricsLog) -> Iterator[Event]:
        """Score the average of the last checkpoints; save it in place of the last one if it is better."""
        progress, model = self._state.progress, self._state.model
        steps = progress.steps_to_average
        if len(steps) < 2:
            logger.warning("nothing to average: %d checkpoint was written", len(steps))
            return
        began = self._clock()
        averaged = average_checkpoints([self._run.checkpoint(step) for step in steps])
        with holding(model, averaged.weights):
            try:
                scores = self._score(model)
            except _EvaluationAbandonedError:
                number = self._stop_signal()
                assert number is not None
                raise self._interrupted(number) from None
            by = self._config.best_by
            is_last = gain(by, scores[by], progress.scores[by]) > 0
            is_best = is_last and note_best(progress, scores, self._config)
            progress.elapsed += self._clock() - began
            metrics.report(
                step=progress.step,
                epoch=self._epoch(),
                split="average",
                **scores,
                num_checkpoints=len(steps),
                best_by=by,
                is_best=is_best,
                elapsed=progress.elapsed,
                seconds=self._clock() - began,
            )
            yield Averaged(
                step=progress.step,
                num_checkpoints=len(steps),
                scores=scores,
                best_by=by,
                is_last=is_last,
                is_best=is_best,
            )
            if is_last:
                progress.scores, progress.averaged_steps = scores, steps
                progress.steps_to_average = []
                yield self._save()
        progress.steps_to_average = []
        self._run.prune(self._config.keep_last)

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
        progress = self._state.progress
        began = self._clock()
        sample = None
        with self._saved_model() as model:
            scores = self._score(model)
            if self._config.sample_length:
                number = progress.num_evaluations
                model.eval()
                sample = self._prepared.show_sample(model, length=self._config.sample_length, number=number)
                model.train()
        progress.scores = scores
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

    def _score(self, model: nn.Module) -> dict[str, float]:
        """Scores of the weights that the model holds now."""
        step = self._state.progress.step
        precision: Precision = self._state.precision  # type: ignore[assignment]
        model.eval()
        try:
            with autocast(precision, self._device):
                scores = self._prepared.evaluate(model, self._leave_if_stopped)
        finally:
            model.train()
        if not math.isfinite(scores["loss"]):
            raise self._with_last_checkpoint(
                NonFiniteLossError(
                    f"validation loss is {scores['loss']} at step {step} (learning rate {self._learning_rate():.3g})",
                    hint="lower train.optimizer.lr",
                )
            )
        return scores

    def _leave_if_stopped(self) -> None:
        """Between two parts of an evaluation: a long one must not keep a signal waiting."""
        if self._team is not None:
            self._team.keep_waiting()
        if self._stop_signal() is not None:
            raise _EvaluationAbandonedError

    def _stop_signal(self) -> int | None:
        """The signal that asked this process, or another one of the team, to stop."""
        number = self._stop()
        return number if number is not None or self._team is None else self._team.stop_signal

    def _save(self) -> Saved:
        progress = self._state.progress
        tree = self._state.state_dict()
        if self._team is not None:
            tree |= self._team.whole_state(self._state)
        with self._saved_model() as model:
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
        self._run.prune(self._config.keep_last, also=progress.steps_to_average)
        return Saved(step=progress.step, path=path)

    @contextmanager
    def _saved_model(self) -> Iterator[nn.Module]:
        """The model with the weights that are evaluated and saved: the moving average, if kept.

        At the very end it may hold the mean of some checkpoints already.
        """
        average = self._state.average
        if self._team is not None and self._team.shards:
            with self._team.whole_model(self._state) as whole:
                yield whole
        elif average is None or self._state.progress.averaged_steps:
            yield self._state.model
        else:
            with average.swapped_in():
                yield self._state.model

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
            "num_processes": 1 if self._team is None else self._team.size,
            "is_averaged": self._state.average is not None or bool(progress.averaged_steps),
            "averaged_steps": progress.averaged_steps,
            "best_by": self._config.best_by,
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
