"""Random orders of any length, looked up place by place, in memory that does not grow with them.

Letters: N places asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]

_HELD_IN_MEMORY = 1 << 16
"""Orders of up to so many numbers are drawn whole."""
_NUM_ROUNDS = 6


class Shuffle:
    """The numbers below ``size`` in a random order, which ``seed`` and ``stream`` fix.

    A long order is not drawn but computed: a Feistel network (Luby and Rackoff 1988), which permutes the numbers below
    a power of four, followed until it leads below ``size`` ("cycle walking", Black and Rogaway 2002). The power is the
    next one, so that takes less than four turns on average. This serves to shuffle, not to keep secrets.

    Args:
        size: How many numbers; at least one.
        seed: Any non-negative numbers.
        stream: Sets these draws apart from what else of a run is drawn from its seed.

    >>> sorted(Shuffle(5, (1,), stream=0).at(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, seed: Sequence[int], *, stream: int) -> None:
        sequence = np.random.SeedSequence(tuple(seed), spawn_key=(stream,))
        self.size = size
        self._order: Places | None = None
        if size <= _HELD_IN_MEMORY:
            self._order = np.random.Generator(np.random.Philox(sequence)).permutation(size)
            return
        self._half_bits = np.uint64(((size - 1).bit_length() + 1) // 2)
        self._half_mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        self._keys = sequence.generate_state(_NUM_ROUNDS, np.uint64)

    def at(self, places_N: Places) -> Places:
        """The numbers at some places of the order, shape (N,); places count from 0."""
        if self._order is not None:
            return self._order[places_N]
        numbers_N = self._permuted(places_N.astype(np.uint64))
        while True:
            is_outside_N = numbers_N >= self.size
            if not is_outside_N.any():
                return numbers_N.astype(np.int64)
            numbers_N[is_outside_N] = self._permuted(numbers_N[is_outside_N])

    def _permuted(self, numbers_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left_N, right_N = numbers_N >> self._half_bits, numbers_N & self._half_mask
        for key in self._keys:
            left_N, right_N = right_N, left_N ^ (_mixed(right_N + key) & self._half_mask)
        return left_N << self._half_bits | right_N


class Rounds:
    """The numbers below ``size`` again and again, each round in a new order: an endless sequence with random access.

    No number comes again before all others have come.

    Args:
        size: How many numbers; at least one.
        seed: With the round it fixes the order.
        stream: As of ``Shuffle``.
    """

    def __init__(self, size: int, seed: Sequence[int], *, stream: int) -> None:
        self.size = size
        self._shuffle_of_round = lru_cache(maxsize=16)(lambda number: Shuffle(size, (*seed, number), stream=stream))

    def at(self, places_N: Places) -> tuple[Places, Places]:
        """At some places of the sequence, which count from 0: which round it is, and which number."""
        rounds_N, ranks_N = np.divmod(places_N, self.size)
        numbers_N = np.empty_like(ranks_N)
        for number in np.unique(rounds_N).tolist():
            is_here_N = rounds_N == number
            numbers_N[is_here_N] = self._shuffle_of_round(number).at(ranks_N[is_here_N])
        return rounds_N, numbers_N


def _mixed(words_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of each word: the finalizer of SplitMix64 (Steele et al. 2014). Products wrap around."""
    words_N = (words_N ^ (words_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words_N = (words_N ^ (words_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words_N ^ (words_N >> np.uint64(31))
