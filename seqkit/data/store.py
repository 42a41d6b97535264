"""Token stores: a text's token ids on disk, built once in flat memory, then memory-mapped.

A store is a folder ``stores/<key>/`` in the cache: ``ids.bin`` holds the ids, one after the other in the
machine's byte order, ``meta.json`` what they are. The key is a hash of the text, the range of characters and the
tokenizer, so a store can be wrong only by being damaged, and is then built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqkit.atomic import sync_folder, write_text_atomic
from seqkit.data.readers import TextSource, TextStats
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray, Tokenizer, encode_blocks

FORMAT_VERSION = 1
"""Part of every key: a new format leaves the old stores alone."""

ProgressCallback = Callable[[int], None]
"""Called with the bytes of text done so far."""

_IDS = "ids.bin"
_META = "meta.json"
_COUNTED_AT_ONCE = 1 << 22
_ABANDONED_AFTER_SECONDS = 24 * 3600

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


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The token ids of a stretch of text."""

    path: Path
    """The store's folder."""
    ids: TokenArray
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


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The characters [start, end) of a text."""

    source: TextSource
    stats: TextStats
    start: int
    end: int

    def blocks(self) -> Iterator[str]:
        """Its text, in blocks of about 1 MiB."""
        return self.source.blocks(self.start, self.end)


def prepare_store(
    source: TextSource,
    tokenizer: Tokenizer,
    *,
    cache_dir: Path,
    start: int = 0,
    end: int | None = None,
    stats: TextStats | None = None,
    on_progress: ProgressCallback | None = None,
) -> TokenStore:
    """Open the store of a stretch of text, building it if the cache has none.

    The store is built in a temporary folder beside its place and then renamed, so a reader never meets half of
    one, and of several processes that build the same one the first to finish wins.

    Args:
        source: The text.
        tokenizer: What to encode with.
        cache_dir: Folder of the cache; made if missing.
        start: First character of the stretch, 0-based.
        end: Character to stop before; None: the end of the text.
        stats: ``source.measure()``, where the caller has it.
        on_progress: Told the bytes encoded after each block; not called when the store is there.

    Returns:
        The store, memory-mapped.

    Raises:
        DataError: The text cannot be read or encoded, gives no token, or changed since it was measured; or the
            cache cannot be written (nothing is left behind).
    """
    stats = source.measure() if stats is None else stats
    end = stats.num_chars if end is None else min(end, stats.num_chars)
    return prepare_stretch(Stretch(source=source, stats=stats, start=start, end=end), tokenizer, cache_dir, on_progress)


def prepare_stretch(
    stretch: Stretch, tokenizer: Tokenizer, cache_dir: Path, on_progress: ProgressCallback | None
) -> TokenStore:
    """``prepare_store`` for a stretch."""
    folder = cache_dir / "stores"
    path = folder / stretch_key(stretch, tokenizer.to_json())
    store = _open(path)
    if store is not None:
        return store
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        building = _neighbour(path)
        building.mkdir()
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        _build(building, stretch, tokenizer, on_progress)
        store = _move_into_place(building, path)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return store


def token_counts(ids: TokenArray, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs, shape (vocab_size,); reads the ids in blocks, so that memory stays flat."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, len(ids), _COUNTED_AT_ONCE):
        counts += np.bincount(ids[first : first + _COUNTED_AT_ONCE], minlength=vocab_size)
    return counts


def _build(building: Path, stretch: Stretch, tokenizer: Tokenizer, on_progress: ProgressCallback | None) -> None:
    """Write ``ids.bin`` and ``meta.json`` into a folder.

    Raises:
        DataError: The text is at fault.
        OSError: The folder is: readers turn theirs into DataError.
    """
    num_chars = num_bytes = num_tokens = num_unknown = 0

    def counted() -> Iterator[str]:
        nonlocal num_chars, num_bytes
        for block in stretch.blocks():
            num_chars += len(block)
            num_bytes += len(block.encode("utf-8"))
            yield block

    with (building / _IDS).open("wb") as file:
        for ids in encode_blocks(tokenizer, counted()):
            num_tokens += len(ids)
            if tokenizer.unk_id is not None:
                num_unknown += int(np.count_nonzero(ids == tokenizer.unk_id))
            file.write(np.ascontiguousarray(ids).data)
            if on_progress is not None:
                on_progress(num_bytes)
        file.flush()
        os.fsync(file.fileno())
    if num_chars != stretch.end - stretch.start:
        raise DataError("changed while it was being read", path=stretch.source.name, hint="start again")
    if not num_tokens:
        raise DataError("holds no token", path=stretch.source.name)
    meta = _Meta(
        format_version=FORMAT_VERSION,
        dtype=tokenizer.dtype.name,
        byte_order=sys.byteorder,
        num_tokens=num_tokens,
        num_chars=num_chars,
        num_bytes=num_bytes,
        num_unknown=num_unknown,
        sha256=stretch.stats.sha256,
    )
    write_text_atomic(building / _META, json.dumps(asdict(meta), indent=1) + "\n")


def _move_into_place(building: Path, path: Path) -> TokenStore:
    """Rename a finished folder to ``path``, unless another process was first; open what is there."""
    while True:
        try:
            building.rename(path)
            sync_folder(path.parent)
        except OSError:
            if not path.exists():
                raise
        store = _open(path)
        if store is not None:
            return store
        _remove(path)


def _open(path: Path) -> TokenStore | None:
    """Map the store at ``path``; None if there is none or it is damaged."""
    try:
        meta = _Meta(**json.loads((path / _META).read_bytes()))
        _check(meta)
        dtype = np.dtype(meta.dtype)
        size = (path / _IDS).stat().st_size
        if size != meta.num_tokens * dtype.itemsize:
            raise ValueError(f"{_IDS} has {size:,} bytes, not {meta.num_tokens * dtype.itemsize:,}")
        ids: np.memmap[Any, np.dtype[Any]] = np.memmap(path / _IDS, dtype=dtype, mode="r", shape=(meta.num_tokens,))
    except FileNotFoundError:
        # Another process may remove a damaged store at this moment; either way it has to be built.
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
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


def _check(meta: _Meta) -> None:
    """Raise ValueError unless ``meta`` is what this version of seqkit writes on this machine."""
    numbers = (meta.num_tokens, meta.num_chars, meta.num_bytes, meta.num_unknown)
    if not all(type(number) is int and number >= 0 for number in numbers) or not meta.num_tokens:
        raise ValueError(f"{_META} holds a wrong count")
    if meta.dtype not in ("uint8", "uint16", "uint32") or not isinstance(meta.sha256, str):
        raise ValueError(f"{_META} holds a wrong type")
    if meta.format_version != FORMAT_VERSION or meta.byte_order != sys.byteorder:
        raise ValueError(f"{_META} is of another format")


def stretch_key(stretch: Stretch, made_with: str) -> str:
    """A name for what is made from a stretch of text with a tokenizer or its config."""
    parts = [FORMAT_VERSION, sys.byteorder, stretch.stats.sha256, stretch.start, stretch.end, made_with]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Take a damaged store away under another name first, so that nobody opens half of it."""
    grave = _neighbour(path)
    try:
        path.rename(grave)
    except FileNotFoundError:
        # Another process took it away.
        return
    shutil.rmtree(grave, ignore_errors=True)


def _neighbour(path: Path) -> Path:
    """A new name beside ``path``. Not from ``tempfile``, whose folders no other user of a shared cache can read."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process left half-built: nothing was written to it for a day."""
    oldest = time.time() - _ABANDONED_AFTER_SECONDS
    for building in folder.glob(".*.tmp"):
        try:
            # Its builder may take the folder away at any moment, also between these two lines.
            files = [building, *building.glob("*")]
            if max(file.stat().st_mtime for file in files) < oldest:
                shutil.rmtree(building, ignore_errors=True)
        except FileNotFoundError:
            # Its builder is done with it.
            continue


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a cache that takes no more."""
    return DataError(
        f"cannot write the cache: {error.strerror or error}",
        path=path,
        hint="free some space, or name another folder with SEQKIT_CACHE_DIR",
    )
