"""Matrix products inside a loop over steps whose weights get their gradient from one product after the loop.

Legend: T steps, B rows, X input width, G output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LoopSum:
    """``Σ_i x_i @ right_i + additive_t`` at each step t of a recurrence.

    Left to itself, autograd makes each step's gradient of the weights by itself and adds them up: T small products
    and T passes over the weights. What reaches ``additive_t`` in the backward pass is just what these products
    need, so they are put off to the moment when the gradients of all steps are there, and are one product. The
    gradients are the same to rounding; second derivatives are not to be had.

    Args:
        additive: What the products are added to, the steps along the first axis: shape (T, B, G). May be expanded.
        rights: Matrices of shape (X, G); or one a row, shape (B, X, G), with inputs of shape (B, ·, X) and an
            additive of shape (T, B, ·, G).
    """

    def __init__(self, additive: Tensor, rights: Sequence[Tensor]) -> None:
        self._inputs: list[list[Tensor]] = [[] for _ in rights]
        self._rights = [_autocast(right.detach()) for right in rights]
        for right, low, inputs in zip(rights, self._rights, self._inputs, strict=True):
            additive = _DeferredGradient.apply(additive, right, inputs, low.dtype)  # type: ignore[no-untyped-call]
        self._steps = iter(additive.unbind(0))

    def __call__(self, *xs: Tensor) -> Tensor:
        """The sum of the next step; one input for each matrix."""
        y = next(self._steps)
        for x, right, inputs in zip(xs, self._rights, self._inputs, strict=True):
            if torch.is_grad_enabled():
                inputs.append(x.detach())
            y = torch.addmm(y, x, right) if right.dim() == 2 else torch.baddbmm(y, x, right)
        return y


class _DeferredGradient(torch.autograd.Function):
    """Returns ``additive``; in the backward pass gives ``right`` the gradient of all its products."""

    @staticmethod
    def forward(ctx: Any, additive: Tensor, right: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> Tensor:
        # Filled by the loop, after this. The tensors have no history, so nothing is kept alive in a circle.
        ctx.inputs = inputs
        ctx.right_dtype, ctx.dtype = right.dtype, dtype
        ctx.is_per_row = right.dim() == 3
        return additive.view_as(additive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None
        # Steps that were not run have no inputs.
        low = grad[: len(ctx.inputs)].to(ctx.dtype)
        if ctx.is_per_row:
            x_BTX, grad_BTG = torch.cat(ctx.inputs, dim=1), low.transpose(0, 1).flatten(1, 2)
            grad_right = x_BTX.to(ctx.dtype).mT @ grad_BTG
        else:
            grad_right = torch.cat(ctx.inputs).to(ctx.dtype).T @ low.flatten(0, 1)
        return grad, grad_right.to(ctx.right_dtype), None, None


def _autocast(right: Tensor) -> Tensor:
    """In the type that products run in: cast once, not at each step."""
    device = right.device.type
    return right.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else right
