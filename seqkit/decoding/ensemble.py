"""Several models that predict as one: the mean of their probabilities.

Legend: B rows, V vocabulary, M models, N rows kept, S source positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.decoding.model import AutoregressiveModel, State
from seqkit.decoding.top_tokens import widen
from seqkit.errors import UsageError


@dataclass(frozen=True)
class SourceOfEach:
    """One source for each model of an ensemble, where they do not read the same (other tokenizers, say)."""

    sources: tuple[Any, ...]


class Ensemble:
    """An autoregressive model made of several with one target vocabulary: p(token) = 1/M · Σ p_m(token).

    An ensemble of one predicts what its model predicts.

    Args:
        models: At least one.
    """

    def __init__(self, models: Sequence[AutoregressiveModel]) -> None:
        assert models, "an ensemble has at least one model"
        self.models = tuple(models)

    def initial_state(self, source: Any, batch_size: int) -> State:
        """The states of all models; ``source`` is read by each, unless it is a ``SourceOfEach``."""
        sources = source.sources if isinstance(source, SourceOfEach) else (source,) * len(self.models)
        return tuple(model.initial_state(own, batch_size) for model, own in zip(self.models, sources, strict=True))

    def step(self, state: State, token_B: Tensor) -> tuple[Tensor, State]:
        """Log-probabilities of shape (B, V), and the new states; of one model, its logits as they are.

        Raises:
            UsageError: The models have vocabularies of different sizes.
        """
        stepped = [model.step(own, token_B) for model, own in zip(self.models, state, strict=True)]
        states = tuple(own for _, own in stepped)
        if len(stepped) == 1:
            return stepped[0][0], states
        sizes = [logits_BV.size(1) for logits_BV, _ in stepped]
        if len(set(sizes)) > 1:
            raise UsageError(
                f"the models of an ensemble need one target vocabulary; theirs have {', '.join(map(str, sizes))} tokens"
            )
        log_probs_MBV = torch.stack([widen(logits_BV).log_softmax(dim=1) for logits_BV, _ in stepped])
        return log_probs_MBV.logsumexp(dim=0) - math.log(len(self.models)), states

    def reorder(self, state: State, index_N: Tensor) -> State:
        """The rows ``index_N`` of all states."""
        return tuple(model.reorder(own, index_N) for model, own in zip(self.models, state, strict=True))

    def attention(self, state: State) -> Tensor | None:
        """The mean of the models' weights, shape (N, S); ``None`` unless all attend to positions in common."""
        weights: list[Tensor] = []
        for model, own in zip(self.models, state, strict=True):
            attention = getattr(model, "attention", None)
            weights_NS = attention(own) if attention is not None else None
            if weights_NS is None or (weights and weights_NS.shape != weights[0].shape):
                return None
            weights.append(weights_NS)
        return torch.stack(weights).mean(dim=0)
