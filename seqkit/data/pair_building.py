"""Encoding a parallel text into files of token ids, chunk by chunk: what is kept, what is left out, what is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seqkit.data.chunks import ChunkedWork, ProgressCallback, Record, chunk_file
from seqkit.data.pair_chunks import PairChunk, cut_pairs
from seqkit.data.pairs import SIDES, PairCounts, PairPolicy, ParallelText, Side, sum_counts
from seqkit.data.readers import TextSource, utf8_size
from seqkit.data.store_building import ShardWriter, shard_sizes
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray, Tokenizer, encode_lines

LENGTH_TYPE = np.dtype(np.uint32)
LINE_TYPE = np.dtype(np.int64)

_CHARS_AT_ONCE = 1 << 19
"""Characters of both sides that are encoded together; a longer pair is taken alone."""


@dataclass(frozen=True, kw_only=True)
class PairRecord(Record):
    """What a chunk of a parallel text came to."""

    shard_tokens: dict[str, list[int]]
    """By side, tokens in each of its files."""
    counts: dict[str, Any]
    """``PairCounts``, as a mapping."""
    num_chars_read: dict[str, int]
    """By side, characters of all lines, line ends left out."""

    @property
    def pair_counts(self) -> PairCounts:
        """What became of the lines."""
        return PairCounts(**self.counts)


@dataclass(frozen=True)
class _Lines:
    """Some lines of one side, encoded."""

    lines: list[str]
    ids: TokenArray
    """Of all of them, one after the other."""
    lengths_N: npt.NDArray[np.int64]
    """Tokens of each."""


def pair_encoding_of(
    folder: Path, text: ParallelText, tokenizers: dict[Side, Tokenizer], policy: PairPolicy
) -> ChunkedWork[PairRecord]:
    """What there is to do to encode a parallel text into ``folder``.

    A chunk leaves the shards of each side; for each pair that is kept its length on each side, and its line.
    """
    chunks = cut_pairs(text.stats)

    def do(number: int, tell: ProgressCallback) -> PairRecord:
        return _encode_chunk(folder, text, chunks[number], tokenizers, policy, number, on_progress=tell)

    def files(number: int, record: PairRecord) -> dict[str, int]:
        num_pairs = record.pair_counts.num_pairs
        sizes = {chunk_file(number, "lines"): num_pairs * LINE_TYPE.itemsize}
        for side in SIDES:
            sizes |= shard_sizes(number, record.shard_tokens[side], tokenizers[side], of=side)
            sizes[chunk_file(number, side)] = num_pairs * LENGTH_TYPE.itemsize
        return sizes

    return ChunkedWork(name=text.name, num_chunks=len(chunks), record_type=PairRecord, do=do, files=files)


def _encode_chunk(
    folder: Path,
    text: ParallelText,
    chunk: PairChunk,
    tokenizers: dict[Side, Tokenizer],
    policy: PairPolicy,
    number: int,
    *,
    on_progress: ProgressCallback,
) -> PairRecord:
    """Write the files of one chunk."""
    num_bytes, line = 0, chunk.first_line
    num_chars_read = dict.fromkeys(SIDES, 0)
    counts = [_count_nothing()]
    with ExitStack() as stack:
        lines_file = stack.enter_context(_synced(folder / chunk_file(number, "lines")))
        length_files = {side: stack.enter_context(_synced(folder / chunk_file(number, side))) for side in SIDES}
        writers = {side: stack.enter_context(ShardWriter(folder, number, of=side)) for side in SIDES}
        for batch in _batches(chunk.pairs(text)):
            encoded = {side: _encoded(tokenizers[side], text.side(side), batch[side], line) for side in SIDES}
            is_kept_N, batch_counts = _judged(encoded, policy, text, line)
            for side, lines in encoded.items():
                ids = lines.ids[np.repeat(is_kept_N, lines.lengths_N)]
                writers[side].write(ids)
                length_files[side].write(lines.lengths_N[is_kept_N].astype(LENGTH_TYPE).data)
                num_chars_N = np.fromiter(map(len, lines.lines), dtype=np.int64, count=len(lines.lines))
                num_chars_read[side] += int(num_chars_N.sum())
                batch_counts.num_tokens[side] = len(ids)
                batch_counts.num_chars[side] = int(num_chars_N[is_kept_N].sum())
                if (unk_id := tokenizers[side].unk_id) is not None:
                    batch_counts.num_unknown[side] = int(np.count_nonzero(ids == unk_id))
                num_bytes += sum(map(utf8_size, lines.lines)) + len(lines.lines)
            lines_file.write((line + np.flatnonzero(is_kept_N)).astype(LINE_TYPE).data)
            counts.append(batch_counts)
            line += len(is_kept_N)
            on_progress(num_bytes)
    return PairRecord(
        num_bytes=num_bytes,
        shard_tokens={side: writers[side].shard_tokens for side in SIDES},
        counts=asdict(sum_counts(counts)),
        num_chars_read={side: num_chars_read[side] for side in SIDES},
    )


def _batches(pairs: Iterator[tuple[str, str]]) -> Iterator[dict[Side, list[str]]]:
    """The pairs some at a time."""
    src_lines: list[str] = []
    tgt_lines: list[str] = []
    num_chars = 0
    for src, tgt in pairs:
        src_lines.append(src)
        tgt_lines.append(tgt)
        # Two for the line ends: so many a blank line can be no endless batch.
        num_chars += len(src) + len(tgt) + 2
        if num_chars >= _CHARS_AT_ONCE:
            yield {"src": src_lines, "tgt": tgt_lines}
            src_lines, tgt_lines, num_chars = [], [], 0
    if src_lines:
        yield {"src": src_lines, "tgt": tgt_lines}


def _encoded(tokenizer: Tokenizer, source: TextSource, lines: list[str], first_line: int) -> _Lines:
    """Encode lines; what cannot be encoded is named by its line."""
    try:
        ids, lengths_N = encode_lines(tokenizer, lines)
    except DataError:
        for number, line in enumerate(lines, first_line + 1):
            try:
                tokenizer.encode(line)
            except DataError as error:
                raise DataError(str(error), path=source.name, line=number, hint=error.hint) from error
        raise
    return _Lines(lines, ids, lengths_N)


def _judged(
    encoded: dict[Side, _Lines], policy: PairPolicy, text: ParallelText, first_line: int
) -> tuple[npt.NDArray[np.bool_], PairCounts]:
    """Which pairs are kept, and what became of the others; tokens and characters are not counted yet.

    Raises:
        DataError: A pair is refused; its line is named.
    """
    src_N, tgt_N = (encoded[side].lengths_N for side in SIDES)
    longer_N, shorter_N = np.maximum(src_N, tgt_N), np.minimum(src_N, tgt_N)
    longest = sys.maxsize if policy.max_length is None else policy.max_length
    is_blank_N = longer_N == 0
    is_empty_N = (shorter_N == 0) & ~is_blank_N
    is_over_long_N = (longer_N > longest) & (shorter_N > 0)
    is_refused_N = (is_empty_N & (policy.empty == "refuse")) | (is_over_long_N & (policy.over_long == "refuse"))
    if is_refused_N.any():
        place = int(is_refused_N.argmax())
        if is_empty_N[place]:
            what, hint = "one side is empty", "data.empty: drop leaves such pairs out"
        else:
            what = f"{int(longer_N[place]):,} tokens, more than data.max_length {longest:,}"
            hint = "data.over_long: drop leaves such pairs out"
        raise DataError(f"{text.src.name} and {text.tgt.name}, line {first_line + place + 1:,}: {what}", hint=hint)
    is_kept_N = ~(is_blank_N | is_empty_N | is_over_long_N)
    return is_kept_N, replace(
        _count_nothing(),
        num_lines=len(is_kept_N),
        num_pairs=int(is_kept_N.sum()),
        num_blank=int(is_blank_N.sum()),
        num_empty=int(is_empty_N.sum()),
        num_over_long=int(is_over_long_N.sum()),
    )


def _count_nothing() -> PairCounts:
    """The counts of no line."""
    return PairCounts(
        num_lines=0,
        num_pairs=0,
        num_blank=0,
        num_empty=0,
        num_over_long=0,
        num_tokens=dict.fromkeys(SIDES, 0),
        num_unknown=dict.fromkeys(SIDES, 0),
        num_chars=dict.fromkeys(SIDES, 0),
    )


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which is on disk when the block ends well."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
