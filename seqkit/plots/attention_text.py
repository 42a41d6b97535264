"""Attention maps in a terminal: a shade of grey a weight, without colours."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator

from seqkit.plots.attention_map import AttentionPanel

_SHADES = " ░▒▓█"
"""Of nothing, and of one to four quarters of the largest weight."""
_LONGEST_LABEL = 16
"""Terminal cells; a longer token is cut."""


def attention_panel_text(panel: AttentionPanel, *, width: int) -> list[str]:
    """A panel as lines of text; one too wide is cut into blocks of columns, one below the other.

    Args:
        panel: What to draw.
        width: Columns to fill.

    >>> rows = ((0.9, 0.1), (0.0, 1.0))
    >>> panel = AttentionPanel(
    ...     title="layer 1", query_name="translation", key_name="source", queries=("x", "yy"), keys=("ab", "c"),
    ...     weights=rows)
    >>> for line in attention_panel_text(panel, width=48):
    ...     print(line)
    layer 1: translation (rows) × source (columns)
        a
        b c
     x  ██
    yy    ██
    ░ 0.25  ▒ 0.50  ▓ 0.75  █ 1.00
    """
    top = max(weight for row in panel.weights for weight in row)
    queries = [_cut(text) for text in panel.queries]
    keys = [_cut(text) for text in panel.keys]
    margin = max(map(text_width, queries))
    # Two cells of a terminal are about as wide as one is high, and hold the wide characters of East Asia.
    room = max(2, width - margin - 2)
    has_wide = any(text_width(one) > 1 for text in keys for one in _characters(text))
    across = 2 if 2 * len(keys) <= room or has_wide else 1
    most = room // across
    lines = textwrap.wrap(f"{panel.title}: {panel.query_name} (rows) × {panel.key_name} (columns)", width)
    for first in range(0, len(keys), most):
        block = slice(first, first + most)
        lines += [f"{' ' * (margin + 2)}{line}".rstrip() for line in _upright(keys[block], across)]
        for label, weights in zip(queries, panel.weights, strict=True):
            shades = "".join(_shade(weight / top) * across for weight in weights[block])
            lines.append(f"{' ' * (margin - text_width(label))}{label}  {shades}".rstrip())
    return [
        *lines,
        "  ".join(f"{shade} {top * number / (len(_SHADES) - 1):.2f}" for number, shade in enumerate(_SHADES) if number),
    ]


def _shade(fraction: float) -> str:
    """The nearest of the shades.

    >>> _shade(0.0) + _shade(0.49) + _shade(1.0)
    ' ▒█'
    """
    return _SHADES[round(fraction * (len(_SHADES) - 1))]


def _upright(labels: list[str], across: int) -> Iterator[str]:
    """Labels from top to bottom, each in ``across`` cells, their ends on the last line."""
    columns = [list(_characters(label)) for label in labels]
    height = max(map(len, columns))
    for line in range(height):
        cells = []
        for column in columns:
            place = line - (height - len(column))
            character = column[place] if place >= 0 else ""
            cells.append(character + " " * (across - text_width(character)))
        yield "".join(cells)


def _characters(text: str) -> Iterator[str]:
    """The characters, each with the accents that belong to it."""
    found = ""
    for character in text:
        if found and not unicodedata.combining(character):
            yield found
            found = ""
        found += character
    if found:
        yield found


def text_width(text: str) -> int:
    """Terminal cells that a text takes.

    >>> text_width("né"), text_width("犬"), text_width("e\N{COMBINING ACUTE ACCENT}")
    (2, 2, 1)
    """
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _cut(text: str) -> str:
    characters = list(_characters(text))
    while text_width("".join(characters)) > _LONGEST_LABEL:
        characters = [*characters[:-2], "…"]
    return "".join(characters)
