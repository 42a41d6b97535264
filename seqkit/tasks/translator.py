"""Translation behind ``translate`` and validation: lines in, the best translations of each out, by any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from seqkit.decoding.requests import BeamRule
from seqkit.recipe.seq2seq_schema import TranslateOptions
from seqkit.tasks.translation_requests import Request, RequestReader, SourceLimits, SourcePart
from seqkit.tasks.translation_search import Output, SearchBatch, SearchEngine
from seqkit.tokenizers.base import REPLACEMENT
from seqkit.tokenizers.sentences import SentenceVocabulary

_ROWS_OF_A_PART = 1 << 40
"""How far apart the random draws of two parts of a line are; those of two lines are one apart."""

_LEAST_BATCH = 1024
"""Tokens of a batch that is not divided for company's sake."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """One translation of a line."""

    text: str
    """Never with a line end in it."""
    hypotheses: tuple[Output, ...]
    """What search found: one, but one for each part of an over-long line, and none for a blank line."""
    meets_constraints: bool
    """Whether all that must occur in it does."""

    @property
    def score(self) -> float:
        """Log-probability after the penalties; of a line in parts their sum."""
        return sum((hypothesis.score for hypothesis in self.hypotheses), start=0.0)

    @property
    def log_prob(self) -> float:
        """Natural log-probability under the model."""
        return sum((hypothesis.log_prob for hypothesis in self.hypotheses), start=0.0)

    @property
    def num_tokens(self) -> int:
        """Tokens, end tokens not counted."""
        return sum(len(hypothesis.ids) for hypothesis in self.hypotheses)

    @property
    def is_finished(self) -> bool:
        """Whether the model ended it; otherwise it was cut at the longest length."""
        return all(hypothesis.is_finished for hypothesis in self.hypotheses)


class Finish(Protocol):
    """Waits for translations that were begun."""

    def __call__(self, on_part: Callable[[], None] | None = None) -> list[list[Translation]]:
        """See ``Translator.translate``."""
        ...


class Translator:
    """Translates lines, many side by side.

    Args:
        search: The engine, set up with the same options.
        src: The source side's ids.
        tgt: The target side's ids.
        options: The recipe's ``translate`` section, flags merged in.
        limits: How long a source may be.
    """

    def __init__(
        self,
        search: SearchEngine,
        src: SentenceVocabulary,
        tgt: SentenceVocabulary,
        options: TranslateOptions,
        *,
        limits: SourceLimits | None = None,
    ) -> None:
        self._search = search
        self._tgt = tgt
        self._options = options
        self.reader = RequestReader(src, tgt, options, limits or SourceLimits())
        """Makes requests of lines."""

    def best(self, lines: Sequence[str], on_part: Callable[[], None] | None = None) -> list[Translation]:
        """The best translation of each line, in order; that of a blank line is blank."""
        return [translations[0] for translations in self.translate(self.reader.read(lines), on_part=on_part)]

    def translate(
        self,
        requests: Sequence[Request],
        *,
        num_best: int = 1,
        first_line: int = 1,
        on_part: Callable[[], None] | None = None,
    ) -> list[list[Translation]]:
        """Translate lines.

        Args:
            requests: From ``reader``. They are grouped by length under the token budget.
            num_best: Translations of each. The n-th one of a line in parts consists of the n-th ones of its parts.
            first_line: Number of the first line: the draws of a sampled translation depend on the seed, the line's
                number and its text only.
            on_part: Called between two batches; may raise to stop.

        Returns:
            For each line at least one translation and at most ``num_best``, best first.
        """
        return self.begin(requests, num_best=num_best, first_line=first_line)(on_part)

    def begin(self, requests: Sequence[Request], *, num_best: int = 1, first_line: int = 1) -> Finish:
        """Begin to translate lines, and do not wait for it; see ``translate``, whose result the finish has."""
        batches = self._batches(requests)
        results = self._search.begin([self._asked(requests, batch, first_line) for batch in batches], num_best)

        def finish(on_part: Callable[[], None] | None = None) -> list[list[Translation]]:
            found: list[list[Sequence[Output]]] = [[() for _ in request.parts] for request in requests]
            with closing(results):
                for batch in batches:
                    if on_part is not None:
                        on_part()
                    for (line, part), outputs in zip(batch, next(results), strict=True):
                        found[line][part] = outputs
            return [self._joined(request, outputs) for request, outputs in zip(requests, found, strict=True)]

        return finish

    def has_attention(self) -> bool:
        """Whether translations can come with attention to the source."""
        return self._search.has_attention()

    def _asked(self, requests: Sequence[Request], batch: list[tuple[int, int]], first_line: int) -> SearchBatch:
        """Some parts of lines, as the engine wants them."""
        parts = [requests[line].parts[part] for line, part in batch]
        return SearchBatch(
            sentences=[part.ids for part in parts],
            max_lengths=[part.max_length for part in parts],
            prefixes=[requests[line].prefix_ids if part == 0 else [] for line, part in batch],
            constraints=[requests[line].constraints for line, _ in batch],
            rows=[first_line - 1 + line + part * _ROWS_OF_A_PART for line, part in batch],
        )

    def _joined(self, request: Request, outputs: Sequence[Sequence[Output]]) -> list[Translation]:
        """The translations of a line from what was found for its parts."""
        if not request.parts:
            return [Translation(text="", hypotheses=(), meets_constraints=not request.constraints)]
        return [
            Translation(
                text=self._text(request, hypotheses),
                hypotheses=hypotheses,
                meets_constraints=all(hypothesis.meets_constraints for hypothesis in hypotheses),
            )
            for hypotheses in zip(*outputs, strict=False)
        ]

    def _text(self, request: Request, hypotheses: Sequence[Output]) -> str:
        texts = [self._tgt.decode(hypothesis.ids) for hypothesis in hypotheses]
        # As the user wrote it, where decoding gives less back: <unk>, another case or normalization.
        prefix = self._tgt.decode(request.prefix_ids) if request.prefix_ids else ""
        texts[0] = request.prefix + texts[0].removeprefix(prefix)
        return join_parts(request.parts, texts).replace("\n", REPLACEMENT)

    def _batches(self, requests: Sequence[Request]) -> list[list[tuple[int, int]]]:
        """Parts of like length as (line, part), under the token budget; each by itself where that is asked.

        The longest come first, and an engine that works on several batches side by side gets ever smaller ones
        (Polychronopoulos and Kuck 1987, "Guided Self-Scheduling"): so none is left alone with much at the end.
        """
        parts = [(line, part) for line, request in enumerate(requests) for part in range(len(request.parts))]
        parts.sort(key=lambda place: -len(requests[place[0]].parts[place[1]].ids))
        widths = [len(requests[line].parts[part].ids) + 1 for line, part in parts]
        num_left, begin = sum(widths), 0
        batches = []
        while begin < len(parts):
            share = max(_LEAST_BATCH, num_left // self._search.num_shares)
            budget = 0 if self._options.deterministic else min(self._options.batch_tokens, share)
            end = min(len(parts), begin + max(1, budget // widths[begin]))
            batches.append(parts[begin:end])
            num_left -= sum(widths[begin:end])
            begin = end
        return batches


def join_parts(parts: Sequence[SourcePart], texts: Sequence[str]) -> str:
    """The translations of a line's parts as one text.

    A blank stands between two where one stood in the source, or where the translations have blanks at all: a
    language may have none between sentences, and the other one some.
    """
    has_blanks = any(" " in text for text in texts)
    joined = texts[0]
    for part, text in zip(parts[1:], texts[1:], strict=True):
        joined += (" " if part.follows_blank or has_blanks else "") + text
    return joined


def beam_rule(options: TranslateOptions, num_best: int) -> BeamRule:
    """The search that some options ask for."""
    return BeamRule(
        beam_size=options.beam,
        length_penalty=options.length_penalty,
        alpha=options.alpha,
        coverage_penalty=options.coverage_penalty,
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        num_best=num_best,
        patience=options.patience,
    )
