"""Work that is cut into chunks, done by as many processes as there are to do it, and not done twice.

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
from typing import Generic, TypeVar

from seqkit.atomic import write_text_atomic
from seqkit.errors import DataError, SeqkitError
from seqkit.forked import WorkerLostError, answers_as_they_come, can_fork

ProgressCallback = Callable[[int], None]
"""Called with the bytes of text done so far."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a chunk came to. Each kind of work adds fields of its own: plain numbers, lists and mappings."""

    num_bytes: int
    """Of its text, in UTF-8; of lines with a line end each."""


RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, kw_only=True)
class ChunkedWork(Generic[RecordT]):
    """Something to do in chunks, of which each leaves some files in a folder."""

    name: str
    """Of the text."""
    num_chunks: int
    record_type: type[RecordT]
    do: Callable[[int, ProgressCallback], RecordT]
    """Do a chunk, by its number, and tell the bytes done of it. Raises DataError: the text is at fault."""
    files: Callable[[int, RecordT], dict[str, int]]
    """From a chunk's number and record to the names of its files and their sizes in bytes."""


def usual_workers() -> int:
    """One process a core that this one may use."""
    return len(os.sched_getaffinity(0))


def chunk_file(number: int, kind: str) -> str:
    """The name of a chunk's file that is of no use when all chunks are done.

    >>> chunk_file(3, "json")
    'chunk.00003.json'
    """
    return f"chunk.{number:05}.{kind}"


def do_chunks(
    folder: Path, work: ChunkedWork[RecordT], *, num_workers: int, on_progress: ProgressCallback | None
) -> list[RecordT]:
    """Do all chunks in ``folder`` but those that were done before.

    Args:
        folder: Where the files and records go; nobody else writes there.
        work: What to do.
        num_workers: Processes; with 1, or one chunk to do, this process does it.
        on_progress: Told the bytes done, those done before included.

    Returns:
        The record of each chunk.

    Raises:
        DataError: The text is at fault; where several chunks are, it is told of the first, whoever came to it when.
        OSError: The folder is: readers turn theirs into DataError.
        SeqkitError: A process died.
    """
    records = {number: _read_record(folder, work, number) for number in range(work.num_chunks)}
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
    for number, record in _done_one_by_one(folder, work, todo, num_workers, num_bytes, on_progress):
        done[number] = record
        num_bytes += record.num_bytes
        if on_progress is not None:
            on_progress(num_bytes)
    if work.num_chunks > 1:
        seconds = max(time.monotonic() - began, 1e-9)
        rate = (num_bytes - num_before) / seconds
        logger.info(
            "encoded %s: %s MB of text in %s s, %s MB/s, processes: %d",
            work.name,
            f"{(num_bytes - num_before) / 1e6:,.0f}",
            f"{seconds:,.0f}",
            f"{rate / 1e6:,.1f}",
            min(num_workers, len(todo)),
            extra={
                "event": "encoded",
                "fields": {"num_bytes": num_bytes, "num_bytes_before": num_before, "bytes_per_second": rate},
            },
        )
    return [done[number] for number in range(work.num_chunks)]


def remove_chunk_files(folder: Path) -> None:
    """Take the records, and what else only chunks need, away from a folder of which all chunks are done."""
    for path in folder.glob("chunk.*"):
        path.unlink()


def has_records(folder: Path) -> bool:
    """Whether some chunk is done."""
    return any(folder.glob("chunk.*.json"))


def _done_one_by_one(
    folder: Path,
    work: ChunkedWork[RecordT],
    todo: list[int],
    num_workers: int,
    num_bytes_before: int,
    on_progress: ProgressCallback | None,
) -> Iterator[tuple[int, RecordT]]:
    """The chunks of ``todo`` with their records, in the order in which they are done."""
    num_workers = min(num_workers, len(todo))
    if num_workers < 2 or not can_fork():
        num_done = num_bytes_before

        def tell(num_bytes: int) -> None:
            if on_progress is not None:
                on_progress(num_done + num_bytes)

        for number in todo:
            record = _do(folder, work, number, tell)
            num_done += record.num_bytes
            yield number, record
        return
    faults: dict[int, DataError | OSError] = {}
    at_work = set(todo)
    # No chunk is begun once one is known to be at fault; those before it are at work or done by then.
    wanted = (number for number in todo if not faults)
    with closing(answers_as_they_come(wanted, partial(_record_or_fault, folder, work), num_workers)) as answers:
        try:
            for number, answer in answers:
                at_work.remove(number)
                if isinstance(answer, Exception):
                    faults[number] = answer
                else:
                    yield number, answer
                if faults and min(faults) < min(at_work, default=work.num_chunks):
                    raise faults[min(faults)]
        except WorkerLostError as error:
            raise SeqkitError(
                f"{work.name}: {error} while it encoded the text",
                hint="out of memory? try data.workers 1; what was done is kept for a day",
            ) from None


def _record_or_fault(folder: Path, work: ChunkedWork[RecordT], number: int) -> RecordT | DataError | OSError:
    """``_do`` in a worker, whose expected errors are answers: they are raised where somebody hears them."""
    try:
        return _do(folder, work, number, lambda num_bytes: None)
    except (DataError, OSError) as error:
        return error


def _do(folder: Path, work: ChunkedWork[RecordT], number: int, tell: ProgressCallback) -> RecordT:
    """Do one chunk, and then write its record."""
    record = work.do(number, tell)
    write_text_atomic(folder / chunk_file(number, "json"), json.dumps(asdict(record)) + "\n")
    return record


def _read_record(folder: Path, work: ChunkedWork[RecordT], number: int) -> RecordT | None:
    """The record of a chunk that is done; None if it has to be done (again)."""
    try:
        record = work.record_type(**json.loads((folder / chunk_file(number, "json")).read_bytes()))
        for name, size in work.files(number, record).items():
            if (folder / name).stat().st_size != size:
                return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return record
