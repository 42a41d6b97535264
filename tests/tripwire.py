"""Signals at chosen moments: a process sends them to itself when it calls one of some functions for the n-th time.

A kill after a random number of milliseconds hits what takes long; this one hits what is short and matters, such as the
moment between two renames, and hits it again in the next run of the tests.
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DISK = (
    "os.mkdir",
    "os.open",
    "os.rename",
    "os.replace",
    "os.unlink",
    "os.rmdir",
    "os.fsync",
    "os.symlink",
    "os.chmod",
    "shutil.rmtree",
)
"""What changes files and folders, and what a file is opened with that is to be changed."""


@dataclass(frozen=True)
class Trip:
    """Send ``signals`` before the ``call``-th call, counted over all ``functions`` (dotted names)."""

    functions: Sequence[str]
    call: int
    signals: Sequence[int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def arm(trip: Trip) -> None:
    """Wrap the functions in this process."""
    num_calls = 0

    def count() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == trip.call:
            for number in trip.signals:
                os.kill(os.getpid(), number)
                # Two signals at one moment would be one.
                time.sleep(0.02)

    for name in trip.functions:
        owner, attribute = _find(name)
        setattr(owner, attribute, _counted(getattr(owner, attribute), count))


def _counted(function: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        count()
        return function(*args, **kwargs)

    return counted


def _find(name: str) -> tuple[Any, str]:
    """The module or class that a dotted name's last part is an attribute of."""
    *parents, attribute = name.split(".")
    owner: Any = importlib.import_module(parents[0])
    for number, part in enumerate(parents[1:], start=2):
        if not hasattr(owner, part):
            importlib.import_module(".".join(parents[:number]))
        owner = getattr(owner, part)
    return owner, attribute
