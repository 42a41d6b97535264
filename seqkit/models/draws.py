"""Where a model's random draws on the CPU come from: the global random state, or a generator of this thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Within, this thread's models on the CPU draw from ``generator`` instead of the global random state."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


def current_generator() -> torch.Generator | None:
    """What this thread's models draw from on the CPU; ``None``: the global random state."""
    return _generator.get()
