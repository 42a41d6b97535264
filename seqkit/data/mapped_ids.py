"""Files of token ids, memory-mapped: one, or the shards that the chunks of a text left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqkit.data.sharded_ids import ShardedIds
from seqkit.data.store_building import shard_name

ID_TYPES = ("uint8", "uint16", "uint32")
"""What ids are stored as."""


def map_file(path: Path, dtype: npt.DTypeLike, size: int) -> npt.NDArray[Any]:
    """Map a file of numbers, read-only; shape (size,).

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It has another size.
    """
    dtype = np.dtype(dtype)
    num_bytes = path.stat().st_size
    if num_bytes != size * dtype.itemsize:
        raise ValueError(f"{path.name} has {num_bytes:,} bytes, not {size * dtype.itemsize:,}")
    numbers: np.memmap[Any, np.dtype[Any]] = np.memmap(path, dtype=dtype, mode="r", shape=(size,))
    return numbers


def map_shards(folder: Path, shards: list[list[int]], dtype: npt.DTypeLike, *, of: str = "ids") -> ShardedIds:
    """Map the files of all chunks, one after the other.

    Args:
        folder: Where they are.
        shards: Tokens in each file of each chunk.
        dtype: Of the ids.
        of: What the files' names begin with.

    Raises:
        OSError: A file is missing, or cannot be read.
        ValueError: One has another size.
    """
    return ShardedIds(
        [
            map_file(folder / shard_name(chunk, number, of=of), dtype, num_tokens)
            for chunk, of_chunk in enumerate(shards)
            for number, num_tokens in enumerate(of_chunk)
        ]
    )
