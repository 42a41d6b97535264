"""Learning curves in a terminal: lines of braille dots, each run and split with a letter on its line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from seqkit.plots.braille import BrailleCanvas
from seqkit.plots.curves import Curve, CurveChart
from seqkit.plots.ticks import log_ticks, round_ticks, tick_labels

_HEIGHT = 16
"""Character cells."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
"""Of the runs; training in small letters, validation in capitals. After the last they begin anew."""
_COLORS = ("\033[34m", "\033[31m", "\033[32m", "\033[35m", "\033[33m", "\033[36m")
_CELLS_BETWEEN_LETTERS = 16

Segment = list[tuple[float, float]]


def curve_chart_text(chart: CurveChart, *, width: int, color: bool = False) -> list[str]:
    """A chart as lines of text.

    Args:
        chart: What to draw; at least one of its curves has a point.
        width: Columns to fill.
        color: Whether escape codes may be used; letters tell curves apart as well.
    """
    place = math.log10 if chart.is_log_x else float
    segments = {id(curve): list(_segments(curve, chart)) for curve in chart.curves}
    points = [point for parts in segments.values() for part in parts for point in part]
    left, right = _range([place(x) for x, _ in points])
    low, high = _range([y for _, y in points])
    y_ticks = round_ticks(low, high, _HEIGHT // 2)
    y_labels = tick_labels(y_ticks)
    margin = max(map(len, y_labels))
    canvas = BrailleCanvas(max(16, width - margin - 2), _HEIGHT)
    across, down = (number - 1 for number in canvas.num_dots)

    def dot(x: float, y: float) -> tuple[int, int]:
        return round((place(x) - left) / (right - left) * across), round((high - y) / (high - low) * down)

    for curve in chart.curves:
        for part in segments[id(curve)]:
            dots = [dot(*point) for point in part]
            for one, other in pairwise([*dots, dots[-1]]):
                canvas.line(*one, *other, _color(curve) if color else "")
    # Over all lines, so that none hides another's letter; from the right, where curves end.
    for curve in chart.curves:
        dots = [dot(*point) for part in segments[id(curve)] for point in part]
        last_x = math.inf
        for x, y in reversed(dots):
            if last_x - x >= 2 * _CELLS_BETWEEN_LETTERS and canvas.letter(
                x, y, _letter(curve), _color(curve) if color else ""
            ):
                last_x = x
    tick_of_row = {dot(points[0][0], tick)[1] // 4: label for tick, label in zip(y_ticks, y_labels, strict=True)}
    lines = [chart.y_label]
    for number, row in enumerate(canvas.rows()):
        label = tick_of_row.get(number)
        lines.append(f"{label or '':>{margin}} {'│' if label is None else '┤'}{row}")
    lines += _x_axis(chart, margin, canvas.width, left, right)
    lines += [f"{' ' * margin}  {text}" for text in _legend(chart, color=color)]
    return lines


def _segments(curve: Curve, chart: CurveChart) -> Iterator[Segment]:
    """The stretches of a curve without a gap."""
    part: Segment = []
    for x, y in zip(curve.x, curve.y, strict=True):
        if chart.is_log_x and x <= 0:
            continue
        if y is not None:
            part.append((x, y))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _range(values: list[float]) -> tuple[float, float]:
    """The lowest and the highest, apart even where they are the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _x_axis(chart: CurveChart, margin: int, width: int, left: float, right: float) -> list[str]:
    ticks = log_ticks(10.0**left, 10.0**right) if chart.is_log_x else round_ticks(left, right, max(2, width // 10))
    labels = [tick_labels([tick])[0] for tick in ticks] if chart.is_log_x else tick_labels(ticks)
    axis, below = ["─"] * width, [" "] * (margin + 2 + width)
    free = 0
    for tick, label in zip(ticks, labels, strict=True):
        where = math.log10(tick) if chart.is_log_x else tick
        cell = min(width - 1, round((where - left) / (right - left) * (2 * width - 1)) // 2)
        start = min(max(0, margin + 2 + cell - len(label) // 2), len(below) - len(label))
        if start >= free:
            axis[cell] = "┬"
            below[start : start + len(label)] = label
            free = start + len(label) + 1
    name = f"{' ' * (margin + 2)}{chart.x_label:^{width}}".rstrip()
    return [f"{' ' * margin} └{''.join(axis)}", "".join(below).rstrip(), name]


def _legend(chart: CurveChart, *, color: bool) -> Iterator[str]:
    """Letter, run, split and last value of each curve."""
    width = max(map(len, chart.runs))
    for curve in chart.curves:
        letter = f"{_color(curve)}{_letter(curve)}\033[0m" if color else _letter(curve)
        values = [value for value in curve.y if value is not None]
        last = f"{values[-1]:.4g}" if values else "–"
        name = {"train": "training", "valid": "validation"}[curve.split]
        yield f"{letter}  {chart.runs[curve.run]:<{width}}  {name:<10}  last {last}"


def _letter(curve: Curve) -> str:
    letter = _LETTERS[curve.run % len(_LETTERS)]
    return letter.upper() if curve.split == "valid" else letter


def _color(curve: Curve) -> str:
    return _COLORS[curve.run % len(_COLORS)]
