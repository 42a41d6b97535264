"""Keys and values of hypotheses that share their beginnings: what several of them have in common stands there once.

The hypotheses of a source form a tree. Each step adds one position a hypothesis, to be seen by that hypothesis and its
descendants; who sees what is a small table of zeros and minus infinities that is added to the scores. So when beams
move, only rows of the table move, never keys and values, and the queries of a source are one matrix product.

Two hypotheses of a source, after steps a, b; then both go on from the first one, and after step c::

    positions     a₀ a₁ b₀ b₁ c₀ c₁
    hypothesis 0  ×     ×     ×
    hypothesis 1  ×     ×        ×       nobody sees a₁ and b₁ any more

Positions that nobody sees are dropped whenever keys and values are copied for another reason: sources leave, or the
room is full. As all live beams soon have one ancestor, few positions more than there are tokens remain.

Legend: L layers, B sources, W hypotheses of each, N = B·W, H heads, R room, P positions in use, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_ROOM = 64
"""Positions that fit before anything is copied: at beam 5 most sentences of a few words never are."""


@dataclass
class _Shared:
    """What states that came from one another have in common; positions in use by one of them are not written again."""

    layers_2BHRK: list[Tensor]
    """A layer each, keys before values."""
    num_written: int = 0

    @property
    def room(self) -> int:
        """R."""
        return self.layers_2BHRK[0].size(3)


class BranchingCache:
    """Keys and values of every layer, as one state sees them.

    Made by ``empty``, and by one another.

    Args:
        shared: Keys and values, of which some positions are in use.
        num_sources: B.
        length: P.
        bias_BWR: The table; ``None``: all see all.
        own_WW: What the table says of a step's new positions: each is for its own hypothesis.
    """

    def __init__(
        self, shared: _Shared, num_sources: int, length: int, bias_BWR: Tensor | None, own_WW: Tensor | None
    ) -> None:
        self._shared = shared
        self._num_sources = num_sources
        self._length = length
        self._bias_BWR = bias_BWR
        self._own_WW = own_WW

    @classmethod
    def empty(cls, num_layers: int, like_BHSK: Tensor) -> BranchingCache:
        """Nothing read yet.

        Args:
            num_layers: L.
            like_BHSK: Keys of the same sources, heads, width and type.
        """
        num_sources, num_heads, _, width = like_BHSK.shape
        size = (2, num_sources, num_heads, _LEAST_ROOM, width)
        return cls(_Shared([like_BHSK.new_empty(size) for _ in range(num_layers)]), num_sources, 0, None, None)

    @property
    def num_sources(self) -> int:
        """B."""
        return self._num_sources

    @property
    def num_positions(self) -> int:
        """P: those that some hypothesis of some source sees, and those that were not dropped yet."""
        return self._length

    def begin_step(self, num_rows: int) -> BranchingCache:
        """The cache with one position more a row, whose keys and values ``add`` brings. Uses this one up."""
        width = num_rows // self._num_sources
        shared, first = self._shared, self._length
        if shared.num_written > first or first + width > shared.room:
            # No room; or another state that came from the same one has taken the next positions.
            return self._copied(None, spare=width).begin_step(num_rows)
        after = self._with(shared, first + width, self._bias_BWR)
        shared.num_written = after._length
        if after._bias_BWR is not None:
            if after._own_WW is None or after._own_WW.size(0) != width:
                after._own_WW = after._bias_BWR.new_full((width, width), -torch.inf).fill_diagonal_(0.0)
            after._bias_BWR.narrow(2, first, width).copy_(after._own_WW)
        return after

    def add(self, layer: int, kv_2BHWK: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's keys and values of the step begun.

        Returns:
            All keys and all values of the layer, each of shape (B, H, P, K).
        """
        layer_2BHRK, width = self._shared.layers_2BHRK[layer], kv_2BHWK.size(3)
        layer_2BHRK.narrow(3, self._length - width, width).copy_(kv_2BHWK)
        keys_BHPK, values_BHPK = layer_2BHRK.narrow(3, 0, self._length).unbind(0)
        return keys_BHPK, values_BHPK

    def bias(self) -> Tensor | None:
        """What to add to the scores of every head, shape (B, 1, W, P): minus infinity at what a hypothesis cannot see.

        ``None``: all see all.
        """
        return None if self._bias_BWR is None else self._bias_BWR[:, None, :, : self._length]

    def reorder(self, index_N: Tensor, kept_B: Tensor | None, num_sources: int) -> BranchingCache:
        """The rows ``index_N``.

        Args:
            index_N: Rows now, in their new order.
            kept_B: The sources that they belong to, if not all as they are.
            num_sources: B from now on.
        """
        width = len(index_N) // num_sources
        bias_BWR = None
        if self._bias_BWR is not None:
            bias_BWR = self._bias_BWR.flatten(0, 1).index_select(0, index_N).view(num_sources, width, -1)
        elif width > 1:
            bias_BWR = self._shared.layers_2BHRK[0].new_zeros(num_sources, width, self._shared.room)
        after = self._with(self._shared, self._length, bias_BWR)
        after._num_sources = num_sources
        return after if kept_B is None else after._copied(kept_B, spare=width)

    def _with(self, shared: _Shared, length: int, bias_BWR: Tensor | None) -> BranchingCache:
        return BranchingCache(shared, self._num_sources, length, bias_BWR, self._own_WW)

    def _copied(self, kept_B: Tensor | None, *, spare: int) -> BranchingCache:
        """A cache with memory of its own, without the positions that nobody sees.

        Args:
            kept_B: The sources to take; ``None``: all.
            spare: Fewest positions to have room for.
        """
        bias_BWP = None if self._bias_BWR is None else self._bias_BWR[:, :, : self._length]
        length, position_BP = self._length, None
        if bias_BWP is not None:
            is_seen_BP = (bias_BWP == 0).any(dim=1)
            length = int(is_seen_BP.sum(dim=1).max())
            # Sources differ in how many positions they still need: the others get some that nobody sees.
            position_BP = is_seen_BP.sort(dim=1, descending=True, stable=True).indices[:, :length]
            bias_BWP = bias_BWP.gather(2, position_BP.unsqueeze(1).expand(-1, bias_BWP.size(1), -1))
        room = max(_LEAST_ROOM, 2 * (length + spare))
        layers = [_copied_layer(old, self._length, kept_B, position_BP, room) for old in self._shared.layers_2BHRK]
        bias_BWR = None
        if bias_BWP is not None:
            bias_BWR = bias_BWP.new_empty(bias_BWP.size(0), bias_BWP.size(1), room)
            bias_BWR[:, :, :length] = bias_BWP
        return self._with(_Shared(layers, num_written=length), length, bias_BWR)


def _copied_layer(
    old_2BHRK: Tensor, length: int, kept_B: Tensor | None, position_BP: Tensor | None, room: int
) -> Tensor:
    """Some sources and, of each, some positions of a layer, with new room."""
    _, num_sources, num_heads, old_room, width = old_2BHRK.shape
    if kept_B is None:
        kept_B = torch.arange(num_sources, device=old_2BHRK.device)
    if position_BP is None:
        position_BP = torch.arange(length, device=old_2BHRK.device).expand(len(kept_B), -1)
    # Row (source, head, position) of the memory, which is one piece.
    head_H1 = torch.arange(num_heads, device=old_2BHRK.device).unsqueeze(1)
    row_BHP = ((kept_B[:, None, None] * num_heads + head_H1) * old_room) + position_BP.unsqueeze(1)
    new_2BHRK = old_2BHRK.new_empty(2, len(kept_B), num_heads, room, width)
    new_2BHRK[:, :, :, : position_BP.size(1)] = (
        old_2BHRK.flatten(1, 3).index_select(1, row_BHP.flatten()).unflatten(1, row_BHP.shape)
    )
    return new_2BHRK
