"""A batch in slices that are worked on side by side, each by a thread of its own.

On a CPU most operations of a training step are too small, or too simple, to gain much from a second core, and some
take only one. Where each core has its own rows of the batch from beginning to end, all cores work all the time. How
much that gains depends on the model, the optimizer and the machine; README has figures. The loss is a sum over tokens,
so the slices' gradients add up to the batch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from seqkit.models.draws import drawing_from

_SEEDS = 2**63 - 1

L = TypeVar("L")


class SliceThreads:
    """Threads that each find the gradients of a slice.

    Args:
        num_slices: How many, at least 2.
    """

    def __init__(self, num_slices: int) -> None:
        self.num_slices = num_slices
        self._pool = ThreadPoolExecutor(num_slices, thread_name_prefix="slice")

    def add_gradients(
        self,
        parameters: Sequence[nn.Parameter],
        losses: Sequence[Callable[[], tuple[Tensor, L]]],
        scale: Callable[[Sequence[L]], float],
    ) -> list[L]:
        """Run all ``losses`` side by side and add the gradients of their sum, times a factor, to the parameters'.

        Dropout draws from a generator for each slice, which the global random state seeds: what a slice draws does
        not depend on how the threads take turns.

        Args:
            parameters: Whose ``grad`` is added to.
            losses: Each gives a scalar with graph, and what else the caller wants of it. Run in another thread.
            scale: The factor, told those other things.

        Returns:
            What else the losses gave, in order.
        """
        num_threads = torch.get_num_threads()
        seeds = torch.randint(_SEEDS, (len(losses),)).tolist()

        def run(loss: Callable[[], tuple[Tensor, L]], seed: int) -> tuple[tuple[Tensor | None, ...], L]:
            # PyTorch keeps this number for each thread.
            torch.set_num_threads(1)
            with drawing_from(torch.Generator().manual_seed(seed)):
                total, other = loss()
            return torch.autograd.grad(total, parameters, allow_unused=True), other

        results = list(self._pool.map(run, losses, seeds))
        # New threads take the number that was last set anywhere.
        torch.set_num_threads(num_threads)
        others = [other for _, other in results]
        _add(parameters, [gradients for gradients, _ in results], scale(others))
        return others


def _add(parameters: Sequence[nn.Parameter], gradients: Sequence[Sequence[Tensor | None]], factor: float) -> None:
    """Add the slices' gradients, always in the same order, to those that the parameters have."""
    for parameter, *of_slices in zip(parameters, *gradients, strict=True):
        known = [gradient for gradient in of_slices if gradient is not None]
        if not known:
            continue
        # The first may be a view of the graph's own memory, or shared between parameters: never changed in place.
        total = known[0] if len(known) == 1 else torch.add(known[0], known[1])
        for gradient in known[2:]:
            total = total + gradient
        if parameter.grad is None:
            # Laid out as the parameter is, which fused optimizers take for granted: of a transposed gradient, as a
            # product with a transposed weight leaves it, they would give each weight the step of another one.
            parameter.grad = torch.mul(total, factor, out=torch.empty_like(parameter))
        else:
            parameter.grad.add_(total, alpha=factor)
