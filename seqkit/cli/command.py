"""What every command shares: the console options, signals, and a reader that leaves.

``@command(app, "name")`` registers a function and gives it ``-q``, ``-v``, ``--log-format`` and ``--no-color``,
so that they work after every subcommand and are written once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from seqkit.cli import console, signals
from seqkit.cli.console import ConsoleOptions, LogFormat
from seqkit.cli.streams import flush_stdout

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Decisions and timings; twice for debugging.", show_default=False),
]
FormatFromEnvironment = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format", envvar="SEQKIT_LOG_FORMAT", help="How stderr lines look (default text).", show_default=False
    ),
]
# Without the variable: it would win over the flag before the subcommand.
Format = Annotated[
    LogFormat | None,
    typer.Option("--log-format", help="How stderr lines look (default SEQKIT_LOG_FORMAT, else text)."),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, also on a terminal.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir", help="The folder of run folders (default $SEQKIT_RUNS_DIR, else runs).", show_default=False
    ),
]

Function = TypeVar("Function", bound=Callable[..., None])

_SHARED: dict[str, tuple[Any, Any]] = {
    "quiet": (Quiet, False),
    "verbose": (Verbose, 0),
    "log_format": (Format, None),
    "no_color": (NoColor, False),
}
_given_before_subcommand = ConsoleOptions()


class ReaderLeft(Exception):  # noqa: N818 - an event, not an error
    """Whoever read our stdout closed it: stop quietly, exit 141."""


def command(app: typer.Typer, name: str, *, examples: str = "", **settings: Any) -> Callable[[Function], Function]:
    """Register a function as the command ``name``, with the shared console options added.

    Args:
        app: The Typer application or sub-application to add it to.
        name: The name a user types.
        examples: Shown at the end of ``--help``, each line as it is.
        **settings: Passed on to Typer.
    """

    def register(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in _SHARED.items()
        ]

        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            configure_console(**{key: arguments.pop(key) for key in _SHARED})
            signals.install()
            try:
                function(**arguments)
                flush_stdout()
            except BrokenPipeError:
                raise ReaderLeft from None

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
        run.__signature__ = signature.replace(parameters=[*parameters, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
        app.command(name, epilog=show_examples(examples), **settings)(run)
        return function

    return register


def show_examples(examples: str) -> str | None:
    """The end of a help text: example command lines, each as it is."""
    if not examples:
        return None
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples.split("\n"))


def configure_console(*, quiet: bool, verbose: int, log_format: LogFormat | None, no_color: bool) -> None:
    """Join the console options given before and after the subcommand, and apply them."""
    before = _given_before_subcommand
    console.configure(
        replace(
            before,
            quiet=quiet or before.quiet,
            verbose=max(verbose, before.verbose),
            log_format=log_format or before.log_format,
            no_color=no_color or before.no_color,
        )
    )


def remember_console_options(*, quiet: bool, verbose: int, log_format: LogFormat | None, no_color: bool) -> None:
    """Keep the console options that stood before the subcommand."""
    global _given_before_subcommand  # noqa: PLW0603 - one process runs one command
    _given_before_subcommand = ConsoleOptions(
        quiet=quiet, verbose=verbose, log_format=log_format or LogFormat.text, no_color=no_color
    )
