"""How every picture is drawn and saved: one look, PNG, SVG or PDF by the file's name, whole or not at all.

A plot is a function ``draw(figure)`` that takes what it shows from its own arguments and adds axes to a Matplotlib
figure; :func:`draw_to_file` gives it a figure in the common style and saves it. Matplotlib is imported when something
is drawn and not before, without its global state and without a display.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqkit.atomic import atomic_write
from seqkit.errors import MissingDataError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
"""What a picture may be saved as, named by its extension."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""For series, in order: told apart by colour-blind readers too (Okabe and Ito 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""For series, in order, so that a picture also reads in black and white."""

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    # Text stays text, and the same picture is the same bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "seqkit",
}
_MORE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)
"""Looked in, where installed, for what Matplotlib's own font lacks."""
_UNDATED: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_PNG_DOTS_PER_INCH = 150


def figure_format(path: Path) -> str:
    """The format that a file's name asks for; also checks, before any work is done, that its folder is there.

    Raises:
        UsageError: The name ends in none of the known extensions.
        MissingDataError: The folder does not exist.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        found = f"a name that ends in .{ending}" if ending else "a name without an extension"
        raise UsageError(f"{path}: {found} says no picture format; use one of {known}")
    if not path.parent.is_dir():
        raise MissingDataError("no such folder", path=path.parent)
    return ending


def draw_to_file(path: Path, draw: Callable[[Figure], None], *, size: tuple[float, float]) -> None:
    """Draw a figure in the common style and save it; an existing file is replaced only by a whole picture.

    Args:
        path: Where to save it; the extension chooses the format.
        draw: Adds axes to the empty figure that it is given.
        size: Width and height in inches.

    Raises:
        UsageError: The extension is unknown.
        MissingDataError: The folder does not exist.
        OSError: The file cannot be written.
    """
    format_ = figure_format(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "font.family": _font_families()}
    with warnings.catch_warnings(record=True) as caught, rc_context(style):
        warnings.simplefilter("always")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        with atomic_write(path) as file:
            figure.savefig(file, format=format_, dpi=_PNG_DOTS_PER_INCH, metadata=_UNDATED[format_])
    missing_glyphs = [warning for warning in caught if str(warning.message).startswith("Glyph ")]
    for warning in caught:
        if warning not in missing_glyphs:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing_glyphs:
        logger.warning(
            "%s: no installed font has %d of the characters; boxes stand for them", path, len(missing_glyphs)
        )


def literal_text(text: str) -> str:
    r"""Text that Matplotlib draws as it is: a pair of dollar signs would begin a formula.

    >>> print(literal_text("a$b$"))
    a\$b\$
    """
    return text.replace("$", r"\$")


def _font_families() -> list[str]:
    """Matplotlib's own font, then those of the others that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]
