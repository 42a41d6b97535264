"""Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

Legend: B batch, T queries, S keys (memory positions), D model width, H heads, K head width, W rows of one source.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.dropout import SequenceDropout
from seqkit.models.positions import RotaryPositions
from seqkit.models.step_kernels import StepKernels

_SPARE_POSITIONS = 16
"""Positions by which a full key/value cache grows."""

_FUSED_SCORES = 2**14
"""From this many scores of a head on, PyTorch's fused kernel is the faster one on a CPU: twice at 256 × 256."""


def attend(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, dropout: SequenceDropout
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √K + bias) v, as two plain matrix products.

    On a CPU, at the length of sentences, this is faster than PyTorch's fused kernel, and it gives the weights.

    Args:
        q_BHTK: Queries.
        k_BHSK: Keys.
        v_BHSK: Values.
        bias: Added to the scores, broadcast to (B, H, T, S): minus infinity where attention must not go.
        dropout: Applied to the weights.

    Returns:
        The output, shape (B, H, T, K), and the weights before dropout, shape (B, H, T, S).
    """
    weights_BHTS = attention_weights(q_BHTK, k_BHSK, bias)
    return dropout(weights_BHTS) @ v_BHSK, weights_BHTS


def attention_weights(q_BHTK: Tensor, k_BHSK: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √K + bias), shape (B, H, T, S); see ``attend``."""
    scores_BHTS, scale = q_BHTK @ k_BHSK.mT, q_BHTK.size(-1) ** -0.5
    # At the length of sentences there are fewer scores than components of queries: they are scaled instead.
    scores_BHTS = scores_BHTS * scale if bias is None else torch.add(bias, scores_BHTS, alpha=scale)
    return torch.softmax(scores_BHTS, dim=-1)


def attend_without_weights(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, dropout: SequenceDropout
) -> Tensor:
    """The output of ``attend`` alone, where weights are many by PyTorch's fused kernel, which never holds them all.

    Args:
        q_BHTK: Queries.
        k_BHSK: Keys.
        v_BHSK: Values.
        bias: Added to the scores, as in ``attend``.
        dropout: Applied to the weights.

    Returns:
        Shape (B, H, T, K).
    """
    probability = dropout.probability if dropout.training else 0.0
    is_small = q_BHTK.size(2) * k_BHSK.size(2) < _FUSED_SCORES
    if q_BHTK.is_cpu and (is_small or probability):
        return attend(q_BHTK, k_BHSK, v_BHSK, bias, dropout)[0]
    mask = None if bias is None else bias.to(q_BHTK.dtype)
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=probability)


def fused_attention(
    q_BHWK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, kernels: StepKernels | None = None
) -> Tensor:
    """softmax(q kᵀ / √K + bias) v in one call, for W rows a source that ask for one position each.

    Args:
        q_BHWK: Queries.
        k_BHSK: Keys.
        v_BHSK: Values.
        bias: Added to the scores, broadcast to (B, 1, W, S); of the queries' type.
        kernels: What computes it instead of PyTorch, if it can.

    Returns:
        Shape (N, D), N = B · W.
    """
    if kernels is not None and kernels.can_attend(q_BHWK):
        return kernels.attend(q_BHWK, k_BHSK, v_BHSK, bias)
    y_BHWK = F.scaled_dot_product_attention(q_BHWK, k_BHSK, v_BHSK, attn_mask=bias)
    # On a CPU the kernel lays its output out with the heads of a row side by side, so that this copies nothing.
    return y_BHWK.transpose(1, 2).reshape(-1, y_BHWK.size(1) * y_BHWK.size(3))


def heads_apart(x_BTCHK: Tensor) -> list[Tensor]:
    """C tensors of shape (B, H, T, K), laid out for matrix products of each head.

    Taken apart before they are laid out, so that their gradients are joined as the input is laid out: one copy less.
    """
    return [x_BTHK.transpose(1, 2).contiguous() for x_BTHK in x_BTCHK.unbind(2)]


def padding_bias(mask_BS: Tensor) -> Tensor:
    """0 at real positions and minus infinity at padding, shape (B, 1, 1, S); ``mask_BS`` is True where real."""
    return torch.zeros(mask_BS.shape, device=mask_BS.device).masked_fill_(~mask_BS, -torch.inf)[:, None, None]


def causal_bias(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Shape (T, S): query t, whose own key is number S - T + t, sees itself and what stands before it.

    >>> causal_bias(2, 3, torch.device("cpu"))
    tensor([[0., 0., -inf],
            [0., 0., 0.]])
    """
    return torch.full((num_queries, num_keys), -torch.inf, device=device).triu_(num_keys - num_queries + 1)


@dataclass
class KeyValueCache:
    """Keys and values of the positions read so far, in tensors with room for some more."""

    k_BHSK: Tensor
    v_BHSK: Tensor
    length: int
    """Positions in use, of the room."""

    def append(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Take in T more positions; return all keys and all values so far."""
        first, self.length = self.length, self.length + k_BHTK.size(2)
        if self.length > self.k_BHSK.size(2):
            self.k_BHSK, self.v_BHSK = (
                _with_room(old[:, :, :first], self.length + _SPARE_POSITIONS) for old in (self.k_BHSK, self.v_BHSK)
            )
        self.k_BHSK[:, :, first : self.length] = k_BHTK
        self.v_BHSK[:, :, first : self.length] = v_BHTK
        return self.k_BHSK[:, :, : self.length], self.v_BHSK[:, :, : self.length]

    def reorder(self, index_N: Tensor) -> KeyValueCache:
        """The rows ``index_N``, in tensors of their own."""
        size = (len(index_N), *self.k_BHSK.shape[1:])
        rows = []
        for old in (self.k_BHSK, self.v_BHSK):
            new = old.new_empty(size)
            torch.index_select(old[:, :, : self.length], 0, index_N, out=new[:, :, : self.length])
            rows.append(new)
        return KeyValueCache(rows[0], rows[1], self.length)


def _with_room(x_BHSK: Tensor, num_positions: int) -> Tensor:
    new = x_BHSK.new_empty(x_BHSK.size(0), x_BHSK.size(1), num_positions, x_BHSK.size(3))
    new[:, :, : x_BHSK.size(2)] = x_BHSK
    return new


class SelfAttention(nn.Module):
    """Each position attends to positions of the same sequence.

    Args:
        d_model: D.
        num_heads: H; divides D.
        dropout: On the attention weights.
        rotary: Positions to turn queries and keys by, if the model has rotary ones.
    """

    def __init__(
        self, d_model: int, num_heads: int, *, dropout: float = 0.0, rotary: RotaryPositions | None = None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = SequenceDropout(dropout)
        self.rotary = rotary

    def forward(
        self,
        x_BTD: Tensor,
        bias: Tensor | None = None,
        cache: KeyValueCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Attend among ``x_BTD`` and what the cache holds.

        Args:
            x_BTD: The positions that ask.
            bias: Added to the scores, broadcast to (B, H, T, S).
            cache: Earlier positions; the new ones are added to it.
            weights: Takes the attention weights, shape (B, H, T, S), if given.

        Returns:
            Shape (B, T, D).
        """
        batch_size, length, width = x_BTD.shape
        projected_BTCHK = self.query_key_value(x_BTD).view(batch_size, length, 3, self.num_heads, -1)
        q_BHTK, k_BHSK, v_BHSK = heads_apart(projected_BTCHK)
        if self.rotary is not None:
            first = 0 if cache is None else cache.length
            q_BHTK, k_BHSK = self.rotary(q_BHTK, first), self.rotary(k_BHSK, first)
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(k_BHSK, v_BHSK)
        if weights is None:
            attended_BHTK = attend_without_weights(q_BHTK, k_BHSK, v_BHSK, bias, self.dropout)
        else:
            attended_BHTK, weights_BHTS = attend(q_BHTK, k_BHSK, v_BHSK, bias, self.dropout)
            weights.append(weights_BHTS)
        output: Tensor = self.output(attended_BHTK.transpose(1, 2).reshape(batch_size, length, width))
        return output

    def new_cache(self, batch_size: int, dtype: torch.dtype) -> KeyValueCache:
        """A cache with no positions in it."""
        d_model = self.output.in_features
        empty = torch.empty(
            batch_size, self.num_heads, 0, d_model // self.num_heads, dtype=dtype, device=self.output.weight.device
        )
        return KeyValueCache(empty, empty, 0)


class CrossAttention(nn.Module):
    """Each position attends to a memory: an encoder's output, image regions.

    Args:
        d_model: D, width of what asks.
        d_memory: Width of the memory.
        num_heads: H; divides D.
        dropout: On the attention weights.
    """

    def __init__(self, d_model: int, d_memory: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_memory, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = SequenceDropout(dropout)

    def project_memory(self, memory_BSM: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, each of shape (B, H, S, K): once a source, however many steps follow."""
        batch_size, length, _ = memory_BSM.shape
        projected_BSCHK = self.key_value(memory_BSM).view(batch_size, length, 2, self.num_heads, -1)
        k_BHSK, v_BHSK = heads_apart(projected_BSCHK)
        return k_BHSK, v_BHSK

    def forward(
        self,
        x_NTD: Tensor,
        memory: tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Attend to a projected memory.

        Args:
            x_NTD: The positions that ask: N = B·W rows, W of each source one after the other (T = 1 if W > 1).
            memory: From ``project_memory``; one row a source.
            bias: Added to the scores, broadcast to (B, H, W·T, S).
            weights: Takes the attention weights, shape (B, H, W·T, S), if given.

        Returns:
            Shape (N, T, D).
        """
        k_BHSK, v_BHSK = memory
        num_rows, length, width = x_NTD.shape
        # The W rows of a source are W queries of it: its keys and values are read once and never copied.
        q_BTHK = self.query(x_NTD).view(k_BHSK.size(0), -1, self.num_heads, width // self.num_heads)
        q_BHTK = q_BTHK.transpose(1, 2)
        if weights is None:
            attended_BHTK = attend_without_weights(q_BHTK, k_BHSK, v_BHSK, bias, self.dropout)
        else:
            attended_BHTK, weights_BHTS = attend(q_BHTK, k_BHSK, v_BHSK, bias, self.dropout)
            weights.append(weights_BHTS)
        output: Tensor = self.output(attended_BHTK.transpose(1, 2).reshape(num_rows, length, width))
        return output
