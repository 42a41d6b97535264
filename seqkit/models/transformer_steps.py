"""A Transformer decoder laid out for one step after the other: the function of its modules, in far fewer calls.

At a few rows a step, PyTorch's work for each call counts as much as the arithmetic. So the weights are taken out of
the modules once: matrices transposed (faster for few rows), the queries' 1 / √K multiplied into them, and each step
is the fewest calls that do it. Hypotheses share what they can: the encoder's output and, by a ``BranchingCache``, the
keys and values of their common beginning.

Legend: B sources, W hypotheses of each, N = B·W, D width, H heads, K head width, S source positions, P cached
positions, V vocabulary, X = B·H, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.attention import padding_bias
from seqkit.models.branching_cache import BranchingCache
from seqkit.models.memory import Memory
from seqkit.models.positions import RotaryPositions
from seqkit.models.shared_memory import move_rows
from seqkit.models.transformer import ProjectedMemory, TransformerLayer, TransformerStack, activate


@dataclass(frozen=True)
class SteppingState:
    """What was read so far, and the layout to read on with."""

    steps: TransformerSteps
    cache: BranchingCache
    num_tokens: int
    """Tokens read of each hypothesis."""
    memories: Sequence[ProjectedMemory]
    """A layer each; one row a source, whatever the number of its hypotheses."""
    memory_bias: Tensor | None
    """Shape (B, 1, 1, S); ``None`` where the memory has no padding."""
    source_of_row_N: Tensor
    """Which row of the memory each hypothesis attends to."""
    weights_BHWS: Tensor | None = None
    """The last layer's over the memory in the last step."""

    def attention(self) -> Tensor | None:
        """Weights of the last step over the memory, shape (N, S): the last layer's, mean of its heads.

        ``None`` before the first step, and after rows were moved.
        """
        return None if self.weights_BHWS is None else self.weights_BHWS.mean(dim=1).flatten(0, 1)


class TransformerSteps:
    """The layout of a decoder's weights; it does not follow when they change.

    Args:
        stack: The layers, which attend to a memory.
        embedding: Of target tokens.
        output: From the stack's output to logits.
    """

    def __init__(self, stack: TransformerStack, embedding: nn.Embedding, output: nn.Linear) -> None:
        self._stack = stack
        self._embedding_VD = embedding.weight.detach()
        self._layers = [_LayerSteps(layer) for layer in stack.layers if isinstance(layer, TransformerLayer)]
        self._norm = _Norm(stack.norm) if isinstance(stack.norm, nn.LayerNorm) else None
        self._output = _OutputLinear(output)

    def initial_state(self, memory: Memory) -> SteppingState:
        """The state before the first token, one hypothesis a source: the memory projected for every layer."""
        num_sources = len(memory.values_BSM)
        return SteppingState(
            self,
            BranchingCache(num_sources, len(self._layers)),
            num_tokens=0,
            memories=self._stack.project_memory(memory.values_BSM),
            memory_bias=None if bool(memory.mask_BS.all()) else padding_bias(memory.mask_BS),
            source_of_row_N=torch.arange(num_sources, device=memory.values_BSM.device),
        )

    def step(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor, SteppingState]:
        """One token a row: logits of shape (N, V) for the next, and the new state."""
        cache = state.cache.begin_step(len(token_N))
        x_ND = torch.embedding(self._embedding_VD, token_N) * self._stack.d_model**0.5
        if self._stack.positions is not None:
            x_ND = self._stack.positions(x_ND.unsqueeze(1), state.num_tokens).squeeze(1)
        weights_BHWS, bias_B1WP = None, cache.bias()
        for index, layer in enumerate(self._layers):
            x_ND = layer.attend_to_self(x_ND, cache, index, bias_B1WP, state.num_tokens)
            x_ND, weights_BHWS = layer.attend_to_memory(x_ND, state.memories[index], state.memory_bias)
            x_ND = layer.feed_forward(x_ND)
        logits_NV = self._output(x_ND if self._norm is None else self._norm(x_ND))
        return logits_NV, replace(state, cache=cache, num_tokens=state.num_tokens + 1, weights_BHWS=weights_BHWS)

    def reorder(self, state: SteppingState, index_N: Tensor) -> SteppingState:
        """The rows ``index_N``; the memory is copied only where the sources change."""
        num_sources = len(state.memories[0][0])
        source_of_row_N, kept_B = move_rows(state.source_of_row_N, index_N, num_sources)
        if kept_B is None:
            cache = state.cache.reorder(index_N, None, num_sources)
            return replace(state, cache=cache, source_of_row_N=source_of_row_N, weights_BHWS=None)
        return replace(
            state,
            cache=state.cache.reorder(index_N, kept_B, len(kept_B)),
            memories=[(k.index_select(0, kept_B), v.index_select(0, kept_B)) for k, v in state.memories],
            memory_bias=None if state.memory_bias is None else state.memory_bias.index_select(0, kept_B),
            source_of_row_N=source_of_row_N,
            weights_BHWS=None,
        )


class _Linear:
    """A linear layer with its matrix transposed, which on a CPU is up to twice as fast for a few rows.

    Args:
        linear: The layer.
        factor: What to multiply its outputs by, one number or one for each.
    """

    __slots__ = ("_bias_O", "_weight_IO")

    def __init__(self, linear: nn.Linear, factor: float | Tensor = 1.0) -> None:
        self._weight_IO = _as_computed(linear.weight.detach().T * factor).contiguous()
        self._bias_O = linear.bias.detach() * factor

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Shape (N, O)."""
        return torch.addmm(self._bias_O, x_NI, self._weight_IO)


class _OutputLinear:
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


class _Norm:
    """Layer normalisation."""

    __slots__ = ("_bias_D", "_eps", "_gain_D", "_shape")

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._gain_D, self._bias_D = norm.weight.detach(), norm.bias.detach()
        self._shape, self._eps = list(norm.normalized_shape), norm.eps

    def __call__(self, x_ND: Tensor) -> Tensor:
        return torch.layer_norm(x_ND, self._shape, self._gain_D, self._bias_D, self._eps)


def _as_computed(weight_IO: Tensor) -> Tensor:
    """In the type that autocast computes in, where it is on: it would turn the matrix into that in every step."""
    device = weight_IO.device.type
    return weight_IO.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight_IO


class _LayerSteps:
    """One layer's three branches, for one position a row."""

    def __init__(self, layer: TransformerLayer) -> None:
        attention, memory_attention = layer.self_attention, layer.memory_attention
        assert memory_attention is not None, "the layers attend to a memory"
        width = attention.output.in_features
        self._norm_first = layer.norm_first
        self._num_heads, self._d_head = attention.num_heads, width // attention.num_heads
        scale = self._d_head**-0.5
        is_query_O = torch.arange(3 * width, device=attention.output.weight.device) < width
        self._query_key_value = _Linear(attention.query_key_value, torch.where(is_query_O, scale, 1.0))
        self._rotary: RotaryPositions | None = attention.rotary
        self._self_output, self._self_norm = _Linear(attention.output), _Norm(layer.self_attention_norm)
        self._query = _Linear(memory_attention.query, scale)
        self._memory_output = _Linear(memory_attention.output)
        self._memory_norm = _Norm(layer.memory_attention_norm)
        self._input, self._output = _Linear(layer.feed_forward.input), _Linear(layer.feed_forward.output)
        self._feed_forward_norm = _Norm(layer.feed_forward_norm)
        self._activation = layer.feed_forward.activation

    def attend_to_self(
        self, x_ND: Tensor, cache: BranchingCache, layer: int, bias_B1WP: Tensor | None, position: int
    ) -> Tensor:
        """The branch of self-attention; keys and values go into the cache."""
        norm = self._self_norm
        qkv_NO = self._query_key_value(norm(x_ND) if self._norm_first else x_ND)
        qkv_BW3HK = qkv_NO.view(cache.num_sources, -1, 3, self._num_heads, self._d_head)
        # One copy that lays heads out for the products.
        qkv_3BHWK = qkv_BW3HK.permute(2, 0, 3, 1, 4).contiguous()
        if self._rotary is not None:
            turned = self._rotary(qkv_3BHWK[:2].reshape(-1, 1, 1, self._d_head), position)
            qkv_3BHWK = torch.cat([turned.view_as(qkv_3BHWK[:2]), qkv_3BHWK[2:]])
        keys_XPK, values_XPK = cache.add(layer, qkv_3BHWK[1:])
        y_ND, _ = _attend(qkv_3BHWK[0], keys_XPK, values_XPK, bias_B1WP)
        x_ND = x_ND + self._self_output(y_ND)
        return x_ND if self._norm_first else norm(x_ND)

    def attend_to_memory(
        self, x_ND: Tensor, memory: ProjectedMemory, bias_B11S: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The branch of attention to the memory, and its weights, shape (B, H, W, S)."""
        k_BHSK, v_BHSK = memory
        norm = self._memory_norm
        q_ND = self._query(norm(x_ND) if self._norm_first else x_ND)
        q_BHWK = q_ND.view(k_BHSK.size(0), -1, self._num_heads, self._d_head).transpose(1, 2)
        y_ND, weights_BHWS = _attend(q_BHWK, k_BHSK.flatten(0, 1), v_BHSK.flatten(0, 1), bias_B11S)
        x_ND = x_ND + self._memory_output(y_ND)
        return x_ND if self._norm_first else norm(x_ND), weights_BHWS

    def feed_forward(self, x_ND: Tensor) -> Tensor:
        """The feed-forward branch."""
        norm = self._feed_forward_norm
        h_NF = activate(self._input(norm(x_ND) if self._norm_first else x_ND), self._activation)
        x_ND = x_ND + self._output(h_NF)
        return x_ND if self._norm_first else norm(x_ND)


def _attend(q_BHWK: Tensor, k_XSK: Tensor, v_XSK: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ + bias) v, shape (N, D), and the weights, shape (B, H, W, S); the queries are scaled already."""
    num_sources, num_heads, width, d_head = q_BHWK.shape
    scores_XWS = torch.bmm(q_BHWK.reshape(-1, width, d_head), k_XSK.mT)
    scores_BHWS = scores_XWS.view(num_sources, num_heads, width, -1)
    if bias is not None:
        scores_BHWS += bias
    weights_BHWS = torch.softmax(scores_BHWS, dim=-1)
    attended_XWK = torch.bmm(weights_BHWS.flatten(0, 1), v_XSK)
    attended_BWHK = attended_XWK.view(q_BHWK.shape).transpose(1, 2)
    return attended_BWHK.reshape(num_sources * width, num_heads * d_head), weights_BHWS
