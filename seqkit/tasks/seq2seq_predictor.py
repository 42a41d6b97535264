"""A trained encoder-decoder model behind ``translate`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit.errors import CheckpointError
from seqkit.models.build import build_seq2seq
from seqkit.models.encoder_decoder import EncoderDecoder
from seqkit.recipe.loading import recipe_from_resolved
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.runs.checkpoint import Checkpoint, read_checkpoint
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.registry import tokenizer_from_json
from seqkit.tokenizers.sentences import SentenceVocabulary


@dataclass(frozen=True)
class LoadedSeq2Seq:
    """An encoder-decoder model read from a model folder, ready to use."""

    model: EncoderDecoder
    src: SentenceVocabulary
    tgt: SentenceVocabulary
    recipe: Seq2SeqRecipe
    path: Path
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def load_seq2seq(path: Path, device: torch.device) -> LoadedSeq2Seq:
    """Read an encoder-decoder model from a run folder or checkpoint folder; runs no code from it.

    Raises:
        CheckpointError: It is damaged or incomplete.
        UsageError: It is a model of another task.
    """
    checkpoint = read_checkpoint(path, train_state=False)
    checkpoint.require_task("seq2seq")
    recipe = recipe_from_resolved(checkpoint.recipe, source=f"{checkpoint.path}/recipe.yaml")
    assert isinstance(recipe, Seq2SeqRecipe)
    if recipe.is_joint:
        both = _tokenizer(checkpoint, "tokenizer.json")
        src, tgt = SentenceVocabulary(both), SentenceVocabulary(both)
    else:
        src, tgt = (SentenceVocabulary(_tokenizer(checkpoint, f"tokenizer.{side}.json")) for side in ("src", "tgt"))
    model = build_seq2seq(recipe.model, src.vocab_size, tgt.vocab_size, is_joint=recipe.is_joint)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint.path}: its weights do not fit its recipe ({reason})") from None
    return LoadedSeq2Seq(model.to(device).eval(), src, tgt, recipe, checkpoint.path, checkpoint.facts)


def _tokenizer(checkpoint: Checkpoint, name: str) -> Tokenizer:
    text = checkpoint.tokenizers.get(name)
    if text is None:
        raise CheckpointError(f"{checkpoint.path}: {name} is missing")
    return tokenizer_from_json(text)
