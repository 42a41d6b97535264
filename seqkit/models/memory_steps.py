"""A layer's attention to its memory, for one position a row, in three layouts that compute the same.

In general a step projects queries, attends, and projects what came of it. The hypotheses of a single source all look at
one memory, so both matrices can be multiplied into its keys and values beforehand, for each head::

    (x Wq) kᵀ = x (Wq kᵀ)        (w v) Wo = w (v Wo)

Then a step is two matrix products and a softmax, and reads H·S numbers for each of D, where a matrix has D: less, as
long as a source has fewer positions than a head is wide.

Many sources side by side on a CPU have their keys transposed, once, and attend by plain products of a batch, where no
``StepKernels`` do it: with a few queries a source that takes two thirds of the time of PyTorch's fused kernel.

Legend: B sources, W hypotheses of each, N = B·W rows, D width, M width of the memory, I = D + 1, H heads, K head width,
S source positions, X = H·S, Z = S or 16 if that is more, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.models.attention import CrossAttention, attention_weights, fused_attention
from seqkit.models.fixed_layers import FixedLinear, Layout, fixed_linear
from seqkit.models.shared_memory import Moves

_MANY_SOURCES = 8
_LEAST_POSITIONS = 16
"""Of fewer numbers, softmax takes up to ten times as long: it has no vectors for them."""


class StepMemory(Protocol):
    """What a layer sees of the sources, laid out for steps."""

    @property
    def num_sources(self) -> int:
        """B."""
        ...

    def attend(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """What W rows of each source find, shape (N, D); and the look, from which ``weights`` tells where."""
        ...

    def weights(self, look: Tensor) -> Tensor:
        """Mean of the heads' weights over the memory, shape (N, S)."""
        ...

    def select(self, moves: Moves) -> StepMemory:
        """Some sources, each any number of times. Uses this memory up."""
        ...


class MemoryAttentionSteps:
    """The weights of a layer's attention to the memory.

    Args:
        attention: The module; later changes of its weights do not count.
        layout: How they are laid out.
        overwrites_input: What asks is nobody else's.
    """

    def __init__(
        self, attention: CrossAttention, layout: Layout | None = None, *, overwrites_input: bool = False
    ) -> None:
        layout = layout or Layout()
        self.num_heads = attention.num_heads
        self.kernels = layout.kernels
        self.query = fixed_linear(attention.query, layout, overwrites_input=overwrites_input)
        self.output = fixed_linear(attention.output, layout, overwrites_input=True)
        # What all steps see, computed once: in the numbers of the encoder that it comes from.
        self._key_value = FixedLinear(attention.key_value)
        self._absorbable: _Absorbable | None = None
        if isinstance(self.query, FixedLinear) and isinstance(self.output, FixedLinear):
            self._absorbable = _Absorbable.of(self.query, self.output, self.num_heads)

    def project(self, memory_BSM: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, each of shape (B, S, H, K)."""
        num_sources, num_positions, _ = memory_BSM.shape
        projected_NO = self._key_value(memory_BSM.flatten(0, 1))
        k_BSHK, v_BSHK = projected_NO.view(num_sources, num_positions, 2, self.num_heads, -1).unbind(2)
        return k_BSHK, v_BSHK

    def lay_out(self, keys_values: tuple[Tensor, Tensor], bias_B11S: Tensor | None) -> StepMemory:
        """The layout that is faster.

        Args:
            keys_values: From ``project``.
            bias_B11S: Minus infinity at padding, zero elsewhere; ``None``: no padding.
        """
        k_BSHK, v_BSHK = keys_values
        num_sources, num_positions, num_heads, d_head = k_BSHK.shape
        has_kernel = self.kernels is not None and self.kernels.can_attend(k_BSHK)
        has_products = k_BSHK.is_cpu and k_BSHK.dtype in {torch.float32, torch.float64}
        if num_sources >= _MANY_SOURCES and has_products and not has_kernel:
            return ManyStepMemory.of(self, k_BSHK, v_BSHK, bias_B11S)
        k_BHSK, v_BHSK = (x_BSHK.transpose(1, 2).contiguous() for x_BSHK in (k_BSHK, v_BSHK))
        memory = ProjectedStepMemory(self, k_BHSK, v_BHSK, bias_B11S)
        # In half precision, one more product would be rounded before it is used.
        is_exact = k_BHSK.dtype in {torch.float32, torch.float64}
        absorbable = self._absorbable
        if num_sources != 1 or num_positions > d_head or not is_exact or absorbable is None:
            return memory
        key_HIS = absorbable.query_HIK @ k_BHSK.squeeze(0).mT
        key_IX = key_HIS.transpose(0, 1).reshape(-1, num_heads * num_positions)
        key_DX, key_bias_X = key_IX[:-1], key_IX[-1]
        if bias_B11S is not None:
            key_bias_X = key_bias_X + bias_B11S.flatten().repeat(num_heads)
        value_HSD = v_BHSK.squeeze(0) @ absorbable.output_HKO
        return AbsorbedStepMemory(memory, absorbable.bias_O, key_DX, key_bias_X, value_HSD.flatten(0, 1))


@dataclass(frozen=True)
class _Absorbable:
    """Matrices in fp32 that can be multiplied into keys and values."""

    query_HIK: Tensor
    """With the bias as one more row, so that one product takes in both; scaled as scores are."""
    output_HKO: Tensor
    bias_O: Tensor

    @classmethod
    def of(cls, query: FixedLinear, output: FixedLinear, num_heads: int) -> _Absorbable:
        query_IO = torch.cat([query.weight_IO, query.bias_O.to(query.weight_IO.dtype).unsqueeze(0)])
        query_IHK = query_IO.view(len(query_IO), num_heads, -1)
        query_HIK = query_IHK.transpose(0, 1).contiguous() * query_IHK.size(2) ** -0.5
        return cls(query_HIK, output.weight_IO.view(num_heads, query_IHK.size(2), -1), output.bias_O)


@dataclass(frozen=True)
class ProjectedStepMemory:
    """Any number of sources: their keys and values. A look is the queries, shape (B, H, W, K)."""

    layer: MemoryAttentionSteps
    k_BHSK: Tensor
    v_BHSK: Tensor
    bias_B11S: Tensor | None

    @property
    def num_sources(self) -> int:
        """B."""
        return self.k_BHSK.size(0)

    def attend(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """See ``StepMemory``."""
        num_sources, num_heads, _, d_head = self.k_BHSK.shape
        q_BHWK = self.layer.query(x_ND).view(num_sources, -1, num_heads, d_head).transpose(1, 2)
        y_ND = fused_attention(q_BHWK, self.k_BHSK, self.v_BHSK, self.bias_B11S, self.layer.kernels)
        return self.layer.output(y_ND), q_BHWK

    def weights(self, look: Tensor) -> Tensor:
        """See ``StepMemory``."""
        weights_BHWS = attention_weights(look, self.k_BHSK, self.bias_B11S)
        return weights_BHWS.mean(dim=1).flatten(0, 1)

    def select(self, moves: Moves) -> ProjectedStepMemory:
        """See ``StepMemory``."""
        bias_B11S = None if self.bias_B11S is None else moves.take(self.bias_B11S)
        return ProjectedStepMemory(self.layer, moves.take(self.k_BHSK), moves.take(self.v_BHSK), bias_B11S)


@dataclass(frozen=True)
class ManyStepMemory:
    """Many sources: their keys transposed. A look is the weights, shape (B, H, W, Z)."""

    layer: MemoryAttentionSteps
    num_positions: int
    """S."""
    k_BHKZ: Tensor
    v_BHZK: Tensor
    bias_B11Z: Tensor | None

    @classmethod
    def of(
        cls, layer: MemoryAttentionSteps, k_BSHK: Tensor, v_BSHK: Tensor, bias_B11S: Tensor | None
    ) -> ManyStepMemory:
        """Lay keys and values out, with room that nobody attends to where there are few positions."""
        num_sources, num_positions, num_heads, d_head = k_BSHK.shape
        width = max(num_positions, _LEAST_POSITIONS)
        k_BHKZ = k_BSHK.new_zeros(num_sources, num_heads, d_head, width)
        v_BHZK = v_BSHK.new_zeros(num_sources, num_heads, width, d_head)
        k_BHKZ[..., :num_positions] = k_BSHK.permute(0, 2, 3, 1)
        v_BHZK[:, :, :num_positions] = v_BSHK.transpose(1, 2)
        if width > num_positions:
            if bias_B11S is None:
                bias_B11S = k_BSHK.new_zeros(num_sources, 1, 1, num_positions)
            bias_B11S = F.pad(bias_B11S, (0, width - num_positions), value=-torch.inf)
        return cls(layer, num_positions, k_BHKZ, v_BHZK, bias_B11S)

    @property
    def num_sources(self) -> int:
        """B."""
        return self.k_BHKZ.size(0)

    def attend(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """See ``StepMemory``."""
        num_sources, num_heads, d_head, _ = self.k_BHKZ.shape
        q_BHWK = self.layer.query(x_ND).view(num_sources, -1, num_heads, d_head).transpose(1, 2)
        weights_BHWZ = attention_weights(q_BHWK, self.k_BHKZ.mT, self.bias_B11Z)
        y_BWHK = (weights_BHWZ @ self.v_BHZK).transpose(1, 2)
        return self.layer.output(y_BWHK.reshape(-1, num_heads * d_head)), weights_BHWZ

    def weights(self, look: Tensor) -> Tensor:
        """See ``StepMemory``."""
        return look[..., : self.num_positions].mean(dim=1).flatten(0, 1)

    def select(self, moves: Moves) -> ManyStepMemory:
        """See ``StepMemory``."""
        bias_B11Z = None if self.bias_B11Z is None else moves.take(self.bias_B11Z)
        k_BHKZ, v_BHZK = moves.take(self.k_BHKZ), moves.take(self.v_BHZK)
        return ManyStepMemory(self.layer, self.num_positions, k_BHKZ, v_BHZK, bias_B11Z)


@dataclass(frozen=True)
class AbsorbedStepMemory:
    """One source: keys and values that the layer's matrices went into. A look is the weights, shape (N, H, S)."""

    projected: ProjectedStepMemory
    bias_D: Tensor
    key_DX: Tensor
    key_bias_X: Tensor
    value_XD: Tensor

    @property
    def num_sources(self) -> int:
        """B."""
        return 1

    def attend(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """See ``StepMemory``."""
        scores_NX = torch.addmm(self.key_bias_X, x_ND, self.key_DX)
        weights_NHS = torch.softmax(scores_NX.view(len(x_ND), self.projected.layer.num_heads, -1), dim=2)
        y_ND = torch.addmm(self.bias_D, weights_NHS.view(len(x_ND), -1), self.value_XD)
        return y_ND, weights_NHS

    def weights(self, look: Tensor) -> Tensor:
        """See ``StepMemory``."""
        return look.mean(dim=1)

    def select(self, moves: Moves) -> ProjectedStepMemory:
        """See ``StepMemory``."""
        return self.projected.select(moves)
