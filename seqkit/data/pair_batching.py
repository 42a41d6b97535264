"""Batches of sentence pairs of like length under a token budget: a pure function of seed, epoch and index.

Letters: P pairs of a batch, S source length, T target length with its start or end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqkit.data.pairs import SentenceStore

Ids = npt.NDArray[np.int64]
Sentences = tuple[SentenceStore, SentenceStore]
"""The source and the target sentences of an epoch, in the same order."""

_SORTED_TOGETHER = 64
"""Batches' worth of pairs that are sorted by length together: large enough for little padding, small enough that
batches differ from epoch to epoch."""

_Numbers = npt.NDArray[np.signedinteger[Any]]
"""Lengths, or numbers of pairs, in as few bytes as hold them: there may be a hundred million pairs."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The batches of an epoch."""

    epoch: int
    sentences: Sentences
    order_P: _Numbers
    """The pairs, those of a batch beside each other."""
    bounds: Ids
    """Shape (batches, 2): where in ``order_P`` each begins and ends."""
    chosen_P: Ids | None
    """What the numbers in ``order_P`` stand for; None: for themselves."""

    def batch(self, index: int) -> _Numbers:
        """The numbers of the pairs of a batch."""
        first, last = self.bounds[index]
        numbers_P = self.order_P[first:last]
        return numbers_P if self.chosen_P is None else self.chosen_P[numbers_P]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Padded ids of some pairs, and which of them are real."""

    src_PS: Ids
    src_mask_PS: npt.NDArray[np.bool_]
    inputs_PT: Ids
    """Target ids after the start token."""
    targets_PT: Ids
    """Target ids and the end token: at each place the one to predict."""
    tgt_mask_PT: npt.NDArray[np.bool_]

    @property
    def starts_fresh(self) -> bool:
        """Nothing is carried from batch to batch."""
        return True

    @property
    def num_rows(self) -> int:
        """P."""
        return len(self.src_PS)

    @property
    def num_tokens(self) -> int:
        """Target tokens and end tokens, without padding."""
        return int(self.tgt_mask_PT.sum())

    def every(self, step: int, first: int) -> PairBatch:
        """The rows ``first``, ``first + step``, and so on, without padding that none of them needs."""
        rows = slice(first, None, step)
        src_length = int(self.src_mask_PS[rows].sum(axis=1).max())
        tgt_length = int(self.tgt_mask_PT[rows].sum(axis=1).max())
        return PairBatch(
            src_PS=self.src_PS[rows, :src_length],
            src_mask_PS=self.src_mask_PS[rows, :src_length],
            inputs_PT=self.inputs_PT[rows, :tgt_length],
            targets_PT=self.targets_PT[rows, :tgt_length],
            tgt_mask_PT=self.tgt_mask_PT[rows, :tgt_length],
        )


class BucketBatches:
    """Batches of pairs of like length.

    An epoch's pairs are shuffled, sorted by length in stretches of some batches, cut under the budget, and the
    batches shuffled. Nothing is stored between batches, so a run resumes anywhere.

    Args:
        sentences: The pairs of an epoch, by its number: the same for each, or drawn anew (BPE-dropout).
        prepare: Told the next epoch's number when this one nears its end.
        batch_tokens: Most tokens of a batch, padding counted, on its longer side; or
        batch_size: Pairs of a batch. Exactly one of the two is given.
        bos_id: Start token.
        eos_ids: End tokens of source and target; also what padding is filled with, which the masks hide.
        seed: Of the order.
        choose: From an epoch's number to the pairs that it takes, by their numbers, some perhaps more than once; None:
            each epoch takes every pair once.
    """

    def __init__(
        self,
        sentences: Callable[[int], Sentences],
        *,
        prepare: Callable[[int], None] | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        bos_id: int,
        eos_ids: tuple[int, int],
        seed: int,
        choose: Callable[[int], Ids] | None = None,
    ) -> None:
        if (batch_tokens is None) == (batch_size is None):
            raise ValueError("give batch_tokens or batch_size")
        self._sentences = sentences
        self._prepare = prepare
        self._batch_tokens = batch_tokens
        self._batch_size = batch_size
        self._bos_id = bos_id
        self._eos_ids = eos_ids
        self._seed = seed
        self._choose = choose
        self._planned: _Plan | None = None

    def num_batches(self, epoch: int) -> int:
        """Batches of epoch ``epoch`` (0-based)."""
        return len(self._plan(epoch).bounds)

    def batch(self, epoch: int, index: int) -> PairBatch:
        """Batch ``index`` (0-based) of epoch ``epoch`` (0-based)."""
        plan = self._plan(epoch)
        if self._prepare is not None and 2 * (index + 1) >= len(plan.bounds):
            self._prepare(epoch + 1)
        return pair_batch(plan.sentences, plan.batch(index), bos_id=self._bos_id, eos_ids=self._eos_ids)

    def _plan(self, epoch: int) -> _Plan:
        if self._planned is None or self._planned.epoch != epoch:
            # The old plan goes before the new one comes.
            self._planned = None
            sentences = self._sentences(epoch)
            chosen_P = None if self._choose is None else self._choose(epoch)
            lengths = [side.lengths() if chosen_P is None else side.lengths()[chosen_P] for side in sentences]
            order_P, bounds = self._cut(lengths[0], lengths[1], np.random.default_rng([self._seed, epoch]))
            self._planned = _Plan(epoch=epoch, sentences=sentences, order_P=order_P, bounds=bounds, chosen_P=chosen_P)
        return self._planned

    def _cut(self, src_P: _Numbers, tgt_P: _Numbers, generator: np.random.Generator) -> tuple[_Numbers, Ids]:
        """The pairs in order, and between what places in it each batch lies; see ``_Plan``."""
        longer_P = np.maximum(src_P, tgt_P)
        # For the start or end token.
        longer_P += 1
        number_type = np.int32 if len(longer_P) <= np.iinfo(np.int32).max else np.int64
        order_P: _Numbers = np.arange(len(longer_P), dtype=number_type)
        generator.shuffle(order_P)
        stretch = _SORTED_TOGETHER * (
            self._batch_size or max(1, int((self._batch_tokens or 0) / max(1.0, float(longer_P.mean()))))
        )
        bounds: list[Ids] = []
        for first in range(0, len(order_P), stretch):
            part_P = order_P[first : first + stretch]
            part_P[:] = part_P[np.lexsort((src_P[part_P], tgt_P[part_P], longer_P[part_P]))]
            bounds.append(first + self._cut_sorted(longer_P[part_P]))
        bounds_of_all = np.concatenate(bounds)
        return order_P, bounds_of_all[generator.permutation(len(bounds_of_all))]

    def _cut_sorted(self, longer_P: _Numbers) -> Ids:
        """Where each batch of some sorted pairs begins and ends, shape (batches, 2)."""
        if self._batch_size is not None:
            starts = np.arange(0, len(longer_P), self._batch_size)
            return np.stack([starts, np.minimum(starts + self._batch_size, len(longer_P))], axis=1)
        assert self._batch_tokens is not None
        bounds = []
        last = len(longer_P)
        # From the longest down, so that what is left over at the end is a batch of short ones.
        while last > 0:
            size = max(1, self._batch_tokens // int(longer_P[last - 1]))
            bounds.append((max(0, last - size), last))
            last -= size
        return np.array(bounds, dtype=np.int64)


def pair_batch(sentences: Sentences, chosen_P: _Numbers, *, bos_id: int, eos_ids: tuple[int, int]) -> PairBatch:
    """The padded batch of some pairs.

    Args:
        sentences: Source and target sentences.
        chosen_P: Numbers of the pairs.
        bos_id: Start token.
        eos_ids: End tokens of source and target, also what padding is filled with.
    """
    src_PS, src_mask_PS = padded([sentences[0][number] for number in chosen_P], fill=eos_ids[0], room=1)
    # The end token is part of what the encoder reads.
    src_mask_PS = np.concatenate([np.ones_like(src_mask_PS[:, :1]), src_mask_PS[:, :-1]], axis=1)
    targets_PT, inner_PT = padded([sentences[1][number] for number in chosen_P], fill=eos_ids[1], room=1)
    inputs_PT = np.concatenate([np.full_like(targets_PT[:, :1], bos_id), targets_PT[:, :-1]], axis=1)
    tgt_mask_PT = np.concatenate([np.ones_like(inner_PT[:, :1]), inner_PT[:, :-1]], axis=1)
    return PairBatch(
        src_PS=src_PS, src_mask_PS=src_mask_PS, inputs_PT=inputs_PT, targets_PT=targets_PT, tgt_mask_PT=tgt_mask_PT
    )


def twice(batch: PairBatch) -> PairBatch:
    """A batch that holds the pairs of another one, and then all of them again."""
    return PairBatch(**{name: np.concatenate([rows, rows]) for name, rows in vars(batch).items()})


def padded(
    rows: Sequence[npt.NDArray[np.integer[Any]]], *, fill: int, room: int = 0
) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Rows of ids as one matrix.

    Args:
        rows: Ids of each row.
        fill: What stands after a row's end.
        room: Columns beyond the longest row.

    Returns:
        The ids and the mask of real ones, both of shape (rows, longest + room).
    """
    lengths_P = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(int(lengths_P.max()) + room) < lengths_P[:, None]
    ids = np.full(mask.shape, fill, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask
