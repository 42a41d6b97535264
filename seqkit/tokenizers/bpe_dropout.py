"""BPE-dropout (Provilkov et al. 2020): text cut into pieces anew each time, by leaving merges out at random.

Algorithm 1 of the paper, for each stretch of symbols that merges do not leave (a word, or a part of one): at every
step each pair of neighbours that has a merge is dropped with probability p, independently and anew; of the survivors
the one of highest priority is merged, at all its surviving places from left to right; the stretch is finished when
none survives. Here all stretches of a text take their steps together, in arrays.

Randomness: the generator gives one 64-bit number a line, in the order of the lines, and all draws of the line follow
from it. So a line's pieces do not depend on how the text was cut into blocks, and a PCG64 that was advanced by n
goes on with line n.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import count, pairwise

import numpy as np
import numpy.typing as npt

from seqkit.tokenizers.base import TokenArray, encode_unicode
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_text import WORD_END, normalize
from seqkit.tokenizers.bpe_words import Stretch

LONGEST_STRETCH = 256
"""Longer stretches, which no language has as words, are cut: time would grow with the square of their length."""

_NO_MERGE = (1 << 31) - 2
"""The rank of two neighbours that have no merge."""
_STRETCH_END = (1 << 31) - 1
"""The rank of a stretch's last symbol, which has no right neighbour."""

_LINE_END, _EMPTY = 0, 1
"""The first two rows of the table of words."""
_MAX_WORDS = 1 << 18
_MAX_SYMBOLS = 1 << 23
"""Bounds of that table; beyond them it is begun anew."""
_SYMBOLS_AT_ONCE = 1 << 17
"""Few enough that the arrays stay in a processor's cache, many enough that a step of Python costs little."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio, odd."""
_LCG_FACTOR = np.uint64(6364136223846793005)
_LCG_INCREMENT = np.uint64(1442695040888963407)
"""Of Knuth's linear congruential generator modulo 2^64."""

Int32Array = npt.NDArray[np.int32]
UInt64Array = npt.NDArray[np.uint64]
IndexArray = npt.NDArray[np.intp]


class BpeDropout:
    """Encodes with a tokenizer whose merges are dropped at random. Not for several threads at once.

    It departs from the paper in one thing: merges do not cross the edges between ``LONGEST_STRETCH`` symbols.

    Args:
        tokenizer: Fitted.
        probability: p, from 0 to 1: at 0 the result is the tokenizer's own, at 1 single symbols.

    Raises:
        ValueError: The probability is outside 0 … 1.
    """

    def __init__(self, tokenizer: BpeTokenizer, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, not {probability}")
        self.tokenizer = tokenizer
        self.probability = probability
        id_of_piece = tokenizer.id_of_piece
        merges = [(id_of_piece[left], id_of_piece[right]) for left, right in tokenizer.merges]
        self._ranks = _PairRanks(merges, tokenizer.vocab_size)
        self._merged = np.array([id_of_piece[left + right] for left, right in tokenizer.merges], dtype=np.int32)
        self._words = _WordTable(tokenizer, merges)

    def encode_lines(self, lines: Sequence[str], rng: np.random.Generator) -> list[list[int]]:
        r"""The token ids of each line.

        Args:
            lines: Without ``\n``.
            rng: Gives one 64-bit number a line.

        Raises:
            DataError: As ``BpeTokenizer.encode``.
            ValueError: A line holds a line end.
        """
        ids = self.encode_array("".join([line + "\n" for line in lines]), rng)
        ends = np.flatnonzero(ids == self.tokenizer.eos_id).tolist()
        if len(ends) != len(lines):
            raise ValueError("a line holds a line end")
        flat: list[int] = ids.tolist()
        return [flat[end + 1 : next_end] for end, next_end in pairwise([-1, *ends])]

    def encode_array(self, text: str, rng: np.random.Generator) -> TokenArray:
        r"""The token ids of a text, as ``BpeTokenizer.encode_array`` gives them without dropout.

        Texts that end in ``\n`` can be encoded one after the other: the ids are those of the whole.

        Args:
            text: Any number of lines, the last one with or without ``\n``.
            rng: Gives one 64-bit number a line.

        Returns:
            Shape (tokens,), of the tokenizer's ``dtype``.

        Raises:
            DataError: As ``BpeTokenizer.encode``.
        """
        num_lines = text.count("\n") + (text != "" and not text.endswith("\n"))
        line_seeds = rng.integers(0, 1 << 64, size=num_lines, dtype=np.uint64)
        if self.probability == 0:
            return self.tokenizer.encode_array(text)
        encode_unicode(text, "utf-8")
        words = self._words.rows(text)
        lengths = self._words.lengths(words)
        ends = np.cumsum(lengths)
        seeds = _word_seeds(line_seeds, words == _LINE_END, ends - lengths)
        dtype = self.tokenizer.dtype
        parts = []
        first = num_before = 0
        while first < len(words):
            last = max(first + 1, int(np.searchsorted(ends, num_before + _SYMBOLS_AT_ONCE, side="right")))
            chunk = slice(first, last)
            symbols, ranks = self._words.spelled(words[chunk], lengths[chunk])
            states = np.arange(num_before, num_before + len(symbols), dtype=np.uint64)
            states *= _GOLDEN
            states += np.repeat(seeds[chunk], lengths[chunk])
            pieces = _merge_with_dropout(symbols, ranks, _mixed(states), self._ranks, self._merged, self.probability)
            parts.append(pieces.astype(dtype))
            num_before += len(symbols)
            first = last
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


class _WordTable(dict[str, int]):
    """A row for each word met so far: the symbols that it is spelled with before anything is merged.

    Args:
        tokenizer: Whose words they are.
        merges: The pairs of symbols that merge, the first one first.
    """

    def __init__(self, tokenizer: BpeTokenizer, merges: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._rank_of = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
        self._begin()

    def _begin(self) -> None:
        """Forget all words."""
        self.clear()
        self._symbols = array("i")
        self._ranks = array("i")
        self._starts = array("q")
        self._lengths = array("q")
        self._add("\n", [[self._tokenizer.eos_id]])
        self._add("", self._stretches(""))

    def __missing__(self, word: str) -> int:
        return self._add(word, self._stretches(word))

    def rows(self, text: str) -> IndexArray:
        """The rows of a text's words and line ends, in order; blank lines have no word."""
        if len(self) > _MAX_WORDS or len(self._symbols) > _MAX_SYMBOLS:
            self._begin()
        words = text.replace("\n", " \n ").split(" ")
        rows = np.fromiter(map(self.__getitem__, words), dtype=np.intp, count=len(words))
        # Nothing at all between two line ends is no empty word.
        is_edge = np.concatenate(([True], rows == _LINE_END, [True]))
        kept: IndexArray = rows[(rows != _EMPTY) | ~(is_edge[:-2] & is_edge[2:])]
        return kept

    def lengths(self, rows: IndexArray) -> IndexArray:
        """Symbols of each row."""
        lengths: IndexArray = np.frombuffer(self._lengths, dtype=np.int64)[rows]
        return lengths

    def spelled(self, rows: IndexArray, lengths: IndexArray) -> tuple[Int32Array, Int32Array]:
        """The symbols of some rows, one after the other, and the rank of each one's pair with the next."""
        starts = np.frombuffer(self._starts, dtype=np.int64)[rows]
        ends = np.cumsum(lengths)
        places = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
        symbols, ranks = np.frombuffer(self._symbols, dtype=np.int32), np.frombuffer(self._ranks, dtype=np.int32)
        return symbols[places], ranks[places]

    def _stretches(self, word: str) -> list[list[int]]:
        """The symbols of each part of a word that merges do not leave; normalization may make several words of it."""
        tokenizer = self._tokenizer
        stretches = []
        for normalized in normalize(word, tokenizer.normalization).split(" "):
            for stretch in tokenizer.speller.stretches(normalized):
                symbols = self._spell(stretch)
                stretches += [symbols[i : i + LONGEST_STRETCH] for i in range(0, len(symbols), LONGEST_STRETCH)]
        return stretches

    def _spell(self, stretch: Stretch) -> list[int]:
        """The symbols of one part of a word."""
        tokenizer = self._tokenizer
        id_of_piece = tokenizer.id_of_piece
        match stretch.kind:
            case "seen":
                return [id_of_piece[character] for character in stretch.text]
            case "final":
                symbols = [id_of_piece[character] for character in stretch.text[:-1]]
                return [*symbols, id_of_piece[stretch.text[-1] + WORD_END]]
            case "piece":
                return [id_of_piece[stretch.text]]
            case "unseen":
                if tokenizer.unk_id is not None:
                    return [tokenizer.unk_id]
                return [tokenizer.byte_ids[byte] for byte in stretch.text.encode()]

    def _add(self, word: str, stretches: list[list[int]]) -> int:
        row = len(self)
        self[word] = row
        self._starts.append(len(self._symbols))
        for symbols in stretches:
            self._symbols.extend(symbols)
            self._ranks.extend([self._rank_of.get(pair, _NO_MERGE) for pair in pairwise(symbols)])
            self._ranks.append(_STRETCH_END)
        self._lengths.append(len(self._symbols) - self._starts[row])
        return row


def _word_seeds(line_seeds: UInt64Array, is_line_end: npt.NDArray[np.bool_], starts: IndexArray) -> UInt64Array:
    """A number for each word, to which n times ``_GOLDEN`` is added for symbol n of the text.

    Together they are, for symbol j of a line, what the SplitMix64 generator (Steele et al. 2014) mixes as its
    number j if the line's seed is its own.
    """
    line_starts = np.concatenate(([0], starts[is_line_end] + 1)).astype(np.uint64)[: len(line_seeds)]
    lines: IndexArray = np.cumsum(is_line_end) - is_line_end
    seeds: UInt64Array = (line_seeds - line_starts * _GOLDEN)[lines]
    return seeds


def _mixed(states: UInt64Array) -> UInt64Array:
    """The output function of SplitMix64; in place."""
    states ^= states >> np.uint64(30)
    states *= np.uint64(0xBF58476D1CE4E5B9)
    states ^= states >> np.uint64(27)
    states *= np.uint64(0x94D049BB133111EB)
    states ^= states >> np.uint64(31)
    return states


def _merge_with_dropout(
    symbols: Int32Array,
    ranks: Int32Array,
    states: UInt64Array,
    pairs: _PairRanks,
    merged: Int32Array,
    probability: float,
) -> Int32Array:
    """Algorithm 1 of Provilkov et al. (2020) for many stretches at once.

    Args:
        symbols: The stretches, one after the other, shape (symbols,); each has one symbol or more.
        ranks: The rank of each symbol's pair with the next; ``_NO_MERGE``, or ``_STRETCH_END`` at a last symbol.
        states: A random number for each symbol.
        pairs: The rank of any pair.
        merged: What the merge of each rank gives.
        probability: Of dropping.

    Returns:
        The pieces of all stretches in their order.
    """
    if probability >= 1:
        return symbols
    threshold = np.uint64(int(probability * 2.0**64))
    # A piece stands where its first symbol stood, so that the places filled in the end are in order.
    pieces = np.full(len(symbols), -1, dtype=np.int32)
    places = np.arange(len(symbols), dtype=np.int32)
    while len(symbols):
        surviving = np.where(states >= threshold, ranks, _NO_MERGE)
        ends = np.flatnonzero(ranks == _STRETCH_END)
        lengths = np.diff(ends, prepend=-1)
        # At the end of a stretch is the largest rank of all, which says no more than _NO_MERGE.
        best = np.minimum(np.minimum.reduceat(surviving, ends - lengths + 1), _NO_MERGE)
        best = np.repeat(best, lengths)
        is_finished = best == _NO_MERGE
        finished = np.flatnonzero(is_finished)
        pieces[places[finished]] = symbols[finished]
        left = _without_overlaps(np.flatnonzero((surviving == best) & ~is_finished))
        right = left + 1
        symbols[left] = merged[ranks[left]]
        ranks[left] = ranks[right]
        stays = ~is_finished
        stays[right] = False
        kept = np.flatnonzero(stays)
        symbols, ranks, places, states = symbols[kept], ranks[kept], places[kept], states[kept]
        # Each symbol goes on with its own congruential sequence, of which the high bits decide.
        states *= _LCG_FACTOR
        states += _LCG_INCREMENT
        # What was merged makes new pairs with its neighbours.
        changed = np.cumsum(stays, dtype=np.int32)[left] - 1
        changed = np.concatenate((changed, changed[changed > 0] - 1))
        changed = changed[ranks[changed] != _STRETCH_END]
        ranks[changed] = pairs.ranks(symbols[changed], symbols[changed + 1])
    return pieces[pieces >= 0]


def _without_overlaps(places: IndexArray) -> IndexArray:
    """Of merges that share a symbol, as the two of ``a a`` in ``a a a`` do, the first, third, …: from left to right.

    >>> _without_overlaps(np.array([1, 3, 4, 5, 9])).tolist()
    [1, 3, 5, 9]
    """
    touches = np.diff(places, prepend=-2) == 1
    if not touches.any():
        return places
    numbers = np.arange(len(places))
    group_starts = np.maximum.accumulate(np.where(touches, 0, numbers))
    chosen: IndexArray = places[(numbers - group_starts) % 2 == 0]
    return chosen


class _PairRanks:
    """The rank of a pair of symbols, for arrays of them: an open hash table with linear probing.

    Args:
        pairs: Left and right symbol, in order of rank.
        num_symbols: All symbols are below it.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], num_symbols: int) -> None:
        self._num_symbols = np.uint64(num_symbols)
        # An eighth full at most: hardly a search goes beyond its first slot.
        bits = max(4, (8 * len(pairs)).bit_length())
        self._shift = np.uint64(64 - bits)
        # One past the largest key, which no pair has; the spare slots spare the search a turn at the end.
        self._empty = np.uint64(num_symbols * num_symbols)
        self._keys = np.full((1 << bits) + len(pairs) + 1, self._empty, dtype=np.uint64)
        self._ranks = np.full(len(self._keys), _NO_MERGE, dtype=np.int32)
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        keys = self._key(both[:, 0], both[:, 1])
        taken: set[int] = set()
        for rank, (key, first_slot) in enumerate(zip(keys.tolist(), self._slots(keys).tolist(), strict=True)):
            slot = next(slot for slot in count(first_slot) if slot not in taken)
            taken.add(slot)
            self._keys[slot] = key
            self._ranks[slot] = rank

    def ranks(self, left: npt.NDArray[np.integer], right: npt.NDArray[np.integer]) -> Int32Array:
        """The rank of each pair, ``_NO_MERGE`` where there is none; shapes (pairs,)."""
        keys = self._key(left, right)
        slots = self._slots(keys)
        found = self._keys[slots]
        ranks = self._ranks[slots]
        is_other = found != keys
        ranks[is_other] = _NO_MERGE
        searching = np.flatnonzero(is_other & (found != self._empty))
        while len(searching):
            slots[searching] += 1
            found = self._keys[slots[searching]]
            is_hit = found == keys[searching]
            hits = searching[is_hit]
            ranks[hits] = self._ranks[slots[hits]]
            searching = searching[~is_hit & (found != self._empty)]
        return ranks

    def _key(self, left: npt.NDArray[np.integer], right: npt.NDArray[np.integer]) -> UInt64Array:
        keys: UInt64Array = left.astype(np.uint64)
        keys *= self._num_symbols
        keys += right.astype(np.uint64)
        return keys

    def _slots(self, keys: UInt64Array) -> IndexArray:
        """Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4)."""
        slots: IndexArray = ((keys * _GOLDEN) >> self._shift).view(np.int64)
        return slots
