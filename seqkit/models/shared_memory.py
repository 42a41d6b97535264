"""Several rows (hypotheses, samples) of one source share its memory; a memory is copied only where sources change.

Legend: B sources, W rows of one source, N = B·W rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def move_rows(source_of_row_N: Tensor, index_N: Tensor, num_sources: int) -> tuple[Tensor, Tensor | None]:
    """Which rows of a memory are needed once the rows of a state are reordered.

    As long as the rows stand in adjacent groups of one size, a group for each source in order, nothing moves: beams
    exchange hypotheses, and their memory stays where it is. Where groups differ in size, each row gets a memory of
    its own.

    Args:
        source_of_row_N: Which row of the memory each row of the state attends to.
        index_N: The rows of the state to keep, in their new order; their number may differ from before.
        num_sources: Rows of the memory now.

    Returns:
        Which row of the memory each new row attends to; and the rows of the memory to take first, or ``None``: all
        of them, as they are.

    >>> move_rows(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 3, 2]), 2)
    (tensor([0, 0, 1, 1]), None)
    >>> move_rows(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2]), 2)
    (tensor([0, 0]), tensor([1]))
    """
    sources_N = source_of_row_N.index_select(0, index_N)
    if torch.equal(sources_N, source_of_row_N):
        # By far the most frequent: beams exchange hypotheses.
        return source_of_row_N, None
    kept_B = _adjacent_sources(sources_N)
    if len(kept_B) == num_sources and bool((kept_B == torch.arange(num_sources, device=kept_B.device)).all()):
        return sources_N, None
    rows_per_source = len(sources_N) // max(1, len(kept_B))
    return torch.arange(len(kept_B), device=kept_B.device).repeat_interleave(rows_per_source), kept_B


@dataclass(frozen=True)
class Moves:
    """How the sources that stay come to the front of a memory, in place where that is a matter of a few."""

    kept_B: Tensor
    """Their rows now, in their new order."""
    into_M: Tensor | None
    """Rows that another one moves into; ``None``: all rows are copied."""
    from_M: Tensor

    @classmethod
    def of(cls, kept_B: Tensor) -> Moves:
        """In place if sources only fill the gaps of those that leave.

        >>> moves = Moves.of(torch.tensor([0, 4, 2]))
        >>> moves.into_M, moves.take(torch.arange(5))
        (tensor([1]), tensor([0, 4, 2]))
        >>> Moves.of(torch.tensor([1, 0])).into_M is None
        True
        """
        num_kept = len(kept_B)
        (into_M,) = (kept_B != torch.arange(num_kept, device=kept_B.device)).nonzero(as_tuple=True)
        from_M = kept_B.index_select(0, into_M)
        is_in_place = bool((from_M >= num_kept).all()) and len(from_M.unique()) == len(from_M)
        return cls(kept_B, into_M if is_in_place else None, from_M)

    def take(self, memory_BX: Tensor) -> Tensor:
        """The rows that are kept, first axis; what is moved in place is lost where it stood. May be done twice."""
        if self.into_M is None:
            return memory_BX.index_select(0, self.kept_B)
        if len(self.into_M):
            memory_BX.index_copy_(0, self.into_M, memory_BX.index_select(0, self.from_M))
        return memory_BX[: len(self.kept_B)]


def _adjacent_sources(sources_N: Tensor) -> Tensor:
    """The sources of rows in groups of equal size, one entry a group; each row by itself if there are no such groups.

    >>> _adjacent_sources(torch.tensor([2, 2, 0, 0])), _adjacent_sources(torch.tensor([2, 2, 0]))
    (tensor([2, 0]), tensor([2, 2, 0]))
    """
    sources_B, sizes_B = sources_N.unique_consecutive(return_counts=True)
    return sources_B if len(sizes_B) == 0 or bool((sizes_B == sizes_B[0]).all()) else sources_N
