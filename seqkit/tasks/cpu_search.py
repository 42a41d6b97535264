"""What makes search fast on a CPU: compiled steps, and a process for each core."""

from __future__ import annotations

import sys

import torch

from seqkit.kernels.native import native_kernels
from seqkit.models.fixed_layers import FixedNumbers, Layout
from seqkit.runs.places import cache_dir


def layout_for(device: torch.device, numbers: FixedNumbers = "float32") -> Layout:
    """How a model's layers are to be laid out for steps on a device."""
    return Layout(numbers, native_kernels(cache_dir(None)) if device.type == "cpu" else None)


def processes_for(device: torch.device) -> int:
    """How many processes are to search batches side by side: on a CPU one for each of PyTorch's threads.

    Elsewhere than on Linux, forking a process that has PyTorch loaded is not safe.
    """
    return torch.get_num_threads() if device.type == "cpu" and sys.platform == "linux" else 1
