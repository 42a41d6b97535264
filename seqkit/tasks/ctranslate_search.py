r"""CTranslate2 behind ``Translator``: the same search, scored by the same rules. Needs no torch.

What the two engines do alike, and where this one is made to:

* The package has its own length penalty and stops at the first W · patience hypotheses that end. Here it hands over all
  that ended, with their log-probabilities, and they are scored by ``penalties.py``. Ours goes on until nothing better
  can come, so the package is given some patience (unless the options say how much), of which each bit costs time. Of
  1,000 sentences of Multi30k the two differ on 38 with a patience of 1, on 8 with 1.2, on 2 with 1.4 and on none
  with 2.
* It takes the probability of tokens that must not come from the normaliser too, which changes what lives on and every
  score. So nothing is forbidden at first: a sentence whose outputs hold what no translation may is searched again
  without it, and scored by the model as it is. Only the choice of what lives on may differ there, and with one beam
  not even that, since the likeliest of some tokens does not depend on the normaliser. For the same reason a least
  length, n-grams that do not repeat and forced prefixes are for one beam; and so is a coverage penalty, with which the
  best hypothesis may end long after the first ones. ``check_ctranslate`` refuses them with more.
* One call has one longest length. A search that went on beyond a sentence's own is repeated with that.

Legend: W beams, T predictions, S source tokens with the end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from seqkit.decoding.penalties import Penalties
from seqkit.errors import CheckpointError, SeqkitError
from seqkit.export.ctranslate_package import import_ctranslate2
from seqkit.recipe.seq2seq_schema import TranslateOptions
from seqkit.tasks.ctranslate_abilities import chosen_device, chosen_type
from seqkit.tasks.ctranslate_export import token_names
from seqkit.tasks.translation_search import SearchBatch
from seqkit.tasks.translator import beam_rule
from seqkit.tokenizers.sentences import SentenceVocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from seqkit.runs.export_folder import Export

_PATIENCE = 2.0
_NO_PENALTY = 1e-9
"""As good as no length penalty; with 0 the package would stop at the first hypothesis that ends as the best one."""
_TRANSLATED_AT_ONCE = 1024
"""Source tokens, padding counted, with which the package is fastest on a CPU: a tenth faster than with 4,096."""
_SCORED_AT_ONCE = 2048
"""Tokens scored side by side, padding counted: each has a score for every token of the vocabulary."""
_DEAD = -1e9
"""What the package gives to beams that are none is far below, log-probabilities are far above."""
_QUIET = 40
"""Of the package's log only errors, which come as exceptions as well: stderr is ours."""


@dataclass(frozen=True, kw_only=True)
class CtranslateOutput:
    """An output, as ``translation_search.Output`` has it."""

    ids: list[int]
    score: float
    log_prob: float
    is_finished: bool
    meets_constraints: bool = True
    attention: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Found:
    """A hypothesis as the package gives it."""

    ids: list[int]
    """With the end token where there is one."""
    log_prob: float
    attention_TS: list[list[float]] | None


class CtranslateSearch:
    """Searches with an export.

    Args:
        export: A translation model.
        src: The source side's ids.
        tgt: The target side's ids.
        options: The recipe's ``translate`` section, flags merged in; such as ``check_ctranslate`` allows.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; a sentence by itself is translated by one.
        with_attention: Return where the model looked.

    Raises:
        UsageError: The package is missing, or the machine cannot do what is asked.
        CheckpointError: The package does not read the export.
    """

    def __init__(
        self,
        export: Export,
        src: SentenceVocabulary,
        tgt: SentenceVocabulary,
        options: TranslateOptions,
        *,
        device: str = "cpu",
        threads: int = 1,
        with_attention: bool = False,
    ) -> None:
        package = import_ctranslate2()
        package.set_log_level(_QUIET)
        kind, index = chosen_device(package, device)
        compute_type = chosen_type(package, export, options, kind)
        try:
            self._engine = package.Translator(
                str(export.path),
                device=kind,
                device_index=index,
                compute_type=compute_type,
                # A core for each batch is nearly twice as fast as several cores for one.
                inter_threads=threads if kind == "cpu" else 1,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{export.path}: CTranslate2 cannot load this export ({reason})") from error
        self._tokens_ahead = threads * _TRANSLATED_AT_ONCE
        self._options = options
        self._penalties: Penalties = beam_rule(options, 1)
        self._src_names = token_names(src)
        self._src_end = self._src_names[src.eos_id]
        self._tgt_names = token_names(tgt)
        self._tgt_id = {name: token_id for token_id, name in enumerate(self._tgt_names)}
        self._eos_id = tgt.eos_id
        self._never_written = frozenset(tgt.never_written)
        self._with_attention = with_attention
        self._needs_attention = with_attention or options.coverage_penalty > 0

    @property
    def compute_type(self) -> str:
        """The numbers that it computes with."""
        return str(self._engine.compute_type)

    def has_attention(self) -> bool:
        """A Transformer always has attention to its source."""
        return True

    @property
    def num_shares(self) -> int:
        """See ``SearchEngine``: the package divides what it is given itself."""
        return 1

    def begin(
        self, batches: Sequence[SearchBatch], num_best: int
    ) -> Generator[list[list[CtranslateOutput]], None, None]:
        """See ``SearchEngine``; as much is handed over ahead as keeps all threads at work while one batch is read.

        No more, since what was handed over is translated to its end, even if the user wants to stop.
        """
        begun: deque[tuple[SearchBatch, list[Any]]] = deque()
        tokens_ahead = 0
        for batch in batches:
            begun.append((batch, self._begin(batch)))
            tokens_ahead += _num_tokens(batch)
            while len(begun) > 1 and tokens_ahead - _num_tokens(begun[0][0]) >= self._tokens_ahead:
                tokens_ahead -= _num_tokens(begun[0][0])
                yield self._finish(*begun.popleft(), num_best)
        for batch, results in begun:
            yield self._finish(batch, results, num_best)

    def find(self, batch: SearchBatch, num_best: int) -> list[list[CtranslateOutput]]:
        """Of each sentence at least one output and at most ``num_best``, best first.

        Raises:
            SeqkitError: The model gave scores that are not numbers.
        """
        return self._finish(batch, self._begin(batch), num_best)

    def _begin(self, batch: SearchBatch) -> list[Any]:
        """Have the package search for a batch, and do not wait for it: a result each, to be asked for."""
        assert not any(batch.constraints), "check_ctranslate refuses them"
        return self._handed_over(batch, range(len(batch.sentences)), max(batch.max_lengths, default=1))

    def _finish(self, batch: SearchBatch, results: Sequence[Any], num_best: int) -> list[list[CtranslateOutput]]:
        """What ``find`` returns, from the results that ``_begin`` gave."""
        found = {place: self._read(result.result()) for place, result in enumerate(results)}
        # Whose log-probabilities are not those of the model as it is.
        unsure = {place for place, prefix in enumerate(batch.prefixes) if prefix or self._has_limits}
        too_long = [place for place, outputs in found.items() if _is_beyond(outputs, batch.max_lengths[place])]
        for max_length, places in _by_length(too_long, batch):
            if self._options.beam == 1:
                # The one path is the same up to there.
                found |= {place: [_cut(output, max_length) for output in found[place]] for place in places}
                unsure.update(places)
            else:
                found |= self._search(batch, places, max_length)
        spoiled = [place for place, outputs in found.items() if self._is_spoiled(outputs, len(batch.prefixes[place]))]
        for max_length, places in _by_length(spoiled, batch):
            found |= self._search(batch, places, max_length, is_restricted=True)
            unsure.update(places)
        found |= self._scored(batch, {place: found[place] for place in sorted(unsure)})
        return [self._best(found[place], num_best) for place in range(len(batch.sentences))]

    @property
    def _has_limits(self) -> bool:
        return self._options.min_length > 0 or self._options.no_repeat_ngram > 0

    def _search(
        self, batch: SearchBatch, places: Sequence[int], max_length: int, *, is_restricted: bool = False
    ) -> dict[int, list[_Found]]:
        """What the package finds for some sentences, by their places in the batch.

        Args:
            batch: All of them.
            places: Which.
            max_length: Most predictions of each.
            is_restricted: Keep to what translations may contain.
        """
        results = self._handed_over(batch, places, max_length, is_restricted=is_restricted)
        return {place: self._read(result.result()) for place, result in zip(places, results, strict=True)}

    def _handed_over(
        self, batch: SearchBatch, places: Sequence[int], max_length: int, *, is_restricted: bool = False
    ) -> list[Any]:
        """The package's results for ``_search``, which it goes on to make meanwhile."""
        if not places:
            return []
        beam = self._options.beam
        patience = _patience(self._options)
        prefixes = [batch.prefixes[place] for place in places]
        results: list[Any] = self._engine.translate_batch(
            [self._source(batch.sentences[place]) for place in places],
            [[self._tgt_names[token] for token in prefix] for prefix in prefixes] if any(prefixes) else None,
            beam_size=beam,
            patience=patience,
            num_hypotheses=round(beam * patience),
            length_penalty=_NO_PENALTY,
            **_side_by_side(needs_attention=self._needs_attention and beam > 1),
            max_input_length=0,
            max_decoding_length=max_length,
            min_decoding_length=min(self._options.min_length, max_length),
            no_repeat_ngram_size=self._options.no_repeat_ngram,
            suppress_sequences=[[self._tgt_names[token]] for token in self._never_written] if is_restricted else None,
            return_end_token=True,
            return_scores=True,
            return_attention=self._needs_attention,
            asynchronous=True,
        )
        return results

    def _source(self, ids: Iterable[int]) -> list[str]:
        return [*(self._src_names[token] for token in ids), self._src_end]

    def _read(self, result: Any) -> list[_Found]:
        """The hypotheses of a sentence.

        Raises:
            SeqkitError: Their scores are not numbers.
        """
        attention = result.attention or [None] * len(result.hypotheses)
        found = [
            _Found([self._tgt_id[name] for name in names], score, attention_TS)
            for names, score, attention_TS in zip(result.hypotheses, result.scores, attention, strict=True)
            if score > _DEAD
        ]
        if not found:
            raise SeqkitError(
                "the model's scores are not numbers (NaN)", hint="its weights may be damaged, or training diverged"
            )
        return found

    def _is_spoiled(self, outputs: Sequence[_Found], num_prefix: int) -> bool:
        """Whether one holds what no translation may, but for a forced prefix."""
        return any(not self._never_written.isdisjoint(output.ids[num_prefix:]) for output in outputs)

    def _scored(self, batch: SearchBatch, found: dict[int, list[_Found]]) -> dict[int, list[_Found]]:
        """The same with their log-probabilities under the model as it is: without limits, the prefix counted."""
        if not found:
            return {}
        all_outputs = [(place, output) for place, outputs in found.items() for output in outputs]
        targets = [output.ids[:-1] if self._is_finished(output) else output.ids for _, output in all_outputs]
        results = self._engine.score_batch(
            [self._source(batch.sentences[place]) for place, _ in all_outputs],
            [[self._tgt_names[token] for token in ids] for ids in targets],
            max_input_length=0,
            max_batch_size=_SCORED_AT_ONCE,
            batch_type="tokens",
        )
        scored: dict[int, list[_Found]] = {place: [] for place in found}
        for (place, output), result in zip(all_outputs, results, strict=True):
            # The last one is that of the end token, which an output that was cut does not have.
            log_prob = math.fsum(result.log_probs[: len(output.ids)])
            scored[place].append(_Found(output.ids, log_prob, output.attention_TS))
        return scored

    def _is_finished(self, output: _Found) -> bool:
        return output.ids[-1:] == [self._eos_id]

    def _best(self, outputs: Sequence[_Found], num_best: int) -> list[CtranslateOutput]:
        ranked = sorted(((self._score(output), output) for output in outputs), key=lambda pair: -pair[0])
        return [
            CtranslateOutput(
                ids=output.ids[:-1] if self._is_finished(output) else output.ids,
                score=score,
                log_prob=output.log_prob,
                is_finished=self._is_finished(output),
                attention=_tensor(output.attention_TS) if self._with_attention else None,
            )
            for score, output in ranked[:num_best]
        ]

    def _score(self, output: _Found) -> float:
        """See ``penalties.py``."""
        score = output.log_prob / self._penalties.divisor(max(1, len(output.ids)))
        if self._penalties.coverage_penalty > 0:
            coverage_S = np.asarray(output.attention_TS, np.float32).sum(axis=0, dtype=np.float32)
            smallest = np.finfo(np.float32).tiny
            uncovered = float(np.log(coverage_S.clip(smallest, 1.0)).sum(dtype=np.float64))
            score += self._penalties.coverage_penalty * uncovered
        return score


def _patience(options: TranslateOptions) -> float:
    if options.beam == 1:
        return 1.0
    return _PATIENCE if options.patience is None else options.patience


def _side_by_side(*, needs_attention: bool) -> dict[str, Any]:
    """How many sentences the package takes at once.

    Its beam search confuses the attention of the first step between sentences that it translates together.
    """
    if needs_attention:
        return {"max_batch_size": 1, "batch_type": "examples"}
    return {"max_batch_size": _TRANSLATED_AT_ONCE, "batch_type": "tokens"}


def _num_tokens(batch: SearchBatch) -> int:
    """Source tokens with their ends."""
    return sum(len(ids) + 1 for ids in batch.sentences)


def _by_length(places: Iterable[int], batch: SearchBatch) -> Iterable[tuple[int, list[int]]]:
    """Places that have one longest length, together."""

    def longest(place: int) -> int:
        return batch.max_lengths[place]

    return [(max_length, list(group)) for max_length, group in groupby(sorted(places, key=longest), key=longest)]


def _is_beyond(outputs: Sequence[_Found], max_length: int) -> bool:
    return any(len(output.ids) > max_length for output in outputs)


def _cut(output: _Found, max_length: int) -> _Found:
    attention_TS = None if output.attention_TS is None else output.attention_TS[:max_length]
    return _Found(output.ids[:max_length], output.log_prob, attention_TS)


def _tensor(attention_TS: list[list[float]] | None) -> Tensor:
    import torch

    assert attention_TS is not None, "asked for"
    return torch.tensor(attention_TS, dtype=torch.float32)
