"""What a person or a log reader sees on stderr: levels, colours, text or JSON lines.

The library logs through :mod:`logging`; this module decides what of it is shown and how. Results never pass
here: they go to stdout through :mod:`seqkit.cli.streams`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

VERBOSE = 15
"""Between INFO and DEBUG: decisions and timings, shown with ``-v``."""

logger = logging.getLogger("seqkit.cli")
"""For what commands themselves have to say."""

_LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: VERBOSE, 2: logging.DEBUG}


class LogFormat(StrEnum):
    """How stderr lines look."""

    text = "text"
    jsonl = "jsonl"


@dataclass(frozen=True, kw_only=True)
class ConsoleOptions:
    """How much to say on stderr, and how; the options that every command has."""

    quiet: bool = False
    verbose: int = 0
    log_format: LogFormat = LogFormat.text
    no_color: bool = False


options = ConsoleOptions()
"""What the running command was asked for; set once by :func:`configure`."""


def configure(chosen: ConsoleOptions) -> None:
    """Send the library's log records to stderr as ``chosen`` says."""
    global options  # noqa: PLW0603 - one process has one stderr
    options = chosen
    logging.addLevelName(VERBOSE, "VERBOSE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if chosen.log_format is LogFormat.jsonl else _TextFormatter())
    library = logging.getLogger("seqkit")
    others = [other for other in library.handlers if isinstance(other, logging.FileHandler)]
    level = _LEVELS[-1 if chosen.quiet else min(chosen.verbose, 2)]
    handler.setLevel(level)
    library.handlers = [handler, *others]
    library.propagate = False
    library.setLevel(min(level, logging.INFO) if others else level)
    warnings = logging.getLogger("py.warnings")
    warnings.handlers = [handler] if chosen.verbose else [logging.NullHandler()]
    warnings.propagate = False
    logging.captureWarnings(True)


def guess_log_format(arguments: list[str]) -> LogFormat:
    """The log format a command line asks for, before it is parsed: errors in parsing it are logged too.

    >>> guess_log_format(["train", "--log-format", "jsonl", "--sed"])
    <LogFormat.jsonl: 'jsonl'>
    """
    found = os.environ.get("SEQKIT_LOG_FORMAT", "")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == "--":
            break
        if word == "--log-format":
            found = following
        elif word.startswith("--log-format="):
            found = word.partition("=")[2]
    return LogFormat.jsonl if found == "jsonl" else LogFormat.text


def write_notice(message: str, *, event: str) -> None:
    """Write a line straight to stderr's descriptor, for a signal handler: the interrupted code may hold the lock.

    Args:
        message: One line.
        event: Its name in JSON lines.
    """
    if options.log_format is LogFormat.jsonl:
        line = _json_line("warning", event, message, {})
    else:
        line = f"\n{message}" if shows_progress() else message
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:
        pass


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Copy what is logged at INFO and above into a file too, as plain text with times."""
    library = logging.getLogger("seqkit")
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_FileFormatter())
    handler.setLevel(logging.INFO)
    level = library.level
    library.setLevel(min(level, logging.INFO))
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
        handler.close()


def may_color(stream: TextIO) -> bool:
    """Whether escape codes may be written to ``stream``: judged for each stream by itself."""
    return is_capable_terminal(stream) and not options.no_color and not os.environ.get("NO_COLOR")


def is_capable_terminal(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def shows_progress() -> bool:
    """Whether a live progress display may be drawn on stderr."""
    return is_capable_terminal(sys.stderr) and not options.quiet and options.log_format is LogFormat.text


def report_error(
    lines: list[str], *, hint: str | None, exit_code: int, unexpected: BaseException | None = None
) -> None:
    """Print an error: ``seqkit: error: …`` a line, then an optional ``hint: …``.

    Args:
        lines: What was wrong.
        hint: What to do about it.
        exit_code: What the program will exit with.
        unexpected: An exception that nobody foresaw; its traceback is printed too.
    """
    trace = "" if unexpected is None else "".join(traceback.format_exception(unexpected)).rstrip()
    if options.log_format is LogFormat.jsonl:
        fields = {"errors": lines, "hint": hint, "exit_code": exit_code, **({"traceback": trace} if trace else {})}
        _write_error_stream(_json_line("error", "error", "; ".join(lines), fields))
        return
    red, plain = ("\033[31m", "\033[0m") if may_color(sys.stderr) else ("", "")
    text = [f"seqkit: {red}error:{plain} {_one_line(line)}" for line in lines]
    if hint:
        text.append(f"hint: {_one_line(hint)}")
    if trace:
        text.append(trace)
    _write_error_stream("\n".join(text))


def write_help(text: str) -> None:
    """Print help that nobody asked for: it goes to stderr."""
    _write_error_stream(text)


def _write_error_stream(text: str) -> None:
    """Write to stderr; a closed stderr must not hide the exit code."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the one place that reports errors
    except (OSError, ValueError):
        pass


def _one_line(text: str) -> str:
    r"""Keep a message on one line, and a terminal from obeying it, whatever file name or text it quotes.

    >>> _one_line("no such file: a\nb\x1b[2J")
    'no such file: a\\nb\\x1b[2J'
    """
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def _json_line(level: str, event: str, message: str, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps(
        {"time": time, "level": level, "event": event, "message": message, **fields},
        ensure_ascii=False,
        default=str,
    )


class _JsonFormatter(logging.Formatter):
    """One object a line; a record's ``event`` and ``fields`` come from logging's ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        event = getattr(record, "event", "log")
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _json_line(level, event, record.getMessage(), fields)


class _FileFormatter(logging.Formatter):
    """Time in UTC, level and message."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"{time} {record.levelname.lower()} {_one_line(record.getMessage())}"


class _TextFormatter(logging.Formatter):
    """The message alone; warnings say that they are warnings."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            yellow, plain = ("\033[33m", "\033[0m") if may_color(sys.stderr) else ("", "")
            text = f"seqkit: {yellow}warning:{plain} {_one_line(text)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
