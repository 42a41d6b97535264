"""Scores by sentence length, one line a system: a picture, or bars in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqkit.plots.figure import COLORS, MARKERS, draw_to_file, literal_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = (4.8, 3.2)
_EIGHTHS = " ▏▎▍▌▋▊▉"
"""Parts of a character cell, filled from the left."""


@dataclass(frozen=True, kw_only=True)
class LengthSeries:
    """The scores of one system."""

    name: str
    values: tuple[float | None, ...]
    """One a bucket; None where it is empty."""


@dataclass(frozen=True, kw_only=True)
class LengthChart:
    """Scores under one metric by length."""

    metric: str
    """``BLEU``."""
    lengths: str
    """What the lengths are: ``source length in words``."""
    buckets: tuple[str, ...]
    """Labels, the shortest first: ``≤10``."""
    num_sentences: tuple[int, ...]
    """In each bucket."""
    series: tuple[LengthSeries, ...]


def save_length_charts(path: Path, charts: Sequence[LengthChart]) -> None:
    """Draw charts side by side and save them.

    Args:
        path: PNG, SVG or PDF, by its extension.
        charts: One a metric.

    Raises:
        UsageError: The extension is unknown.
        MissingDataError: The folder does not exist.
        OSError: The file cannot be written.
    """
    width, height = _PANEL_INCHES
    draw_to_file(path, lambda figure: draw_length_charts(figure, charts), size=(width * len(charts), height))


def draw_length_charts(figure: Figure, charts: Sequence[LengthChart]) -> None:
    """Add a panel for each chart to a figure: score over length, a gap where a bucket is empty."""
    panels = figure.subplots(1, len(charts), squeeze=False)[0]
    for axes, chart in zip(panels, charts, strict=True):
        places = range(len(chart.buckets))
        for number, series in enumerate(chart.series):
            axes.plot(
                places,
                [float("nan") if value is None else value for value in series.values],
                label=literal_text(series.name),
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
            )
        ticks = [f"{label}\nn={count:,}" for label, count in zip(chart.buckets, chart.num_sentences, strict=True)]
        axes.set_xticks(places, ticks)
        axes.set_xlabel(literal_text(chart.lengths))
        axes.set_ylabel(chart.metric)
        axes.margins(x=0.08)
        if len(chart.series) > 1:
            axes.legend()


def length_chart_text(chart: LengthChart, *, width: int) -> list[str]:
    """Bars for a terminal, from 0 to the highest score.

    Args:
        chart: What to draw.
        width: Columns to fill.

    >>> two = LengthSeries(name="a", values=(40.0, None))
    >>> chart = LengthChart(metric="BLEU", lengths="words", buckets=("≤10", ">10"), num_sentences=(9, 0), series=(two,))
    >>> length_chart_text(chart, width=24)
    ['BLEU by words', '≤10  a  ██████████  40.0', '>10  a  –']
    """
    values = [value for series in chart.series for value in series.values if value is not None]
    top = max(values, default=0.0)
    label_width = max(map(len, chart.buckets))
    name_width = max(len(series.name) for series in chart.series)
    number_width = max((len(f"{value:.1f}") for value in values), default=0)
    room = max(8, width - label_width - name_width - number_width - 6)
    lines = [f"{chart.metric} by {chart.lengths}"]
    for place, bucket in enumerate(chart.buckets):
        for number, series in enumerate(chart.series):
            value = series.values[place]
            head = f"{bucket if number == 0 else '':<{label_width}}  {series.name:<{name_width}}"
            if value is None:
                lines.append(f"{head}  –")
            else:
                lines.append(f"{head}  {_bar(value / top if top else 0.0, room)}  {value:.1f}")
    return lines


def _bar(fraction: float, width: int) -> str:
    """A bar of a fraction of ``width`` cells, to an eighth of a cell.

    >>> _bar(0.5, 3), _bar(0.0, 3)
    ('█▌', '')
    """
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
