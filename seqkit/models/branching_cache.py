"""Keys and values of hypotheses that share their beginnings: what several of them have in common stands there once.

The hypotheses of a source form a tree. Each step adds one position a hypothesis, to be seen by that hypothesis and its
descendants; who sees what is a small table of zeros and minus infinities that is added to the scores. So when beams
move, only rows of the table move, never keys and values, and the queries of a source are one matrix product.

Two hypotheses of a source, after steps a, b; then both go on from the first one, and after step c::

    positions     a₀ a₁ b₀ b₁ c₀ c₁
    hypothesis 0  ×     ×     ×
    hypothesis 1  ×     ×        ×       nobody sees a₁ and b₁ any more

Positions that nobody sees are dropped whenever there are twice as many as were needed the last time. As all live beams
soon have one ancestor, few positions more than there are tokens remain. Where sources leave, those that stay move only
to fill a gap. All that is done in place, so that a cache that was gone on from has nothing to read any more.

Legend: L layers, B sources, W hypotheses of each, N = B·W, H heads, R room, P positions in use, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.models.shared_memory import Moves

_LEAST_ROOM = 64
"""Positions that fit before more memory is taken."""
_LEAST_LIMIT = 32
"""Positions in use before any are dropped."""


@dataclass
class _Shared:
    """Where caches that came from one another have their keys and values."""

    layers_2BHRK: list[Tensor]
    """A layer each, keys before values; sources that have left may still stand at the end."""
    limit: int
    """Positions in use at which those that nobody sees are dropped."""
    num_uses: int = 0
    """How often one cache came from another."""

    @property
    def room(self) -> int:
        """R."""
        return self.layers_2BHRK[0].size(3)


class BranchingCache:
    """Keys and values of every layer, as one state sees them.

    Made by ``empty``, and by one another.

    Args:
        shared: Keys and values, of which this cache is the one to use.
        num_sources: B.
        length: P.
        bias_BWR: The table; ``None``: all see all.
        own_WW: What the table says of a step's new positions: each is for its own hypothesis.
    """

    def __init__(
        self, shared: _Shared, num_sources: int, length: int, bias_BWR: Tensor | None, own_WW: Tensor | None
    ) -> None:
        self._shared = shared
        self._num_uses = shared.num_uses
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
        layers = [like_BHSK.new_empty(size) for _ in range(num_layers)]
        return cls(_Shared(layers, limit=_LEAST_LIMIT), num_sources, 0, None, None)

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
        self._use()
        width = num_rows // self._num_sources
        if self._bias_BWR is not None and self._length + width > self._shared.limit:
            self._drop_unseen(width)
        if self._length + width > self._shared.room:
            self._make_room(2 * (self._length + width))
        first = self._length
        after = self._with(first + width, self._bias_BWR)
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
        layer_2BHRK, width = self._in_use(layer, self._length), kv_2BHWK.size(3)
        layer_2BHRK.narrow(3, self._length - width, width).copy_(kv_2BHWK)
        keys_BHPK, values_BHPK = layer_2BHRK.unbind(0)
        return keys_BHPK, values_BHPK

    def bias(self) -> Tensor | None:
        """What to add to the scores of every head, shape (B, 1, W, P): minus infinity at what a hypothesis cannot see.

        ``None``: all see all.
        """
        return None if self._bias_BWR is None else self._bias_BWR[:, None, :, : self._length]

    def reorder(self, index_N: Tensor, moves: Moves | None, num_sources: int) -> BranchingCache:
        """The rows ``index_N``. Uses this cache up.

        Args:
            index_N: Rows now, in their new order.
            moves: How the sources that they belong to come to the front, if these are not all as they are.
            num_sources: B from now on.
        """
        self._use()
        width = len(index_N) // num_sources
        bias_BWR = None
        if self._bias_BWR is not None:
            bias_BWR = self._bias_BWR.flatten(0, 1).index_select(0, index_N).view(num_sources, width, -1)
        elif width > 1:
            bias_BWR = self._shared.layers_2BHRK[0].new_zeros(num_sources, width, self._shared.room)
        if moves is not None:
            self._move(moves)
        after = self._with(self._length, bias_BWR)
        after._num_sources = num_sources
        return after

    def _use(self) -> None:
        if self._num_uses != self._shared.num_uses:
            raise RuntimeError("this state was gone on from before; to go on in two ways, name its rows twice")
        self._shared.num_uses += 1

    def _with(self, length: int, bias_BWR: Tensor | None) -> BranchingCache:
        return BranchingCache(self._shared, self._num_sources, length, bias_BWR, self._own_WW)

    def _in_use(self, layer: int, length: int) -> Tensor:
        """Of a layer, the sources that there are and the positions that are written."""
        return self._shared.layers_2BHRK[layer].narrow(1, 0, self._num_sources).narrow(3, 0, length)

    def _move(self, moves: Moves) -> None:
        """Have the sources that stay stand at the front."""
        shared = self._shared
        for layer in range(len(shared.layers_2BHRK)):
            rows_B2HPK = self._in_use(layer, self._length).transpose(0, 1)
            taken_B2HPK = moves.take(rows_B2HPK)
            if moves.into_M is None:
                shared.layers_2BHRK[layer] = _with_room(taken_B2HPK.transpose(0, 1), shared.room)

    def _drop_unseen(self, width: int) -> None:
        """Leave out the positions that no hypothesis sees."""
        assert self._bias_BWR is not None
        shared, bias_BWP = self._shared, self._bias_BWR[:, :, : self._length]
        is_seen_BP = (bias_BWP == 0).any(dim=1)
        num_seen = int(is_seen_BP.sum(dim=1).max())
        shared.limit = max(_LEAST_LIMIT, 2 * (num_seen + width))
        if num_seen == self._length:
            return
        # Sources differ in how many positions they still need: the others get some that nobody sees.
        position_BP = is_seen_BP.sort(dim=1, descending=True, stable=True).indices[:, :num_seen]
        row_BHP = self._rows_of(position_BP)
        for layer, layer_2BHRK in enumerate(shared.layers_2BHRK):
            seen_2XK = layer_2BHRK.flatten(1, 3).index_select(1, row_BHP.flatten())
            self._in_use(layer, num_seen).copy_(seen_2XK.unflatten(1, row_BHP.shape))
        seen_BWP = bias_BWP.gather(2, position_BP.unsqueeze(1).expand(-1, bias_BWP.size(1), -1))
        self._bias_BWR[:, :, :num_seen] = seen_BWP
        self._length = num_seen

    def _rows_of(self, position_BP: Tensor) -> Tensor:
        """Where positions of each source stand for each head, in a layer's memory as one piece, shape (B, H, P)."""
        _, _, num_heads, room, _ = self._shared.layers_2BHRK[0].shape
        source_B11 = torch.arange(self._num_sources, device=position_BP.device)[:, None, None]
        head_H1 = torch.arange(num_heads, device=position_BP.device).unsqueeze(1)
        return (source_B11 * num_heads + head_H1) * room + position_BP.unsqueeze(1)

    def _make_room(self, room: int) -> None:
        """Take memory for more positions."""
        shared = self._shared
        for layer in range(len(shared.layers_2BHRK)):
            shared.layers_2BHRK[layer] = _with_room(self._in_use(layer, self._length), room)
        if self._bias_BWR is not None:
            self._bias_BWR = torch.nn.functional.pad(self._bias_BWR, (0, room - self._bias_BWR.size(2)))


def _with_room(used_2BHPK: Tensor, room: int) -> Tensor:
    """A copy with room for more positions."""
    new_2BHRK = used_2BHPK.new_empty(*used_2BHPK.shape[:3], room, used_2BHPK.size(4))
    new_2BHRK[:, :, :, : used_2BHPK.size(3)] = used_2BHPK
    return new_2BHRK
