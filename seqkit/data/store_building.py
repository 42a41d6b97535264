"""Encoding a stretch of text into files of token ids, chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from seqkit.data.chunks import ChunkedWork, ProgressCallback, Record
from seqkit.data.readers import utf8_size
from seqkit.data.stretches import Stretch
from seqkit.tokenizers.base import TokenArray, Tokenizer, encode_blocks

SHARD_BYTES = 1 << 28
"""A file that has this many bytes or more gets no more."""


@dataclass(frozen=True, kw_only=True)
class ChunkRecord(Record):
    """What a chunk of a text came to."""

    shard_tokens: list[int]
    """Tokens in each of its files; none of them is empty."""
    num_chars: int
    num_unknown: int


def shard_name(chunk: int, number: int, *, of: str = "ids") -> str:
    """The name of a chunk's file; both count from 0.

    >>> shard_name(3, 0)
    'ids.00003.0.bin'
    """
    return f"{of}.{chunk:05}.{number}.bin"


def shard_sizes(chunk: int, shard_tokens: list[int], tokenizer: Tokenizer, *, of: str = "ids") -> dict[str, int]:
    """The names of a chunk's files of ids, and their sizes in bytes."""
    return {
        shard_name(chunk, number, of=of): num_tokens * tokenizer.dtype.itemsize
        for number, num_tokens in enumerate(shard_tokens)
    }


def encoding_of(folder: Path, stretch: Stretch, tokenizer: Tokenizer) -> ChunkedWork[ChunkRecord]:
    """What there is to do to encode a stretch into ``folder``."""
    return ChunkedWork(
        name=stretch.source.name,
        num_chunks=stretch.num_chunks,
        record_type=ChunkRecord,
        do=lambda number, tell: _encode_chunk(folder, stretch, tokenizer, number, on_progress=tell),
        files=lambda number, record: shard_sizes(number, record.shard_tokens, tokenizer),
    )


def _encode_chunk(
    folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int, *, on_progress: ProgressCallback
) -> ChunkRecord:
    """Write the files of one chunk."""
    num_chars = num_bytes = num_unknown = 0

    def counted() -> Iterator[str]:
        nonlocal num_chars, num_bytes
        for block in stretch.chunk_blocks(number, tokenizer.last_boundary):
            num_chars += len(block)
            num_bytes += utf8_size(block)
            yield block

    with ShardWriter(folder, number) as writer:
        for ids in encode_blocks(tokenizer, counted()):
            if tokenizer.unk_id is not None:
                num_unknown += int(np.count_nonzero(ids == tokenizer.unk_id))
            writer.write(ids)
            on_progress(num_bytes)
    return ChunkRecord(
        shard_tokens=writer.shard_tokens, num_chars=num_chars, num_bytes=num_bytes, num_unknown=num_unknown
    )


class ShardWriter:
    """Writes ids to one file after the other; leaving it closes the last one.

    Args:
        folder: Where the files go.
        chunk: Whose they are.
        of: What their names begin with.
    """

    def __init__(self, folder: Path, chunk: int, *, of: str = "ids") -> None:
        self.shard_tokens: list[int] = []
        self._folder = folder
        self._chunk = chunk
        self._of = of
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, ids: TokenArray) -> None:
        """Add some ids."""
        if not len(ids):
            return
        if self._file is None:
            name = shard_name(self._chunk, len(self.shard_tokens), of=self._of)
            self._file = (self._folder / name).open("wb")
            self.shard_tokens.append(0)
        self._file.write(np.ascontiguousarray(ids).data)
        self.shard_tokens[-1] += len(ids)
        if self._file.tell() >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            with self._file as file:
                self._file = None
                file.flush()
                os.fsync(file.fileno())
