"""Parallel text as token ids on disk: built once in flat memory, then memory-mapped.

A store is a folder ``pairs/<key>/`` in the cache. For each side ``<side>.bin`` holds the ids of all sentences, one
after the other, and ``<side>.offsets.bin`` where each begins; ``meta.json`` says what they are and what was left
out. The key is a hash of the texts, the tokenizers and what the recipe says of empty and over-long pairs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from seqkit.atomic import sync_folder, write_text_atomic
from seqkit.data.readers import TextSource, TextStats, lines_of
from seqkit.data.sharded_ids import TokenIds, joined
from seqkit.data.store import cannot_write
from seqkit.data.store_building import ProgressCallback
from seqkit.errors import DataError
from seqkit.leftovers import make_folder_beside, remove_leftovers
from seqkit.tokenizers.base import TokenArray, Tokenizer

Side = Literal["src", "tgt"]
Policy = Literal["refuse", "drop"]

FORMAT_VERSION = 1
"""Part of every key: a new format leaves the old stores alone."""

SIDES: tuple[Side, Side] = ("src", "tgt")

_META = "meta.json"
_FLUSHED_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PairPolicy:
    """What to do with pairs that are no good for training."""

    max_length: int | None
    """Most tokens of a side; ``None``: any number."""
    over_long: Policy
    empty: Policy
    """For pairs of which one side has no token; pairs of two empty lines are always left out."""


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """What became of the lines."""

    num_lines: int
    """Lines of each side."""
    num_pairs: int
    """Pairs kept."""
    num_blank: int
    """Pairs left out because both sides are empty."""
    num_empty: int
    """Pairs left out because one side is empty."""
    num_over_long: int
    """Pairs left out because a side is over-long."""
    num_tokens: dict[str, int]
    """By side, tokens kept."""
    num_unknown: dict[str, int]
    """By side, how many of them are ``<unk>``."""
    num_chars: dict[str, int]
    """By side, characters of the pairs kept, line ends left out."""


@dataclass(frozen=True, kw_only=True)
class ParallelText:
    """Two texts whose lines belong together."""

    src: TextSource
    tgt: TextSource

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.src.name} → {self.tgt.name}"

    def lines(self) -> Iterator[tuple[str, str]]:
        """The pairs, in order.

        Raises:
            DataError: The texts have different numbers of lines; both are named.
        """
        num_lines = dict.fromkeys(SIDES, 0)
        has_ended = False
        for src, tgt in zip_longest(lines_of(self.src.blocks()), lines_of(self.tgt.blocks())):
            num_lines["src"] += src is not None
            num_lines["tgt"] += tgt is not None
            if src is None or tgt is None:
                has_ended = True
            elif not has_ended:
                yield src, tgt
        if has_ended:
            raise DataError(
                f"{self.src.name} has {num_lines['src']:,} lines but {self.tgt.name} has {num_lines['tgt']:,}",
                hint="line n of one must be the translation of line n of the other",
            )

    def measure(self) -> dict[Side, TextStats]:
        """Count and hash both texts."""
        return {"src": self.src.measure(), "tgt": self.tgt.measure()}


@dataclass(frozen=True, kw_only=True)
class SentenceStore:
    """Sentences of one side: the ids of sentence i are ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: TokenIds
    """Shape (tokens,); memory-mapped."""
    offsets: npt.NDArray[np.int64]
    """Shape (sentences + 1,); memory-mapped."""

    @classmethod
    def joined(cls, texts: Sequence[SentenceStore]) -> SentenceStore:
        """Those of some texts, one after the other; offsets are copied to memory, ids are not."""
        firsts = np.cumsum([0, *(len(text.ids) for text in texts)])
        ends = [text.offsets[1:] + first for text, first in zip(texts, firsts, strict=False)]
        return cls(ids=joined([text.ids for text in texts]), offsets=np.concatenate([[0], *ends]))

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> SentenceStore:
        """Some sentences in memory."""
        flat = np.fromiter((i for row in rows for i in row), dtype=np.uint32)
        return cls(ids=flat, offsets=np.cumsum([0, *map(len, rows)]))

    def __len__(self) -> int:
        """Sentences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> TokenArray:
        """The ids of one sentence, without start and end."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sentence, shape (sentences,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True)
class PairStore:
    """Sentence pairs as ids."""

    src: SentenceStore
    tgt: SentenceStore
    line_numbers: npt.NDArray[np.int64]
    """Shape (pairs,): the 0-based line that each pair comes from."""
    counts: PairCounts
    sha256: dict[str, str]
    """By side, of the whole text."""

    def __len__(self) -> int:
        """Pairs."""
        return len(self.src)


def join_stores(stores: Sequence[PairStore]) -> PairStore:
    """The pairs of some texts, one after the other; hashes are those of each text, by its number and side."""
    counts = [store.counts for store in stores]
    sums: dict[str, Any] = {}
    for name, value in asdict(counts[0]).items():
        if isinstance(value, dict):
            sums[name] = {side: sum(getattr(each, name)[side] for each in counts) for side in SIDES}
        else:
            sums[name] = sum(getattr(each, name) for each in counts)
    return PairStore(
        src=SentenceStore.joined([store.src for store in stores]),
        tgt=SentenceStore.joined([store.tgt for store in stores]),
        line_numbers=np.concatenate([store.line_numbers for store in stores]),
        counts=PairCounts(**sums),
        sha256={f"{number}.{side}": store.sha256[side] for number, store in enumerate(stores) for side in SIDES},
    )


@dataclass
class _SideWriter:
    """One side of a store while it is built."""

    ids: IO[bytes]
    offsets: IO[bytes]
    dtype: np.dtype[np.unsignedinteger]
    unk_id: int | None
    num_tokens: int = 0
    num_unknown: int = 0
    num_chars: int = 0
    pending: list[list[int]] = field(default_factory=list)
    num_pending: int = 0

    def add(self, ids: list[int], line: str) -> None:
        self.pending.append(ids)
        self.num_pending += len(ids)
        self.num_chars += len(line)
        if self.num_pending >= _FLUSHED_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        lengths = np.fromiter(map(len, self.pending), dtype=np.int64, count=len(self.pending))
        flat = np.fromiter((i for ids in self.pending for i in ids), dtype=self.dtype, count=self.num_pending)
        self.offsets.write((self.num_tokens + lengths.cumsum()).data)
        self.ids.write(flat.data)
        self.num_tokens += self.num_pending
        if self.unk_id is not None:
            self.num_unknown += int(np.count_nonzero(flat == self.unk_id))
        self.pending, self.num_pending = [], 0


def prepare_pairs(
    text: ParallelText,
    tokenizers: dict[Side, Tokenizer],
    policy: PairPolicy,
    *,
    cache_dir: Path,
    on_progress: ProgressCallback | None = None,
) -> PairStore:
    """Open the store of a parallel text, building it if the cache has none.

    Args:
        text: The two texts.
        tokenizers: What to encode each side with.
        policy: What to do with empty and over-long pairs.
        cache_dir: Folder of the cache; made if missing.
        on_progress: Told the bytes encoded, of both sides together.

    Raises:
        DataError: A text cannot be read or encoded, the numbers of lines differ, a pair is refused (its line is
            named), no pair is left, or the cache cannot be written (nothing is left behind).
    """
    stats = text.measure()
    path = cache_dir / "pairs" / _key(stats, tokenizers, policy)
    store = _open(path)
    if store is not None:
        return store
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        held, building = make_folder_beside(path)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        _build(building, text, stats, tokenizers, policy, on_progress)
        if path.exists() and _open(path) is None:
            shutil.rmtree(path)
        if not path.exists():
            building.rename(path)
            sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(held)
    store = _open(path)
    assert store is not None, "what was just built can be opened"
    return store


def _build(
    building: Path,
    text: ParallelText,
    stats: dict[Side, TextStats],
    tokenizers: dict[Side, Tokenizer],
    policy: PairPolicy,
    on_progress: ProgressCallback | None,
) -> None:
    files = {(side, kind): (building / _file(side, kind)).open("wb") for side in SIDES for kind in ("ids", "offsets")}
    writers = {
        side: _SideWriter(files[side, "ids"], files[side, "offsets"], tokenizers[side].dtype, tokenizers[side].unk_id)
        for side in SIDES
    }
    num_lines = num_blank = num_empty = num_over_long = num_bytes = 0
    kept_lines: list[int] = []
    longest = sys.maxsize if policy.max_length is None else policy.max_length
    try:
        for side in SIDES:
            files[side, "offsets"].write(np.zeros(1, dtype=np.int64).data)
        for number, (src, tgt) in enumerate(text.lines()):
            num_lines += 1
            num_bytes += len(src) + len(tgt) + 2
            if on_progress is not None and number % 1024 == 0:
                on_progress(num_bytes)
            src_ids, tgt_ids = tokenizers["src"].encode(src), tokenizers["tgt"].encode(tgt)
            if not src_ids and not tgt_ids:
                num_blank += 1
                continue
            if not src_ids or not tgt_ids:
                _refuse_if_asked(
                    policy.empty, text, number, "one side is empty", "data.empty: drop leaves such pairs out"
                )
                num_empty += 1
                continue
            if max(len(src_ids), len(tgt_ids)) > longest:
                what = f"{max(len(src_ids), len(tgt_ids)):,} tokens, more than data.max_length {longest:,}"
                _refuse_if_asked(policy.over_long, text, number, what, "data.over_long: drop leaves such pairs out")
                num_over_long += 1
                continue
            writers["src"].add(src_ids, src)
            writers["tgt"].add(tgt_ids, tgt)
            kept_lines.append(number)
        for writer in writers.values():
            writer.flush()
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    if not kept_lines:
        raise DataError(f"{text.src.name} and {text.tgt.name}: of {num_lines:,} pairs none is left")
    np.asarray(kept_lines, dtype=np.int64).tofile(building / "lines.bin")
    counts = PairCounts(
        num_lines=num_lines,
        num_pairs=len(kept_lines),
        num_blank=num_blank,
        num_empty=num_empty,
        num_over_long=num_over_long,
        num_tokens={side: writers[side].num_tokens for side in SIDES},
        num_unknown={side: writers[side].num_unknown for side in SIDES},
        num_chars={side: writers[side].num_chars for side in SIDES},
    )
    meta = {
        "format_version": FORMAT_VERSION,
        "byte_order": sys.byteorder,
        "dtype": {side: writers[side].dtype.name for side in SIDES},
        "sha256": {side: stats[side].sha256 for side in SIDES},
        "counts": asdict(counts),
    }
    write_text_atomic(building / _META, json.dumps(meta, indent=1) + "\n")


def _refuse_if_asked(policy: Policy, text: ParallelText, number: int, what: str, hint: str) -> None:
    if policy == "refuse":
        raise DataError(f"{text.src.name} and {text.tgt.name}, line {number + 1:,}: {what}", hint=hint)


def _open(path: Path) -> PairStore | None:
    """Map the store at ``path``; None if there is none or it is damaged."""
    try:
        meta = json.loads((path / _META).read_bytes())
        if meta["format_version"] != FORMAT_VERSION or meta["byte_order"] != sys.byteorder:
            return None
        counts = PairCounts(**meta["counts"])
        sides = {}
        for side in SIDES:
            ids: TokenArray = np.memmap(path / _file(side, "ids"), dtype=meta["dtype"][side], mode="r")
            offsets = np.memmap(path / _file(side, "offsets"), dtype=np.int64, mode="r")
            if len(offsets) != counts.num_pairs + 1 or len(ids) != counts.num_tokens[side]:
                return None
            sides[side] = SentenceStore(ids=ids, offsets=offsets)
        line_numbers = np.memmap(path / "lines.bin", dtype=np.int64, mode="r")
        return PairStore(**sides, line_numbers=line_numbers, counts=counts, sha256=meta["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(side: Side, kind: str) -> str:
    return f"{side}.bin" if kind == "ids" else f"{side}.{kind}.bin"


def _key(stats: dict[Side, TextStats], tokenizers: dict[Side, Tokenizer], policy: PairPolicy) -> str:
    digest = hashlib.sha256(f"{FORMAT_VERSION} {sys.byteorder} {asdict(policy)}".encode())
    for side in SIDES:
        digest.update(stats[side].sha256.encode())
        digest.update(tokenizers[side].to_json().encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
