"""``seqkit plot curves``: learning curves of one or several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli import console
from seqkit.cli.command import RunsDir, command
from seqkit.cli.plot_output import NumbersAsJson, PictureFile, picture_output
from seqkit.cli.run_names import RunLog, open_run_logs
from seqkit.errors import DataError, UsageError
from seqkit.runs.metric_series import SPLITS, MetricPoint, Split, metric_names, metric_points

if TYPE_CHECKING:
    from seqkit.plots.curves import CurveChart

_EXAMPLES = """\
seqkit plot curves runs/a runs/b                       # training and validation loss
seqkit plot curves runs/*/* --metric bleu --x minutes -o bleu.svg
seqkit plot curves runs/a --metric loss,learning_rate,tokens_per_second
seqkit plot curves runs/a runs/b --label LSTM --label GRU --split valid --log-x -o curves.pdf
seqkit plot curves runs/a --json | jq -c '.curves[0].y[-1]'"""


class XAxisName(StrEnum):
    """What curves run over."""

    step = "step"
    epoch = "epoch"
    minutes = "minutes"
    tokens = "tokens"


class SplitName(StrEnum):
    """Whose reports are shown."""

    train = "train"
    valid = "valid"
    both = "both"


_X_LABELS = {
    XAxisName.step: "optimizer step",
    XAxisName.epoch: "epoch",
    XAxisName.minutes: "minutes of training, validation included",
    XAxisName.tokens: "training tokens read",
}
_Y_LABELS = {
    "loss": "loss (nats per {unit})",
    "perplexity": "perplexity per {unit}",
    "bits_per_char": "bits per character",
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER (lower is better)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "num_tokens": "tokens",
    "num_skipped": "skipped steps",
    "seconds": "seconds of a validation",
}
"""What a metric is called, with its unit; others go by their key."""


def register(plot: typer.Typer) -> None:
    """Add ``curves`` to ``seqkit plot``."""

    @command(plot, "curves", examples=_EXAMPLES, no_args_is_help=True)
    def curves(
        runs: Annotated[
            list[str],
            typer.Argument(metavar="RUN", help="Run folders, or their names under the runs folder."),
        ],
        metric: Annotated[
            list[str] | None,
            typer.Option("--metric", metavar="NAME", help="What was logged; repeatable, or with commas (loss)."),
        ] = None,
        x: Annotated[XAxisName, typer.Option("--x", help="What the curves run over.")] = XAxisName.step,
        split: Annotated[SplitName, typer.Option("--split", help="Whose reports.")] = SplitName.both,
        log_x: Annotated[bool, typer.Option("--log-x", help="A logarithmic x axis: the early steps get room.")] = False,
        label: Annotated[
            list[str] | None, typer.Option("--label", help="What to call a run; once for each, in their order.")
        ] = None,
        runs_dir: RunsDir = None,
        output: PictureFile = None,
        json_output: NumbersAsJson = False,
    ) -> None:
        """Draw what runs logged while they trained, several runs together.

        Any key of metrics.jsonl is a metric: loss, perplexity, bleu, learning_rate, grad_norm, tokens_per_second, ….
        A run that still trains is drawn as far as it is.
        """
        destination = picture_output(output, as_json=json_output)
        names = [name.strip() for text in metric or ["loss"] for name in text.split(",")]
        splits = [name for name in SPLITS if split.value in ("both", name)]
        logs = open_run_logs(runs, label, runs_dir)
        found = [one for name in dict.fromkeys(names) for one in _found(logs, name, splits, x)]
        charts = [
            _chart(logs, name, [one for one in found if one.metric == name], x, is_log_x=log_x)
            for name in dict.fromkeys(names)
        ]

        def save(path: Path) -> None:
            from seqkit.plots.curves import save_curve_charts

            save_curve_charts(path, charts)

        destination.deliver(
            save=save, text=lambda columns, color: _text(charts, columns, color), facts=lambda: _facts(logs, found, x)
        )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The points of one metric in one split of one run; at least one is a number."""

    run: int
    metric: str
    split: Split
    points: list[MetricPoint]


def _found(logs: Sequence[RunLog], metric: str, splits: Sequence[Split], x: XAxisName) -> list[_Found]:
    """The curves of a metric.

    Raises:
        DataError: No run has a report yet.
        UsageError: No run has logged the metric.
    """
    from seqkit.recipe.suggest import suggestion

    known = list(dict.fromkeys(name for log in logs for name in metric_names(log.rows)))
    if not known:
        raise DataError(f"{logs[0].path}: no reports yet" if len(logs) == 1 else "none of the runs has a report yet")
    if metric not in known:
        raise UsageError(
            f"--metric {metric}: no run has logged that{suggestion(metric, known)}", hint=f"logged: {', '.join(known)}"
        )
    found = []
    for number, log in enumerate(logs):
        of_run = []
        for split in splits:
            points = metric_points(log.rows, metric, split, x.value)
            if any(point.y is not None for point in points):
                of_run.append(_Found(run=number, metric=metric, split=split, points=points))
        if not of_run:
            console.logger.warning("%s: nothing to draw of %s", log.path, metric)
        found += of_run
    if not found:
        where = "" if len(splits) > 1 else f" of the split {splits[0]}"
        raise UsageError(f"--metric {metric}: no run has a value of it{where} by {x.value}")
    return found


def _chart(logs: Sequence[RunLog], metric: str, found: Sequence[_Found], x: XAxisName, *, is_log_x: bool) -> CurveChart:
    from seqkit.plots.curves import Curve, CurveChart

    units = sorted({logs[one.run].unit or "token" for one in found})
    y_label = _Y_LABELS.get(metric, metric.replace("_", " "))
    if len(units) > 1 and "{unit}" in y_label:
        console.logger.warning("a token is a %s: between such runs %s does not compare", " or a ".join(units), metric)
    y_label = y_label.format(unit=units[0] if len(units) == 1 else "token")
    if is_log_x and not any(point.x > 0 and point.y is not None for one in found for point in one.points):
        raise UsageError(f"--log-x: {metric} has no value after {x.value} 0")
    return CurveChart(
        x_label=_X_LABELS[x],
        y_label=y_label,
        runs=tuple(log.label for log in logs),
        curves=tuple(
            Curve(
                run=one.run,
                split=one.split,
                x=tuple(point.x for point in one.points),
                y=tuple(point.y for point in one.points),
            )
            for one in found
        ),
        is_log_x=is_log_x,
    )


def _text(charts: Sequence[CurveChart], columns: int, color: bool) -> Iterator[str]:
    from seqkit.plots.curve_text import curve_chart_text

    for number, chart in enumerate(charts):
        if number:
            yield ""
        yield from curve_chart_text(chart, width=columns, color=color)


def _facts(logs: Sequence[RunLog], found: Sequence[_Found], x: XAxisName) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "x": x.value,
        "runs": [{"run_dir": str(log.path), "label": log.label, "unit": log.unit} for log in logs],
        "curves": [
            {
                "run": one.run,
                "metric": one.metric,
                "split": one.split,
                "step": [point.step for point in one.points],
                "x": [point.x for point in one.points],
                "y": [point.y for point in one.points],
            }
            for one in found
        ],
    }
