"""Named tensors and one text note in a safetensors file, with the operating system's own errors.

The note is the only entry of the file's metadata: the library writes several in no fixed order, and equal
contents should give equal bytes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Hashable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seqkit.errors import CheckpointError

_NOTE = "seqkit"
_HINT = "copy the file again, or use another checkpoint"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: str) -> None:
    """Write tensors of any device and layout, one after the other, and the note.

    Args:
        path: The file to write; it is not replaced atomically.
        tensors: Dense tensors of a type that safetensors knows. Those that share memory are stored apart.
        note: Any text without lone surrogates.

    Raises:
        OSError: The disk is full, the folder is missing, ...
    """
    packed = {name: _packed(tensor) for name, tensor in tensors.items()}
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(packed, path, metadata={_NOTE: note})
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    path.chmod(mode)  # the library would keep the file from other users whatever the umask says


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read what :func:`write_tensors` wrote; the tensors are on the CPU and own their memory.

    Raises:
        CheckpointError: The file is missing, damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get(_NOTE)
            # A copy: the library hands out views of the mapped file, badly aligned for arithmetic.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file", hint=_HINT) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: damaged, or no safetensors file ({reason})", hint=_HINT) from error
    if note is None:
        raise CheckpointError(f"{path}: a safetensors file, but not written by seqkit", hint=_HINT)
    return tensors, note


def storage_key(tensor: Tensor) -> Hashable | None:
    """What two tensors have in common exactly if they are the same view of the same memory; None for empty ones."""
    if tensor.numel() == 0:
        return None
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _packed(tensor: Tensor) -> Tensor:
    """The same values on the CPU, contiguous, in memory of their own where they were part of a larger block."""
    tensor = tensor.detach().resolve_conj().resolve_neg().to("cpu", memory_format=torch.contiguous_format)
    tensor = tensor.contiguous()
    is_alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_alone else tensor.clone()
