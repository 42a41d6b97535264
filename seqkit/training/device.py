"""Where training and decoding run, and with how many threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from seqkit.errors import UsageError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""
_OWN_PAGES_FROM = 64 << 20
"""Bytes of an array that gets pages of its own, which go back when it does."""
_KEPT_AT_MOST = 512 << 20
"""Bytes at the end of the heap that are kept for the next arrays."""


def resolve_device(name: str) -> torch.device:
    """The device a name stands for.

    Args:
        name: ``auto`` (a GPU if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        UsageError: There is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not on this machine ({torch.cuda.device_count()} CUDA devices)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not on this machine")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    return device


def set_up_cpu(threads: int | None, *, num_processes: int = 1) -> int:
    """Set the CPU threads for arithmetic once, and return how many: as given, else one a core we may use.

    Also has freed memory kept for the next arrays, where the C library is glibc and the user has not said otherwise
    (``MALLOC_…``, ``GLIBC_TUNABLES``). By itself it returns arrays of megabytes at once, and every page of the next one
    has to be asked for and zeroed again: a tenth of the time of translating.

    Args:
        threads: How many; ``None``: all cores, divided among the processes.
        num_processes: Processes of one training that share this machine.
    """
    count = threads or max(1, len(os.sched_getaffinity(0)) // num_processes)
    torch.set_num_threads(count)
    if not any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        _keep_freed_memory()
    return count


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        # Another C library.
        return
    mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Within, numbers below the smallest normal one (1.2e-38 in fp32) count as zero on the CPU.

    What is no longer needed decays for ever, such as the momentum of a unit that never fires, and passes through these
    numbers, with which products take many times as long: with Muon whole steps came to take twice as long. Threads
    that begin within do the same, and go on doing it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def describe_device(device: torch.device) -> str:
    """A device in words: ``cpu, 2 threads`` or the card's name."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "cpu":
        count = torch.get_num_threads()
        return f"cpu, {count} thread{'s' if count > 1 else ''}"
    return str(device)


def model_device(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device
