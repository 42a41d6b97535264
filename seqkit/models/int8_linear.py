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
_LEAST = 1e-30
"""A row of zeros has no size of its own; 127 divided by this is still finite."""


class Int8Linear:
    """A linear layer in 8 bits.

    Args:
        linear: The layer, on the CPU.
        factor: What to multiply its outputs by, one number or one for each.
    """

    __slots__ = ("_bias_O", "_scale_O", "_weight_IO")

    def __init__(self, linear: nn.Linear, factor: float | Tensor = 1.0) -> None:
        rounded_OI, scale_O1 = _rounded(linear.weight.detach().float())
        self._weight_IO = rounded_OI.T.contiguous()
        self._scale_O = scale_O1.squeeze(1) * factor
        self._bias_O = linear.bias.detach().float() * factor

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Float32, shape (N, O)."""
        rounded_NI, scale_N1 = _rounded(x_NI)
        # Turned into floats first: a product of both types takes several times as long.
        out_NO = torch._int_mm(rounded_NI, self._weight_IO).to(torch.float32).mul_(self._scale_O)
        return torch.addcmul(self._bias_O, out_NO, scale_N1)


def _rounded(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, int8, and what to multiply each row of them by, shape (N, 1)."""
    # Not the maximum norm, of which PyTorch's is many times slower on a CPU.
    largest_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_(min=_LEAST)
    rounded_NI: Tensor = (x_NI * (_LARGEST / largest_N1)).round_().to(torch.int8)
    return rounded_NI, largest_N1 / _LARGEST
