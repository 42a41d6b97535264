"""Token stores: a text's token ids on disk, built once in flat memory, then memory-mapped.

A store is a folder ``stores/<key>/`` in the cache: ``ids.bin`` holds the ids, one after the other in the
machine's byte order, ``meta.json`` what they are. A large text has several files of ids instead, its shards, which
several processes write side by side. The key is a hash of the text, the range of characters and the tokenizer, so a
store can be wrong only by being damaged, and is then built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from seqkit.atomic import sync_folder, write_text_atomic
from seqkit.data.build_folder import build_folder, move_into_place, remove_abandoned, remove_folder
from seqkit.data.readers import TextSource, TextStats
from seqkit.data.sharded_ids import ShardedIds, TokenIds
from seqkit.data.store_building import (
    ProgressCallback,
    encode_chunks,
    has_records,
    remove_records,
    shard_name,
)
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray, Tokenizer

FORMAT_VERSION = 1
"""Part of every key: a new format leaves the old stores alone."""

_IDS = "ids.bin"
_META = "meta.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """What ``meta.json`` holds."""

    format_version: int
    dtype: str
    byte_order: str
    num_tokens: int
    num_chars: int
    num_bytes: int
    num_unknown: int
    sha256: str
    shards: list[list[int]] | None = None
    """Tokens in each file of each chunk of the text; None: all are in ``ids.bin``."""


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The token ids of a stretch of text."""

    path: Path
    """The store's folder."""
    ids: TokenIds
    """Shape (num_tokens,); memory-mapped and read-only, in the tokenizer's ``dtype``."""
    num_tokens: int
    num_chars: int
    """Characters of the stretch."""
    num_bytes: int
    """Bytes of the stretch in UTF-8."""
    num_unknown: int
    """Tokens that are ``<unk>``; 0 for a tokenizer without it."""
    sha256: str
    """SHA-256 of the whole text that the stretch is part of."""


def prepare_store(
    source: TextSource,
    tokenizer: Tokenizer,
    *,
    cache_dir: Path,
    start: int = 0,
    end: int | None = None,
    stats: TextStats | None = None,
    num_workers: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> TokenStore:
    """Open the store of a stretch of text, building it if the cache has none.

    The store is built in a folder beside its place and then renamed, so a reader never meets half of one. Of several
    processes that want the same one, the first builds and the others wait. If it is killed or interrupted, the next
    one goes on from the chunks of text that were done; what nobody goes on with is removed after a day.

    Args:
        source: The text.
        tokenizer: What to encode with.
        cache_dir: Folder of the cache; made if missing.
        start: First character of the stretch, 0-based.
        end: Character to stop before; None: the end of the text.
        stats: ``source.measure()``, where the caller has it.
        num_workers: Processes that encode; None: one a core that this process may use. It does not change the store.
        on_progress: Told the bytes encoded after each block; not called when the store is there.

    Returns:
        The store, memory-mapped.

    Raises:
        DataError: The text cannot be read or encoded, gives no token, or changed since it was measured; or the
            cache cannot be written (nothing is left behind).
        SeqkitError: A process that encoded died.
    """
    stats = source.measure() if stats is None else stats
    end = stats.num_chars if end is None else min(end, stats.num_chars)
    stretch = Stretch(source=source, stats=stats, start=start, end=end)
    return prepare_stretch(stretch, tokenizer, cache_dir, num_workers=num_workers, on_progress=on_progress)


def prepare_stretch(
    stretch: Stretch,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    num_workers: int | None,
    on_progress: ProgressCallback | None,
) -> TokenStore:
    """``prepare_store`` for a stretch."""
    folder = cache_dir / "stores"
    path = folder / stretches_key([stretch], tokenizer.to_json())
    store = _open(path)
    if store is not None:
        return store
    num_workers = num_workers or len(os.sched_getaffinity(0))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        with build_folder(path) as building:
            return _build_or_open(building, path, stretch, tokenizer, num_workers, on_progress)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _build_or_open(
    building: Path,
    path: Path,
    stretch: Stretch,
    tokenizer: Tokenizer,
    num_workers: int,
    on_progress: ProgressCallback | None,
) -> TokenStore:
    """Build the store, unless another process did while this one waited for the folder.

    Raises:
        DataError: The text is at fault; nothing is left behind.
        OSError: The folder is; nothing is left behind.
    """
    keeps_chunks = False
    try:
        store = _open(path, warns=False)
        if store is not None:
            return store
        _build(building, stretch, tokenizer, num_workers, on_progress)
        return _move_into_place(building, path)
    except (DataError, OSError):
        raise
    except BaseException:
        # A signal, or a process that died: the next build goes on from here.
        keeps_chunks = has_records(building)
        raise
    finally:
        if not keeps_chunks:
            remove_folder(building)


def _build(
    building: Path,
    stretch: Stretch,
    tokenizer: Tokenizer,
    num_workers: int,
    on_progress: ProgressCallback | None,
) -> None:
    """Write the files of ids and ``meta.json`` into a folder.

    Raises:
        DataError: The text is at fault.
        OSError: The folder is: readers turn theirs into DataError.
    """
    records = encode_chunks(building, stretch, tokenizer, num_workers=num_workers, on_progress=on_progress)
    if sum(record.num_chars for record in records) != stretch.end - stretch.start:
        raise DataError("changed while it was being read", path=stretch.source.name, hint="start again")
    shards = [record.shard_tokens for record in records]
    num_tokens = sum(map(sum, shards))
    if not num_tokens:
        raise DataError("holds no token", path=stretch.source.name)
    if [len(of_chunk) for of_chunk in shards] == [1]:
        (building / shard_name(0, 0)).rename(building / _IDS)
    meta = _Meta(
        format_version=FORMAT_VERSION,
        dtype=tokenizer.dtype.name,
        byte_order=sys.byteorder,
        num_tokens=num_tokens,
        num_chars=sum(record.num_chars for record in records),
        num_bytes=sum(record.num_bytes for record in records),
        num_unknown=sum(record.num_unknown for record in records),
        sha256=stretch.stats.sha256,
        shards=None if (building / _IDS).exists() else shards,
    )
    # Stores of one file say nothing of shards, as they did before there were any.
    fields = {key: value for key, value in asdict(meta).items() if value is not None}
    write_text_atomic(building / _META, json.dumps(fields, indent=None if meta.shards else 1) + "\n")
    remove_records(building)


def _move_into_place(building: Path, path: Path) -> TokenStore:
    """Rename a finished folder to ``path``, unless another process was first; open what is there."""
    while True:
        try:
            move_into_place(building, path)
            sync_folder(path.parent)
        except OSError:
            if not path.exists():
                raise
        store = _open(path)
        if store is not None:
            return store
        remove_folder(path)


def _open(path: Path, *, warns: bool = True) -> TokenStore | None:
    """Map the store at ``path``; None if there is none or it is damaged."""
    try:
        meta = _Meta(**json.loads((path / _META).read_bytes()))
        _check(meta)
        ids = _map_ids(path, meta)
    except FileNotFoundError:
        # Another process may remove a damaged store at this moment; either way it has to be built.
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if warns:
            logger.warning("building the token store %s again, it is damaged: %s", path, error)
        return None
    return TokenStore(
        path=path,
        ids=ids,
        num_tokens=meta.num_tokens,
        num_chars=meta.num_chars,
        num_bytes=meta.num_bytes,
        num_unknown=meta.num_unknown,
        sha256=meta.sha256,
    )


def _map_ids(path: Path, meta: _Meta) -> TokenIds:
    """The ids of a store, in one file or in several."""
    if meta.shards is None:
        return _map_file(path / _IDS, meta.dtype, meta.num_tokens)
    return ShardedIds(
        [
            _map_file(path / shard_name(chunk, number), meta.dtype, num_tokens)
            for chunk, of_chunk in enumerate(meta.shards)
            for number, num_tokens in enumerate(of_chunk)
        ]
    )


def _map_file(path: Path, dtype_name: str, num_tokens: int) -> TokenArray:
    """Map one file of ids.

    Raises:
        ValueError: It has another size.
    """
    dtype = np.dtype(dtype_name)
    size = path.stat().st_size
    if size != num_tokens * dtype.itemsize:
        raise ValueError(f"{path.name} has {size:,} bytes, not {num_tokens * dtype.itemsize:,}")
    ids: np.memmap[Any, np.dtype[Any]] = np.memmap(path, dtype=dtype, mode="r", shape=(num_tokens,))
    return ids


def _check(meta: _Meta) -> None:
    """Raise ValueError unless ``meta`` is what this version of seqkit writes on this machine."""
    counts = [] if meta.shards is None else [num_tokens for of_chunk in meta.shards for num_tokens in of_chunk]
    numbers = (meta.num_tokens, meta.num_chars, meta.num_bytes, meta.num_unknown, *counts)
    if not all(type(number) is int and number >= 0 for number in numbers) or not meta.num_tokens:
        raise ValueError(f"{_META} holds a wrong count")
    if meta.shards is not None and (sum(counts) != meta.num_tokens or not all(counts)):
        raise ValueError(f"{_META} holds a wrong count")
    if meta.dtype not in ("uint8", "uint16", "uint32") or not isinstance(meta.sha256, str):
        raise ValueError(f"{_META} holds a wrong type")
    if meta.format_version != FORMAT_VERSION or meta.byte_order != sys.byteorder:
        raise ValueError(f"{_META} is of another format")


def stretches_key(stretches: Sequence[Stretch], made_with: str) -> str:
    """A name for what is made from some stretches of text with a tokenizer or its config."""
    places = [[stretch.stats.sha256, stretch.start, stretch.end] for stretch in stretches]
    parts = [FORMAT_VERSION, sys.byteorder, *chain.from_iterable(places), made_with]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a cache that takes no more."""
    return DataError(
        f"cannot write the cache: {error.strerror or error}",
        path=path,
        hint="free some space, or name another folder with SEQKIT_CACHE_DIR",
    )
