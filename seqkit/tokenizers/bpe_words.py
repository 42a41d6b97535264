"""How one word is spelled in pieces: cut at what merges do not cross, unseen characters set aside, the rest merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Literal

from seqkit.tokenizers.bpe_text import (
    BYTE_PIECES,
    LONGEST_RUN,
    UNK,
    WORD_END,
    WORD_START,
    Boundary,
    Split,
    Unseen,
    units,
)

if TYPE_CHECKING:
    from tokenizers.models import BPE

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a word that merges do not leave.

    Args:
        text: Its characters, after a ``▁`` if it begins a word and words are marked at the start; one character if
            it is unseen.
        kind: ``seen``: every character has a piece. ``final``: so it is, and the last one ends the word and carries
            ``</w>``. ``unseen``: the character has no piece. ``piece``: the name of a piece, nothing to merge.
    """

    text: str
    kind: Literal["seen", "final", "unseen", "piece"]


@dataclass(frozen=True, kw_only=True)
class MergeStep:
    """One step of merging a word.

    Args:
        merge: The pair that was merged, wherever it stood; None before the first merge.
        rank: The merge's place in the list of merges, from 0 on; None before the first merge.
        symbols: The word's symbols now.
    """

    merge: Pair | None
    rank: int | None
    symbols: tuple[str, ...]


class WordSpeller:
    """Spells words in the pieces of a vocabulary.

    Args:
        id_of_piece: The vocabulary.
        merges: Pairs of pieces, the first to be merged first.
        special_tokens: Words that are one piece as they are.
        boundary: Which end of a word is marked.
        split: Where merges stop.
        unseen: What becomes of a character without a piece.
    """

    def __init__(
        self,
        id_of_piece: Mapping[str, int],
        merges: Sequence[Pair],
        *,
        special_tokens: Sequence[str],
        boundary: Boundary,
        split: Split,
        unseen: Unseen,
    ) -> None:
        self._id_of_piece = id_of_piece
        self._merges = merges
        self._special_tokens = frozenset(special_tokens)
        self._boundary = boundary
        self._split = split
        self._unseen = unseen
        # A ▁ in the text itself must not be taken for the mark.
        self.characters = frozenset(piece for piece in id_of_piece if len(piece) == 1) - {WORD_START}
        """The characters that have a piece."""
        if boundary == "end":
            self.characters |= {WORD_START} & id_of_piece.keys()
        self.final_characters = frozenset(
            piece[0] for piece in id_of_piece if len(piece) == 1 + len(WORD_END) and piece.endswith(WORD_END)
        )
        """The characters that have a piece for the end of a word."""

    def ids(self, word: str) -> list[int]:
        """The ids of a word's pieces.

        Args:
            word: Text without blanks and line ends.
        """
        # The short way for nearly every word.
        if word not in self._special_tokens and self.characters.issuperset(word):
            if self._boundary == "start":
                tokenize = self._model.tokenize
                parts = units(word, self._split)
                found = [token.id for token in tokenize(WORD_START + parts[0])]
                for part in parts[1:]:
                    found += [token.id for token in tokenize(part)]
                return found
            if self._split == "blanks" and word[-1:] in self.final_characters and len(word) <= LONGEST_RUN:
                return [token.id for token in self._final_model.tokenize(word)]
        return [token_id for item in self.spell(word) for token_id in self._ids_of(item)]

    def spell(self, word: str) -> list[int | str]:
        """The ids of a word's pieces, but a character without a piece stays itself.

        Args:
            word: Text without blanks and line ends.
        """
        spelled: list[int | str] = []
        for stretch in self.stretches(word):
            match stretch.kind:
                case "unseen":
                    spelled.append(stretch.text)
                case "piece":
                    spelled.append(self._id_of_piece[stretch.text])
                case "seen":
                    spelled += [token.id for token in self._model.tokenize(stretch.text)]
                case "final":
                    spelled += [token.id for token in self._final_model.tokenize(stretch.text)]
        return spelled

    def stretches(self, word: str) -> list[Stretch]:
        """The parts of a word that are merged by themselves."""
        if word in self._special_tokens:
            return [Stretch(word, "piece")]
        return self._from_start(word) if self._boundary == "start" else self._to_end(word)

    def trace(self, word: str) -> list[MergeStep]:
        """How a word comes to its pieces: at each step the first of the merges that applies, wherever it does.

        Args:
            word: Text without blanks and line ends.

        Returns:
            The symbols at first, then those after each step; the last ones are the word's pieces.
        """
        rank_of = {pair: rank for rank, pair in enumerate(self._merges)}
        parts = [self._symbols(stretch) for stretch in self.stretches(word)]
        steps = [MergeStep(merge=None, rank=None, symbols=_joined(parts))]
        while candidates := {pair for part in parts for pair in pairwise(part) if pair in rank_of}:
            best = min(candidates, key=rank_of.__getitem__)
            parts = [merge_pair(part, best) for part in parts]
            steps.append(MergeStep(merge=best, rank=rank_of[best], symbols=_joined(parts)))
        return steps

    def _from_start(self, word: str) -> list[Stretch]:
        """The stretches of a word that begins with ``▁``."""
        parts = units(word, self._split)
        if self.characters.issuperset(word):
            parts[0] = WORD_START + parts[0]
            return [Stretch(part, "seen") for part in parts]
        found: list[Stretch] = []
        mark = WORD_START
        for part in parts:
            for is_seen, run in groupby(part, self.characters.__contains__):
                if is_seen:
                    found.append(Stretch(mark + "".join(run), "seen"))
                else:
                    found += [Stretch(mark, "seen")] * bool(mark) + [Stretch(c, "unseen") for c in run]
                mark = ""
        return found

    def _to_end(self, word: str) -> list[Stretch]:
        """The stretches of a word whose last symbol carries ``</w>``."""
        if not word:
            return [Stretch(WORD_END, "piece")]
        *parts, last_part = units(word, self._split)
        body, last = last_part[:-1], last_part[-1]
        found: list[Stretch] = []
        for part in (*parts, body):
            for is_seen, run in groupby(part, self.characters.__contains__):
                if is_seen:
                    found.append(Stretch("".join(run), "seen"))
                else:
                    found += [Stretch(character, "unseen") for character in run]
        if last not in self.final_characters:
            found.append(Stretch(last, "unseen"))
            # Bytes carry no mark; <unk> ends its word as any piece would.
            found += [Stretch(WORD_END, "piece")] * (self._unseen == "bytes")
        elif body and found[-1].kind == "seen":
            found[-1] = Stretch(found[-1].text + last, "final")
        else:
            found.append(Stretch(last, "final"))
        return found

    def _ids_of(self, item: int | str) -> list[int]:
        """The id itself, or those of a character without a piece."""
        if isinstance(item, int):
            return [item]
        if self._unseen != "bytes":
            return [self._id_of_piece[UNK]]
        return [self._id_of_piece[BYTE_PIECES[byte]] for byte in item.encode()]

    def _symbols(self, stretch: Stretch) -> list[str]:
        """What merging begins with."""
        match stretch.kind:
            case "piece":
                return [stretch.text]
            case "seen":
                return list(stretch.text)
            case "final":
                return [*stretch.text[:-1], stretch.text[-1] + WORD_END]
        match self._unseen:
            case "bytes":
                return [BYTE_PIECES[byte] for byte in stretch.text.encode()]
            case "unk":
                return [UNK]
            case "keep":
                return [stretch.text]

    @cached_property
    def _model(self) -> BPE:
        """Merges a stretch."""
        from tokenizers.models import BPE

        return BPE(dict(self._id_of_piece), list(self._merges), cache_capacity=0)

    @cached_property
    def _final_model(self) -> BPE:
        """Merges a stretch that ends its word."""
        from tokenizers.models import BPE

        merges = list(self._merges)
        return BPE(dict(self._id_of_piece), merges, cache_capacity=0, end_of_word_suffix=WORD_END)


def merge_pair(symbols: Sequence[str], pair: Pair) -> list[str]:
    """``symbols`` with each occurrence of a pair made one symbol, from the left.

    >>> merge_pair(["a", "a", "a", "b"], ("a", "a"))
    ['aa', 'a', 'b']
    """
    merged: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(symbols[position])
            position += 1
    return merged


def _joined(parts: list[list[str]]) -> tuple[str, ...]:
    return tuple(symbol for part in parts for symbol in part)
