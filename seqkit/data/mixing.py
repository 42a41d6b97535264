"""How much of each corpus a mixture takes, and which part of it comes when.

Shares are p_i ∝ w_i · n_i^(1/τ): weight w, size n, temperature τ (Arivazhagan et al. 2019 without the weights). With
τ = 1 and equal weights that is all text once an epoch; a higher τ gives small corpora more, a weight of 2 doubles a
corpus against the others. Letters: C corpora.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqkit.data.shuffling import Places, Rounds

_ROUNDS_STREAM = 3
"""Sets these draws apart from what else of a run is drawn from its seed."""
_SLOTS_AT_ONCE = 1 << 20

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Corpora that lie one after the other, and how much of each is taken."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """In tokens of text, or in pairs."""
    shares: tuple[float, ...]
    """Sum to 1."""

    def describe(self) -> str:
        """Names and shares in a few words."""
        parts = [f"{name} {100 * share:.3g} %" for name, share in zip(self.names, self.shares, strict=True)]
        return f"a mixture of {', '.join(parts)}"

    def repeats(self) -> list[float]:
        """How often an epoch takes each corpus: less than 1 for one of which only a part comes."""
        total = sum(self.sizes)
        return [share * total / size for share, size in zip(self.shares, self.sizes, strict=True)]


def mix(names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], temperature: float) -> Mixture:
    """The mixture of some corpora.

    >>> [round(share, 3) for share in mix(["a", "b"], [100, 300], [1, 1], temperature=1).shares]
    [0.25, 0.75]
    """
    # In logarithms, since a low temperature makes powers that no float holds.
    logs_C = np.log(np.asarray(weights, dtype=np.float64)) + np.log(np.asarray(sizes)) / temperature
    powers_C = np.exp(logs_C - logs_C.max())
    return Mixture(names=tuple(names), sizes=tuple(sizes), shares=tuple((powers_C / powers_C.sum()).tolist()))


def quotas(shares: Sequence[float], total: int) -> list[int]:
    """``total`` divided by shares into whole numbers, by largest remainder; the first of equals gets more.

    >>> quotas([0.5, 0.25, 0.25], 6), quotas([0.001, 0.999], 10)
    ([3, 2, 1], [0, 10])
    """
    exact_C = np.asarray(shares) * total
    floor_C = np.floor(exact_C).astype(np.int64)
    rest = total - int(floor_C.sum())
    # The sum of floors may be off by one through rounding; then nothing is left to hand out.
    floor_C[np.argsort(floor_C - exact_C, kind="stable")[: max(0, rest)]] += 1
    return [int(quota) for quota in floor_C]


class MixedItems:
    """What a mixture takes in each epoch, item by item: windows of text, or pairs.

    An epoch has as many items as the corpora have together, and of each corpus its quota. A corpus is gone through in
    rounds: what one epoch leaves of it comes in the next, and nothing comes again before all of it has come. Where an
    item is found is a function of seed, epoch and place, so a run goes on anywhere.

    Args:
        sizes: Items of each corpus.
        shares: Of each corpus.
        seed: Of the order.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: int) -> None:
        self.num_items = sum(sizes)
        self.quotas = quotas(shares, self.num_items)
        self._ends_C = np.cumsum(self.quotas)
        self._firsts_C: Places = np.cumsum(sizes) - np.asarray(sizes, dtype=np.int64)
        self._rounds = [Rounds(size, (seed, corpus), stream=_ROUNDS_STREAM) for corpus, size in enumerate(sizes)]

    def at(self, epoch: int, slots_N: Places) -> tuple[Places, Places, Places]:
        """What stands in some slots of an epoch; corpus after corpus, each its quota.

        Args:
            epoch: 0-based.
            slots_N: Numbers below ``num_items``.

        Returns:
            For each the corpus, the round it is in there, and the number of the item in its corpus.
        """
        corpora_N = np.searchsorted(self._ends_C, slots_N, side="right")
        rounds_N, items_N = np.zeros_like(slots_N), np.zeros_like(slots_N)
        for corpus in np.unique(corpora_N).tolist():
            is_here_N = corpora_N == corpus
            quota = self.quotas[corpus]
            places_N = epoch * quota + slots_N[is_here_N] - (int(self._ends_C[corpus]) - quota)
            rounds_N[is_here_N], items_N[is_here_N] = self._rounds[corpus].at(places_N)
        return corpora_N.astype(np.int64), rounds_N, items_N

    def numbers(self, epoch: int) -> Places:
        """All items of an epoch, corpus after corpus; those of all corpora are numbered through."""
        numbers_N = np.empty(self.num_items, dtype=np.int64)
        # Block by block, since looking them up takes several times the memory of the result.
        for first in range(0, self.num_items, _SLOTS_AT_ONCE):
            slots_N = np.arange(first, min(first + _SLOTS_AT_ONCE, self.num_items))
            corpora_N, _, items_N = self.at(epoch, slots_N)
            numbers_N[slots_N] = self._firsts_C[corpora_N] + items_N
        return numbers_N
