"""Transformer layers and stacks (Vaswani et al. 2017), with the normalisation before or after each branch.

Legend: B batch, T target time, S source (memory) time, D model width, H heads, F feed-forward width, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.attention import CrossAttention, KeyValueCache, SelfAttention
from seqkit.models.dropout import SequenceDropout
from seqkit.models.positions import LearnedPositions, RotaryPositions, SinusoidalPositions

Activation = Literal["relu", "gelu", "geglu", "swiglu"]
NormPlace = Literal["pre", "post"]
PositionKind = Literal["sinusoidal", "learned", "rotary"]

ProjectedMemory = tuple[Tensor, Tensor]
"""Keys and values of one layer's attention to the memory, each of shape (B, H, S, K)."""


class FeedForward(nn.Module):
    """Two linear layers with a non-linearity between, at each position by itself.

    Args:
        d_model: D.
        d_feed_forward: F.
        activation: ``relu``, ``gelu``, or gated by a second projection (Shazeer 2020): ``geglu``, ``swiglu``.
        dropout: After the non-linearity.
    """

    def __init__(self, d_model: int, d_feed_forward: int, *, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation = activation
        self.is_gated = activation in ("geglu", "swiglu")
        self.input = nn.Linear(d_model, d_feed_forward * (2 if self.is_gated else 1))
        self.output = nn.Linear(d_feed_forward, d_model)
        self.dropout = SequenceDropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (B, T, D), as the input."""
        h_BTF = activate(self.input(x_BTD), self.activation)
        output: Tensor = self.output(self.dropout(h_BTF))
        return output


def activate(h_BTF: Tensor, activation: Activation) -> Tensor:
    """The non-linearity of a feed-forward part; a gated one halves the last axis."""
    match activation:
        case "relu":
            return torch.relu(h_BTF)
        case "gelu":
            return F.gelu(h_BTF)
        case "geglu":
            h_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            return F.gelu(h_BTF) * value_BTF
        case "swiglu":
            h_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            return F.silu(h_BTF) * value_BTF


class TransformerLayer(nn.Module):
    """Self-attention, attention to a memory where there is one, feed-forward: each a residual branch.

    Args:
        d_model: D.
        num_heads: H.
        d_feed_forward: F.
        d_memory: Width of the memory; ``None``: the layer attends to none.
        dropout: At the end of each branch and inside the feed-forward part.
        attention_dropout: On attention weights.
        activation: Of the feed-forward part.
        norm: Layer normalisation before each branch (Xiong et al. 2020), or after adding it (the 2017 paper).
        rotary: Positions of queries and keys, if rotary.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_feed_forward: int,
        *,
        d_memory: int | None = None,
        dropout: float,
        attention_dropout: float,
        activation: Activation,
        norm: NormPlace,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm == "pre"
        self.self_attention = SelfAttention(d_model, num_heads, dropout=attention_dropout, rotary=rotary)
        self.self_attention_norm = nn.LayerNorm(d_model)
        self.memory_attention: CrossAttention | None = None
        if d_memory is not None:
            self.memory_attention = CrossAttention(d_model, d_memory, num_heads, dropout=attention_dropout)
            self.memory_attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_feed_forward, activation=activation, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = SequenceDropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        bias: Tensor | None = None,
        cache: KeyValueCache | None = None,
        memory: ProjectedMemory | None = None,
        memory_bias: Tensor | None = None,
        self_weights: list[Tensor] | None = None,
        memory_weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the layer; see ``SelfAttention`` and ``CrossAttention`` for the arguments. Shape (B, T, D)."""
        norm = self.self_attention_norm
        y_BTD = self.self_attention(self._before(norm, x_BTD), bias, cache, self_weights)
        x_BTD = self._after(norm, x_BTD + self.dropout(y_BTD))
        if self.memory_attention is not None:
            assert memory is not None
            norm = self.memory_attention_norm
            y_BTD = self.memory_attention(self._before(norm, x_BTD), memory, memory_bias, memory_weights)
            x_BTD = self._after(norm, x_BTD + self.dropout(y_BTD))
        norm = self.feed_forward_norm
        return self._after(norm, x_BTD + self.dropout(self.feed_forward(self._before(norm, x_BTD))))

    def _before(self, norm: nn.LayerNorm, x_BTD: Tensor) -> Tensor:
        return norm(x_BTD) if self.norm_first else x_BTD

    def _after(self, norm: nn.LayerNorm, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.norm_first else norm(x_BTD)


class TransformerStack(nn.Module):
    """Layers one above the other over embedded tokens whose positions are added; an encoder or a decoder.

    Args:
        num_layers: Layers.
        d_model: D.
        num_heads: H.
        d_feed_forward: F.
        d_memory: Width of the memory that every layer attends to; ``None``: none.
        dropout: On the embedded input, at the end of each branch and inside the feed-forward parts.
        attention_dropout: On attention weights.
        activation: Of the feed-forward parts.
        norm: Layer normalisation before each branch, with one more at the end; or after each.
        positions: How positions are told.
        max_positions: Most positions there may be (``learned`` only).
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_feed_forward: int,
        *,
        d_memory: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: Activation = "relu",
        norm: NormPlace = "pre",
        positions: PositionKind = "sinusoidal",
        max_positions: int = 1024,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        rotary: RotaryPositions | None = None
        self.positions: SinusoidalPositions | LearnedPositions | None = None
        match positions:
            case "sinusoidal":
                self.positions = SinusoidalPositions(d_model)
            case "learned":
                self.positions = LearnedPositions(d_model, max_positions)
            case "rotary":
                rotary = RotaryPositions(d_model // num_heads)
        self.layers = nn.ModuleList(
            TransformerLayer(
                d_model,
                num_heads,
                d_feed_forward,
                d_memory=d_memory,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation=activation,
                norm=norm,
                rotary=rotary,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()
        self.dropout = SequenceDropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        bias: Tensor | None = None,
        caches: Sequence[KeyValueCache] | None = None,
        memories: Sequence[ProjectedMemory] | None = None,
        memory_bias: Tensor | None = None,
        self_weights: list[Tensor] | None = None,
        memory_weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Run all layers.

        Args:
            x_BTD: Embedded tokens, without positions.
            bias: Added to the scores of self-attention: padding, causality.
            caches: For each layer what it read before; the new positions are added.
            memories: For each layer the projected memory, from ``project_memory``.
            memory_bias: Added to the scores of attention to the memory: padding.
            self_weights: Takes each layer's self-attention weights, shape (B, H, T, S), if given.
            memory_weights: Takes each layer's weights over the memory, shape (B, H, T, S), if given.

        Returns:
            Shape (B, T, D), normalised.
        """
        if self.positions is not None:
            x_BTD = self.positions(x_BTD, caches[0].length if caches else 0)
        x_BTD = self.dropout(x_BTD)
        for index, layer in enumerate(self.layers):
            x_BTD = layer(
                x_BTD,
                bias=bias,
                cache=caches[index] if caches else None,
                memory=memories[index] if memories else None,
                memory_bias=memory_bias,
                self_weights=self_weights,
                memory_weights=memory_weights,
            )
        output: Tensor = self.norm(x_BTD)
        return output

    def new_caches(self, batch_size: int, dtype: torch.dtype) -> list[KeyValueCache]:
        """An empty key/value cache for each layer."""
        return [layer.self_attention.new_cache(batch_size, dtype) for layer in self.layers]  # type: ignore[union-attr,operator]

    def project_memory(self, memory_BSD: Tensor) -> list[ProjectedMemory]:
        """The memory as each layer's keys and values."""
        return [layer.memory_attention.project_memory(memory_BSD) for layer in self.layers]  # type: ignore[union-attr,operator]

    def reset_parameters(self) -> None:
        """Initialise all layers in place.

        ====================  ======================================================================
        matrices              uniform, Glorot and Bengio 2010 (each of query, key and value by itself)
        last of each branch   the same, divided by √(branches) where normalisation comes first, so that
                              the sum of all branches starts at the size of one (Radford et al. 2019)
        biases                zero
        layer normalisation   gain one, bias zero
        learned positions     normal, deviation 0.02
        ====================  ======================================================================
        """
        num_branches = sum(3 if layer.memory_attention is not None else 2 for layer in self.layers)
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            _glorot(layer.self_attention.query_key_value, parts=3)
            _glorot(layer.feed_forward.input, parts=2 if layer.feed_forward.is_gated else 1)
            last = [layer.self_attention.output, layer.feed_forward.output]
            if layer.memory_attention is not None:
                _glorot(layer.memory_attention.query)
                _glorot(layer.memory_attention.key_value, parts=2)
                last.append(layer.memory_attention.output)
            for linear in last:
                _glorot(linear)
                if layer.norm_first:
                    linear.weight.data.mul_(num_branches**-0.5)
        if isinstance(self.positions, LearnedPositions):
            nn.init.normal_(self.positions.table.weight, std=0.02)


def _glorot(linear: nn.Linear, parts: int = 1) -> None:
    """Initialise a linear layer whose output is ``parts`` layers' outputs side by side."""
    for part in linear.weight.data.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(linear.bias)
