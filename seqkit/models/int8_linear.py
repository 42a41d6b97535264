"""Linear layers with 8-bit weights, for steps on a CPU: a quarter of the memory to read, and products of whole numbers.

A weight is a whole number from -127 to 127 times a factor of its output; what the layer reads is rounded likewise, by
a factor of each row, found anew in every step. So no row depends on its neighbours, and nothing is calibrated. Products
and sums are exact; all that is lost is lost in rounding both sides.

Legend: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LARGEST = 127


class Int8Linear:
    """A linear layer in 8 bits.

    Args:
        linear: The layer, on the CPU.
        factor: What to multiply its outputs by, one number or one for each.
    """

    __slots__ = ("_bias_O", "_scale_O", "_weight_IO")

    def __init__(self, linear: nn.Linear, factor: float | Tensor = 1.0) -> None:
        weight_OI, bias_O = linear.weight.detach().float(), linear.bias.detach().float() * factor
        scale_O = _scale(weight_OI).squeeze(1)
        self._weight_IO = _rounded(weight_OI, scale_O.unsqueeze(1)).T.contiguous()
        self._scale_O, self._bias_O = scale_O * factor, bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Float32, shape (N, O)."""
        scale_N1 = _scale(x_NI)
        product_NO = torch._int_mm(_rounded(x_NI, scale_N1), self._weight_IO) * self._scale_O
        return torch.addcmul(self._bias_O, product_NO, scale_N1)


def _scale(x_NI: Tensor) -> Tensor:
    """What to divide each row by, so that its numbers lie from -127 to 127; shape (N, 1)."""
    largest_N1 = torch.linalg.vector_norm(x_NI, torch.inf, dim=1, keepdim=True)
    # A row of zeros has no size of its own.
    return (largest_N1 / _LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)


def _rounded(x_NI: Tensor, scale_N1: Tensor) -> Tensor:
    rounded_NI: Tensor = (x_NI / scale_N1).round_().to(torch.int8)
    return rounded_NI
