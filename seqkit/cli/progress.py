"""What a person sees while a model trains: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from seqkit.cli import console
from seqkit.cli.wording import format_rate, format_seconds
from seqkit.runs.measures import MEASURES, show_score

if TYPE_CHECKING:
    from rich.progress import Progress

    from seqkit.training.events import Averaged, Evaluated, Reported, Saved, Ticked

logger = logging.getLogger(__name__)

_TOTAL = 1000
_SMOOTHING = 0.9
_ENCODING_INTERVAL = 2.0


class TrainingDisplay:
    """Shows training events on stderr.

    Args:
        unit: The noun of a token (character, word).
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        # The live line must fit in 80 columns.
        self._short_unit = "char" if unit == "character" else unit
        self._progress: Progress | None = None
        self._loss: float | None = None
        self._valid: float | None = None
        self._rate: float | None = None
        self._last_tick = 0.0
        self._tokens = 0

    def __enter__(self) -> Self:
        if console.shows_progress():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._progress = Progress(
                BarColumn(bar_width=26),
                TextColumn("{task.percentage:>3.0f} %  {task.description}", markup=False),
                console=Console(file=sys.stderr, no_color=not console.may_color(sys.stderr), highlight=False),
                redirect_stdout=False,
                redirect_stderr=True,
                transient=True,
                refresh_per_second=5,
            )
            self._progress.add_task("", total=_TOTAL)
            self._progress.start()
            # Log lines must go through the display's stand-in for stderr, or they would tear the bar.
            console.configure(console.options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            console.configure(console.options)

    def ticked(self, event: Ticked) -> None:
        """Move the bar; cheap, because it comes after every step."""
        self._tokens += event.num_tokens
        loss = event.loss
        self._loss = loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._last_tick < 0.2:
            return
        if self._last_tick:
            rate = self._tokens / (now - self._last_tick)
            self._rate = rate if self._rate is None else _SMOOTHING * self._rate + (1 - _SMOOTHING) * rate
        self._last_tick, self._tokens = now, 0
        parts = [f"step {event.step:,}", f"train {self._loss:.3f}"]
        if self._valid is not None:
            parts.append(f"valid {self._valid:.3f}")
        parts[-1] += " nats"
        if self._rate is not None:
            parts.append(f"{format_rate(self._rate)} {self._short_unit}s/s")
        if event.spent > 0:
            parts.append(f"{format_seconds(event.elapsed * (1 - event.spent) / event.spent)} left")
        self._progress.update(self._progress.task_ids[0], completed=_TOTAL * event.spent, description="  ".join(parts))

    def reported(self, event: Reported) -> None:
        """A line of training metrics, where there is no bar to show them."""
        level = console.VERBOSE if self._progress is not None else logging.INFO
        fields = vars(event)
        logger.log(
            level,
            "step %s  %3.0f %%  train %.4f nats  lr %.2g  %s %ss/s",
            f"{event.step:,}",
            100 * event.spent,
            event.loss,
            event.learning_rate,
            format_rate(event.tokens_per_second),
            self._short_unit,
            extra={"event": "step", "fields": fields},
        )

    def evaluated(self, event: Evaluated) -> None:
        """A line of validation scores, and a sample of what the model writes now."""
        self._valid = event.scores["loss"]
        fields = {"step": event.step, "best_by": event.best_by, "is_best": event.is_best, **event.scores}
        logger.info(
            "step %s  valid %s",
            f"{event.step:,}",
            self._shown_scores(event),
            extra={"event": "evaluation", "fields": fields},
        )
        if event.sample is not None:
            logger.info(
                "  sample: %s",
                _shown_sample(event.sample),
                extra={"event": "sample", "fields": {"sample": event.sample}},
            )

    def averaged(self, event: Averaged) -> None:
        """A line of the scores of averaged weights, and what becomes of them."""
        fields = {key: value for key, value in vars(event).items() if key != "scores"} | event.scores
        logger.info(
            "average of the last %d checkpoints  valid %s; %s",
            event.num_checkpoints,
            self._shown_scores(event),
            "it is the last checkpoint now" if event.is_last else "no better than the last one, which stays",
            extra={"event": "average", "fields": fields},
        )

    def _shown_scores(self, event: Evaluated | Averaged) -> str:
        """The scores that may decide which checkpoint is best; the one that decided is marked."""
        shown = []
        for name in MEASURES:
            if name not in event.scores:
                continue
            unit = f" nats/{self._unit}" if name == "loss" else ""
            mark = " (best)" if event.is_best and name == event.best_by else ""
            shown.append(f"{show_score(name, event.scores[name])}{unit}{mark}")
        return ", ".join(shown)

    def saved(self, event: Saved) -> None:
        """A note that a checkpoint was written."""
        logger.log(
            console.VERBOSE,
            "saved %s",
            event.path,
            extra={"event": "checkpoint", "fields": {"step": event.step, "path": str(event.path)}},
        )


def _shown_sample(text: str) -> str:
    r"""A sample on one line, in quotation marks; one without anything to see is described.

    What a model writes may hold control codes, which a terminal must not obey: each becomes a replacement character.

    >>> print(_shown_sample("one\n  two"), _shown_sample("\n\n"), _shown_sample(""))
    "one two" 2 blank characters nothing
    """
    words = text.split()
    if not words:
        return f"{len(text)} blank character{'' if len(text) == 1 else 's'}" if text else "nothing"
    return '"' + "".join(c if c.isprintable() else "\ufffd" for c in " ".join(words)) + '"'


class EncodingLog:
    """Says now and then how far the encoding of a large corpus is, and how fast it goes; silent for a small one."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def __call__(self, num_bytes: int) -> None:
        """Take note of the bytes of a text that are done."""
        now = time.monotonic()
        if self._last is None or num_bytes < self._last[1]:
            # A text begins, or goes on from where an earlier process left it.
            self._last = (now, num_bytes)
            return
        then, num_before = self._last
        if now - then >= _ENCODING_INTERVAL:
            self._last = (now, num_bytes)
            rate = (num_bytes - num_before) / (now - then)
            logger.info(
                "encoded %s MB of text (%s MB/s)",
                f"{num_bytes / 1e6:,.0f}",
                f"{rate / 1e6:,.1f}",
                extra={"event": "encoding", "fields": {"num_bytes": num_bytes, "bytes_per_second": rate}},
            )
