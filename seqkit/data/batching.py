"""The order in which a language model meets its training text: pure functions of seed, epoch and batch index.

Nothing is stored between batches, so a run that resumes at (epoch, index) continues exactly as it would have.
Letters: B columns or windows, T steps, L predicted tokens of a column, N tokens of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray

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
        ids: TokenArray,
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
        # Views of the memory map, without its class: numpy.memmap makes each slice several times slower.
        flat = np.asarray(ids)
        num_used = num_columns * self.column_length
        self._inputs_BL = flat[:num_used].reshape(num_columns, self.column_length)
        self._targets_BL = flat[1 : num_used + 1].reshape(num_columns, self.column_length)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return (self.column_length + self.sequence_length - 1) // self.sequence_length

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; each epoch starts fresh."""
        _check_index(index, self.num_batches(epoch))
        steps = slice(index * self.sequence_length, (index + 1) * self.sequence_length)
        return LmBatch(
            inputs_BT=self._inputs_BL[:, steps].astype(np.int64, order="C"),
            targets_BT=self._targets_BL[:, steps].astype(np.int64, order="C"),
            starts_fresh=index == 0,
            resets_B=self._resets(epoch, index),
        )

    def _resets(self, epoch: int, index: int) -> npt.NDArray[np.bool_] | None:
        if self.reset_probability == 0 or index == 0:
            return None
        resets_B = _generator(self.seed, epoch, index).random(self.num_columns) < self.reset_probability
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

    def __init__(self, ids: TokenArray, num_columns: int, *, name: str | None = None) -> None:
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
        self, ids: TokenArray, num_windows: int, sequence_length: int, seed: int, *, name: str | None = None
    ) -> None:
        smallest = num_windows * sequence_length + 1
        if len(ids) < smallest:
            raise _too_short(len(ids), smallest, num_windows, sequence_length, name)
        self.num_windows = num_windows
        self.sequence_length = sequence_length
        self.seed = seed
        self._num_batches = max(1, (len(ids) - 1) // (num_windows * sequence_length))
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), sequence_length + 1)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return self._num_batches

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        _check_index(index, self.num_batches(epoch))
        starts_B = _generator(self.seed, epoch, index).integers(len(self._windows), size=self.num_windows)
        return _window_batch(self._windows[starts_B])


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
        self, ids: TokenArray, num_windows: int, sequence_length: int, seed: int, *, name: str | None = None
    ) -> None:
        smallest = num_windows * sequence_length + 1
        if len(ids) < smallest:
            raise _too_short(len(ids), smallest, num_windows, sequence_length, name)
        self.num_windows = num_windows
        self.sequence_length = sequence_length
        self.seed = seed
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), sequence_length + 1)
        # Every epoch has one full batch at least.
        self._num_offsets = min(sequence_length, len(ids) - smallest + 1)
        self._starts: tuple[int, npt.NDArray[np.int64]] | None = None

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; may be one less in an epoch whose first window begins late."""
        return -(-len(self._starts_of(epoch)) // self.num_windows)

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        _check_index(index, self.num_batches(epoch))
        starts_B = self._starts_of(epoch)[index * self.num_windows : (index + 1) * self.num_windows]
        return _window_batch(self._windows[starts_B])

    def _starts_of(self, epoch: int) -> npt.NDArray[np.int64]:
        """Where the windows of an epoch begin, in the order in which they come; those of one epoch are kept."""
        if self._starts is None or self._starts[0] != epoch:
            sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(_STRIDE_STREAM,))
            generator = np.random.Generator(np.random.Philox(sequence))
            offset = int(generator.integers(self._num_offsets))
            starts = np.arange(offset, len(self._windows), self.sequence_length)
            self._starts = (epoch, generator.permutation(starts))
        return self._starts[1]


def _window_batch(windows_BT: TokenArray) -> LmBatch:
    """A batch of windows, each with the token that follows it."""
    return LmBatch(
        inputs_BT=windows_BT[:, :-1].astype(np.int64, order="C"),
        targets_BT=windows_BT[:, 1:].astype(np.int64, order="C"),
        starts_fresh=True,
    )


def _generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one batch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index))))


def _check_index(index: int, num_batches: int) -> None:
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
