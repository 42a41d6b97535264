"""The order in which a language model meets its training text: pure functions of seed, epoch and batch index.

Nothing is stored between batches, so a run that resumes at (epoch, index) continues exactly as it would have.
Letters: B columns or windows, T steps, L predicted tokens of a column, N tokens of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seqkit.data.sharded_ids import ShardedIds, TokenIds, Windows
from seqkit.data.shuffling import Places, Shuffle
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray

_HELD_IN_MEMORY = 1 << 22
"""Windows whose order is held in memory; that of more is computed place by place, and so another one."""

_STRIDE_STREAM = 2
"""Sets these draws apart from what else of a run is drawn from its seed and an epoch."""


@dataclass(frozen=True, kw_only=True)
class LmBatch:
    """Token ids, and at each place the token to predict there."""

    inputs_BT: npt.NDArray[np.int64]
    targets_BT: npt.NDArray[np.int64]
    """The token that follows each input in the text."""
    starts_fresh: bool
    """Whether the model's state is reset before this batch; else it is carried over from the last one."""
    resets_B: npt.NDArray[np.bool_] | None = None
    """Rows whose state alone is reset before this batch; None: no row's."""

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.inputs_BT)

    @property
    def num_tokens(self) -> int:
        """B · T: each is predicted."""
        return self.targets_BT.size

    def every(self, step: int, first: int) -> LmBatch:
        """The rows ``first``, ``first + step``, and so on."""
        rows = slice(first, None, step)
        return LmBatch(
            inputs_BT=self.inputs_BT[rows],
            targets_BT=self.targets_BT[rows],
            starts_fresh=self.starts_fresh,
            resets_B=None if self.resets_B is None else self.resets_B[rows],
        )


class BatchOrder(Protocol):
    """The batches of each epoch."""

    def num_batches(self, epoch: int) -> int:
        """Batches of epoch ``epoch`` (0-based)."""
        ...

    def batch(self, epoch: int, index: int) -> LmBatch:
        """Batch ``index`` (0-based, below ``num_batches(epoch)``) of epoch ``epoch`` (0-based)."""
        ...


class ColumnBatches:
    """Contiguous columns: row b of each batch goes on where row b of the last one stopped.

    The N - 1 predicted tokens are cut into B columns of L = (N - 1) // B; an epoch walks down them, T at a time.
    The last batch is shorter where T does not divide L. Only the last ``num_dropped`` = (N - 1) mod B tokens of
    the text are never predicted. The order is the same in every epoch.

    Without resets, a model would meet an empty state once an epoch, and never learn to begin a text.

    Args:
        ids: The text, shape (N,); only the slices of a batch are read.
        num_columns: B.
        sequence_length: T.
        reset_probability: Chance, for each row of each batch, that its state is reset before the batch.
        seed: Of the resets; with epoch and index it fixes those of a batch.
        allow_short: Accept a text of less than one full batch, down to one token a column.
        name: What to call the text in an error.

    Raises:
        DataError: The text is too short.

    >>> batches = ColumnBatches(np.arange(10, dtype=np.uint8), num_columns=2, sequence_length=3)
    >>> batches.num_batches(0), batches.num_dropped
    (2, 1)
    >>> batches.batch(0, 0).inputs_BT.tolist(), batches.batch(0, 1).inputs_BT.tolist()
    ([[0, 1, 2], [4, 5, 6]], [[3], [7]])
    """

    def __init__(
        self,
        ids: TokenIds,
        num_columns: int,
        sequence_length: int,
        *,
        reset_probability: float = 0.0,
        seed: int = 0,
        allow_short: bool = False,
        name: str | None = None,
    ) -> None:
        num_predicted = max(0, len(ids) - 1)
        smallest = num_columns * (1 if allow_short else sequence_length) + 1
        if len(ids) < smallest:
            raise _too_short(len(ids), smallest, num_columns, 1 if allow_short else sequence_length, name)
        self.num_columns = num_columns
        self.sequence_length = sequence_length
        self.reset_probability = reset_probability
        self.seed = seed
        self.column_length = num_predicted // num_columns
        self.num_dropped = num_predicted % num_columns
        self._ids = ids
        self._views_BL: tuple[TokenArray, TokenArray] | None = None
        if not isinstance(ids, ShardedIds):
            # Views of the memory map, without its class: numpy.memmap makes each slice several times slower.
            flat = np.asarray(ids)
            num_used = num_columns * self.column_length
            inputs, targets = flat[:num_used], flat[1 : num_used + 1]
            shape = (num_columns, self.column_length)
            self._views_BL = inputs.reshape(shape), targets.reshape(shape)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return (self.column_length + self.sequence_length - 1) // self.sequence_length

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; each epoch starts fresh."""
        check_index(index, self.num_batches(epoch))
        first = index * self.sequence_length
        inputs_BT, targets_BT = self._steps(first, min(first + self.sequence_length, self.column_length))
        return LmBatch(
            inputs_BT=inputs_BT.astype(np.int64, order="C"),
            targets_BT=targets_BT.astype(np.int64, order="C"),
            starts_fresh=index == 0,
            resets_B=self._resets(epoch, index),
        )

    def _steps(self, first: int, end: int) -> tuple[TokenArray, TokenArray]:
        """Inputs and targets of the steps [first, end) of every column."""
        if self._views_BL is not None:
            inputs_BL, targets_BL = self._views_BL
            return inputs_BL[:, first:end], targets_BL[:, first:end]
        starts_B = np.arange(self.num_columns) * self.column_length + first
        steps_BT = Windows(self._ids, end - first + 1).at(starts_B)
        return steps_BT[:, :-1], steps_BT[:, 1:]

    def _resets(self, epoch: int, index: int) -> npt.NDArray[np.bool_] | None:
        if self.reset_probability == 0 or index == 0:
            return None
        resets_B = random_numbers(self.seed, epoch, index).random(self.num_columns) < self.reset_probability
        return resets_B if resets_B.any() else None


class FullBatches:
    """The whole text as one batch: columns as in ``ColumnBatches``, T = L, one update an epoch.

    Args:
        ids: The text, shape (N,).
        num_columns: B.
        name: What to call the text in an error.

    Raises:
        DataError: The text is too short.
    """

    def __init__(self, ids: TokenIds, num_columns: int, *, name: str | None = None) -> None:
        longest = max(1, (len(ids) - 1) // num_columns)
        self._columns = ColumnBatches(ids, num_columns, longest, allow_short=True, name=name)
        self.num_columns = num_columns
        self.sequence_length = longest
        self.num_dropped = self._columns.num_dropped

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``: one."""
        return 1

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; starts fresh."""
        return self._columns.batch(epoch, index)


class WindowBatches:
    """Windows from random places of the text, each from an empty state.

    A window may begin at any token that T more follow, all equally likely. An epoch is as many batches as cover
    the text once, if not exactly: max(1, (N - 1) // (B · T)).

    Args:
        ids: The text, shape (N,); only the windows of a batch are read.
        num_windows: B.
        sequence_length: T.
        seed: Of the places; with epoch and index it fixes a batch.
        name: What to call the text in an error.

    Raises:
        DataError: The text is shorter than one batch.
    """

    def __init__(
        self, ids: TokenIds, num_windows: int, sequence_length: int, seed: int, *, name: str | None = None
    ) -> None:
        smallest = num_windows * sequence_length + 1
        if len(ids) < smallest:
            raise _too_short(len(ids), smallest, num_windows, sequence_length, name)
        self.num_windows = num_windows
        self.sequence_length = sequence_length
        self.seed = seed
        self._num_batches = max(1, (len(ids) - 1) // (num_windows * sequence_length))
        self._windows = Windows(ids, sequence_length + 1)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return self._num_batches

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        check_index(index, self.num_batches(epoch))
        starts_B = random_numbers(self.seed, epoch, index).integers(len(self._windows), size=self.num_windows)
        return window_batch(self._windows.at(starts_B))


class StrideBatches:
    """Windows one after the other that cover the text once an epoch, each from an empty state.

    In each epoch the first window begins at a random one of the first T tokens, and the windows come in a random
    order. The last batch has fewer windows where B does not divide their number. What stands before the first window
    and after the last, at most T - 1 tokens each, is left out; in another epoch that is another part.

    Args:
        ids: The text, shape (N,); only the windows of a batch are read.
        num_windows: B.
        sequence_length: T.
        seed: Of places and order; with the epoch it fixes them.
        name: What to call the text in an error.

    Raises:
        DataError: The text is shorter than one batch.

    >>> batches = StrideBatches(np.arange(14, dtype=np.uint8), num_windows=2, sequence_length=3, seed=1)
    >>> [batches.batch(epoch=0, index=index).inputs_BT.tolist() for index in range(batches.num_batches(0))]
    [[[6, 7, 8], [3, 4, 5]], [[0, 1, 2], [9, 10, 11]]]
    """

    def __init__(
        self, ids: TokenIds, num_windows: int, sequence_length: int, seed: int, *, name: str | None = None
    ) -> None:
        smallest = num_windows * sequence_length + 1
        if len(ids) < smallest:
            raise _too_short(len(ids), smallest, num_windows, sequence_length, name)
        self.num_windows = num_windows
        self.sequence_length = sequence_length
        self.seed = seed
        self._windows = Windows(ids, sequence_length + 1)
        # Every epoch has one full batch at least.
        self._num_offsets = min(sequence_length, len(ids) - smallest + 1)
        self._order: tuple[int, _StrideOrder] | None = None

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; may be one less in an epoch whose first window begins late."""
        return -(-len(self._order_of(epoch)) // self.num_windows)

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        check_index(index, self.num_batches(epoch))
        first = index * self.num_windows
        return window_batch(self._windows.at(self._order_of(epoch).starts(first, first + self.num_windows)))

    def _order_of(self, epoch: int) -> _StrideOrder:
        """The windows of an epoch; the last asked for are kept."""
        if self._order is None or self._order[0] != epoch:
            order = _StrideOrder(len(self._windows), self._num_offsets, self.sequence_length, self.seed, epoch)
            self._order = (epoch, order)
        return self._order[1]


class _StrideOrder:
    """Where the windows of one epoch begin, in the order in which they come."""

    def __init__(self, num_places: int, num_offsets: int, stride: int, seed: int, epoch: int) -> None:
        sequence = np.random.SeedSequence((seed, epoch), spawn_key=(_STRIDE_STREAM,))
        generator = np.random.Generator(np.random.Philox(sequence))
        self._offset = int(generator.integers(num_offsets))
        self._stride = stride
        self._num_starts = len(range(self._offset, num_places, stride))
        self._starts: Places | None = None
        if self._num_starts <= _HELD_IN_MEMORY:
            self._starts = generator.permutation(np.arange(self._offset, num_places, stride))
        else:
            self._shuffle = Shuffle(self._num_starts, (seed, epoch), stream=_STRIDE_STREAM)

    def __len__(self) -> int:
        return self._num_starts

    def starts(self, first: int, end: int) -> Places:
        """Those of the windows [first, end), or as many as there are."""
        if self._starts is not None:
            return self._starts[first:end]
        return self._offset + self._stride * self._shuffle.at(np.arange(first, min(end, self._num_starts)))


def window_batch(windows_BT: TokenArray) -> LmBatch:
    """A batch of windows, each with the token that follows it."""
    return LmBatch(
        inputs_BT=windows_BT[:, :-1].astype(np.int64, order="C"),
        targets_BT=windows_BT[:, 1:].astype(np.int64, order="C"),
        starts_fresh=True,
    )


def random_numbers(*seed: int) -> np.random.Generator:
    """Those that a seed and, for one batch, its epoch and index fix."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def check_index(index: int, num_batches: int) -> None:
    """Refuse a batch that an epoch does not have, which a slice would return empty."""
    if not 0 <= index < num_batches:
        raise IndexError(f"batch {index} of an epoch of {num_batches:,}")


def _too_short(found: int, smallest: int, batch_size: int, length: int, name: str | None) -> DataError:
    """The error for a text of less than one batch."""
    return DataError(
        f"the text has {found:,} tokens, but batch size {batch_size:,} × sequence length {length:,} "
        f"needs at least {smallest:,}",
        path=name,
        hint="lower train.batch_size or train.sequence_length, or use a longer text",
    )
