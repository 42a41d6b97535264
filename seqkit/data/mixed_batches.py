"""Batches of windows from a mixture of texts, each from an empty state; no window crosses from one text into another.

Letters: B windows, T steps, C corpora.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from seqkit.data.batching import LmBatch, check_index, random_numbers, window_batch
from seqkit.data.mixing import MixedItems, Mixture
from seqkit.data.sharded_ids import TokenIds, Windows
from seqkit.data.shuffling import Places, Shuffle
from seqkit.errors import DataError

_ORDER_STREAM, _OFFSET_STREAM = 4, 5
"""Set these draws apart from what else of a run is drawn from its seed."""


class MixedWindowBatches:
    """Windows from random places: of a corpus drawn by its share, any place alike.

    An epoch is as many batches as cover the texts once, if not exactly: max(1, (N - 1) // (B · T)) for N tokens.

    Args:
        ids: The corpora, one after the other.
        mixture: Sizes and shares, in tokens.
        num_windows: B.
        sequence_length: T.
        seed: With epoch and index it fixes a batch.

    Raises:
        DataError: A corpus is shorter than one window.
    """

    def __init__(self, ids: TokenIds, mixture: Mixture, num_windows: int, sequence_length: int, seed: int) -> None:
        _check_sizes(mixture, sequence_length)
        sizes_C = np.asarray(mixture.sizes)
        self._num_windows = num_windows
        self._seed = seed
        self._shares_C = np.asarray(mixture.shares)
        self._firsts_C = np.cumsum(sizes_C) - sizes_C
        self._places_C = sizes_C - sequence_length
        self._num_batches = max(1, (len(ids) - 1) // (num_windows * sequence_length))
        self._windows = Windows(ids, sequence_length + 1)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return self._num_batches

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        check_index(index, self._num_batches)
        generator = random_numbers(self._seed, epoch, index)
        corpora_B = generator.choice(len(self._shares_C), size=self._num_windows, p=self._shares_C)
        starts_B = self._firsts_C[corpora_B] + generator.integers(self._places_C[corpora_B])
        return window_batch(self._windows.at(starts_B))


class MixedStrideBatches:
    """Windows one after the other that cover each corpus once a round, in random order.

    A corpus of n tokens has max(1, (n - T) // T) windows a round, of which the first begins at a random one of its
    first tokens; an epoch takes as many windows as all corpora have, and of each its share (see ``MixedItems``). The
    last batch has fewer where B does not divide their number.

    Args:
        ids: The corpora, one after the other.
        mixture: Sizes and shares, in tokens.
        num_windows: B.
        sequence_length: T.
        seed: Of places and order.

    Raises:
        DataError: A corpus is shorter than one window.
    """

    def __init__(self, ids: TokenIds, mixture: Mixture, num_windows: int, sequence_length: int, seed: int) -> None:
        _check_sizes(mixture, sequence_length)
        sizes_C = np.asarray(mixture.sizes)
        windows_C = np.maximum(1, (sizes_C - sequence_length) // sequence_length)
        self._num_windows = num_windows
        self._length = sequence_length
        self._firsts_C = np.cumsum(sizes_C) - sizes_C
        # As many as leave room for all windows of a round and the token after the last.
        self._offsets_C = np.minimum(sequence_length, sizes_C - windows_C * sequence_length)
        self._items = MixedItems(windows_C.tolist(), mixture.shares, seed)
        self._windows = Windows(ids, sequence_length + 1)
        self._order_of_epoch = lru_cache(maxsize=1)(
            lambda epoch: Shuffle(self._items.num_items, (seed, epoch), stream=_ORDER_STREAM)
        )
        self._offset = lru_cache(maxsize=1024)(self._new_offset)
        self._seed = seed

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the same in every epoch."""
        return -(-self._items.num_items // self._num_windows)

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``; always starts fresh."""
        check_index(index, self.num_batches(epoch))
        first = index * self._num_windows
        places_B = np.arange(first, min(first + self._num_windows, self._items.num_items))
        return window_batch(self._windows.at(self._starts(epoch, places_B)))

    def _starts(self, epoch: int, places_B: Places) -> Places:
        """Where the windows at some places of an epoch begin."""
        corpora_B, rounds_B, items_B = self._items.at(epoch, self._order_of_epoch(epoch).at(places_B))
        offsets_B = np.fromiter(map(self._offset, corpora_B.tolist(), rounds_B.tolist()), dtype=np.int64)
        starts_B: Places = self._firsts_C[corpora_B] + offsets_B + items_B * self._length
        return starts_B

    def _new_offset(self, corpus: int, number: int) -> int:
        """Where the first window of a round begins."""
        sequence = np.random.SeedSequence((self._seed, corpus, number), spawn_key=(_OFFSET_STREAM,))
        return int(np.random.Generator(np.random.Philox(sequence)).integers(self._offsets_C[corpus]))


def _check_sizes(mixture: Mixture, sequence_length: int) -> None:
    """Refuse a corpus that has no window."""
    for name, size in zip(mixture.names, mixture.sizes, strict=True):
        if size <= sequence_length:
            raise DataError(
                f"this corpus of the mixture has {size:,} tokens, but a window of train.sequence_length "
                f"{sequence_length:,} needs {sequence_length + 1:,}",
                path=name,
                hint="lower train.sequence_length, or join the corpus with another one",
            )
