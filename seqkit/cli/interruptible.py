"""Long computations inside a library that does not listen to signals."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from seqkit.cli import console
from seqkit.errors import InterruptedRunError

T = TypeVar("T")


def run_interruptibly(work: Callable[[], T], *, before_exit: Callable[[], None]) -> T:
    """Call ``work`` so that SIGINT and SIGTERM end the process at once even while it computes outside Python.

    It runs in a thread, so that this one is free to hear signals. A signal ends the whole process here, with the
    exit code it means: the thread cannot be stopped, and must not be left to run while the interpreter shuts down.
    So ``work`` must not hold anything half-written.

    Args:
        work: What to do; its result and its exceptions become those of this function.
        before_exit: Called before a signal ends the process, for instance to give a terminal its cursor back.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join()
    except InterruptedRunError as error:
        before_exit()
        console.report_error(error.lines, hint=error.hint, exit_code=error.exit_code)
        sys.stdout.flush()
        os._exit(error.exit_code)
    if errors:
        raise errors[0]
    return results[0]
