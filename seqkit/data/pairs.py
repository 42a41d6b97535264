"""Parallel text, and its sentence pairs as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqkit.data.readers import TextSource, TextStats, lines_of
from seqkit.data.sharded_ids import TokenIds, joined
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray

Side = Literal["src", "tgt"]
Policy = Literal["refuse", "drop"]

SIDES: tuple[Side, Side] = ("src", "tgt")


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


def sum_counts(counts: Sequence[PairCounts]) -> PairCounts:
    """What became of the lines of several texts, or parts of one, together."""
    sums: dict[str, Any] = {}
    for name, value in asdict(counts[0]).items():
        if isinstance(value, dict):
            sums[name] = {side: sum(getattr(each, name)[side] for each in counts) for side in SIDES}
        else:
            sums[name] = sum(getattr(each, name) for each in counts)
    return PairCounts(**sums)


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
        num_lines: dict[Side, int] = dict.fromkeys(SIDES, 0)
        has_ended = False
        for src, tgt in zip_longest(lines_of(self.src.blocks()), lines_of(self.tgt.blocks())):
            num_lines["src"] += src is not None
            num_lines["tgt"] += tgt is not None
            if src is None or tgt is None:
                has_ended = True
            elif not has_ended:
                yield src, tgt
        self.check_line_counts(num_lines)

    def side(self, side: Side) -> TextSource:
        """The text of one side."""
        return self.src if side == "src" else self.tgt

    @cached_property
    def stats(self) -> dict[Side, TextStats]:
        """What both texts come to, counted and hashed once."""
        return {side: self.side(side).measure() for side in SIDES}

    def check_line_counts(self, num_lines: dict[Side, int]) -> None:
        """Refuse texts of different numbers of lines.

        Raises:
            DataError: They are; both are named.
        """
        if num_lines["src"] != num_lines["tgt"]:
            raise DataError(
                f"{self.src.name} has {num_lines['src']:,} lines but {self.tgt.name} has {num_lines['tgt']:,}",
                hint="line n of one must be the translation of line n of the other",
            )


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

    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each sentence, shape (sentences,); four bytes each, since there may be a hundred million."""
        lengths = np.empty(len(self), dtype=np.int32)
        return np.subtract(self.offsets[1:], self.offsets[:-1], out=lengths, casting="unsafe")


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
    return PairStore(
        src=SentenceStore.joined([store.src for store in stores]),
        tgt=SentenceStore.joined([store.tgt for store in stores]),
        line_numbers=np.concatenate([store.line_numbers for store in stores]),
        counts=sum_counts([store.counts for store in stores]),
        sha256={f"{number}.{side}": store.sha256[side] for number, store in enumerate(stores) for side in SIDES},
    )
