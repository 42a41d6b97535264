"""Curves of benchmarks as a picture, in the look of seqkit's own plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqkit.plots.figure import COLORS, MARKERS, draw_to_file, literal_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = (4.8, 3.2)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Some curves over one axis."""

    x: str
    """What grows."""
    y: str
    """What was measured, with its unit."""
    curves: Mapping[str, Sequence[tuple[float, float]]]
    """Points (x, y) by the curve's name."""
    has_log_y: bool = False
    """Whether y, like x, grows by factors."""


def save_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels side by side and save them.

    Args:
        path: PNG, SVG or PDF, by its extension.
        panels: At least one.
    """
    width, height = _PANEL_INCHES
    draw_to_file(path, lambda figure: draw_panels(figure, panels), size=(width * len(panels), height))


def draw_panels(figure: Figure, panels: Sequence[Panel]) -> None:
    """Add the panels to a figure; y begins at 0 unless it grows by factors, so that flat looks flat."""
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, points) in enumerate(panel.curves.items()):
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=literal_text(name),
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
            )
        axes.set_xscale("log")
        if panel.has_log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(literal_text(panel.x))
        axes.set_ylabel(literal_text(panel.y))
        if len(panel.curves) > 1:
            axes.legend()
