"""SIGINT and SIGTERM: stop at once, or, while training, at the end of the step; a second one always at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from seqkit.cli import console
from seqkit.errors import InterruptedRunError

_deferred = False
_announces = True
_received: int | None = None


def install() -> None:
    """Take over SIGINT and SIGTERM (in the main thread; elsewhere Python forbids it)."""
    global _received, _deferred
    _received, _deferred = None, False
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _handle)
        signal.signal(signal.SIGTERM, _handle)


@contextmanager
def deferred(*, announces: bool = True) -> Iterator[None]:
    """Inside, a first signal is only noted, for :func:`received` to tell; a second one quits at once.

    Args:
        announces: Say so on stderr when it comes.
    """
    global _deferred, _announces  # noqa: PLW0603 - signals belong to the process
    _deferred, _announces = True, announces
    try:
        yield
    finally:
        _deferred = False


def received() -> int | None:
    """The number of the signal that asked us to stop, if one did."""
    return _received


def _handle(number: int, frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - signals belong to the process
    if _received is not None:
        os._exit(128 + number)
    _received = number
    if _deferred:
        name = signal.Signals(number).name
        if not _announces:
            return
        console.write_notice(f"{name}: stopping after this step; once more to quit at once", event="stopping")
    else:
        raise InterruptedRunError(f"stopped by {signal.Signals(number).name}", signal_number=number)
