"""``seqkit translate --interactive``: a prompt for people."""

from __future__ import annotations

import sys
from collections.abc import Callable

from seqkit.cli import console
from seqkit.cli.streams import stdin_is_terminal, write_result
from seqkit.errors import DataError, InterruptedRunError, UsageError

_PROMPT = "translate> "


def require_terminal() -> None:
    """Check that somebody is there to talk to.

    Raises:
        UsageError: stdin is no terminal.
    """
    if not stdin_is_terminal():
        raise UsageError("--interactive needs a terminal on stdin", hint="leave it out to translate lines of stdin")


def converse(answer: Callable[[str, int], str]) -> None:
    """Answer one line after the other until Ctrl-D; Ctrl-C stops the program.

    Lines can be edited and called back with the arrow keys, as in a shell. What cannot be translated is told, and the
    next line awaited.

    Args:
        answer: From a line and its number, from 1 on, to what to print, line end included. Raises DataError.
    """
    # Importing it gives input() its editing and history.
    import readline  # noqa: F401

    line_number = 0
    while True:
        try:
            line = _ask()
        except EOFError:
            _end_prompt_line()
            return
        except InterruptedRunError:
            _end_prompt_line()
            raise
        if not line.strip():
            continue
        line_number += 1
        try:
            write_result(answer(line, line_number), end="", flush=True)
        except DataError as error:
            console.report_error(error.lines, hint=error.hint, exit_code=error.exit_code)


def _ask() -> str:
    if sys.stdout.isatty():
        return input(_PROMPT)
    # stdout holds results only.
    sys.stderr.write(_PROMPT)
    sys.stderr.flush()
    return input()


def _end_prompt_line() -> None:
    stream = sys.stdout if sys.stdout.isatty() else sys.stderr
    stream.write("\n")
    stream.flush()
