"""Where the commands under ``seqkit plot`` put their picture: a file, the terminal, or its numbers on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from seqkit.cli import console
from seqkit.cli.streams import stdout_columns, write_result
from seqkit.errors import UsageError

PictureFile = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Draw into this file: .png, .svg or .pdf, whole or not at all (default: in the terminal).",
        show_default=False,
    ),
]
NumbersAsJson = Annotated[bool, typer.Option("--json", help="The numbers behind the picture on stdout.")]

_STDOUT = "-"


@dataclass(frozen=True, kw_only=True)
class PictureOutput:
    """What was asked for: a file, numbers, both, or else a drawing on stdout."""

    file: Path | None
    as_json: bool

    def deliver(
        self,
        *,
        save: Callable[[Path], None],
        text: Callable[[int, bool], Iterable[str]],
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        """Draw or print.

        Args:
            save: Draws into a file.
            text: Lines for a terminal, from its columns and whether colours may be used.
            facts: The numbers.
        """
        if self.file is not None:
            save(self.file)
            console.logger.info("%s written", self.file)
        if self.as_json:
            write_result(json.dumps(facts(), ensure_ascii=False, allow_nan=False))
        elif self.file is None:
            for line in text(stdout_columns(), console.may_color(sys.stdout)):
                write_result(line)


def picture_output(file: str | None, *, as_json: bool) -> PictureOutput:
    """What the flags ask for, checked before any work is done.

    Raises:
        UsageError: The file's name says no known format, or two results would go to stdout.
        MissingDataError: The file's folder does not exist.
    """
    from seqkit.plots.figure import figure_format

    if file == _STDOUT and as_json:
        raise UsageError("--json and -o - both write to stdout; name a file for the picture")
    if file in (None, _STDOUT):
        return PictureOutput(file=None, as_json=as_json)
    path = Path(str(file))
    figure_format(path)
    return PictureOutput(file=path, as_json=as_json)
