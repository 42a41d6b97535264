"""Several rows (hypotheses, samples) of one source share its memory; a memory is copied only where sources change.

Legend: B sources, W rows of one source, N = B·W rows.
"""

from __future__ import annotations

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


def _adjacent_sources(sources_N: Tensor) -> Tensor:
    """The sources of rows in groups of equal size, one entry a group; each row by itself if there are no such groups.

    >>> _adjacent_sources(torch.tensor([2, 2, 0, 0])), _adjacent_sources(torch.tensor([2, 2, 0]))
    (tensor([2, 0]), tensor([2, 2, 0]))
    """
    sources_B, sizes_B = sources_N.unique_consecutive(return_counts=True)
    return sources_B if len(sizes_B) == 0 or bool((sizes_B == sizes_B[0]).all()) else sources_N
