"""Stores of parallel text: token ids on disk, built once in flat memory, then memory-mapped.

A store is a folder ``pairs/<key>/`` in the cache. For each side ``<side>.bin`` holds the ids of all sentences, one
after the other, and ``<side>.offsets.bin`` where each begins; ``lines.bin`` has the line of each pair, and
``meta.json`` says what they are and what was left out. Of a large text the ids of a side are in several files, its
shards, which several processes write side by side. The key is a hash of the texts, the tokenizers and what the recipe
says of empty and over-long pairs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from seqkit.atomic import write_text_atomic
from seqkit.data.chunks import ProgressCallback, chunk_file, do_chunks, usual_workers
from seqkit.data.mapped_ids import ID_TYPES, map_file, map_shards
from seqkit.data.pair_building import LENGTH_TYPE, LINE_TYPE, pair_encoding_of
from seqkit.data.pairs import (
    SIDES,
    PairCounts,
    PairPolicy,
    PairStore,
    ParallelText,
    SentenceStore,
    Side,
    sum_counts,
)
from seqkit.data.readers import TextStats
from seqkit.data.sharded_ids import TokenIds
from seqkit.data.store_building import shard_name
from seqkit.data.store_folder import open_or_build
from seqkit.errors import DataError
from seqkit.tokenizers.base import Tokenizer

FORMAT_VERSION = 1
"""Part of every key: a new format leaves the old stores alone."""

_META = "meta.json"
_LINES = "lines.bin"
_OFFSET_TYPE = np.dtype(np.int64)
_BYTES_AT_ONCE = 1 << 20

logger = logging.getLogger(__name__)


def prepare_pairs(
    text: ParallelText,
    tokenizers: dict[Side, Tokenizer],
    policy: PairPolicy,
    *,
    cache_dir: Path,
    num_workers: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> PairStore:
    """Open the store of a parallel text, building it if the cache has none.

    How it is built beside others, and goes on after a kill: see ``store_folder.open_or_build``.

    Args:
        text: The two texts.
        tokenizers: What to encode each side with.
        policy: What to do with empty and over-long pairs.
        cache_dir: Folder of the cache; made if missing.
        num_workers: Processes that encode; None: one a core that this process may use. It does not change the store.
        on_progress: Told the bytes encoded, of both sides together.

    Raises:
        DataError: A text cannot be read or encoded, the numbers of lines differ, a pair is refused (its line is
            named), no pair is left, a text changed since it was measured, or the cache cannot be written (nothing is
            left behind).
        SeqkitError: A process that encoded died.
    """
    text.check_line_counts({side: stats.num_lines for side, stats in text.stats.items()})
    path = cache_dir / "pairs" / _key(text.stats, tokenizers, policy)
    num_workers = num_workers or usual_workers()
    return open_or_build(
        path, _open, lambda building: _build(building, text, tokenizers, policy, num_workers, on_progress)
    )


def _build(
    building: Path,
    text: ParallelText,
    tokenizers: dict[Side, Tokenizer],
    policy: PairPolicy,
    num_workers: int,
    on_progress: ProgressCallback | None,
) -> None:
    """Write the files of a store into a folder.

    Raises:
        DataError: A text is at fault.
        OSError: The folder is: readers turn theirs into DataError.
    """
    work = pair_encoding_of(building, text, tokenizers, policy)
    records = do_chunks(building, work, num_workers=num_workers, on_progress=on_progress)
    counts = sum_counts([record.pair_counts for record in records])
    if counts.num_lines != text.stats["src"].num_lines:
        raise DataError("changed while it was being read", path=text.name, hint="start again")
    for side in SIDES:
        num_chars = sum(record.num_chars_read[side] for record in records)
        if num_chars != text.stats[side].num_chars - text.stats[side].num_line_ends:
            raise DataError("changed while it was being read", path=text.side(side).name, hint="start again")
    if not counts.num_pairs:
        raise DataError(f"{text.src.name} and {text.tgt.name}: of {counts.num_lines:,} pairs none is left")
    _join_lines(building, len(records))
    shards = {}
    for side in SIDES:
        _join_offsets(building, side, len(records))
        of_side = [record.shard_tokens[side] for record in records]
        if [len(of_chunk) for of_chunk in of_side] == [1]:
            (building / shard_name(0, 0, of=side)).rename(building / _ids_file(side))
        else:
            shards[side] = of_side
    meta = {
        "format_version": FORMAT_VERSION,
        "byte_order": sys.byteorder,
        "dtype": {side: tokenizers[side].dtype.name for side in SIDES},
        "sha256": {side: text.stats[side].sha256 for side in SIDES},
        "counts": asdict(counts),
        # Stores of one file a side say nothing of shards, as they did before there were any.
        **({"shards": shards} if shards else {}),
    }
    write_text_atomic(building / _META, json.dumps(meta, indent=None if shards else 1) + "\n")


def _join_lines(building: Path, num_chunks: int) -> None:
    """One file of the lines that the pairs of all chunks come from."""
    with (building / _LINES).open("wb") as joined:
        for number in range(num_chunks):
            with (building / chunk_file(number, "lines")).open("rb") as part:
                while block := part.read(_BYTES_AT_ONCE):
                    joined.write(block)
        _sync(joined)


def _join_offsets(building: Path, side: Side, num_chunks: int) -> None:
    """One file of where the sentences begin, and the last one ends, from their lengths in each chunk."""
    end = 0
    with (building / _offsets_file(side)).open("wb") as joined:
        joined.write(np.zeros(1, dtype=_OFFSET_TYPE).data)
        for number in range(num_chunks):
            with (building / chunk_file(number, side)).open("rb") as part:
                while block := part.read(_BYTES_AT_ONCE):
                    ends = end + np.frombuffer(block, dtype=LENGTH_TYPE).cumsum(dtype=_OFFSET_TYPE)
                    joined.write(ends.data)
                    end = int(ends[-1])
        _sync(joined)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open(path: Path, *, warns: bool) -> PairStore | None:
    """Map the store at ``path``; None if there is none or it is damaged."""
    try:
        meta = json.loads((path / _META).read_bytes())
        if meta["format_version"] != FORMAT_VERSION or meta["byte_order"] != sys.byteorder:
            raise ValueError(f"{_META} is of another format")
        counts = PairCounts(**meta["counts"])
        sides = {side: _open_side(path, side, meta, counts) for side in SIDES}
        lines = map_file(path / _LINES, LINE_TYPE, counts.num_pairs)
        return PairStore(**sides, line_numbers=lines, counts=counts, sha256=meta["sha256"])
    except FileNotFoundError:
        # Another process may remove a damaged store at this moment; either way it has to be built.
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if warns:
            logger.warning("building the pair store %s again, it is damaged: %s", path, error)
        return None


def _open_side(path: Path, side: Side, meta: dict[str, Any], counts: PairCounts) -> SentenceStore:
    """Map one side.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: It is damaged.
    """
    dtype, num_tokens = meta["dtype"][side], counts.num_tokens[side]
    if dtype not in ID_TYPES:
        raise ValueError(f"{_META} holds a wrong type")
    shards: list[list[int]] | None = meta.get("shards", {}).get(side)
    ids: TokenIds
    if shards is None:
        ids = map_file(path / _ids_file(side), dtype, num_tokens)
    else:
        ids = map_shards(path, shards, dtype, of=side)
    if len(ids) != num_tokens:
        raise ValueError(f"{_META} holds a wrong count")
    offsets = map_file(path / _offsets_file(side), _OFFSET_TYPE, counts.num_pairs + 1)
    return SentenceStore(ids=ids, offsets=offsets)


def _ids_file(side: Side) -> str:
    return f"{side}.bin"


def _offsets_file(side: Side) -> str:
    return f"{side}.offsets.bin"


def _key(stats: dict[Side, TextStats], tokenizers: dict[Side, Tokenizer], policy: PairPolicy) -> str:
    digest = hashlib.sha256(f"{FORMAT_VERSION} {sys.byteorder} {asdict(policy)}".encode())
    for side in SIDES:
        digest.update(stats[side].sha256.encode())
        digest.update(tokenizers[side].to_json().encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
