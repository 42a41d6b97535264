"""Attention maps in a file: a panel a layer and head; in a terminal they are drawn by ``attention_text.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqkit.plots.figure import draw_to_file, literal_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 72.0
"""An inch."""
_CELL_INCHES = 0.26
"""Of one weight in a picture of one panel."""
_SMALLEST_CELL_INCHES = 0.13
_WIDEST_INCHES = 13.0
"""Cells shrink before a picture becomes wider than this."""
_LARGEST_FONT = 9.0
_CHARACTER_WIDTH = 0.62
"""Of the font's size, on average."""


@dataclass(frozen=True, kw_only=True)
class AttentionPanel:
    """One matrix of weights."""

    title: str
    query_name: str
    """What the rows are: ``translation``."""
    key_name: str
    """What the columns are: ``source``."""
    queries: tuple[str, ...]
    """A label a row."""
    keys: tuple[str, ...]
    """A label a column."""
    weights: tuple[tuple[float, ...], ...]
    """Rows that sum to 1."""


PanelGrid = Sequence[Sequence[AttentionPanel]]
"""Rows of as many panels each."""


def save_attention_maps(path: Path, grid: PanelGrid) -> None:
    """Draw panels in a grid and save them.

    Args:
        path: PNG, SVG or PDF, by its extension.
        grid: Rows of panels.

    Raises:
        UsageError: The extension is unknown.
        MissingDataError: The folder does not exist.
        OSError: The file cannot be written.
    """
    layout = _Layout.of(grid)
    draw_to_file(path, lambda figure: draw_attention_maps(figure, grid), size=layout.size)


def draw_attention_maps(figure: Figure, grid: PanelGrid) -> None:
    """Add the panels to a figure, all in one scale from 0 to the largest weight."""
    layout = _Layout.of(grid)
    panels = figure.subplots(
        len(grid),
        len(grid[0]),
        squeeze=False,
        width_ratios=layout.num_columns,
        height_ratios=layout.num_rows,
    )
    top = max(weight for row in grid for panel in row for weights in panel.weights for weight in weights)
    mesh: Any = None
    for y, row in enumerate(grid):
        for x, panel in enumerate(row):
            axes = panels[y][x]
            # Cells as shapes of their own, so that an SVG or PDF is sharp at any size.
            mesh = axes.pcolormesh(panel.weights, cmap="Blues", vmin=0.0, vmax=top, edgecolors="white", linewidth=0.3)
            axes.set_aspect("equal")
            axes.invert_yaxis()
            axes.grid(visible=False)
            axes.set_title(literal_text(panel.title), fontsize=layout.title_font)
            is_first = x == 0 or row[x - 1].queries != panel.queries
            is_top = y == 0 or grid[y - 1][x].keys != panel.keys
            is_bottom = y == len(grid) - 1 or grid[y + 1][x].keys != panel.keys
            _label(axes, panel, layout, has_queries=is_first, has_keys=is_top)
            if is_bottom:
                axes.set_xlabel(literal_text(panel.key_name), fontsize=layout.title_font)
    bar = figure.colorbar(mesh, ax=panels, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)


def _label(axes: Axes, panel: AttentionPanel, layout: _Layout, *, has_queries: bool, has_keys: bool) -> None:
    """Tokens beside rows and above columns, unless the neighbour has the same."""
    axes.tick_params(length=0, labelsize=layout.font, top=False, labeltop=True, bottom=False, labelbottom=False, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.set_label_position("bottom")
    axes.set_yticks(_centres(panel.queries) if has_queries else [])
    axes.set_xticks(_centres(panel.keys) if has_keys else [])
    if has_queries:
        axes.set_yticklabels([literal_text(text) for text in panel.queries])
        axes.set_ylabel(literal_text(panel.query_name), fontsize=layout.title_font)
    if has_keys:
        axes.set_xticklabels([literal_text(text) for text in panel.keys])
        if not layout.fits_upright(panel.keys):
            for label in axes.get_xticklabels():
                label.set(rotation=60, ha="left", va="bottom", rotation_mode="anchor")


def _centres(labels: Sequence[str]) -> list[float]:
    """Where the middles of cells are."""
    return [place + 0.5 for place in range(len(labels))]


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Sizes that follow from what is drawn, in inches and points."""

    cell: float
    num_rows: list[int]
    """Weights down, of each row of panels."""
    num_columns: list[int]
    """Weights across, of each column of panels."""
    size: tuple[float, float]

    @classmethod
    def of(cls, grid: PanelGrid) -> _Layout:
        """Cells as large as the picture's width allows, and room for labels."""
        num_rows = [max(len(panel.queries) for panel in row) for row in grid]
        num_columns = [max(len(panel.keys) for panel in column) for column in zip(*grid, strict=True)]
        cell = min(_CELL_INCHES, max(_SMALLEST_CELL_INCHES, _WIDEST_INCHES / sum(num_columns)))
        character = _font_of(cell) * _CHARACTER_WIDTH / _POINTS
        longest_query = max(len(text) for row in grid for panel in row for text in panel.queries)
        longest_key = max(len(text) for row in grid for panel in row for text in panel.keys)
        num_labelled = 1 + sum(
            any(row[x].queries != row[x - 1].queries for row in grid) for x in range(1, len(grid[0]))
        )
        width = cell * sum(num_columns) + num_labelled * (character * longest_query + 0.35)
        height = cell * sum(num_rows) + character * longest_key + 0.35
        # Between panels a title, beside them all the scale of colours.
        return cls(
            cell=cell,
            num_rows=num_rows,
            num_columns=num_columns,
            size=(max(3.2, width + 0.15 * len(num_columns) + 0.9), max(2.2, height + 0.4 * len(num_rows))),
        )

    @property
    def font(self) -> float:
        return _font_of(self.cell)

    @property
    def title_font(self) -> float:
        return max(7.0, self.font)

    def fits_upright(self, labels: Sequence[str]) -> bool:
        """Whether labels stand side by side without being turned."""
        return max(map(len, labels)) * self.font * _CHARACTER_WIDTH <= self.cell * _POINTS


def _font_of(cell: float) -> float:
    return min(_LARGEST_FONT, 0.62 * cell * _POINTS)
