"""What a decoder sees of its source: a memory, wherever it came from (text, image regions, video frames).

Legend: B batch, S memory positions, M width of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seqkit.models.recurrent import RecurrentState


@dataclass(frozen=True)
class Memory:
    """An encoder's output."""

    values_BSM: Tensor
    """One vector a position."""
    mask_BS: Tensor
    """True at real positions."""
    summary_BM: Tensor
    """One vector for all of it: what a recurrent decoder starts from."""
    states: RecurrentState | None = None
    """Of a recurrent encoder: each layer's state after the last real token, its directions side by side."""
