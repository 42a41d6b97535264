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
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from seqkit.atomic import write_text_atomic
from seqkit.data.chunks import ProgressCallback, do_chunks, usual_workers
from seqkit.data.mapped_ids import ID_TYPES, map_file, map_shards
from seqkit.data.readers import TextSource, TextStats
from seqkit.data.sharded_ids import TokenIds
from seqkit.data.store_building import encoding_of, shard_name
from seqkit.data.store_folder import open_or_build
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError
from seqkit.tokenizers.base import Tokenizer

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

    How it is built beside others, and goes on after a kill: see ``store_folder.open_or_build``.

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
    path = cache_dir / "stores" / stretches_key([stretch], tokenizer.to_json())
    num_workers = num_workers or usual_workers()
    return open_or_build(path, _open, lambda building: _build(building, stretch, tokenizer, num_workers, on_progress))


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
    work = encoding_of(building, stretch, tokenizer)
    records = do_chunks(building, work, num_workers=num_workers, on_progress=on_progress)
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


def _open(path: Path, *, warns: bool) -> TokenStore | None:
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
        return map_file(path / _IDS, meta.dtype, meta.num_tokens)
    return map_shards(path, meta.shards, meta.dtype)


def _check(meta: _Meta) -> None:
    """Raise ValueError unless ``meta`` is what this version of seqkit writes on this machine."""
    counts = [] if meta.shards is None else [num_tokens for of_chunk in meta.shards for num_tokens in of_chunk]
    numbers = (meta.num_tokens, meta.num_chars, meta.num_bytes, meta.num_unknown, *counts)
    if not all(type(number) is int and number >= 0 for number in numbers) or not meta.num_tokens:
        raise ValueError(f"{_META} holds a wrong count")
    if meta.shards is not None and (sum(counts) != meta.num_tokens or not all(counts)):
        raise ValueError(f"{_META} holds a wrong count")
    if meta.dtype not in ID_TYPES or not isinstance(meta.sha256, str):
        raise ValueError(f"{_META} holds a wrong type")
    if meta.format_version != FORMAT_VERSION or meta.byte_order != sys.byteorder:
        raise ValueError(f"{_META} is of another format")


def stretches_key(stretches: Sequence[Stretch], made_with: str) -> str:
    """A name for what is made from some stretches of text with a tokenizer or its config."""
    places = [[stretch.stats.sha256, stretch.start, stretch.end] for stretch in stretches]
    parts = [FORMAT_VERSION, sys.byteorder, *chain.from_iterable(places), made_with]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
