"""From lines to what is asked of the model: token ids, parts of over-long lines, forced prefixes, constraints.

All that can be wrong with a line is found here, before any line is translated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seqkit.decoding.requests import SentenceError, check_sentences
from seqkit.errors import DataError
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe, TransformerSeq2Seq, TranslateOptions
from seqkit.tasks.long_lines import LinePart, split_line
from seqkit.tasks.unknown_characters import UnknownCharacters
from seqkit.tokenizers.base import printable
from seqkit.tokenizers.sentences import SentenceVocabulary

_EXTRA_TOKENS = 10
"""What ``max_length_ratio`` allows beyond the ratio, so that very short sources are not cut off."""
_WHOLE_UP_TO = 16
"""So many times the longest training sentence is still translated whole: the work grows with the square of a length,
and nothing good comes of what is far beyond all that was seen; a megabyte without a line end would take days."""
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class SourceLimits:
    """How long a source may be, and how long it was in training; ``None``: any length."""

    max_positions: int | None = None
    """Positions that the model knows, of the source with its end and of the target."""
    longest_trained: int | None = None
    """Most tokens of a training sentence, the end not counted."""

    @classmethod
    def of(cls, recipes: Iterable[Seq2SeqRecipe]) -> SourceLimits:
        """What models of these recipes take together."""
        recipes = list(recipes)
        positions = [
            recipe.model.max_positions
            for recipe in recipes
            if isinstance(recipe.model, TransformerSeq2Seq) and recipe.model.positions == "learned"
        ]
        trained = [recipe.data.max_length for recipe in recipes if recipe.data.max_length is not None]
        return cls(max_positions=min(positions, default=None), longest_trained=min(trained, default=None))

    @property
    def longest_possible(self) -> int | None:
        """Most source tokens that the model has positions for, the end not counted."""
        return None if self.max_positions is None else self.max_positions - 1

    @property
    def longest_usual(self) -> int | None:
        """Most source tokens that are both possible and met in training."""
        known = [limit for limit in (self.longest_possible, self.longest_trained) if limit is not None]
        return min(known, default=None)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a translation must have."""

    prefix: str = ""
    """How it must begin; empty: in any way."""
    terms: tuple[str, ...] = ()
    """What must occur in it."""


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """What the model reads at once: a line, or part of an over-long one."""

    ids: list[int]
    follows_blank: bool
    max_length: int
    """Most predictions of its translation, the end token counted."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A line to translate."""

    parts: tuple[SourcePart, ...]
    """One, but for an over-long line that is split; none for a blank line, whose translation is blank."""
    prefix: str = ""
    """Of the first part's translation, as its tokens decode: without the blanks that the next token brings."""
    prefix_ids: list[int]
    constraints: list[list[int]]
    """Token sequences that must occur in the translation."""
    remarks: tuple[str, ...] = ()
    """What the user should know of this line before it is translated."""


class RequestReader:
    """Reads lines.

    Args:
        src: The source side's ids.
        tgt: The target side's ids.
        options: The recipe's ``translate`` section, flags merged in.
        limits: How long a source may be.
    """

    def __init__(
        self, src: SentenceVocabulary, tgt: SentenceVocabulary, options: TranslateOptions, limits: SourceLimits
    ) -> None:
        self._src = src
        self._tgt = tgt
        self._options = options
        self._limits = limits
        self._unknown = UnknownCharacters(src.tokenizer)

    def read(self, lines: Sequence[str], wishes: Sequence[Wish] | None = None) -> list[Request]:
        """What some lines ask for.

        Args:
            lines: Source lines.
            wishes: What the translation of each must have; ``None``: nothing.

        Raises:
            SentenceError: The first line that cannot be translated as asked, by its position among these.
        """
        requests = []
        for number, line in enumerate(lines):
            try:
                requests.append(self._read_line(line, wishes[number] if wishes is not None else Wish()))
            except DataError as error:
                raise SentenceError(number, error.message, hint=error.hint) from error
        return requests

    def max_length(self, num_source_tokens: int, num_wished: int = 0) -> int:
        """Most predictions for a source of so many tokens, of whose output so many are already settled."""
        if self._options.max_length is not None:
            most = self._options.max_length
        else:
            by_ratio = int(num_source_tokens * self._options.max_length_ratio)
            most = max(by_ratio, num_wished) + _EXTRA_TOKENS
        positions = self._limits.max_positions
        return most if positions is None else min(most, positions)

    def _read_line(self, line: str, wish: Wish) -> Request:
        """Raises DataError without a place."""
        prefix = self._prefix(wish.prefix)
        prefix_ids = _encode(self._tgt, prefix, "the prefix") if prefix else []
        constraints = [self._constraint(term) for term in wish.terms]
        ids = self._src.tokenizer.encode(line)
        if not ids or not line.strip():
            ignored = "the line is blank, so nothing is made of its prefix or constraints"
            asked = prefix_ids or constraints
            return Request(parts=(), prefix_ids=[], constraints=constraints, remarks=(ignored,) if asked else ())
        pieces, told = self._pieces(line, ids)
        if len(pieces) > 1 and constraints:
            raise DataError(f"{told[0]}, and constraints are for lines that are translated whole")
        encoded = [ids] if len(pieces) == 1 else [self._src.tokenizer.encode(piece.text) for piece in pieces]
        parts = []
        for number, (piece, part_ids) in enumerate(zip(pieces, encoded, strict=True)):
            first = prefix_ids if number == 0 else []
            max_length = self.max_length(len(part_ids), len(first) + sum(map(len, constraints)))
            parts.append(SourcePart(ids=part_ids, follows_blank=piece.follows_blank, max_length=max_length))
        request = Request(
            parts=tuple(parts),
            prefix=prefix,
            prefix_ids=prefix_ids,
            constraints=constraints,
            remarks=(*self._remark_on_script(line, ids), *told),
        )
        self._check(request)
        return request

    def _remark_on_script(self, line: str, ids: list[int]) -> tuple[str, ...]:
        num_unknown, num_all = self._unknown.count(line, ids)
        if 2 * num_unknown < num_all or num_unknown == 0:
            return ()
        which = f"{num_unknown:,} of {num_all:,} {self._unknown.unit}s were not in the training text"
        return (f"{which}; is this the language that the model translates from?",)

    def _pieces(self, line: str, ids: list[int]) -> tuple[list[LinePart], tuple[str, ...]]:
        """The line, in parts where it is too long, and what to say of that."""
        limits, policy = self._limits, self._options.long
        whole = [LinePart(line, follows_blank=False)]
        usual = limits.longest_usual
        if usual is None or len(ids) <= usual:
            return whole, ()
        reach = limits.longest_possible or math.inf
        if limits.longest_trained is not None:
            reach = min(reach, _WHOLE_UP_TO * limits.longest_trained)
        if limits.longest_trained is not None and len(ids) > limits.longest_trained:
            why = f"{len(ids):,} tokens, more than the {limits.longest_trained:,} of the longest training sentence"
        else:
            why = f"{len(ids):,} tokens, more than the {usual:,} that the model has positions for"
        if policy == "refuse":
            raise DataError(why, hint="--long split translates it in parts")
        if policy == "translate" and len(ids) <= reach:
            return whole, (f"{why}; translated whole, but expect less of it",)
        try:
            pieces = split_line(line, lambda text: len(self._src.tokenizer.encode(text)), usual)
        except ValueError as error:
            raise DataError(f"{why}, and it cannot be split: {error}") from None
        return pieces, (f"{why}; translated in {len(pieces):,} parts",)

    def _prefix(self, text: str) -> str:
        # Pieces of words bring the blank between words themselves.
        return text.rstrip(" ") if self._tgt.tokenizer.type == "bpe" else text

    def _constraint(self, term: str) -> list[int]:
        what = f"the constraint '{_shown(term)}'"
        ids = _encode(self._tgt, term, what)
        if not set(self._tgt.never_written).isdisjoint(ids):
            raise DataError(f"{what} cannot be met: it is not made of what is in the model's target vocabulary")
        return ids

    def _check(self, request: Request) -> None:
        """Check what search would refuse, so that it is known before any line is translated."""
        try:
            check_sentences(
                eos_id=self._tgt.eos_id,
                max_lengths=[request.parts[0].max_length],
                no_repeat_ngram=self._options.no_repeat_ngram,
                forbidden_ids=self._tgt.never_written,
                prefixes=[request.prefix_ids],
                constraints=[request.constraints],
            )
        except SentenceError as error:
            raise DataError(error.reason, hint=error.hint) from None


def _encode(vocabulary: SentenceVocabulary, text: str, what: str) -> list[int]:
    """The tokens of what the user wants in the output; DataError names it."""
    try:
        ids = vocabulary.tokenizer.encode(text)
    except DataError as error:
        raise DataError(f"{what}: {error.message}", hint=error.hint) from None
    if vocabulary.eos_id in ids:
        raise DataError(f"{what} holds the end token")
    return ids


def _shown(text: str) -> str:
    shortened = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return printable(shortened)
