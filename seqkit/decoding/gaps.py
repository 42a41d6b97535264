"""Where sentences stand in a batch once some have left it."""

from __future__ import annotations

import torch
from torch import Tensor


def close_gaps(stays_B: Tensor) -> Tensor:
    """The sentences that stay, in an order in which few have to move: the last ones fill the gaps of those that left.

    Args:
        stays_B: Whether each stays.

    Returns:
        Numbers of sentences, shape (number that stay,).

    >>> close_gaps(torch.tensor([True, False, True, False, True, True]))
    tensor([0, 4, 2, 5])
    """
    (kept_M,) = stays_B.nonzero(as_tuple=True)
    num_kept = len(kept_M)
    (gap_G,) = stays_B[:num_kept].logical_not().nonzero(as_tuple=True)
    order_M = torch.arange(num_kept, device=stays_B.device)
    order_M[gap_G] = kept_M[num_kept - len(gap_G) :]
    return order_M
