"""A translation model's attention when it reads a sentence and writes, or is given, its translation.

Legend: S source positions, T target positions, Q queries, P keys, L layers, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.decoding.requests import SentenceError
from seqkit.diagnostics.attention import AttentionKind, attention_weights
from seqkit.errors import DataError, UsageError
from seqkit.models.encoder_decoder import SourceTokens
from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq
from seqkit.tasks.torch_search import torch_translator
from seqkit.tasks.translation_requests import SourceLimits
from seqkit.tokenizers.sentences import SentenceVocabulary
from seqkit.training.device import model_device

START, END = "<s>", "</s>"
"""What the tokens at the ends of sentences are called, whatever the tokenizer calls them."""


@dataclass(frozen=True, kw_only=True)
class AttendedPair:
    """One sentence and where the model looks."""

    target: str | None
    """The translation, given or the model's own; None where it plays no part."""
    queries: tuple[str, ...]
    """The tokens that attend, or that are predicted from what is attended to: Q."""
    keys: tuple[str, ...]
    """The tokens that are attended to: P."""
    weights_LHQP: Tensor
    """Float32 on the CPU; each row sums to 1."""
    remarks: tuple[str, ...]
    """What the user should know of the sentence."""


def attention_size(loaded: LoadedSeq2Seq, kind: AttentionKind) -> tuple[int, int]:
    """How many layers of attention a model has, and how many heads each, tried on an empty sentence.

    Args:
        loaded: The model.
        kind: Which attention.

    Raises:
        UsageError: It has no such attention.
    """
    device = model_device(loaded.model)
    one = torch.ones(1, 1, dtype=torch.bool, device=device)
    source = SourceTokens(_row([loaded.src.eos_id], device), one)
    start_BT = _row([loaded.tgt.bos_id], device)
    (weights_LHQP,) = attention_weights(loaded.model, source, start_BT, one, kind)
    num_layers, num_heads = weights_LHQP.shape[:2]
    if num_layers:
        return num_layers, num_heads
    what = "attention to its source" if kind == "source" else f"self-attention in its {kind}"
    (other_LHQP,) = attention_weights(loaded.model, source, start_BT, one, "source")
    hint = "without --self its attention to the source is drawn" if len(other_LHQP) else None
    raise UsageError(f"{loaded.path}: this model ({loaded.recipe.model.type}) has no {what}", hint=hint)


def attend_pair(loaded: LoadedSeq2Seq, text: str, target: str | None, kind: AttentionKind) -> AttendedPair:
    """Read one sentence with a model.

    Args:
        loaded: The model.
        text: The source sentence.
        target: Its translation; None: the model's own, by the search that its recipe asks for.
        kind: Which attention; one that the model has.

    Raises:
        DataError: The sentence is blank, or is more than the model reads at once.
    """
    device, limits = model_device(loaded.model), SourceLimits.of([loaded.recipe])
    options = loaded.recipe.translate.model_copy(update={"sample": False, "long": "translate"})
    translator = torch_translator(loaded.model, loaded.src, loaded.tgt, options, device, limits=limits)
    try:
        (request,) = translator.reader.read([text])
    except SentenceError as error:
        raise DataError(error.reason, hint=error.hint) from None
    if not request.parts:
        raise DataError("the sentence is blank")
    if len(request.parts) > 1:
        raise DataError(f"too long to be read at once: {request.remarks[-1]}")
    src_ids = [*request.parts[0].ids, loaded.src.eos_id]
    predicted_ids, remarks = [loaded.tgt.eos_id], request.remarks
    if kind == "encoder":
        target = None
    elif target is None:
        ((best,),) = translator.translate([request])
        (hypothesis,) = best.hypotheses
        target, predicted_ids = best.text, [*hypothesis.ids, loaded.tgt.eos_id]
        if not hypothesis.is_finished:
            # Its end was not predicted, and to read its last token there may be no position.
            predicted_ids = hypothesis.ids
            remarks = (*remarks, "the model does not end its translation; it is cut where the longest one ends")
        if not predicted_ids:
            raise DataError("the model finds no translation", hint="--target gives one")
    else:
        predicted_ids = [*loaded.tgt.tokenizer.encode(target), loaded.tgt.eos_id]
    read_ids = [loaded.tgt.bos_id, *predicted_ids[:-1]]
    if limits.max_positions is not None and len(read_ids) > limits.max_positions:
        found = len(read_ids) - 1
        raise DataError(f"the target has {found:,} tokens, but the model has {limits.max_positions:,} positions")
    (weights_LHQP,) = attention_weights(
        loaded.model,
        SourceTokens(_row(src_ids, device), torch.ones(1, len(src_ids), dtype=torch.bool, device=device)),
        _row(read_ids, device),
        torch.ones(1, len(read_ids), dtype=torch.bool, device=device),
        kind,
    )
    source_tokens, read_tokens = _texts(loaded.src, src_ids), _texts(loaded.tgt, read_ids)
    queries, keys = {
        # Of the attention to the source a row belongs to what is predicted from it, as alignments have it.
        "source": (_texts(loaded.tgt, predicted_ids), source_tokens),
        "encoder": (source_tokens, source_tokens),
        "decoder": (read_tokens, read_tokens),
    }[kind]
    return AttendedPair(target=target, queries=queries, keys=keys, weights_LHQP=weights_LHQP, remarks=remarks)


def _row(ids: list[int], device: torch.device) -> Tensor:
    return torch.tensor([ids], device=device)


def _texts(vocabulary: SentenceVocabulary, ids: list[int]) -> tuple[str, ...]:
    """The tokens in words."""
    ends = {vocabulary.bos_id: START, vocabulary.eos_id: END}
    return tuple(ends.get(token_id) or vocabulary.tokenizer.token_text(token_id) for token_id in ids)
