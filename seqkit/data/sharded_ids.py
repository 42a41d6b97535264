"""Token ids in several arrays, one after the other, as if they were one; nothing is read but what is asked for.

Letters: B rows, T steps, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from seqkit.tokenizers.base import TokenArray

_READ_AT_ONCE = 1 << 22


class ShardedIds:
    """The ids of ``shards``, joined.

    It is indexed as an array of one axis is, by a number, a slice without step, or an array of positions, which all
    count from 0; what comes back is an array in memory, or a read-only view where a slice lies in one shard.

    Args:
        shards: Arrays of one type, each of one axis, none empty; they may be memory-mapped.

    >>> ids = ShardedIds([np.arange(4, dtype=np.uint8), np.arange(4, 9, dtype=np.uint8)])
    >>> len(ids), int(ids[5]), ids[2:6].tolist(), ids[np.array([[8, 0], [3, 4]])].tolist()
    (9, 5, [2, 3, 4, 5], [[8, 0], [3, 4]])
    """

    def __init__(self, shards: Sequence[TokenArray]) -> None:
        # Without numpy.memmap's class, which makes each slice several times slower.
        self.shards: list[TokenArray] = [np.asarray(shard) for shard in shards]
        if len({shard.dtype for shard in self.shards}) != 1 or not all(map(len, self.shards)):
            raise ValueError("shards must have one type, and none may be empty")
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        self._starts = self._ends - [len(shard) for shard in self.shards]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every shard."""
        return self.shards[0].dtype

    def __len__(self) -> int:
        """N."""
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int | np.integer[Any], /) -> np.unsignedinteger[Any]: ...

    @overload
    def __getitem__(self, index: slice | npt.NDArray[np.integer[Any]], /) -> TokenArray: ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | npt.NDArray[np.integer[Any]], /
    ) -> np.unsignedinteger[Any] | TokenArray:
        """Ids at a place, between two, or at many."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("a slice of sharded ids has no step")
            return self._between(start, max(start, stop))
        if isinstance(index, np.ndarray):
            return self._at(index)
        position = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(f"token {int(index)} of {len(self):,}")
        shard = int(np.searchsorted(self._ends, position, side="right"))
        found: np.unsignedinteger[Any] = self.shards[shard][position - int(self._starts[shard])]
        return found

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All ids in memory, of another type."""
        return self._between(0, len(self)).astype(dtype)

    def tolist(self) -> list[int]:
        """All ids in memory, as a list."""
        ids: list[int] = self._between(0, len(self)).tolist()
        return ids

    def _between(self, start: int, stop: int) -> TokenArray:
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts = []
        for shard, base in zip(self.shards[first:], self._starts[first:].tolist(), strict=True):
            if base >= stop:
                break
            parts.append(shard[max(0, start - base) : stop - base])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def _at(self, positions: npt.NDArray[np.integer[Any]]) -> TokenArray:
        if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            raise IndexError(f"tokens {int(positions.min())} to {int(positions.max())} of {len(self):,}")
        shard_of = np.searchsorted(self._ends, positions, side="right")
        found: TokenArray = np.empty(positions.shape, dtype=self.dtype)
        for number in np.unique(shard_of).tolist():
            is_here = shard_of == number
            found[is_here] = self.shards[number][positions[is_here] - self._starts[number]]
        return found


TokenIds = TokenArray | ShardedIds
"""The ids of a text, in one array or in several."""


def joined(texts: Sequence[TokenIds]) -> ShardedIds:
    """The ids of some texts, one after the other."""
    shards = [ids.shards if isinstance(ids, ShardedIds) else [ids] for ids in texts]
    return ShardedIds(list(chain.from_iterable(shards)))


class Windows:
    """Stretches of a text, all of one length.

    Args:
        ids: The text, shape (N,); only what is asked for is read.
        length: T.
    """

    def __init__(self, ids: TokenIds, length: int) -> None:
        self._ids = ids
        self._length = length
        self._views: TokenArray | None = None
        if not isinstance(ids, ShardedIds):
            self._views = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), length)

    def __len__(self) -> int:
        """Places where one may begin: N - T + 1."""
        return len(self._ids) - self._length + 1

    def at(self, starts_B: npt.NDArray[np.int64]) -> TokenArray:
        """Those that begin at some places, shape (B, T)."""
        if self._views is not None:
            return self._views[starts_B]
        windows_BT: TokenArray = np.empty((len(starts_B), self._length), dtype=self._ids.dtype)
        for row_T, start in zip(windows_BT, starts_B.tolist(), strict=True):
            row_T[:] = self._ids[start : start + self._length]
        return windows_BT


def token_counts(ids: TokenIds, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs, shape (vocab_size,); reads the ids in blocks, so that memory stays flat."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, len(ids), _READ_AT_ONCE):
        counts += np.bincount(ids[first : first + _READ_AT_ONCE], minlength=vocab_size)
    return counts
