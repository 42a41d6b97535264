"""Dropout over sequences: a new mask at every step, or one mask for all of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SequenceDropout(nn.Module):
    """Dropout for inputs of shape (B, T, D).

    Args:
        probability: Chance that a component is zeroed in training; the others are scaled by 1 / (1 - p).
        is_variational: Draw one mask a sequence and use it at every step (Gal and Ghahramani 2016), instead of
            a new mask at every step.
    """

    def __init__(self, probability: float, *, is_variational: bool = False) -> None:
        super().__init__()
        self.probability = probability
        self.is_variational = is_variational

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return ``x_BTD`` with components dropped, or itself outside training."""
        if not self.training or self.probability == 0:
            return x_BTD
        if not self.is_variational:
            return F.dropout(x_BTD, self.probability)
        mask_B1D = F.dropout(x_BTD.new_ones(x_BTD.size(0), 1, x_BTD.size(2)), self.probability)
        return x_BTD * mask_B1D
