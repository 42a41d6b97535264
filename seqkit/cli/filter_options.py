"""Flags that every filter shares: where lines come from, where they go, how many at once."""

from __future__ import annotations

from typing import Annotated

import typer

InputFile = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="Lines of UTF-8, .gz or not (default: stdin).", show_default=False),
]
OutputFile = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write here: whole, or not at all (default: stdout).",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Lines answered at once; 1 answers each before the next is read (default: all that have arrived).",
        show_default=False,
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Processes; more than one pay for long inputs on idle cores.")
]
