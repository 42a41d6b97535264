"""Several trained translation models as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from seqkit.decoding.ensemble import Ensemble
from seqkit.decoding.model import AttentiveModel
from seqkit.errors import UsageError
from seqkit.models.fixed_layers import Layout
from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq, load_seq2seq


def load_translation_models(paths: Sequence[Path], device: torch.device) -> list[LoadedSeq2Seq]:
    """Read models that can predict together.

    Args:
        paths: Run or checkpoint folders; at least one.
        device: Where to put them.

    Raises:
        CheckpointError: One is damaged or incomplete.
        UsageError: One is a model of another task, or its tokens are not those of the first.
    """
    loaded = [load_seq2seq(path, device) for path in paths]
    first = loaded[0]
    for path, other in zip(paths[1:], loaded[1:], strict=True):
        for side, own, theirs in (("source", first.src, other.src), ("target", first.tgt, other.tgt)):
            if own.tokenizer.to_json() != theirs.tokenizer.to_json():
                raise UsageError(
                    f"{path}: its {side} vocabulary ({theirs.vocab_size:,} tokens) is not that of {paths[0]} "
                    f"({own.vocab_size:,} tokens)",
                    hint="the models of an ensemble have the same tokenizers: train them on the same data",
                )
    return loaded


def joined_model(loaded: Sequence[LoadedSeq2Seq], layout: Layout | None = None) -> AttentiveModel:
    """The one model, or all as an ensemble; ready to translate, no longer to be trained.

    Args:
        loaded: The models.
        layout: Of their layers.

    Raises:
        UsageError: One of them, or this machine, cannot have these.
    """
    for one in loaded:
        one.model.fix_weights(layout)
    return loaded[0].model if len(loaded) == 1 else Ensemble([one.model for one in loaded])
