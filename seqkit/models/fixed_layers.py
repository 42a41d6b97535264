"""Layers whose weights no longer change, laid out for a few rows at a time: the function of PyTorch's own ones.

Legend: N rows, D width, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.int8_layers import Int8Linear
from seqkit.models.transformer import FeedForward, activate

FixedNumbers = Literal["float32", "int8"]
"""What matrices are stored and multiplied in; activations, normalisation and attention are fp32 in any case."""


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


class FixedOutput:
    """A linear layer with many outputs: the bias is one more row of the matrix, that of an input which is always one.

    So no pass over all outputs writes or adds it.
    """

    __slots__ = ("_weight_IO",)

    def __init__(self, linear: nn.Linear) -> None:
        weight_IO = torch.cat([linear.weight.detach().T, linear.bias.detach().unsqueeze(0)])
        self._weight_IO = _as_computed(weight_IO).contiguous()

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Shape (N, O)."""
        return torch.mm(F.pad(x_NI, (0, 1), value=1.0), self._weight_IO)


def fixed_linear(
    linear: nn.Linear, numbers: FixedNumbers, *, overwrites_input: bool = False, is_never_negative: bool = False
) -> FixedLinear | Int8Linear:
    """A linear layer laid out.

    Args:
        linear: The layer.
        numbers: Of its matrix.
        overwrites_input: Its input is nobody else's.
        is_never_negative: No input is.
    """
    if numbers == "float32":
        return FixedLinear(linear)
    return Int8Linear(linear, overwrites_input=overwrites_input, is_never_negative=is_never_negative)


def fixed_output(
    linear: nn.Linear, numbers: FixedNumbers, *, overwrites_input: bool = False
) -> FixedOutput | Int8Linear:
    """A linear layer with many outputs laid out; see ``fixed_linear``."""
    return Int8Linear(linear, overwrites_input=overwrites_input) if numbers == "int8" else FixedOutput(linear)


class FixedFeedForward:
    """A feed-forward part.

    Args:
        feed_forward: The part.
        numbers: Of its matrices.
        overwrites_input: Its input is nobody else's.
    """

    __slots__ = ("_activation", "_input", "_output")

    def __init__(self, feed_forward: FeedForward, numbers: FixedNumbers, *, overwrites_input: bool = False) -> None:
        activation = feed_forward.activation
        self._input = fixed_linear(feed_forward.input, numbers, overwrites_input=overwrites_input)
        self._output = fixed_linear(
            feed_forward.output, numbers, overwrites_input=True, is_never_negative=activation == "relu"
        )
        self._activation = activation

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Shape (N, D)."""
        h_NF = self._input(x_ND)
        return self._output(h_NF.relu_() if self._activation == "relu" else activate(h_NF, self._activation))


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
