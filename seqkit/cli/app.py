"""The command tree, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

import seqkit
from seqkit.cli import console, streams
from seqkit.cli.command import (
    FormatFromEnvironment,
    NoColor,
    Quiet,
    ReaderLeft,
    Verbose,
    remember_console_options,
    show_examples,
)
from seqkit.errors import SeqkitError, is_out_of_memory

_EXAMPLES = """\
seqkit recipe ls                         # what there is to train
seqkit train lstm_charlm                 # prints the run folder
seqkit sample --prompt "The "            # from the newest run
seqkit evaluate --json                   # its scores"""

app = typer.Typer(
    name="seqkit",
    help="Train, run and measure sequence models: one YAML recipe in, one self-contained model out.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=show_examples(_EXAMPLES),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        streams.write_result(f"seqkit {seqkit.__version__}")
        raise typer.Exit


@app.callback()
def _seqkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    log_format: FormatFromEnvironment = None,
    no_color: NoColor = False,
) -> None:
    remember_console_options(quiet=quiet, verbose=verbose, log_format=log_format, no_color=no_color)


_COMMANDS = {
    "train": "train",
    "sample": "sample",
    "translate": "translate",
    "evaluate": "evaluate",
    "score": "score",
    "average": "average",
    "export": "export",
    "plot": "plot",
    "bpe": "bpe",
    "recipe": "recipe",
    "runs": "runs",
    "data": "data",
    "env": "env",
}
"""Every command, in the order of the help, and its module in ``seqkit.cli``."""

_added: list[str] = []


def _add_commands(arguments: Sequence[str]) -> None:
    """Register the command that is asked for; all of them where that cannot be told, for help and suggestions.

    Their modules import nothing heavy at the top, but all of them together take a tenth of a second.
    """
    first = next((word for word in arguments if not word.startswith("-")), "")
    wanted = [first] if first in _COMMANDS else list(_COMMANDS)
    if set(wanted) <= set(_added):
        return
    # One process may run several command lines: in the order of the table, whatever the order of asking.
    names = [name for name in _COMMANDS if name in wanted or name in _added]
    app.registered_commands.clear()
    app.registered_groups.clear()
    for name in names:
        import_module(f"seqkit.cli.{_COMMANDS[name]}").register(app)
    _added[:] = names


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; nothing escapes but ``SystemExit``.

    Args:
        arguments: The words after the program's name.
    """
    streams.use_utf8()
    console.configure(console.ConsoleOptions(log_format=console.guess_log_format(arguments)))
    _add_commands(arguments)
    try:
        streams.require_stdout()
        code = app(args=arguments, prog_name="seqkit", standalone_mode=False)
        streams.flush_stdout()
    except (ReaderLeft, BrokenPipeError):
        streams.discard_stdout()
        return 141
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # what Typer makes of one while it prints help
            streams.discard_stdout()
            return 141
        raise
    except typer.TyperException as error:
        return _report_usage(error)
    except SeqkitError as error:
        console.report_error(error.lines, hint=error.hint, exit_code=error.exit_code)
        _show_traceback_if_verbose()
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        # Ctrl-C before the command took over the signals.
        return 130
    except OSError as error:
        return _report_os_error(error)
    except Exception as error:
        return _report_no_memory(error) if is_out_of_memory(error) else _report_unexpected(error)
    return code if isinstance(code, int) else 0


def _report_usage(error: typer.TyperException) -> int:
    """Say what is wrong with the command line; exit code 2."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    # By name: Typer has no public ones for its usage errors.
    if type(error).__name__ == "NoArgsIsHelpError":
        console.write_help(message)
        return 2
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else "seqkit --help"
    if hasattr(error, "possibilities"):
        near = _nearest_option(error)
        message = getattr(error, "message", message) + (f"; did you mean {near}?" if near else "")
    console.report_error([_reword(" ".join(message.split()))], hint=hint, exit_code=2)
    return 2


def _nearest_option(error: Any) -> str | None:
    """The flag that an unknown one most likely stands for: what it abbreviates, else the most similar."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    flags = [flag for parameter in getattr(command, "params", ()) for flag in parameter.opts]
    longer = [flag for flag in flags if flag.startswith(error.option_name) and error.option_name.startswith("--")]
    # Typer's own list begins with the nearest.
    return next(iter([*longer, *(error.possibilities or ())]), None)


_WORDINGS = (
    (r"\. Did you mean ('[^']+').*\?$", r"; did you mean \1?"),
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to (\S+)", r"must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"must be at most \1"),
    (r"Input should be greater than (\S+)", r"must be above \1"),
    (r"Input should be less than (\S+)", r"must be below \1"),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be a valid number.*", "must be a number"),
)


def _reword(message: str) -> str:
    """Typer's and pydantic's messages in the words of all the others.

    >>> _reword("Invalid value for '--length' / '-n': Input should be greater than or equal to 1")
    "invalid value for '--length' / '-n': must be at least 1"
    """
    for pattern, words in _WORDINGS:
        message = re.sub(pattern, words, message)
    return message[:1].lower() + message[1:].rstrip(".")


_EXPECTED_OS_ERRORS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "disk quota exceeded",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "input/output error",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder",
    errno.ENOTDIR: "is not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file is larger than the limit for this process allows",
    errno.ELOOP: "too many symbolic links",
    errno.EMFILE: "too many open files",
    errno.ENOMEM: "out of memory",
    errno.EBUSY: "is in use",
    errno.ESTALE: "is gone from its server",
}


def _report_os_error(error: OSError) -> int:
    """A refusal by the operating system is one line; one that nobody expects shows where it came from."""
    what = _EXPECTED_OS_ERRORS.get(error.errno or 0)
    if what is None:
        return _report_unexpected(error)
    where = f"{error.filename}: " if error.filename else ""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space; a training goes on with --run-dir and --resume" if is_full else None
    console.report_error([f"{where}{what}"], hint=hint, exit_code=1)
    _show_traceback_if_verbose()
    return 1


def _report_no_memory(error: Exception) -> int:
    """Memory ran out: one line, and what takes less of it."""
    reason = " ".join((str(error).strip().split("\n")[0]).split())
    hint = "take fewer at once: train.batch_size or train.batch_tokens, --batch-size, --batch-tokens, --beam, --workers"
    console.report_error([f"out of memory{f' ({reason})' if reason else ''}"], hint=hint, exit_code=1)
    _show_traceback_if_verbose()
    return 1


def _report_unexpected(error: Exception) -> int:
    """A bug, or something nobody foresaw: the whole story, so that a cron mail has it."""
    what = "".join(traceback.format_exception_only(error)).strip()
    console.report_error([f"unexpected: {what}"], hint=None, exit_code=1, unexpected=error)
    return 1


def _show_traceback_if_verbose() -> None:
    if console.options.verbose:
        console.logger.log(console.VERBOSE, "where it came from:", exc_info=True)
