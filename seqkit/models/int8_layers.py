"""Linear layers whose weights are 8-bit integers, for steps of many rows on a CPU.

Each output's weights are rounded to 255 steps of its own largest weight, once; each row of the input to 255 steps of
its own largest number, in every step. The products are whole numbers, added up exactly, so that what comes of a row
does not depend on the rows beside it. For few rows fp32 is faster, but for the largest matrices.

The scheme is that of Dettmers et al. 2022 (*LLM.int8()*, section 2: vector-wise quantization), without its outliers.

Legend: N rows, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqkit.errors import UsageError
from seqkit.models.step_kernels import StepKernels

_LARGEST = 127
_ZERO = 128
"""What stands for zero: oneDNN's products take inputs from 0 to 255."""
_SMALLEST = 1e-30
"""What a row or an output of zeros is divided by instead; its quotient with 127 is still a number of fp32."""
_ROWS_AT_ONCE = 16
"""Rows are filled up to a multiple: oneDNN writes machine code for each number of rows that it meets."""


class Int8Linear:
    """A linear layer.

    Args:
        linear: The layer, in fp32 on a CPU.
        kernels: What rounds and scales; ``None``: PyTorch does.
        overwrites_input: The input is nobody else's, so that a step of rounding it may be written there.
        is_never_negative: No input is.
    """

    __slots__ = (
        "_is_never_negative",
        "_kernels",
        "_largest",
        "_middle_I",
        "_overwrites_input",
        "_packed",
        "_scale_O",
        "_zero_O",
        "bias_O",
    )

    def __init__(
        self,
        linear: nn.Linear,
        *,
        kernels: StepKernels | None = None,
        overwrites_input: bool = False,
        is_never_negative: bool = False,
    ) -> None:
        self._kernels = kernels
        self._overwrites_input, self._is_never_negative = overwrites_input, is_never_negative
        self._largest = torch.tensor(float(_LARGEST))
        weight_OI = linear.weight.detach().float()
        largest_O = weight_OI.abs().amax(dim=1).clamp(min=_SMALLEST)
        self._scale_O = largest_O / _LARGEST
        self._zero_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        whole_OI = (weight_OI * (_LARGEST / largest_O).unsqueeze(1)).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(whole_OI, None)
        self.bias_O = linear.bias.detach().float().clone()
        # Numbers are cut to whole ones, after one half was added. A row of them, for which PyTorch has a fast loop.
        self._middle_I = torch.full((weight_OI.size(1),), _ZERO + 0.5)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Shape (N, O)."""
        y_NO, largest_N = self.product(x_NI)
        self._scale_(y_NO, largest_N)
        return y_NO

    def add_to(self, sum_NO: Tensor, x_NI: Tensor) -> None:
        """Add what comes of ``x_NI``, in place."""
        y_NO, largest_N = self.product(x_NI)
        self._add_scaled(sum_NO, y_NO, largest_N)

    def add_relu_to(self, sum_NO: Tensor, before: Int8Linear, x_NI: Tensor) -> None:
        """Add what comes of the non-negative part of what a layer before this one makes of ``x_NI``, in place."""
        h_NF, largest_N = before.product(x_NI)
        if self._kernels is None:
            before._scale_(h_NF, largest_N)
            self.add_to(sum_NO, h_NF.relu_())
            return
        whole_MF = self._room(h_NF)
        largest_N = self._kernels.scale_relu_round_rows(h_NF, largest_N, before.bias_O, whole_MF, _SMALLEST)
        self._add_scaled(sum_NO, self._multiply(whole_MF)[: len(h_NF)], largest_N)

    def product(self, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded matrix and the rounded rows multiplied, shape (N, O), and each row's largest number, shape (N,).

        The one times the other, and the bias added, is what the layer gives.
        """
        whole_MI = self._room(x_NI)
        if self._kernels is not None:
            largest_N = self._kernels.round_rows(x_NI, whole_MI, _SMALLEST)
        else:
            largest_N = self._rounded(x_NI, whole_MI)
        return self._multiply(whole_MI)[: len(x_NI)], largest_N

    def _rounded(self, x_NI: Tensor, whole_MI: Tensor) -> Tensor:
        size_NI = x_NI if self._is_never_negative else x_NI.abs()
        largest_N1 = size_NI.amax(dim=1, keepdim=True).clamp_(min=_SMALLEST)
        room_NI = x_NI if self._overwrites_input else torch.empty_like(x_NI)
        shifted_NI = torch.addcmul(self._middle_I, x_NI, torch.div(self._largest, largest_N1), out=room_NI)
        # In two steps: straight to 8 bits takes three times as long.
        whole_MI[: len(x_NI)].copy_(shifted_NI.to(torch.int16))
        return largest_N1.squeeze(1)

    def _room(self, x_NI: Tensor) -> Tensor:
        num_rows, num_inputs = x_NI.shape
        return torch.empty(-(-num_rows // _ROWS_AT_ONCE) * _ROWS_AT_ONCE, num_inputs, dtype=torch.uint8)

    def _multiply(self, whole_MI: Tensor) -> Tensor:
        return multiply(whole_MI, self._packed, self._scale_O, self._zero_O)

    def _scale_(self, y_NO: Tensor, largest_N: Tensor) -> None:
        if self._kernels is not None:
            self._kernels.scale_rows_(y_NO, largest_N, self.bias_O)
        else:
            torch.addcmul(self.bias_O, y_NO, largest_N.unsqueeze(1), out=y_NO)

    def _add_scaled(self, sum_NO: Tensor, y_NO: Tensor, largest_N: Tensor) -> None:
        if self._kernels is not None:
            self._kernels.add_scaled_rows_(sum_NO, y_NO, largest_N, self.bias_O)
        else:
            sum_NO += torch.addcmul(self.bias_O, y_NO, largest_N.unsqueeze(1), out=y_NO)


def multiply(whole_MI: Tensor, packed: Tensor, scale_O: Tensor, zero_O: Tensor) -> Tensor:
    """The product of inputs from 0 to 255, which stand for -1 to 1, and packed weights: fp32, shape (M, O)."""
    y_MO: Tensor = torch.ops.onednn.qlinear_pointwise(
        whole_MI, 1 / _LARGEST, _ZERO, packed, scale_O, zero_O, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y_MO


def check_int8(device: torch.device) -> None:
    """Check that products of 8-bit integers are exact here.

    Raises:
        UsageError: There are none, or they are rounded off on the way, as on CPUs before AVX-512 VNNI.
    """
    if device.type != "cpu":
        raise UsageError(f"int8 is for the CPU, not {device.type}", hint="leave --engine-type out")
    size = 64
    largest_II = torch.full((size, size), _LARGEST, dtype=torch.int8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(largest_II, None)
        whole = torch.full((size, size), 255, dtype=torch.uint8)
        y_II = multiply(whole, packed, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    except (RuntimeError, AttributeError) as error:
        raise _cannot(str(error).splitlines()[0]) from None
    if not torch.allclose(y_II, torch.full_like(y_II, size * _LARGEST), rtol=1e-5):
        raise _cannot("their sums are cut off")


def _cannot(why: str) -> UsageError:
    hint = "leave --engine-type out, or use --engine ctranslate2"
    return UsageError(f"this machine has no exact products of 8-bit integers in PyTorch ({why})", hint=hint)
