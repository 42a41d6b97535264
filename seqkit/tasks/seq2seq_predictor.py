"""A trained encoder-decoder model behind ``translate`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit.models.build import build_seq2seq
from seqkit.models.encoder_decoder import EncoderDecoder
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.tasks.stored_model import build_to_fit, stored_recipe, stored_tokenizer
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
    recipe = stored_recipe(checkpoint, Seq2SeqRecipe)
    names = ["tokenizer.json"] * 2 if recipe.is_joint else ["tokenizer.src.json", "tokenizer.tgt.json"]
    tokenizers = {name: stored_tokenizer(checkpoint, name) for name in names}
    src, tgt = (SentenceVocabulary(tokenizers[name]) for name in names)
    model = build_to_fit(
        checkpoint, lambda: build_seq2seq(recipe.model, src.vocab_size, tgt.vocab_size, is_joint=recipe.is_joint)
    )
    return LoadedSeq2Seq(model.to(device).eval(), src, tgt, recipe, checkpoint.path, checkpoint.facts)
