"""Encoding a stretch of text into files of token ids, chunk by chunk, in as many processes as there are to do it.

A chunk is done when its record is there, which is written last. What is found done is not done again, so a build that
was killed goes on from its last finished chunks. The files are the same whoever writes them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from seqkit.atomic import write_text_atomic
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError, SeqkitError
from seqkit.forked import WorkerLostError, answers_as_they_come, can_fork
from seqkit.tokenizers.base import TokenArray, Tokenizer, encode_blocks

SHARD_BYTES = 1 << 28
"""A file that has this many bytes or more gets no more."""

ProgressCallback = Callable[[int], None]
"""Called with the bytes of text done so far."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ChunkRecord:
    """What a chunk came to."""

    shard_tokens: list[int]
    """Tokens in each of its files; none of them is empty."""
    num_chars: int
    num_bytes: int
    num_unknown: int


def shard_name(chunk: int, number: int) -> str:
    """The name of a chunk's file; both count from 0.

    >>> shard_name(3, 0)
    'ids.00003.0.bin'
    """
    return f"ids.{chunk:05}.{number}.bin"


def encode_chunks(
    folder: Path,
    stretch: Stretch,
    tokenizer: Tokenizer,
    *,
    num_workers: int,
    on_progress: ProgressCallback | None,
) -> list[ChunkRecord]:
    """Encode a stretch into ``folder``, but for the chunks that were done before.

    Args:
        folder: Where the files and records go; nobody else writes there.
        stretch: The text.
        tokenizer: What to encode with.
        num_workers: Processes; with 1, or one chunk to do, this process encodes.
        on_progress: Told the bytes done, those done before included.

    Returns:
        The record of each chunk.

    Raises:
        DataError: The text is at fault.
        OSError: The folder is: readers turn theirs into DataError.
        SeqkitError: A process died.
    """
    records = {number: _read_record(folder, number, tokenizer) for number in range(stretch.num_chunks)}
    done = {number: record for number, record in records.items() if record is not None}
    todo = [number for number in records if number not in done]
    num_bytes = sum(record.num_bytes for record in done.values())
    if done:
        logger.info(
            "going on with a token store of which %s MB were done before",
            f"{num_bytes / 1e6:,.0f}",
            extra={"event": "encoding"},
        )
    began, num_before = time.monotonic(), num_bytes
    for number, record in _encode(folder, stretch, tokenizer, todo, num_workers, num_bytes, on_progress):
        done[number] = record
        num_bytes += record.num_bytes
        if on_progress is not None:
            on_progress(num_bytes)
    if stretch.num_chunks > 1:
        seconds = max(time.monotonic() - began, 1e-9)
        rate = (num_bytes - num_before) / seconds
        logger.info(
            "encoded %s: %s MB of text in %s s, %s MB/s, processes: %d",
            stretch.source.name,
            f"{(num_bytes - num_before) / 1e6:,.0f}",
            f"{seconds:,.0f}",
            f"{rate / 1e6:,.1f}",
            min(num_workers, len(todo)),
            extra={"event": "encoded", "fields": {"num_bytes": num_bytes, "bytes_per_second": rate}},
        )
    return [done[number] for number in range(stretch.num_chunks)]


def remove_records(folder: Path) -> None:
    """Take the records away from a folder of which all chunks are done."""
    for path in folder.glob("chunk.*.json"):
        path.unlink()


def has_records(folder: Path) -> bool:
    """Whether some chunk is done."""
    return any(folder.glob("chunk.*.json"))


def _encode(
    folder: Path,
    stretch: Stretch,
    tokenizer: Tokenizer,
    todo: list[int],
    num_workers: int,
    num_bytes_before: int,
    on_progress: ProgressCallback | None,
) -> Iterator[tuple[int, ChunkRecord]]:
    """The chunks of ``todo`` with their records, in the order in which they are done."""
    num_workers = min(num_workers, len(todo))
    if num_workers < 2 or not can_fork():
        num_done = num_bytes_before

        def tell(num_bytes: int) -> None:
            if on_progress is not None:
                on_progress(num_done + num_bytes)

        for number in todo:
            record = _encode_chunk(folder, stretch, tokenizer, number, on_progress=tell)
            num_done += record.num_bytes
            yield number, record
        return
    work = partial(_encode_or_fault, folder, stretch, tokenizer)
    with closing(answers_as_they_come(todo, work, num_workers)) as answers:
        try:
            for number, answer in answers:
                if isinstance(answer, Exception):
                    raise answer
                yield number, answer
        except WorkerLostError as error:
            raise SeqkitError(
                f"{stretch.source.name}: {error} while it encoded the text",
                hint="out of memory? try data.workers 1; what was done is kept for a day",
            ) from None


def _encode_or_fault(
    folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int
) -> ChunkRecord | DataError | OSError:
    """``_encode_chunk`` in a worker, whose expected errors are answers: they are raised where somebody hears them."""
    try:
        return _encode_chunk(folder, stretch, tokenizer, number, on_progress=None)
    except (DataError, OSError) as error:
        return error


def _encode_chunk(
    folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int, *, on_progress: ProgressCallback | None
) -> ChunkRecord:
    """Write the files of one chunk, and then its record."""
    num_chars = num_bytes = num_unknown = 0

    def counted() -> Iterator[str]:
        nonlocal num_chars, num_bytes
        for block in stretch.chunk_blocks(number, tokenizer.last_boundary):
            num_chars += len(block)
            num_bytes += len(block.encode("utf-8"))
            yield block

    with _ShardWriter(folder, number) as writer:
        for ids in encode_blocks(tokenizer, counted()):
            if tokenizer.unk_id is not None:
                num_unknown += int(np.count_nonzero(ids == tokenizer.unk_id))
            writer.write(ids)
            if on_progress is not None:
                on_progress(num_bytes)
    record = ChunkRecord(
        shard_tokens=writer.shard_tokens, num_chars=num_chars, num_bytes=num_bytes, num_unknown=num_unknown
    )
    write_text_atomic(_record_path(folder, number), json.dumps(asdict(record)) + "\n")
    return record


class _ShardWriter:
    """Writes ids to one file after the other; leaving it closes the last one."""

    def __init__(self, folder: Path, chunk: int) -> None:
        self.shard_tokens: list[int] = []
        self._folder = folder
        self._chunk = chunk
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, ids: TokenArray) -> None:
        """Add some ids."""
        if not len(ids):
            return
        if self._file is None:
            self._file = (self._folder / shard_name(self._chunk, len(self.shard_tokens))).open("wb")
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


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"chunk.{number:05}.json"


def _read_record(folder: Path, number: int, tokenizer: Tokenizer) -> ChunkRecord | None:
    """The record of a chunk that is done; None if it has to be encoded (again)."""
    try:
        record = ChunkRecord(**json.loads(_record_path(folder, number).read_bytes()))
        for shard, num_tokens in enumerate(record.shard_tokens):
            if (folder / shard_name(number, shard)).stat().st_size != num_tokens * tokenizer.dtype.itemsize:
                return None
    except (OSError, ValueError, TypeError):
        return None
    return record
