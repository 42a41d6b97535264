"""Learning byte-pair encoding from word counts (Sennrich et al. 2016, algorithm 1).

The merges are found by the ``tokenizers`` library. Of two pairs that are equally frequent it takes the one whose left
piece, then right piece, has the smaller id (Sennrich et al. leave that open; subword-nmt takes the lexicographically
greatest). So the result depends on the counts and the settings alone.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

import numpy as np

from seqkit.errors import DataError, UsageError
from seqkit.tokenizers.base import encode_unicode, whole_tokens
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_text import (
    BUILT_IN_PIECES,
    BYTE_PIECES,
    CONTINUED,
    WORD_END,
    WORD_START,
    ReservedStrings,
    check_special_tokens,
    normalize,
    units,
)

if TYPE_CHECKING:
    from seqkit.recipe import tokenizer_schema

_PARALLELISM = "TOKENIZERS_PARALLELISM"
_UNITS_FED_AT_ONCE = 1024

logger = logging.getLogger(__name__)


class WordCounts(Counter[str]):
    r"""How often each blank-separated word occurs in a stream of text, in memory that grows with the words only.

    >>> counts = WordCounts()
    >>> counts.add("low low\nlower")
    >>> counts["low"], counts["lower"]
    (2, 1)
    """

    def add(self, block: str) -> None:
        """Count the words of ``block``, which was cut from its text at a blank or a line end."""
        # Empty words are counted along, which is cheaper than to leave them out here; learning drops them.
        self.update(block.replace("\n", " ").split(" "))


def fit_bpe(config: tokenizer_schema.BpeTokenizer, blocks: Iterable[str]) -> BpeTokenizer:
    """Learn a tokenizer from a text.

    Args:
        config: What to learn.
        blocks: The training text, in pieces cut anywhere; read once.

    Returns:
        The tokenizer; the same for the same text however it is cut.

    Raises:
        DataError: The text has no word, or one too long to hold in memory.
        UsageError: The vocabulary is to be smaller than is possible.
    """
    counts = WordCounts()
    for text in whole_tokens(blocks, lambda block: 1 + max(block.rfind(" "), block.rfind("\n"))):
        counts.add(text)
    return learn_bpe(counts, config)


def learn_bpe(counts: Mapping[str, int], config: tokenizer_schema.BpeTokenizer) -> BpeTokenizer:
    """Learn a tokenizer from counted words.

    Of the characters, the most frequent ones that make up ``character_coverage`` of the text become pieces; ties
    are cut in code-point order. Merges are learned from the runs of covered characters within a word.

    Args:
        counts: Words, without blanks and line ends, and how often each occurs; order does not matter.
        config: What to learn; its ``path`` is not read.

    Returns:
        The tokenizer. It has fewer pieces than asked for where no pair occurs ``min_frequency`` times any more,
        which is logged as a warning.

    Raises:
        DataError: There is no word; or one holds half of a surrogate pair.
        UsageError: ``vocab_size`` is smaller than the characters need; says the smallest that works. Or a special
            token cannot be one.
    """
    try:
        check_special_tokens(config.special_tokens, config.boundary, config.normalization)
    except ValueError as error:
        raise UsageError(str(error)) from error
    words = _words(counts, config)
    alphabet = _Alphabet(words, config)
    first_pieces = [*BUILT_IN_PIECES, *config.special_tokens]
    if config.unseen == "bytes":
        first_pieces += BYTE_PIECES
    num_first = len(first_pieces) + len(alphabet.symbols)
    if config.vocab_size is not None and config.vocab_size < num_first:
        raise UsageError(
            f"vocab_size {config.vocab_size:,} is too small: {len(first_pieces):,} special pieces and bytes and "
            f"{len(alphabet.symbols):,} single characters make {num_first:,}, the smallest that works",
            hint=f"ask for {num_first:,} or more, or lower character_coverage",
        )
    num_symbols = len(alphabet.symbols)
    if config.vocab_size is not None:
        num_symbols += config.vocab_size - num_first
    elif config.num_merges is not None:
        num_symbols += config.num_merges
    coded_merges = _train(alphabet.units(words), alphabet.codes, num_symbols, config.min_frequency)
    merges = [(alphabet.piece(left), alphabet.piece(right)) for left, right in coded_merges[: config.num_merges]]
    # A merge may make what another one has made before, so there can be fewer pieces than merges.
    pieces = dict.fromkeys([*first_pieces, *alphabet.symbols, *(left + right for left, right in merges)])
    _warn_of_fewer(config, len(pieces), len(merges))
    return BpeTokenizer(
        list(pieces),
        merges,
        special_tokens=config.special_tokens,
        boundary=config.boundary,
        split=config.split,
        normalization=config.normalization,
        unseen=config.unseen,
    )


def _words(counts: Mapping[str, int], config: tokenizer_schema.BpeTokenizer) -> dict[str, int]:
    """The normalized words to learn from.

    Raises:
        DataError: There is none.
    """
    words: dict[str, int] = {}
    if config.normalization == "none":
        words.update(counts)
    else:
        for text, count in counts.items():
            for word in normalize(text, config.normalization).split(" "):
                words[word] = words.get(word, 0) + count
    for word in ("", *config.special_tokens):
        words.pop(word, None)
    if not words:
        raise DataError("there is no word to learn from", hint="the text is empty, or nothing but blanks")
    return words


class _Alphabet:
    """The symbols that merging begins with, and for each a code: one character, as the trainer wants it.

    A symbol is its own code, but the form of a character that ends a word has one that the text does not use. (The
    trainer can add an end-of-word suffix itself, but numbers the symbols that have it in an order that changes from
    run to run, and with it the ties.)

    Args:
        words: How often each word occurs.
        config: ``character_coverage`` says which characters are in, ``boundary`` which forms there are.
    """

    def __init__(self, words: Mapping[str, int], config: tokenizer_schema.BpeTokenizer) -> None:
        self._config = config
        frequency_of = _character_counts(words)
        names = {*BUILT_IN_PIECES, *config.special_tokens}
        if config.unseen == "bytes":
            names.update(BYTE_PIECES)
        if config.boundary == "start":
            # One in the text must not be taken for the mark, so it is always unseen.
            frequency_of.pop(WORD_START, None)
        covered = _covered(frequency_of, config.character_coverage)
        self._unseen = frozenset(frequency_of.keys() - covered)
        symbol_of = {character: character for character in covered}
        self._code_of_final: dict[str, str] = {}
        if config.boundary == "start":
            self._unseen |= {WORD_START}
            symbol_of[WORD_START] = WORD_START
        else:
            names.add(WORD_END)
            final = ["", *sorted({word[-1] for word in words if word[-1] not in self._unseen})]
            code_points = chain(range(0x10FFFF, 0xDFFF, -1), range(0xD7FF, 0x7F, -1))
            free = (chr(code_point) for code_point in code_points if chr(code_point) not in frequency_of)
            codes = sorted(islice(free, len(final)))
            self._code_of_final = dict(zip(final, codes, strict=True))
            symbol_of |= {code: character + WORD_END for character, code in self._code_of_final.items()}
        self._symbol_of = dict(sorted(symbol_of.items()))
        self._reserved = ReservedStrings(names)

    @property
    def codes(self) -> list[str]:
        """The codes, in the order of the ids."""
        return list(self._symbol_of)

    @property
    def symbols(self) -> list[str]:
        """The symbols, in the order of the ids."""
        return list(self._symbol_of.values())

    def piece(self, coded: str) -> str:
        """The piece that a sequence of codes stands for."""
        return "".join([self._symbol_of[code] for code in coded]) if self._code_of_final else coded

    def units(self, words: Mapping[str, int]) -> dict[str, int]:
        """The coded sequences that merges are learned from, and how often each occurs; single codes are left out."""
        counts: dict[str, int] = {}
        is_marked_at_start = self._config.boundary == "start"
        for word, count in words.items():
            found = self._stretches(word)
            if is_marked_at_start:
                if word[0] not in self._unseen:
                    found[0] = WORD_START + found[0]
            elif word[-1] not in self._unseen:
                last = found.pop()
                final = self._code_of_final[word[-1]]
                # No piece may end in @@</w>: it would be written as one that ends in @ and does not end its word.
                found += [last[:-1], final] if word.endswith(CONTINUED) else [last[:-1] + final]
            for unit in found:
                if len(unit) > 1:
                    counts[unit] = counts.get(unit, 0) + count
        return counts

    def _stretches(self, word: str) -> list[str]:
        """``word`` cut where merges stop, without its unseen characters, and so that no part is a reserved name."""
        parts = units(word, self._config.split)
        if self._unseen.isdisjoint(word) and not self._reserved.occur_in(word):
            return parts
        found: list[str] = []
        for part in parts:
            for is_unseen, run in groupby(part, self._unseen.__contains__):
                if not is_unseen:
                    found += self._reserved.cut("".join(run))
        return found


def _character_counts(words: Mapping[str, int]) -> dict[str, int]:
    """How often each character occurs.

    Raises:
        DataError: A word holds half of a surrogate pair.
    """
    code_points = np.frombuffer(encode_unicode("".join(words), "utf-32-le"), dtype="<u4")
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    counts = np.fromiter(words.values(), dtype=np.int64, count=len(words))
    # Sums of whole numbers, exact in double precision up to 2^53.
    totals = np.bincount(code_points, weights=np.repeat(counts, lengths))
    return {chr(code_point): int(totals[code_point]) for code_point in np.flatnonzero(totals).tolist()}


def _covered(frequency_of: Mapping[str, int], coverage: float) -> set[str]:
    """The most frequent characters that make up ``coverage`` of all, ties in code-point order.

    >>> sorted(_covered({"a": 90, "b": 9, "c": 1}, 0.99)), sorted(_covered({"b": 1, "a": 1}, 0.5))
    (['a', 'b'], ['a'])
    """
    if coverage == 1:
        return set(frequency_of)
    wanted = coverage * sum(frequency_of.values())
    covered: set[str] = set()
    total = 0
    for character in sorted(frequency_of, key=lambda c: (-frequency_of[c], c)):
        if total >= wanted:
            break
        covered.add(character)
        total += frequency_of[character]
    return covered


def _train(counts: Mapping[str, int], codes: list[str], num_symbols: int, min_frequency: int) -> list[tuple[str, str]]:
    """The merges that lead to a vocabulary of ``num_symbols`` coded pieces, in the order they were found.

    Args:
        counts: Sequences of codes, and how often each occurs.
        codes: The alphabet, in code-point order.
        num_symbols: Pieces to come to, the alphabet among them.
        min_frequency: A pair that is rarer is not merged.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import CharDelimiterSplit
    from tokenizers.trainers import BpeTrainer

    if num_symbols <= len(codes):
        return []
    trainer = BpeTrainer(
        vocab_size=num_symbols, min_frequency=min_frequency, initial_alphabet=codes, show_progress=False
    )
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = CharDelimiterSplit(" ")
    with _parallelism_restored():
        tokenizer.train_from_iterator(_fed(counts), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _fed(counts: Mapping[str, int]) -> Iterator[str]:
    """Each unit as often as it occurs, blanks between: the trainer counts for itself, and takes no counts.

    The trainer reads texts on all cores as long as the environment says so at the beginning. It looks again before
    it merges, where threads cost it more time than they save, so by the end of the texts the environment says no.
    """
    os.environ[_PARALLELISM] = "true"
    parts: list[str] = []
    room = _UNITS_FED_AT_ONCE
    for unit, count in counts.items():
        left = count
        while left:
            fed = min(left, room)
            parts.append((unit + " ") * fed)
            left -= fed
            room -= fed
            if not room:
                yield "".join(parts)
                parts = []
                room = _UNITS_FED_AT_ONCE
    yield "".join(parts)
    os.environ[_PARALLELISM] = "false"


@contextmanager
def _parallelism_restored() -> Iterator[None]:
    """Leave the environment as it was."""
    before = os.environ.get(_PARALLELISM)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_PARALLELISM, None)
        else:
            os.environ[_PARALLELISM] = before


def _warn_of_fewer(config: tokenizer_schema.BpeTokenizer, num_pieces: int, num_merges: int) -> None:
    """Log that the text gave out."""
    wanted, found, what = config.vocab_size, num_pieces, "pieces"
    if wanted is None:
        wanted, found, what = config.num_merges, num_merges, "merges"
    if wanted is not None and found < wanted:
        logger.warning(
            "%s %s instead of %s: no further pair occurs %s or more times (min_frequency)",
            f"{found:,}",
            what,
            f"{wanted:,}",
            f"{config.min_frequency:,}",
        )
