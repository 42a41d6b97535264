"""Nested Python values with tensors at the leaves, in one safetensors file: the train state without a pickle.

The tensors are stored under running numbers; the structure around them is a JSON text in the file's metadata,
in which ``None``, booleans, strings, lists, finite floats and ints that fit in 64 bits stand for themselves and
everything else is an object with one telling key:

=====================================  ====================================================
value                                  JSON
=====================================  ====================================================
``(1, 2)``                             ``{"tuple": [1, 2]}``
``{"lr": 0.1, 7: None}``               ``{"dict": [["lr", 0.1], [7, null]]}``
``2**70``                              ``{"int": "0x400000000000000000"}``
``float("nan")``                       ``{"float": "nan"}``
a tensor                               ``{"tensor": "0"}``
a tensor of a type safetensors lacks   ``{"bytes": "0", "dtype": "complex128", "shape": [2]}``
=====================================  ====================================================

Leaves that are the same tensor are stored once and are one tensor again when loaded; other views of shared
memory are stored, and come back, as tensors of their own.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkit.errors import CheckpointError
from seqkit.runs.tensor_file import read_tensors, storage_key, write_tensors

_FORMAT = "tensor tree 1"
_NATIVE = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


def save_tree(path: Path, tree: Any) -> None:
    """Write a nested value to ``path`` (in place, not atomically).

    Args:
        path: The file to write.
        tree: Dicts with string or int keys, lists, tuples, dense tensors of any type and device, ints of any size,
            floats, strings, booleans and None. An ``OrderedDict`` is stored as a dict and a parameter as a tensor.

    Raises:
        TypeError: Something else is in the tree; the message says where.
        OSError: The file cannot be written.
    """
    note, tensors = take_apart(tree)
    write_tensors(path, tensors, note)


def take_apart(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """A nested value as a JSON text and the tensors that it names.

    Raises:
        TypeError: As :func:`save_tree`.
    """
    encoder = _Encoder()
    skeleton = encoder.encode(tree, "tree")
    note = json.dumps({"format": _FORMAT, "tree": skeleton}, allow_nan=False, separators=(",", ":"))
    return note, encoder.tensors


def put_together(note: str, tensors: dict[str, Tensor]) -> Any:
    """The value that :func:`take_apart` took apart.

    Raises:
        ValueError: The text is of another kind; other errors where it is damaged.
    """
    content = json.loads(note)
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r}, not {_FORMAT!r}")
    return _decode(content["tree"], tensors)


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote: equal values of the same types, tensors on the CPU. Runs no code.

    Raises:
        CheckpointError: The file is missing, damaged or of another kind.
    """
    tensors, note = read_tensors(path)
    try:
        return put_together(note, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{path}: holds no train state, or a damaged one ({reason})",
            hint="copy the file again, or use another checkpoint",
        ) from error


class _Encoder:
    """Turns a tree into its JSON skeleton and collects the tensors on the way."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[Hashable, str] = {}

    def encode(self, value: Any, where: str) -> Any:
        """The skeleton of ``value``; ``where`` it stands is for error messages."""
        # Exact types: a NumPy float or an enum member would come back as something else.
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if kind is tuple:
            return {"tuple": [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if kind is dict or kind is OrderedDict:
            return {"dict": [[self._key(key, where), self.encode(v, f"{where}[{key!r}]")] for key, v in value.items()]}
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        raise TypeError(f"{where} is a {kind.__module__}.{kind.__qualname__}, which a tensor tree cannot hold")

    def _key(self, key: Any, where: str) -> Any:
        if type(key) is not str and type(key) is not int:
            raise TypeError(f"{where} has the key {key!r}; only str and int keys can be stored")
        return self.encode(key, where)

    def _tensor(self, tensor: Tensor, where: str) -> dict[str, Any]:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise TypeError(f"{where} is a {tensor.layout} tensor on {tensor.device}; only dense ones can be stored")
        key = storage_key(tensor)
        name = None if key is None else self._names.get(key)
        if name is None:
            name = str(len(self.tensors))
            if key is not None:
                self._names[key] = name
            self.tensors[name] = tensor if tensor.dtype in _NATIVE else _as_bytes(tensor)
        if tensor.dtype in _NATIVE:
            return {"tensor": name}
        return {"bytes": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def _as_bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8)


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of :meth:`_Encoder.encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"tuple": items}:
            return tuple(_decode(item, tensors) for item in items)
        case {"dict": pairs}:
            return {_decode(key, tensors): _decode(item, tensors) for key, item in pairs}
        case {"int": digits}:
            return int(digits, 16)
        case {"float": text}:
            return float(text)
        case {"tensor": name}:
            return tensors[name]
        case {"bytes": name, "dtype": dtype_name, "shape": shape}:
            dtype = getattr(torch, dtype_name)
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{dtype_name} is no tensor type")
            decoded = tensors[name]
            if decoded.dtype != dtype:  # else an alias of one that is decoded already
                decoded = tensors[name] = decoded.view(dtype).reshape(shape)
            return decoded
    raise ValueError(f"unknown entry {sorted(value)}")
