"""A translation model behind ``translate`` and validation: lines in, the best hypotheses of each out.

Legend: B parts of lines side by side, S source length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seqkit.data.pair_batching import padded
from seqkit.decoding.beam import beam_search
from seqkit.decoding.hypotheses import Hypothesis
from seqkit.decoding.model import AutoregressiveModel
from seqkit.decoding.requests import BeamRule
from seqkit.decoding.sampling import SamplingRule, row_generators
from seqkit.decoding.single_path import sample_search
from seqkit.models.encoder_decoder import SourceTokens
from seqkit.recipe.seq2seq_schema import TranslateOptions
from seqkit.tasks.side_by_side import SideBySide
from seqkit.tasks.translation_requests import Request, RequestReader, SourceLimits, SourcePart
from seqkit.tokenizers.base import REPLACEMENT
from seqkit.tokenizers.sentences import SentenceVocabulary

_ROWS_OF_A_PART = 1 << 40
"""How far apart the random draws of two parts of a line are; those of two lines are one apart."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """One translation of a line."""

    text: str
    """Never with a line end in it."""
    hypotheses: tuple[Hypothesis, ...]
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


class Translator:
    """Translates lines with a model, many side by side.

    Args:
        model: Its ``initial_state`` takes ``SourceTokens``; one model or an ensemble.
        src: The source side's ids.
        tgt: The target side's ids.
        options: The recipe's ``translate`` section, flags merged in.
        device: Where the model is.
        limits: How long a source may be.
        seed: Draw translations with this seed, as the options' temperature and the like say; ``None``: search.
        with_attention: Return where the model looked.
        side_by_side: Threads to translate batches in, which watch the model; ``None``: one batch after the other.
    """

    def __init__(
        self,
        model: AutoregressiveModel,
        src: SentenceVocabulary,
        tgt: SentenceVocabulary,
        options: TranslateOptions,
        device: torch.device | None = None,
        *,
        limits: SourceLimits | None = None,
        seed: int | None = None,
        with_attention: bool = False,
        side_by_side: SideBySide | None = None,
    ) -> None:
        self._model = model
        self._src = src
        self._tgt = tgt
        self._options = options
        self._device = device or torch.device("cpu")
        self._seed = seed
        self._with_attention = with_attention
        self._map: Callable[..., Iterator[list[list[Hypothesis]]]] = side_by_side.map if side_by_side else map
        self._never_written = tgt.never_written
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
        found: list[list[list[Hypothesis]]] = [[[] for _ in request.parts] for request in requests]

        def find(batch: list[tuple[int, int]]) -> list[list[Hypothesis]]:
            if on_part is not None:
                on_part()
            return self._find(requests, batch, num_best, first_line)

        # The longest first: where several are worked on side by side, none is left alone with much work at the end.
        batches = list(self._batches(requests))[::-1]
        for batch, outputs in zip(batches, self._map(find, batches), strict=True):
            for (line, part), hypotheses in zip(batch, outputs, strict=True):
                found[line][part] = hypotheses
        return [self._joined(request, outputs) for request, outputs in zip(requests, found, strict=True)]

    def has_attention(self) -> bool:
        """Whether the model can say where it looks, tried on an empty source."""
        attention = getattr(self._model, "attention", None)
        if attention is None:
            return False
        with torch.inference_mode():
            state = self._model.initial_state(self._source([[]]), 1)
            _, state = self._model.step(state, torch.tensor([self._tgt.bos_id], device=self._device))
            return attention(state) is not None

    def _find(
        self, requests: Sequence[Request], batch: list[tuple[int, int]], num_best: int, first_line: int
    ) -> list[list[Hypothesis]]:
        """Outputs of some parts of lines."""
        parts = [requests[line].parts[part] for line, part in batch]
        prefixes = [requests[line].prefix_ids if part == 0 else [] for line, part in batch]
        source = self._source([part.ids for part in parts])
        max_lengths = [part.max_length for part in parts]
        source_lengths = [len(part.ids) + 1 for part in parts]
        if self._seed is not None:
            rows = [first_line - 1 + line + part * _ROWS_OF_A_PART for line, part in batch]
            outputs = sample_search(
                self._model,
                source,
                len(parts),
                sampling_rule(self._options),
                generators=[row_generators(self._seed, 1, device=self._device, first_row=row)[0] for row in rows],
                bos_id=self._tgt.bos_id,
                eos_id=self._tgt.eos_id,
                max_lengths=max_lengths,
                device=self._device,
                forbidden_ids=self._never_written,
                min_length=self._options.min_length,
                no_repeat_ngram=self._options.no_repeat_ngram,
                prefixes=prefixes,
                source_lengths=source_lengths,
                with_attention=self._with_attention,
            )
            return [[output] for output in outputs]
        return beam_search(
            self._model,
            source,
            len(parts),
            beam_rule(self._options, num_best),
            bos_id=self._tgt.bos_id,
            eos_id=self._tgt.eos_id,
            max_lengths=max_lengths,
            device=self._device,
            forbidden_ids=self._never_written,
            prefixes=prefixes,
            constraints=[requests[line].constraints for line, _ in batch],
            source_lengths=source_lengths,
            with_attention=self._with_attention,
        )

    def _source(self, sentences: list[list[int]]) -> SourceTokens:
        ids_BS, mask_BS = padded([np.array([*ids, self._src.eos_id]) for ids in sentences], fill=self._src.eos_id)
        return SourceTokens(torch.from_numpy(ids_BS).to(self._device), torch.from_numpy(mask_BS).to(self._device))

    def _joined(self, request: Request, outputs: list[list[Hypothesis]]) -> list[Translation]:
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

    def _text(self, request: Request, hypotheses: Sequence[Hypothesis]) -> str:
        texts = [self._tgt.decode(hypothesis.ids) for hypothesis in hypotheses]
        # As the user wrote it, where decoding gives less back: <unk>, another case or normalization.
        prefix = self._tgt.decode(request.prefix_ids) if request.prefix_ids else ""
        texts[0] = request.prefix + texts[0].removeprefix(prefix)
        return join_parts(request.parts, texts).replace("\n", REPLACEMENT)

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, int]]]:
        """Parts of like length as (line, part), under the token budget; each by itself where that is asked."""
        parts = [(line, part) for line, request in enumerate(requests) for part in range(len(request.parts))]
        parts.sort(key=lambda place: len(requests[place[0]].parts[place[1]].ids))
        budget = 0 if self._options.deterministic else self._options.batch_tokens
        batch: list[tuple[int, int]] = []
        for line, part in parts:
            width = len(requests[line].parts[part].ids) + 1
            if batch and width * (len(batch) + 1) > budget:
                yield batch
                batch = []
            batch.append((line, part))
        if batch:
            yield batch


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
    )


def sampling_rule(options: TranslateOptions) -> SamplingRule:
    """How some options ask to draw."""
    return SamplingRule(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
