"""Where training and decoding run, and with how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from seqkit.errors import UsageError


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


def set_threads(threads: int | None, *, num_processes: int = 1) -> int:
    """Set the CPU threads for arithmetic once, and return how many: as given, else one a core we may use.

    Args:
        threads: How many; ``None``: all cores, divided among the processes.
        num_processes: Processes of one training that share this machine.
    """
    count = threads or max(1, len(os.sched_getaffinity(0)) // num_processes)
    torch.set_num_threads(count)
    return count


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
