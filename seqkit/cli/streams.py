"""The line contract of the filters: what comes in on stdin and what goes out on stdout."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

from seqkit.atomic import atomic_write
from seqkit.errors import MissingDataError, UsageError

_COLUMNS = 80
"""Of a drawing that goes into a file or pipe."""

_closed_stdin: TextIO | None = None
"""What stands in for a stdin that the shell closed (``<&-``)."""


def use_utf8() -> None:
    r"""Make stdout and stderr UTF-8 with ``\n`` line ends, whatever the locale says; stand in for closed ones.

    A file name that is not UTF-8 goes to stdout as the bytes it is.
    """
    global _closed_stdin  # noqa: PLW0603 - one process has one stdin
    if sys.stdin is None:
        sys.stdin = _closed_stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors=errors, newline="\n")


def require_stdout() -> None:
    """Check, before any work is done, that results can go somewhere.

    Raises:
        UsageError: The shell closed stdout (``>&-``).
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed, so there is nowhere to print results", hint="use >/dev/null to drop them")


def write_result(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Write a result to stdout exactly as it is; nothing else may go there."""
    sys.stdout.write(text + end)
    if flush:
        sys.stdout.flush()


def stdout_columns() -> int:
    """Columns that a drawing on stdout may fill: the terminal's, or in a file or pipe 80."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _COLUMNS


def flush_stdout() -> None:
    """Flush stdout now, so that a reader who left is noticed here and not at interpreter exit."""
    sys.stdout.flush()


def discard_stdout() -> None:
    """Point stdout at the null device after its reader left, so that the interpreter's last flush is silent."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def stdin_is_terminal() -> bool:
    """Whether nobody piped anything in."""
    return sys.stdin is not None and sys.stdin.isatty()


def stdin_is_piped() -> bool:
    """Whether stdin is a pipe or a file: not a terminal, and not the null device that cron gives."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


@contextmanager
def open_input(name: str | None) -> Iterator[tuple[IO[bytes], str]]:
    """Yield a binary stream and its name for messages: a file, or stdin for ``-`` or no name.

    Raises:
        UsageError: No input was named and stdin is a terminal, or stdin is closed.
        MissingDataError: The file does not exist.
    """
    if name is None or name == "-":
        if sys.stdin is _closed_stdin:
            raise UsageError("stdin is closed, so there is no input", hint="name a file, or pipe text in")
        if name is None and stdin_is_terminal():
            raise UsageError("no input: name a file, or pipe text in", hint="`-` reads from the terminal")
        yield sys.stdin.buffer, "<stdin>"
        return
    path = Path(name)
    if not path.exists():
        raise MissingDataError("no such file", path=path)
    with path.open("rb") as file:
        yield file, name


@contextmanager
def open_output(name: str | None) -> Iterator[TextIO]:
    """Yield a text stream: stdout for ``-`` or no name, else a file that appears whole or not at all.

    Pipes and devices (``/dev/null``) cannot be replaced; they are written as they are.
    """
    if name is None or name == "-":
        yield sys.stdout
        flush_stdout()
        return
    with open_binary_output(name) as file:
        yield cast(TextIO, _Utf8Writer(file))


@contextmanager
def open_binary_output(name: str | None) -> Iterator[IO[bytes]]:
    """The same as :func:`open_output` for bytes."""
    if name is None or name == "-":
        flush_stdout()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not path.is_file():
        with path.open("wb") as special:
            yield special
        return
    with atomic_write(path) as file:
        yield file


class _Utf8Writer:
    """The text side of a binary file: what the writers of results use of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(text.encode("utf-8"))
        return len(text)

    def flush(self) -> None:
        self._file.flush()
