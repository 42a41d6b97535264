"""The errors that seqkit raises on purpose; only ``cli/`` catches them and exits.

An expected error is one line that says what was wrong, where, what was found and what to do. Each class
carries the exit code a shell sees (see the table in README.md).
"""

from __future__ import annotations

from pathlib import Path


class SeqkitError(Exception):
    """An expected failure: one clear line, an optional hint, an exit code.

    Args:
        message: What was wrong, where, and what was found; one line.
        hint: What to do about it; one line, shown after ``hint:``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def lines(self) -> list[str]:
        """The messages to print after ``seqkit: error:``, one a line."""
        return [self.message]


class UsageError(SeqkitError):
    """The request itself is wrong (flag, missing input); retrying will not help."""

    exit_code = 2


class RecipeError(SeqkitError):
    """One or more faults in a recipe, all found in one pass.

    Args:
        messages: One line a fault, each ``file:line:col: key.path: what; hint``.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, messages: list[str], *, hint: str | None = None) -> None:
        super().__init__("; ".join(messages), hint=hint)
        self.messages = messages

    @property
    def lines(self) -> list[str]:
        """One line a fault."""
        return self.messages


class DataError(SeqkitError):
    """Input data that cannot be used.

    Args:
        message: What is wrong with it.
        path: The file, or the name of the stream (``<stdin>``).
        line: 1-based line number, where one line is at fault.
        hint: What to do about it.
    """

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None, hint: str | None = None
    ) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message, hint=hint)
        self.path = path
        self.line = line


class MissingDataError(DataError):
    """A named input does not exist; the request is wrong, so exit code 2."""

    exit_code = 2


class CheckpointError(SeqkitError):
    """A model folder that is damaged, incomplete or of another kind."""


class NonFiniteLossError(SeqkitError):
    """The loss or a gradient became NaN or infinite during training."""


class OutOfMemoryError(SeqkitError):
    """There is not enough memory, of the machine or of its accelerator."""


class LockedError(SeqkitError):
    """Another process holds the lock; try again later."""

    exit_code = 75


class InterruptedRunError(SeqkitError):
    """A signal asked the program to stop.

    Args:
        message: What was saved before stopping.
        signal_number: The signal (2 for SIGINT, 15 for SIGTERM); the exit code is 128 more.
        hint: How to go on.
    """

    def __init__(self, message: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal_number


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of Python's or of a library's, says that memory ran out.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    True
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not fit"))
    (True, False)
    """
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    # PyTorch has a class of its own for accelerators, and only words for the CPU.
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
