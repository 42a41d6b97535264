"""Drawings for a terminal, and pictures whose parts can be counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit.plots.attention_map import AttentionPanel, save_attention_maps
from seqkit.plots.attention_text import attention_panel_text, text_width
from seqkit.plots.braille import BrailleCanvas
from seqkit.plots.curve_text import curve_chart_text
from seqkit.plots.curves import Curve, CurveChart, save_curve_charts
from seqkit.plots.ticks import round_ticks, tick_labels

FALLING = Curve(run=0, split="train", x=(0.0, 50.0, 100.0), y=(4.0, 2.0, 1.0))
RISING = Curve(run=1, split="valid", x=(0.0, 100.0), y=(1.0, 4.0))
CHART = CurveChart(x_label="optimizer step", y_label="loss", runs=("one", "two"), curves=(FALLING, RISING))


# Ticks.


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_few_even_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = round_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)
    steps = [after - before for before, after in pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)
    assert len(set(tick_labels(ticks))) == len(ticks)


# Braille.


def test_dots_as_unicode_numbers_them() -> None:
    canvas = BrailleCanvas(2, 1)
    for x, y in ((0, 0), (1, 3), (2, 1), (9, 9), (-1, 0)):
        canvas.dot(x, y)
    # Dots 1 and 8 of the first cell, dot 2 of the second: U+2881 and U+2802.
    assert canvas.rows() == ["\u2881\u2802"]


def test_letters_keep_apart() -> None:
    canvas = BrailleCanvas(5, 1)
    assert canvas.letter(0, 0, "a") and not canvas.letter(2, 0, "b") and canvas.letter(4, 0, "b")
    assert canvas.rows() == ["a b"]


# Curves in a terminal.


def body(lines: list[str]) -> list[str]:
    """The canvas alone."""
    return [line.partition("│")[2] if "│" in line else line.partition("┤")[2] for line in lines[1:17]]


def test_curves_go_where_their_values_are() -> None:
    lines = curve_chart_text(replace(CHART, curves=(FALLING,)), width=60)
    rows = body(lines)
    first = min(row for row, line in enumerate(rows) if line and line[0] != " ")
    assert first == 0 and rows[-1].rstrip()[-1] == "a", "from the upper left to the lower right"
    heights = [next((row for row, line in enumerate(rows) if len(line) > x and line[x] != " "), 99) for x in range(55)]
    assert heights == sorted(heights), "a falling curve never rises"


def test_every_run_and_split_has_its_letter_and_name() -> None:
    lines = curve_chart_text(CHART, width=80)
    assert all(text_width(line) <= 80 for line in lines) and not any("\033" in line for line in lines)
    canvas = "".join(body(lines))
    assert "a" in canvas and "B" in canvas
    assert lines[-2].split() == ["a", "one", "training", "last", "1"]
    assert lines[-1].split() == ["B", "two", "validation", "last", "4"]
    assert lines[0] == "loss" and any(line.strip() == "optimizer step" for line in lines)


def test_colours_only_where_allowed_and_always_ended() -> None:
    text = "\n".join(curve_chart_text(CHART, width=80, color=True))
    assert "\033[34m" in text and "\033[31m" in text
    assert text.count("\033[0m") * 2 == text.count("\033[")
    plain = "\n".join(curve_chart_text(CHART, width=80))
    for code in ("\033[34m", "\033[31m", "\033[0m"):
        text = text.replace(code, "")
    assert [line.rstrip() for line in text.split("\n")] == [line.rstrip() for line in plain.split("\n")]


def test_a_gap_stays_a_gap() -> None:
    whole = Curve(run=0, split="train", x=tuple(map(float, range(9))), y=(1.0,) * 9)
    broken = replace(whole, y=(1.0, 1.0, 1.0, None, None, None, 1.0, 1.0, 1.0))
    (whole_line,) = [line for line in body(curve_chart_text(replace(CHART, curves=(whole,)), width=60)) if line.strip()]
    (line,) = [line for line in body(curve_chart_text(replace(CHART, curves=(broken,)), width=60)) if line.strip()]
    assert " " not in whole_line.strip() and line.strip().count(" ") > 10


@pytest.mark.parametrize("y", [0.0, -3.0, 1e-7, 5e8])
def test_one_point_is_drawn(y: float) -> None:
    one = CurveChart(x_label="x", y_label="y", runs=("r",), curves=(Curve(run=0, split="valid", x=(7.0,), y=(y,)),))
    assert sum(line.count("A") for line in body(curve_chart_text(one, width=40))) == 1


def test_a_logarithmic_axis_has_no_zero() -> None:
    curve = Curve(run=0, split="train", x=(0.0, 1.0, 10.0, 100.0), y=(9.0, 3.0, 2.0, 1.0))
    lines = curve_chart_text(replace(CHART, curves=(curve,), is_log_x=True), width=60)
    labels = lines[18].split()
    assert labels[0] == "1" and labels[-1] == "100" and "10" in labels
    # Equal ratios are equally far apart, so the curve is a straight line: as long above its middle as below.
    assert not any(line.startswith("9") for line in lines)


# Attention in a terminal.

PANEL = AttentionPanel(
    title="layer 1",
    query_name="translation",
    key_name="source",
    queries=("the", "\u72ac", "</s>"),
    keys=("der", "Hund", "</s>"),
    weights=((0.8, 0.1, 0.1), (0.0, 0.7, 0.3), (0.2, 0.2, 0.6)),
)


def test_the_largest_weight_of_a_row_is_the_darkest() -> None:
    lines = attention_panel_text(PANEL, width=80)
    rows = [line for line in lines if any(line.lstrip().startswith(label) for label in PANEL.queries)]
    assert len(rows) == 3 and lines[-1] == "░ 0.20  ▒ 0.40  ▓ 0.60  █ 0.80"
    for row, weights in zip(rows, PANEL.weights, strict=True):
        start = 6 - (text_width(row) - len(row))
        cells = row[start:].ljust(6)
        shades = [" ░▒▓█".index(cells[place]) for place in (0, 2, 4)]
        assert shades.index(max(shades)) == weights.index(max(weights))
        assert cells[0::2] == cells[1::2], "two characters a weight"


def test_a_wide_panel_is_cut_into_blocks_of_columns() -> None:
    many = 50
    keys = tuple(f"k{number}" for number in range(many))
    panel = replace(PANEL, queries=("q",), keys=keys, weights=((1 / many,) * many,))
    lines = attention_panel_text(panel, width=30)
    assert all(text_width(line) <= 30 for line in lines)
    assert sum(line.count("█") for line in lines[1:-1]) == many, "one character a weight, none lost"
    wide = attention_panel_text(panel, width=120)
    assert sum(line.count("█") for line in wide[1:-1]) == 2 * many


def test_long_and_wide_tokens_stay_in_their_columns() -> None:
    panel = replace(PANEL, queries=("x" * 40, "\u72ac" * 20, "e\u0301"), keys=("\u72ac\u72ac", "ab", "c" * 40))
    lines = attention_panel_text(panel, width=80)
    assert max(map(text_width, lines)) <= 80
    headings = lines[1:-4]
    assert len(headings) == 16, "a token of 40 is cut to 16"
    # Rows begin in cell 18; the first heading ends with two wide characters, the second beside it with a and b.
    assert [line[18:] for line in headings[-2:]] == ["\u72aca c", "\u72acb …"]
    assert [line.split()[0] for line in lines[-4:-1]] == ["x" * 15 + "…", "\u72ac" * 7 + "…", "e\u0301"]


# Files.


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_picture_is_the_same_bytes(tmp_path: Path, ending: str) -> None:
    pictures: list[Callable[[Path], None]] = [
        lambda path: save_attention_maps(path, [[PANEL, PANEL]]),
        lambda path: save_curve_charts(path, [CHART]),
    ]
    for save in pictures:
        files = [tmp_path / f"{number}.{ending}" for number in (1, 2)]
        for file in files:
            save(file)
        assert files[0].read_bytes() == files[1].read_bytes() and files[0].stat().st_size > 1000


def test_an_attention_picture_says_everything_once(tmp_path: Path) -> None:
    grid = [[replace(PANEL, title=f"layer {y}, head {x}") for x in (1, 2)] for y in (1, 2)]
    save_attention_maps(tmp_path / "a.svg", grid)
    picture = (tmp_path / "a.svg").read_text()
    for title in ("layer 1, head 1", "layer 2, head 2", "attention weight"):
        assert picture.count(f">{title}<") == 1
    # Tokens stand beside the first panel of a row and above the first of a column.
    assert picture.count(">the<") == 2 and picture.count(">Hund<") == 2 and picture.count(">&lt;/s&gt;<") == 4


def test_a_curve_picture_names_runs_splits_and_units(tmp_path: Path) -> None:
    chart = replace(CHART, runs=("$a$ & b", "two"), y_label="loss (nats per piece)")
    save_curve_charts(tmp_path / "c.svg", [chart])
    picture = (tmp_path / "c.svg").read_text()
    for text in ("$a$ &amp; b", "two", "training", "validation", "loss (nats per piece)", "optimizer step"):
        assert f">{text}<" in picture, text
