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
    """A layer each, keys before values; empty until the first step."""
    num_written: int = 0


class BranchingCache:
    """Keys and values of every layer, as one state sees them.

    Args:
        num_sources: B.
        num_layers: L.
    """

    def __init__(self, num_sources: int, num_layers: int) -> None:
        self._num_sources = num_sources
        self._num_layers = num_layers
        self._shared = _Shared([])
        self._length = 0
        self._bias_BWR: Tensor | None = None

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
        if shared.layers_2BHRK and (shared.num_written > first or first + width > shared.layers_2BHRK[0].size(3)):
            # No room; or another state that came from the same one has taken the next positions.
            return self._copied(None, spare=width).begin_step(num_rows)
        after = self._with(shared, first + width, self._bias_BWR)
        shared.num_written = after._length
        if after._bias_BWR is not None:
            own_WW = torch.full((width, width), -torch.inf, device=after._bias_BWR.device).fill_diagonal_(0.0)
            after._bias_BWR[:, :, first : after._length] = own_WW
        return after

    def add(self, layer: int, kv_2BHWK: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's keys and values of the step begun.

        Returns:
            All keys and all values of the layer, each of shape (B · H, P, K).
        """
        layers = self._shared.layers_2BHRK
        if layer == len(layers):
            _, num_sources, num_heads, _, width = kv_2BHWK.shape
            layers.append(kv_2BHWK.new_empty(2, num_sources, num_heads, _LEAST_ROOM, width))
        layers[layer][:, :, :, self._length - kv_2BHWK.size(3) : self._length] = kv_2BHWK
        keys_XPK, values_XPK = layers[layer].flatten(1, 2)[:, :, : self._length]
        return keys_XPK, values_XPK

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
            bias_BWR = self._bias_BWR.flatten(0, 1).index_select(0, index_N).unflatten(0, (num_sources, width))
        elif width > 1:
            room = self._shared.layers_2BHRK[0].size(3) if self._shared.layers_2BHRK else _LEAST_ROOM
            bias_BWR = torch.zeros(num_sources, width, room, device=index_N.device)
        after = self._with(self._shared, self._length, bias_BWR)
        after._num_sources = num_sources
        return after if kept_B is None else after._copied(kept_B, spare=width)

    def _with(self, shared: _Shared, length: int, bias_BWR: Tensor | None) -> BranchingCache:
        cache = BranchingCache(self._num_sources, self._num_layers)
        cache._shared, cache._length, cache._bias_BWR = shared, length, bias_BWR
        return cache

    def _copied(self, kept_B: Tensor | None, *, spare: int) -> BranchingCache:
        """A cache with memory of its own, without the positions that nobody sees.

        Args:
            kept_B: The sources to take; ``None``: all.
            spare: Fewest positions to have room for.
        """
        if not self._shared.layers_2BHRK:
            return self._with(_Shared([]), 0, self._bias_BWR)
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
