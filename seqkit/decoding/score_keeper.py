"""Scoring hypotheses that end: log-probability, length, and what they have looked at in the source.

Legend: N rows, B sentences, C candidates of a sentence, S source positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.decoding.hypotheses import Trellis
from seqkit.decoding.model import AutoregressiveModel, State
from seqkit.decoding.penalties import Penalties
from seqkit.decoding.top_tokens import widen
from seqkit.errors import UsageError


class ScoreKeeper:
    """Reads the model's attention in every step and scores hypotheses that end.

    Args:
        model: Asked for its attention only if that is wanted or counts.
        penalties: How to score.
        trellis: Where attention is noted.
        source_lengths: Real source positions of each sentence; ``None``: all are real.
        with_attention: Whether attention is wanted.
        device: Where the search runs.
    """

    def __init__(
        self,
        model: AutoregressiveModel,
        penalties: Penalties,
        trellis: Trellis,
        *,
        source_lengths: Sequence[int] | None,
        with_attention: bool,
        device: torch.device,
    ) -> None:
        self._penalties = penalties
        self._trellis = trellis
        self._has_coverage = penalties.coverage_penalty > 0
        self._attention = getattr(model, "attention", None)
        self._is_reading = self._has_coverage or (with_attention and self._attention is not None)
        self._with_attention = with_attention
        self._coverage_NS: Tensor | None = None
        self._length_N1 = None if source_lengths is None else torch.tensor(source_lengths, device=device).unsqueeze(1)

    def look(self, state: State) -> None:
        """Read the attention of the step just made.

        Raises:
            UsageError: There is a coverage penalty, but the model has no attention.
        """
        if not self._is_reading:
            return
        weights_NS: Tensor | None = self._attention(state) if self._attention is not None else None
        if weights_NS is None:
            if self._has_coverage:
                raise UsageError("a coverage penalty needs a model with attention over its source, and this has none")
            self._is_reading = False
            return
        if self._with_attention:
            self._trellis.attend(weights_NS)
        if self._has_coverage:
            weights_NS = widen(weights_NS)
            if self._coverage_NS is not None:
                # A model may drop padding once the longest sentences have left.
                weights_NS = weights_NS + self._coverage_NS[:, : weights_NS.size(1)]
            self._coverage_NS = weights_NS

    def score(self, log_prob_BC: Tensor, length: int, row_BC: Tensor) -> Tensor:
        """Score candidates of ``length`` predictions that extend the given rows."""
        score_BC = log_prob_BC / self._penalties.divisor(max(1, length))
        if self._coverage_NS is None:
            return score_BC
        is_real_NS = None
        if self._length_N1 is not None:
            positions_S = torch.arange(self._coverage_NS.size(1), device=self._coverage_NS.device)
            is_real_NS = positions_S < self._length_N1
        return score_BC + (self._penalties.coverage_penalty * uncovered(self._coverage_NS, is_real_NS))[row_BC]

    def reorder(self, row_N: Tensor) -> None:
        """Follow the rows as they move, repeat and leave."""
        if self._coverage_NS is not None:
            self._coverage_NS = self._coverage_NS[row_N]
            if self._length_N1 is not None:
                self._length_N1 = self._length_N1[row_N]


def uncovered(coverage_NS: Tensor, is_real_NS: Tensor | None) -> Tensor:
    """Σ_i log min(Σ_j p_ij, 1) of each row, shape (N,), at most 0: how much of the source was not looked at.

    Args:
        coverage_NS: Attention summed over the predictions.
        is_real_NS: False for padding; ``None``: all positions are real.
    """
    log_NS = coverage_NS.clamp(min=torch.finfo(coverage_NS.dtype).tiny, max=1.0).log()
    if is_real_NS is not None:
        log_NS = log_NS.masked_fill(~is_real_NS, 0.0)
    return log_NS.sum(dim=1)
