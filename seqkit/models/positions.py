"""How a Transformer knows where a token stands: sinusoidal, learned or rotary positions.

Legend: B batch, T time, H heads, K head width, D model width, P positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_positions(num_positions: int, d_model: int) -> Tensor:
    """The fixed table of Vaswani et al. 2017, section 3.5: sine and cosine of falling frequencies, in turn.

    Args:
        num_positions: P.
        d_model: D, even.

    Returns:
        Shape (P, D), fp32.
    """
    angles_PF = _angles(num_positions, d_model)
    if angles_PF.is_meta:
        return torch.empty(num_positions, d_model)
    return torch.stack([angles_PF.sin(), angles_PF.cos()], dim=-1).flatten(1)


class SinusoidalPositions(nn.Module):
    """Adds the sinusoidal table; any length works, longer ones extend the table."""

    table_PD: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("table_PD", sinusoidal_positions(256, d_model), persistent=False)

    def forward(self, x_BTD: Tensor, first: int = 0) -> Tensor:
        """Add the positions from ``first`` on."""
        return x_BTD + self.vectors(first, x_BTD.size(1))

    def vectors(self, first: int, num_positions: int) -> Tensor:
        """What is added at some positions, shape (T, D)."""
        last = first + num_positions
        table_PD = self.table_PD
        if last > len(table_PD):
            table_PD = sinusoidal_positions(2 * last, table_PD.size(1)).to(table_PD.device)
            self.table_PD = table_PD
        return table_PD[first:last]


class LearnedPositions(nn.Module):
    """Adds a trained vector for each position (Gehring et al. 2017); there is none beyond ``max_positions``."""

    def __init__(self, d_model: int, max_positions: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_positions, d_model)

    def forward(self, x_BTD: Tensor, first: int = 0) -> Tensor:
        """Add the positions from ``first`` on.

        Raises:
            ValueError: A position lies beyond the table.
        """
        return x_BTD + self.vectors(first, x_BTD.size(1))

    def vectors(self, first: int, num_positions: int) -> Tensor:
        """What is added at some positions, shape (T, D).

        Raises:
            ValueError: A position lies beyond the table.
        """
        last = first + num_positions
        if last > self.table.num_embeddings:
            raise ValueError(f"{last} positions, but the model has {self.table.num_embeddings}")
        return self.table.weight[first:last]


class RotaryPositions(nn.Module):
    """Turns queries and keys by angles that grow with the position (Su et al. 2021, RoFormer, equation 34).

    The product of a query and a key then depends on how far they stand apart only.
    """

    angles_PF: Tensor

    def __init__(self, d_head: int) -> None:
        super().__init__()
        self.d_head = d_head
        self.register_buffer("angles_PF", _angles(256, d_head), persistent=False)

    def forward(self, x_BHTK: Tensor, first: int = 0) -> Tensor:
        """Turn the vectors that stand at the positions from ``first`` on."""
        last = first + x_BHTK.size(2)
        angles_PF = self.angles_PF
        if last > len(angles_PF):
            angles_PF = _angles(2 * last, self.d_head).to(angles_PF.device)
            self.angles_PF = angles_PF
        sine_TF, cosine_TF = angles_PF[first:last].sin(), angles_PF[first:last].cos()
        # Component f of the first half and of the second half are one point in the plane.
        u_BHTF, v_BHTF = x_BHTK.chunk(2, dim=-1)
        turned = torch.cat([u_BHTF * cosine_TF - v_BHTF * sine_TF, u_BHTF * sine_TF + v_BHTF * cosine_TF], dim=-1)
        return turned.to(x_BHTK.dtype)


def _angles(num_positions: int, width: int) -> Tensor:
    """Position times frequency, shape (P, width / 2): frequencies fall from 1 to 1 / 10,000 geometrically."""
    shape_PF = torch.empty(num_positions, width // 2)
    if shape_PF.is_meta:
        # No more is asked for; to compute without numbers, PyTorch would import its compiler.
        return shape_PF
    frequencies_F = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.arange(num_positions).unsqueeze(1) * frequencies_F
