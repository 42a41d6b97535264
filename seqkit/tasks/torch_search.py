"""Our own engine behind ``Translator``: beam search, greedy search or sampling with a model in PyTorch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from seqkit.data.pair_batching import padded
from seqkit.decoding.beam import beam_search
from seqkit.decoding.hypotheses import Hypothesis
from seqkit.decoding.model import AttentiveModel
from seqkit.decoding.sampling import SamplingRule, row_generators
from seqkit.decoding.single_path import sample_search
from seqkit.errors import UsageError
from seqkit.models.encoder_decoder import SourceTokens
from seqkit.models.fixed_layers import FixedNumbers
from seqkit.recipe.seq2seq_schema import TranslateOptions
from seqkit.tasks.side_by_side import SideBySide
from seqkit.tasks.translation_requests import SourceLimits
from seqkit.tasks.translation_search import SearchBatch
from seqkit.tasks.translator import Translator, beam_rule
from seqkit.tokenizers.sentences import SentenceVocabulary

_Sent = tuple[Hypothesis, np.ndarray[Any, np.dtype[np.float32]] | None]
"""An output, and where it looked."""

_NUM_SHARES = 4
"""Enough to keep a few cores at work to the end, whatever their number is: it is to change no batch."""


class TorchSearch:
    """Searches with a model.

    Args:
        model: Its ``initial_state`` takes ``SourceTokens``; one model or an ensemble.
        src: The source side's ids.
        tgt: The target side's ids.
        options: The recipe's ``translate`` section, flags merged in.
        device: Where the model is.
        seed: Draw translations with this seed, as the options' temperature and the like say; ``None``: search.
        with_attention: Return where the model looked.
        num_processes: To search batches in, side by side, on a CPU; 1: one batch after the other in this one.
    """

    def __init__(
        self,
        model: AttentiveModel,
        src: SentenceVocabulary,
        tgt: SentenceVocabulary,
        options: TranslateOptions,
        device: torch.device | None = None,
        *,
        seed: int | None = None,
        with_attention: bool = False,
        num_processes: int = 1,
    ) -> None:
        self._model = model
        self._side_by_side = SideBySide(self._find, num_processes) if num_processes > 1 else None
        self._src = src
        self._tgt = tgt
        self._options = options
        self._device = device or torch.device("cpu")
        self._seed = seed
        self._with_attention = with_attention
        self._never_written = tgt.never_written

    @property
    def num_shares(self) -> int:
        """See ``SearchEngine``; of a GPU the largest batches make the best use."""
        return _NUM_SHARES if self._device.type == "cpu" else 1

    def begin(self, batches: Sequence[SearchBatch], num_best: int) -> Generator[list[list[Hypothesis]], None, None]:
        """See ``SearchEngine``. A batch that is alone has all cores."""
        together = self._side_by_side
        if together is None or (len(batches) < 2 and not together.is_busy):
            return (self.find(batch, num_best) for batch in batches)
        return _received(together.begin([(batch, num_best) for batch in batches]))

    def close(self) -> None:
        """End the processes."""
        if self._side_by_side is not None:
            self._side_by_side.close()

    def _find(self, request: tuple[SearchBatch, int]) -> list[list[_Sent]]:
        """``find`` in another process."""
        return [[_sent(output) for output in outputs] for outputs in self.find(*request)]

    def find(self, batch: SearchBatch, num_best: int) -> list[list[Hypothesis]]:
        """Of each sentence at least one output and at most ``num_best``, best first; of a sampled one, one."""
        source = self._source(batch.sentences)
        source_lengths = [len(ids) + 1 for ids in batch.sentences]
        if self._seed is not None:
            outputs = sample_search(
                self._model,
                source,
                len(batch.sentences),
                sampling_rule(self._options),
                generators=[row_generators(self._seed, 1, device=self._device, first_row=row)[0] for row in batch.rows],
                bos_id=self._tgt.bos_id,
                eos_id=self._tgt.eos_id,
                max_lengths=batch.max_lengths,
                device=self._device,
                forbidden_ids=self._never_written,
                min_length=self._options.min_length,
                no_repeat_ngram=self._options.no_repeat_ngram,
                prefixes=batch.prefixes,
                source_lengths=source_lengths,
                with_attention=self._with_attention,
            )
            return [[output] for output in outputs]
        return beam_search(
            self._model,
            source,
            len(batch.sentences),
            beam_rule(self._options, num_best),
            bos_id=self._tgt.bos_id,
            eos_id=self._tgt.eos_id,
            max_lengths=batch.max_lengths,
            device=self._device,
            forbidden_ids=self._never_written,
            prefixes=batch.prefixes,
            constraints=batch.constraints,
            source_lengths=source_lengths,
            with_attention=self._with_attention,
        )

    def has_attention(self) -> bool:
        """Whether the model can say where it looks, tried on an empty source."""
        attention = getattr(self._model, "attention", None)
        if attention is None:
            return False
        with torch.inference_mode():
            state = self._model.initial_state(self._source([[]]), 1)
            _, state = self._model.step(state, torch.tensor([self._tgt.bos_id], device=self._device))
            return attention(state) is not None

    def _source(self, sentences: Sequence[list[int]]) -> SourceTokens:
        ids_BS, mask_BS = padded([np.array([*ids, self._src.eos_id]) for ids in sentences], fill=self._src.eos_id)
        return SourceTokens(torch.from_numpy(ids_BS).to(self._device), torch.from_numpy(mask_BS).to(self._device))


def torch_translator(
    model: AttentiveModel,
    src: SentenceVocabulary,
    tgt: SentenceVocabulary,
    options: TranslateOptions,
    device: torch.device | None = None,
    *,
    limits: SourceLimits | None = None,
    seed: int | None = None,
    with_attention: bool = False,
    num_processes: int = 1,
) -> Translator:
    """A translator with a model of ours; see ``TorchSearch`` and ``Translator`` for the arguments."""
    search = TorchSearch(
        model, src, tgt, options, device, seed=seed, with_attention=with_attention, num_processes=num_processes
    )
    return Translator(search, src, tgt, options, limits=limits)


def _sent(output: Hypothesis) -> _Sent:
    """For another process: of a tensor it would get the name of a file in shared memory."""
    return (output, None) if output.attention is None else (replace(output, attention=None), output.attention.numpy())


def _received(
    answers: Generator[list[list[_Sent]], None, None],
) -> Generator[list[list[Hypothesis]], None, None]:
    with closing(answers):
        for answer in answers:
            yield [
                [
                    output if attention is None else replace(output, attention=torch.from_numpy(attention))
                    for output, attention in outputs
                ]
                for outputs in answer
            ]


def own_numbers(options: TranslateOptions) -> FixedNumbers:
    """What our engine is to compute in.

    Raises:
        UsageError: It does not.
    """
    match options.engine_type or "float32":
        case "float32":
            return "float32"
        case "int8":
            return "int8"
        case other:
            raise UsageError(
                f"seqkit's own engine computes in float32 or int8, not in {other}",
                hint="leave --engine-type out, or use --engine ctranslate2",
            )


def sampling_rule(options: TranslateOptions) -> SamplingRule:
    """How some options ask to draw."""
    return SamplingRule(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
