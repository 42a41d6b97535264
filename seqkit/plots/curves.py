"""Learning curves of one or several runs, in a file; in a terminal they are drawn by ``curve_text.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqkit.plots.figure import COLORS, MARKERS, draw_to_file, literal_text
from seqkit.plots.ticks import log_ticks, round_ticks, tick_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES = 6.4
_PANEL_INCHES = 3.4
_DASHES = ("-", "--", ":", "-.")
"""Of the first runs, and of those for whom colours must be used again."""
_MOST_MARKERS = 25
"""More on one line would cover it."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one run, in one split."""

    run: int
    """Number of the run, from 0 on; it decides the colour."""
    split: Literal["train", "valid"]
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    """None leaves a gap."""


@dataclass(frozen=True, kw_only=True)
class CurveChart:
    """The curves of one metric."""

    x_label: str
    y_label: str
    runs: tuple[str, ...]
    """Names of the runs, whether or not they have a curve here."""
    curves: tuple[Curve, ...]
    is_log_x: bool = False
    """The x axis is logarithmic; it shows nothing at 0 and below."""


def save_curve_charts(path: Path, charts: Sequence[CurveChart]) -> None:
    """Draw charts one below the other and save them.

    Args:
        path: PNG, SVG or PDF, by its extension.
        charts: One a metric.

    Raises:
        UsageError: The extension is unknown.
        MissingDataError: The folder does not exist.
        OSError: The file cannot be written.
    """
    size = (_WIDTH_INCHES, _PANEL_INCHES * len(charts))
    draw_to_file(path, lambda figure: draw_curve_charts(figure, charts), size=size)


def draw_curve_charts(figure: Figure, charts: Sequence[CurveChart]) -> None:
    """Add a panel for each chart to a figure: a colour a run, training pale and validation with markers."""
    panels = figure.subplots(len(charts), 1, squeeze=False)[:, 0]
    for axes, chart in zip(panels, charts, strict=True):
        for curve in chart.curves:
            axes.plot(
                curve.x,
                [float("nan") if value is None else value for value in curve.y],
                **_look(curve.run, curve.split),
                markevery=max(1, -(-len(curve.x) // _MOST_MARKERS)),
            )
        axes.margins(x=0.02)
        if chart.is_log_x:
            axes.set_xscale("log")
            axes.minorticks_off()
        low, high = axes.get_xlim()
        ticks = log_ticks(low, high) if chart.is_log_x else round_ticks(low, high, 8)
        axes.set_xticks(ticks, [tick_labels([tick])[0] for tick in ticks] if chart.is_log_x else tick_labels(ticks))
        if len(chart.runs) == 1:
            axes.set_title(literal_text(chart.runs[0]))
        axes.set_xlabel(literal_text(chart.x_label))
        axes.set_ylabel(literal_text(chart.y_label))
        _add_legend(axes, chart)


def _look(run: int, split: str) -> dict[str, Any]:
    look: dict[str, Any] = {
        "color": COLORS[run % len(COLORS)],
        "linestyle": _DASHES[run // len(COLORS) % len(_DASHES)],
    }
    if split == "train":
        return {**look, "linewidth": 1.0, "alpha": 0.55}
    return {**look, "marker": MARKERS[run % len(MARKERS)], "markersize": 4}


def _add_legend(axes: Axes, chart: CurveChart) -> None:
    """Name the runs where there are several, and the splits where there are two."""
    from matplotlib.lines import Line2D

    splits = {curve.split for curve in chart.curves}
    shown = sorted({curve.run for curve in chart.curves})
    entries: list[tuple[Any, str]] = []
    if len(chart.runs) > 1:
        split = "valid" if "valid" in splits else "train"
        entries += [(Line2D([], [], **_look(run, split)), literal_text(chart.runs[run])) for run in shown]
    if len(splits) > 1 or len(chart.runs) == 1:
        grey = {} if len(chart.runs) == 1 else {"color": "#555555"}
        names = {"train": "training", "valid": "validation"}
        entries += [
            (Line2D([], [], **{**_look(shown[0], split), **grey}), names[split]) for split in names if split in splits
        ]
    axes.legend([line for line, _ in entries], [name for _, name in entries])
