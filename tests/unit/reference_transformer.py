"""A Transformer decoder equation by equation, one sequence, one position and one head at a time.

Nothing here is fast or clever: it is what ``seqkit.models`` is compared with. Equations are those of Vaswani et al.
2017. Legend: T positions, S memory positions, D width, K head width, H heads, M memory width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqkit.models.transformer import FeedForward, TransformerLayer
from seqkit.models.transformer_decoder import TransformerDecoder

Turn = Callable[[Tensor, int], Tensor]
"""What rotary positions do to a query or a key: (vector, position) → vector."""


def softmax(scores: Sequence[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(score) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def attention(q_K: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Equation 1 for one query: softmax(q kᵀ / √K) v, and the weights."""
    weights = softmax([(q_K * k_K).sum() / math.sqrt(len(q_K)) for k_K in keys])
    return torch.stack([w * v_K for w, v_K in zip(weights, values, strict=True)]).sum(dim=0), torch.stack(weights)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b."""
    return torch.stack([(row * x).sum() for row in weight]) + bias


def parts(layer: nn.Linear, number: int) -> list[tuple[Tensor, Tensor]]:
    """A layer whose output is several layers' outputs side by side, as those layers: matrix and bias."""
    return list(zip(layer.weight.chunk(number), layer.bias.chunk(number), strict=True))


def multi_head(
    x_TD: Tensor,
    memory_SM: Tensor,
    projections: Sequence[tuple[Tensor, Tensor]],
    output: nn.Linear,
    *,
    num_heads: int,
    sees: Callable[[int, int], bool],
    turn: Turn | None = None,
) -> tuple[Tensor, Tensor]:
    """Section 3.2.2: heads side by side, then one more linear layer.

    Args:
        x_TD: What asks.
        memory_SM: What is asked; ``x_TD`` itself in self-attention.
        projections: Matrix and bias of queries, of keys and of values.
        output: The last layer.
        num_heads: H.
        sees: Whether position t may look at position s.
        turn: Of queries and keys.

    Returns:
        Shape (T, D), and the weights, shape (H, T, S).
    """
    queries, keys, values = projections
    q_TD = [linear(x_D, *queries) for x_D in x_TD]
    k_SD = [linear(m_M, *keys) for m_M in memory_SM]
    v_SD = [linear(m_M, *values) for m_M in memory_SM]
    width = len(q_TD[0]) // num_heads
    rows, weights_HTS = [], torch.zeros(num_heads, len(q_TD), len(k_SD), dtype=x_TD.dtype)
    for t, q_D in enumerate(q_TD):
        heads = []
        visible = [s for s in range(len(k_SD)) if sees(t, s)]
        for h in range(num_heads):
            part = slice(h * width, (h + 1) * width)
            q_K, k_SK, v_SK = q_D[part], [k_SD[s][part] for s in visible], [v_SD[s][part] for s in visible]
            if turn is not None:
                q_K, k_SK = turn(q_K, t), [turn(k_K, s) for s, k_K in zip(visible, k_SK, strict=True)]
            head_K, weights = attention(q_K, k_SK, v_SK)
            weights_HTS[h, t, visible] = weights.detach()
            heads.append(head_K)
        rows.append(linear(torch.cat(heads), output.weight, output.bias))
    return torch.stack(rows), weights_HTS


def rotary(x_K: Tensor, position: int) -> Tensor:
    """Su et al. 2021, equation 34: components f and f + K / 2 are a point that is turned by position · θ_f."""
    half = len(x_K) // 2
    turned = list(x_K)
    for f in range(half):
        angle = position * 10_000 ** (-2 * f / len(x_K))
        turned[f] = x_K[f] * math.cos(angle) - x_K[f + half] * math.sin(angle)
        turned[f + half] = x_K[f] * math.sin(angle) + x_K[f + half] * math.cos(angle)
    return torch.stack(turned)


def sinusoid(position: int, width: int) -> Tensor:
    """Section 3.5: sine and cosine of position / 10000^(2i / D), in turn."""
    row = []
    for i in range(width // 2):
        angle = position / 10_000 ** (2 * i / width)
        row += [math.sin(angle), math.cos(angle)]
    return torch.tensor(row, dtype=torch.float64)


def layer_norm(x_D: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Ba et al. 2016."""
    centred = x_D - x_D.mean()
    return centred / torch.sqrt((centred**2).mean() + norm.eps) * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016: x Φ(x)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def feed_forward(x_D: Tensor, layer: FeedForward) -> Tensor:
    """Equation 2, with the non-linearity asked for; gated as in Shazeer 2020."""
    h = linear(x_D, layer.input.weight, layer.input.bias)
    gate, value = (h[: len(h) // 2], h[len(h) // 2 :]) if layer.activation in ("geglu", "swiglu") else (h, None)
    match layer.activation:
        case "relu":
            gate = gate * (gate > 0)
        case "gelu" | "geglu":
            gate = gelu(gate)
        case "swiglu":
            gate = gate / (1 + torch.exp(-gate))
    h = gate if value is None else gate * value
    return linear(h, layer.output.weight, layer.output.bias)


def transformer_layer(
    x_TD: Tensor, layer: TransformerLayer, *, turn: Turn | None, memory_SM: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One causal layer: its output, its self-attention weights, its weights over the memory."""

    def branch(x_TD: Tensor, norm: nn.LayerNorm, run: Callable[[Tensor], Tensor]) -> Tensor:
        if layer.norm_first:
            return x_TD + run(torch.stack([layer_norm(x_D, norm) for x_D in x_TD]))
        return torch.stack([layer_norm(x_D, norm) for x_D in x_TD + run(x_TD)])

    own = layer.self_attention
    weights: list[Tensor] = []

    def attend_to_self(y_TD: Tensor) -> Tensor:
        projections = parts(own.query_key_value, 3)
        out_TD, weights_HTT = multi_head(
            y_TD, y_TD, projections, own.output, num_heads=own.num_heads, sees=lambda t, s: s <= t, turn=turn
        )
        weights.append(weights_HTT)
        return out_TD

    def attend_to_memory(y_TD: Tensor) -> Tensor:
        other = layer.memory_attention
        assert other is not None and memory_SM is not None
        projections = [(other.query.weight, other.query.bias), *parts(other.key_value, 2)]
        out_TD, weights_HTS = multi_head(
            y_TD,
            memory_SM,
            projections,
            other.output,
            num_heads=other.num_heads,
            sees=lambda t, s: True,
        )
        weights.append(weights_HTS)
        return out_TD

    x_TD = branch(x_TD, layer.self_attention_norm, attend_to_self)
    if layer.memory_attention is not None:
        x_TD = branch(x_TD, layer.memory_attention_norm, attend_to_memory)
    x_TD = branch(
        x_TD, layer.feed_forward_norm, lambda y_TD: torch.stack([feed_forward(y_D, layer.feed_forward) for y_D in y_TD])
    )
    return x_TD, weights[0], weights[1] if len(weights) > 1 else None


def decoder(
    model: TransformerDecoder, ids: Sequence[int], *, positions: str, memory_SM: Tensor | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits of shape (T, V) after each token, and each layer's weights over itself and over the memory.

    Args:
        model: Whose parameters to take.
        ids: One sequence.
        positions: ``sinusoidal``, ``learned`` or ``rotary``.
        memory_SM: Real positions only.
    """
    stack = model.stack
    rows = []
    for t, token in enumerate(ids):
        x_D = model.embedding.weight[token] * math.sqrt(stack.d_model)
        if positions == "sinusoidal":
            x_D = x_D + sinusoid(t, stack.d_model)
        elif positions == "learned":
            x_D = x_D + model.get_parameter("stack.positions.table.weight")[t]
        rows.append(x_D)
    x_TD = torch.stack(rows)
    own, other = [], []
    for layer in stack.layers:
        assert isinstance(layer, TransformerLayer)
        x_TD, self_weights, memory_weights = transformer_layer(
            x_TD, layer, turn=rotary if positions == "rotary" else None, memory_SM=memory_SM
        )
        own.append(self_weights)
        if memory_weights is not None:
            other.append(memory_weights)
    if isinstance(stack.norm, nn.LayerNorm):
        x_TD = torch.stack([layer_norm(x_D, stack.norm) for x_D in x_TD])
    return torch.stack([linear(x_D, model.output.weight, model.output.bias) for x_D in x_TD]), own, other
