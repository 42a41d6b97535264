"""Dropout over sequences: a new mask at every step, or one mask for all of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.draws import current_generator

_LEVELS = 2**16
"""On a CPU, probabilities are rounded to a multiple of 1 / 65,536."""

_SEEDS = 2**63 - 1


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
            return _dropout_on_cpu(x_BTD, self.probability) if x_BTD.is_cpu else F.dropout(x_BTD, self.probability)
        ones_B1D = x_BTD.new_ones(x_BTD.size(0), 1, x_BTD.size(2))
        return x_BTD * (_dropout_on_cpu if x_BTD.is_cpu else F.dropout)(ones_B1D, self.probability)


def _dropout_on_cpu(x: Tensor, probability: float) -> Tensor:
    """Dropout with 16 random bits a component.

    PyTorch draws a whole number for each component, one after the other, which at the sizes of a character model was a
    tenth of a training step. Here PyTorch's generator gives a seed, and NumPy's fastest one four components a draw.
    """
    num_dropped_levels = min(round(probability * _LEVELS), _LEVELS - 1)
    seed = int(torch.randint(_SEEDS, (), generator=current_generator()))
    draws = np.random.SFC64(seed).random_raw((x.numel() + 3) // 4)
    lanes = torch.from_numpy(draws.view(np.int16)[: x.numel()]).view(x.shape)
    # Compared in place, and so to whole numbers: to booleans, and from them to floats, takes four times as long.
    keeps = lanes.ge_(num_dropped_levels - _LEVELS // 2)
    return x * keeps.to(x.dtype).mul_(_LEVELS / (_LEVELS - num_dropped_levels))
