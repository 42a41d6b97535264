"""Sentence pairs encoded anew for each epoch, as BPE-dropout asks (Provilkov et al. 2020, on both sides).

The ids of an epoch are a function of texts, tokenizers, seed and epoch, so a run that resumes meets the same ones.
They are made by a thread while the epoch before is trained on, and held in memory: two or four bytes a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from seqkit.data.ahead import MadeAhead
from seqkit.data.pair_batching import Sentences
from seqkit.data.pairs import SIDES, PairStore, ParallelText, SentenceStore, Side
from seqkit.tokenizers.bpe_dropout import BpeDropout

_STREAM = 2
"""Sets these draws apart from what else of a run is drawn from its seed and an epoch."""
_LINES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class RedrawnPairs:
    """The pairs of a store, of which each epoch draws other segmentations; a side without dropout stays as it is."""

    text: ParallelText
    store: PairStore
    """Says which lines are kept: those that are not over-long without dropout."""
    dropouts: dict[Side, BpeDropout]
    seed: int
    number: int = 0
    """Of this text in a mixture; each draws its own segmentations."""

    def sentences(self, epoch: int, is_wanted: Callable[[], bool]) -> Sentences | None:
        """Encode the pairs for one epoch; ``None`` if they were not wanted.

        Args:
            epoch: 0-based.
            is_wanted: Asked now and then whether to go on.

        Raises:
            DataError: A text cannot be read any more.
        """
        drawn: dict[Side, list[np.ndarray]] = {side: [] for side in self.dropouts}
        lengths: dict[Side, list[np.ndarray]] = {side: [] for side in self.dropouts}
        generators = {
            side: np.random.default_rng(np.random.SeedSequence((self.seed, epoch), spawn_key=(_STREAM, number)))
            for number, side in enumerate(SIDES, 2 * self.number)
        }
        kept_N = self.store.line_numbers
        first = num_done = 0
        pairs = self.text.lines()
        while batch := list(islice(pairs, _LINES_AT_ONCE)):
            if not is_wanted():
                return None
            # Not all of them at once as a list, which would take forty bytes a pair.
            num_before, num_done = num_done, int(np.searchsorted(kept_N, first + len(batch)))
            chosen = [batch[number - first] for number in kept_N[num_before:num_done].tolist()]
            first += len(batch)
            for side, dropout in self.dropouts.items():
                lines = [pair[SIDES.index(side)] for pair in chosen]
                encoded = dropout.encode_lines(lines, generators[side])
                lengths[side].append(np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded)))
                flat = np.fromiter((i for ids in encoded for i in ids), dtype=dropout.tokenizer.dtype)
                drawn[side].append(flat)
        src, tgt = (
            SentenceStore(ids=np.concatenate(drawn[side]), offsets=_offsets(lengths[side]))
            if side in drawn
            else getattr(self.store, side)
            for side in SIDES
        )
        return src, tgt


def _offsets(lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Where sentences of these lengths begin, and the last one ends."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(lengths), dtype=np.int64)])


def redrawn_ahead(texts: Sequence[RedrawnPairs], *, num_epochs: float | None) -> MadeAhead[Sentences]:
    """The pairs of some texts, one after the other, by epoch; the next epoch's are made while one is in use.

    Args:
        texts: One, or those of a mixture.
        num_epochs: Epochs of the whole training, where that is known.
    """

    def make(epoch: int, is_wanted: Callable[[], bool]) -> Sentences | None:
        drawn: list[Sentences] = []
        for text in texts:
            sentences = text.sentences(epoch, is_wanted)
            if sentences is None:
                return None
            drawn.append(sentences)
        if len(drawn) == 1:
            return drawn[0]
        return SentenceStore.joined([src for src, _ in drawn]), SentenceStore.joined([tgt for _, tgt in drawn])

    return MadeAhead(make, num_epochs=num_epochs)
