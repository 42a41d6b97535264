"""Byte-pair encoding as Sennrich et al. (2016) write it down, to measure the product against.

Algorithm 1, "learn BPE operations": count the pairs of neighbouring symbols over a dictionary of words, merge the
most frequent pair everywhere, and again. The paper leaves open which of equally frequent pairs is taken, so that is
an argument here. One departure, for speed: after a merge only the words that changed are counted again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

Pair = tuple[str, str]
Word = tuple[str, ...]
TieRule = Callable[[Iterable[Pair], Mapping[str, int]], Pair]
"""Chooses among equally frequent pairs, given each symbol's id: alphabet first, then results of merges in order."""


def smallest_ids(pairs: Iterable[Pair], id_of: Mapping[str, int]) -> Pair:
    """The rule of the ``tokenizers`` library."""
    return min(pairs, key=lambda pair: (id_of[pair[0]], id_of[pair[1]]))


def greatest_text(pairs: Iterable[Pair], _id_of: Mapping[str, int]) -> Pair:
    """The rule of subword-nmt."""
    return max(pairs)


def learn_reference(
    words: Mapping[Word, int],
    num_merges: int,
    *,
    tie_rule: TieRule,
    alphabet: Sequence[str] | None = None,
    min_frequency: int = 1,
) -> tuple[list[Pair], int]:
    """The merges, and how many of them were chosen among equally frequent pairs.

    Args:
        words: Symbols of each word, and how often it occurs.
        num_merges: How many merges to learn; fewer if pairs run out.
        tie_rule: Chooses among equally frequent pairs.
        alphabet: The symbols in the order of their ids; sorted by default.
        min_frequency: Rarer pairs are not merged.
    """
    spellings = [list(word) for word in words]
    frequencies = list(words.values())
    symbols = sorted({symbol for word in words for symbol in word}) if alphabet is None else alphabet
    id_of = {symbol: i for i, symbol in enumerate(symbols)}
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)

    def count(index: int, sign: int) -> None:
        for pair in pairwise(spellings[index]):
            counts[pair] += sign * frequencies[index]
            if sign > 0:
                places[pair].add(index)
            elif counts[pair] == 0:
                del counts[pair], places[pair]

    for index in range(len(spellings)):
        count(index, +1)
    merges: list[Pair] = []
    num_ties = 0
    while len(merges) < num_merges and counts:
        most = max(counts.values())
        if most < min_frequency:
            break
        best = [pair for pair, frequency in counts.items() if frequency == most]
        num_ties += len(best) > 1
        pair = tie_rule(best, id_of)
        for index in list(places[pair]):
            count(index, -1)
            spellings[index] = merge(spellings[index], pair)
            count(index, +1)
        merges.append(pair)
        id_of.setdefault(pair[0] + pair[1], len(id_of))
    return merges, num_ties


def merge(symbols: list[str], pair: Pair) -> list[str]:
    """``symbols`` with ``pair`` merged wherever it stands, from left to right."""
    merged: list[str] = []
    for symbol in symbols:
        # What was just made is longer than the left half, so it cannot be taken for it.
        if merged and (merged[-1], symbol) == pair:
            merged[-1] = pair[0] + pair[1]
        else:
            merged.append(symbol)
    return merged


def encode_reference(symbols: Word, merges: Sequence[Pair]) -> list[str]:
    """The pieces of a word: every merge in turn, wherever it applies."""
    pieces = list(symbols)
    for pair in merges:
        pieces = merge(pieces, pair)
    return pieces
