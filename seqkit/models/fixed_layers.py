"""Layers whose weights no longer change, laid out for a few rows at a time: the function of PyTorch's own ones.

Legend: N rows, D width, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.int8_layers import Int8Linear
from seqkit.models.step_kernels import StepKernels
from seqkit.models.transformer import FeedForward, activate

FixedNumbers = Literal["float32", "int8"]
"""What matrices are stored and multiplied in; activations, normalisation and attention are fp32 in any case."""


@dataclass(frozen=True)
class Layout:
    """How layers are laid out."""

    numbers: FixedNumbers = "float32"
    """Of their matrices."""
    kernels: StepKernels | None = None
    """What is computed outside PyTorch; ``None``: nothing. On a CPU."""


class FixedLinear:
    """A linear layer with its matrix transposed, which on a CPU is up to twice as fast for a few rows.

    Args:
        linear: The layer.
    """

    __slots__ = ("bias_O", "weight_IO")

    def __init__(self, linear: nn.Linear) -> None:
        self.weight_IO = _as_computed(linear.weight.detach().T).contiguous()
        self.bias_O = linear.bias.detach().clone()

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Shape (N, O)."""
        return torch.addmm(self.bias_O, x_NI, self.weight_IO)

    def add_to(self, sum_NO: Tensor, x_NI: Tensor) -> None:
        """Add what comes of ``x_NI``, in place."""
        sum_NO += self(x_NI)


class FixedOutput:
    """A linear layer with many outputs: the bias is one more row of the matrix, that of an input which is always one.

    So no pass over all outputs writes or adds it.

    Args:
        linear: The layer.
        kernels: What finds the best outputs.
    """

    __slots__ = ("_kernels", "_weight_IO")

    def __init__(self, linear: nn.Linear, kernels: StepKernels | None = None) -> None:
        weight_IO = torch.cat([linear.weight.detach().T, linear.bias.detach().unsqueeze(0)])
        self._weight_IO = _as_computed(weight_IO).contiguous()
        self._kernels = kernels

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Shape (N, O)."""
        return torch.mm(F.pad(x_NI, (0, 1), value=1.0), self._weight_IO)

    def pending(self, x_NI: Tensor) -> Tensor | RowLogits:
        """The outputs, or what the best of them can be found from."""
        y_NO = self(x_NI)
        if self._kernels is None or y_NO.dtype != torch.float32:
            return y_NO
        return RowLogits(self._kernels, y_NO)


class Int8Output(Int8Linear):
    """A linear layer with many outputs, in 8 bits."""

    __slots__ = ()

    def pending(self, x_NI: Tensor) -> Tensor | RowLogits:
        """The outputs, or what the best of them can be found from."""
        if self._kernels is None:
            return self(x_NI)
        y_NO, largest_N = self.product(x_NI)
        return RowLogits(self._kernels, y_NO, largest_N, self.bias_O)


@dataclass(frozen=True)
class RowLogits:
    """Logits that need not all be written out; see ``StepKernels.best_tokens`` for the fields."""

    kernels: StepKernels
    y_NV: Tensor
    largest_N: Tensor | None = None
    bias_V: Tensor | None = None

    def all(self) -> Tensor:
        """All logits, shape (N, V). The memory is used up."""
        if self.largest_N is not None and self.bias_V is not None:
            self.kernels.scale_rows_(self.y_NV, self.largest_N, self.bias_V)
        return self.y_NV

    def best(self, count: int, blocked_ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Normaliser, best logits and their tokens."""
        count = min(count, self.y_NV.size(1))
        return self.kernels.best_tokens(self.y_NV, self.largest_N, self.bias_V, blocked_ids, count)


def fixed_linear(
    linear: nn.Linear, layout: Layout, *, overwrites_input: bool = False, is_never_negative: bool = False
) -> FixedLinear | Int8Linear:
    """A linear layer laid out.

    Args:
        linear: The layer.
        layout: How.
        overwrites_input: Its input is nobody else's.
        is_never_negative: No input is.
    """
    if layout.numbers == "float32":
        return FixedLinear(linear)
    return Int8Linear(
        linear,
        kernels=layout.kernels,
        overwrites_input=overwrites_input,
        is_never_negative=is_never_negative,
    )


def fixed_output(linear: nn.Linear, layout: Layout, *, overwrites_input: bool = False) -> FixedOutput | Int8Output:
    """A linear layer with many outputs laid out; see ``fixed_linear``."""
    if layout.numbers == "float32":
        return FixedOutput(linear, layout.kernels)
    return Int8Output(linear, kernels=layout.kernels, overwrites_input=overwrites_input)


class FixedFeedForward:
    """A feed-forward part.

    Args:
        feed_forward: The part.
        layout: How.
        overwrites_input: Its input is nobody else's.
    """

    __slots__ = ("_activation", "_input", "_output")

    def __init__(self, feed_forward: FeedForward, layout: Layout, *, overwrites_input: bool = False) -> None:
        activation = feed_forward.activation
        self._input = fixed_linear(feed_forward.input, layout, overwrites_input=overwrites_input)
        self._output = fixed_linear(
            feed_forward.output, layout, overwrites_input=True, is_never_negative=activation == "relu"
        )
        self._activation = activation

    def add_to(self, sum_ND: Tensor, x_ND: Tensor) -> None:
        """Add what comes of ``x_ND``, in place."""
        if self._activation != "relu":
            self._output.add_to(sum_ND, activate(self._input(x_ND), self._activation))
        elif isinstance(self._output, Int8Linear) and isinstance(self._input, Int8Linear):
            self._output.add_relu_to(sum_ND, self._input, x_ND)
        else:
            self._output.add_to(sum_ND, self._input(x_ND).relu_())


class FixedNorm:
    """Layer normalisation."""

    __slots__ = ("_bias_D", "_eps", "_gain_D", "_shape")

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._gain_D, self._bias_D = norm.weight.detach(), norm.bias.detach()
        self._shape, self._eps = list(norm.normalized_shape), norm.eps

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Shape (N, D)."""
        return torch.layer_norm(x_ND, self._shape, self._gain_D, self._bias_D, self._eps)


def _as_computed(weight_IO: Tensor) -> Tensor:
    """In the type that autocast computes in, where it is on: it would turn the matrix into that in every step."""
    device = weight_IO.device.type
    return weight_IO.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight_IO
