"""A Transformer decoder laid out for one step after the other: the function of its modules, in far fewer calls.

At a few rows a step, PyTorch's work for each call counts as much as the arithmetic. So the weights are taken out of
the modules once, matrices transposed (faster for few rows), and each step is the fewest calls that do it: attention is
PyTorch's fused kernel, which takes heads as they lie and keeps no weights, so those are computed again if somebody
asks. Hypotheses share what they can: the encoder's output and, by a ``BranchingCache``, the keys and values of their
common beginning.

Legend: B sources, W hypotheses of each, N = B·W, D width, H heads, K head width, S source positions, P cached
positions, O outputs of a matrix, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqkit.models.attention import fused_attention, padding_bias
from seqkit.models.branching_cache import BranchingCache
from seqkit.models.fixed_layers import FixedFeedForward, FixedNorm, Layout, RowLogits, fixed_linear, fixed_output
from seqkit.models.memory import Memory
from seqkit.models.memory_steps import MemoryAttentionSteps, StepMemory
from seqkit.models.positions import RotaryPositions
from seqkit.models.shared_memory import Moves, move_rows
from seqkit.models.transformer import TransformerLayer, TransformerStack


@dataclass(frozen=True)
class SteppingState:
    """What was read so far, and the layout to read on with."""

    steps: TransformerSteps
    cache: BranchingCache
    num_tokens: int
    """Tokens read of each hypothesis."""
    memories: Sequence[StepMemory]
    """A layer each; one row a source, whatever the number of its hypotheses."""
    source_of_row_N: Tensor
    """Which row of the memory each hypothesis attends to."""
    look: Tensor | None = None
    """The last layer's at the memory in the last step, as ``StepMemory`` has it."""

    def attention(self) -> Tensor | None:
        """Weights of the last step over the memory, shape (N, S): the last layer's, mean of its heads.

        ``None`` before the first step, and after rows were moved.
        """
        return None if self.look is None else self.memories[-1].weights(self.look)


class TransformerSteps:
    """The layout of a decoder's weights; it does not follow when they change.

    Args:
        stack: The layers, which attend to a memory.
        embedding: Of target tokens.
        output: From the stack's output to logits.
        layout: How they are laid out.
    """

    def __init__(
        self, stack: TransformerStack, embedding: nn.Embedding, output: nn.Linear, layout: Layout | None = None
    ) -> None:
        layout = layout or Layout()
        self._stack = stack
        self._embedding_VD, self._scale = embedding.weight.detach(), stack.d_model**0.5
        self._layers = [_LayerSteps(layer, layout) for layer in stack.layers if isinstance(layer, TransformerLayer)]
        self._norm = FixedNorm(stack.norm) if isinstance(stack.norm, nn.LayerNorm) else None
        self._output = fixed_output(output, layout, overwrites_input=self._norm is not None)

    def initial_state(self, memory: Memory) -> SteppingState:
        """The state before the first token, one hypothesis a source: the memory projected for every layer."""
        projected = [layer.memory_attention.project(memory.values_BSM) for layer in self._layers]
        bias_B11S, like_BSHK = None, projected[0][0]
        if not bool(memory.mask_BS.all()):
            bias_B11S = padding_bias(memory.mask_BS).to(like_BSHK.dtype)
        return SteppingState(
            self,
            BranchingCache.empty(len(self._layers), like_BSHK.transpose(1, 2)),
            num_tokens=0,
            memories=[
                layer.memory_attention.lay_out(keys_values, bias_B11S)
                for layer, keys_values in zip(self._layers, projected, strict=True)
            ],
            source_of_row_N=torch.arange(len(like_BSHK), device=like_BSHK.device),
        )

    def step(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor, SteppingState]:
        """One token a row: logits of shape (N, V) for the next, and the new state."""
        hidden_ND, after = self._read(state, token_N)
        return self._output(hidden_ND), after

    def pending_step(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor | RowLogits, SteppingState]:
        """``step``, but for logits that need not be written out."""
        hidden_ND, after = self._read(state, token_N)
        return self._output.pending(hidden_ND), after

    def _read(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor, SteppingState]:
        """What the output layer reads after one token a row, shape (N, D), and the new state."""
        cache, position = state.cache.begin_step(len(token_N)), state.num_tokens
        x_ND = torch.embedding(self._embedding_VD, token_N)
        if self._stack.positions is None:
            x_ND = x_ND * self._scale
        else:
            x_ND = torch.add(self._stack.positions.vectors(position, 1), x_ND, alpha=self._scale)
        look, bias_B1WP = None, cache.bias()
        for index, layer in enumerate(self._layers):
            x_ND = layer.attend_to_self(x_ND, cache, index, bias_B1WP, position)
            x_ND, look = layer.attend_to_memory(x_ND, state.memories[index])
            x_ND = layer.feed_forward(x_ND)
        hidden_ND = x_ND if self._norm is None else self._norm(x_ND)
        # Not by ``dataclasses.replace``, which takes as long as several calls of PyTorch.
        return hidden_ND, SteppingState(self, cache, position + 1, state.memories, state.source_of_row_N, look)

    def reorder(self, state: SteppingState, index_N: Tensor) -> SteppingState:
        """The rows ``index_N``; of the memory, only sources that fill the gaps of those that left are moved."""
        num_sources = state.cache.num_sources
        source_of_row_N, kept_B = move_rows(state.source_of_row_N, index_N, num_sources)
        memories, moves = state.memories, None
        if kept_B is not None:
            moves = Moves.of(kept_B)
            num_sources, memories = len(kept_B), [memory.select(moves) for memory in memories]
        cache = state.cache.reorder(index_N, moves, num_sources)
        return SteppingState(self, cache, state.num_tokens, memories, source_of_row_N)


class _LayerSteps:
    """One layer's three branches, for one position a row."""

    def __init__(self, layer: TransformerLayer, layout: Layout) -> None:
        attention, memory_attention = layer.self_attention, layer.memory_attention
        assert memory_attention is not None, "the layers attend to a memory"
        width = attention.output.in_features
        self._norm_first = layer.norm_first
        self._num_heads, self._d_head = attention.num_heads, width // attention.num_heads
        self._kernels = layout.kernels
        # What was normalised first was made for this alone.
        is_own = self._norm_first
        self._query_key_value = fixed_linear(attention.query_key_value, layout, overwrites_input=is_own)
        self._rotary: RotaryPositions | None = attention.rotary
        self._self_output = fixed_linear(attention.output, layout, overwrites_input=True)
        self._self_norm = FixedNorm(layer.self_attention_norm)
        self.memory_attention = MemoryAttentionSteps(memory_attention, layout, overwrites_input=is_own)
        self._memory_norm = FixedNorm(layer.memory_attention_norm)
        self._feed_forward = FixedFeedForward(layer.feed_forward, layout, overwrites_input=is_own)
        self._feed_forward_norm = FixedNorm(layer.feed_forward_norm)

    def attend_to_self(
        self, x_ND: Tensor, cache: BranchingCache, layer: int, bias_B1WP: Tensor | None, position: int
    ) -> Tensor:
        """The branch of self-attention; keys and values go into the cache."""
        norm = self._self_norm
        qkv_NO = self._query_key_value(norm(x_ND) if self._norm_first else x_ND)
        qkv_BW3HK = qkv_NO.view(cache.num_sources, -1, 3, self._num_heads, self._d_head)
        if self._rotary is not None:
            qk_BW2HK = qkv_BW3HK[:, :, :2]
            turned = self._rotary(qk_BW2HK.reshape(-1, 1, 1, self._d_head), position)
            qkv_BW3HK = torch.cat([turned.view_as(qk_BW2HK), qkv_BW3HK[:, :, 2:]], dim=2)
        qkv_3BHWK = qkv_BW3HK.permute(2, 0, 3, 1, 4)
        keys_BHPK, values_BHPK = cache.add(layer, qkv_3BHWK.narrow(0, 1, 2))
        y_ND = fused_attention(qkv_3BHWK.select(0, 0), keys_BHPK, values_BHPK, bias_B1WP, self._kernels)
        self._self_output.add_to(x_ND, y_ND)
        return x_ND if self._norm_first else norm(x_ND)

    def attend_to_memory(self, x_ND: Tensor, memory: StepMemory) -> tuple[Tensor, Tensor]:
        """The branch of attention to the memory, and the look at it."""
        norm = self._memory_norm
        y_ND, look = memory.attend(norm(x_ND) if self._norm_first else x_ND)
        x_ND += y_ND
        return x_ND if self._norm_first else norm(x_ND), look

    def feed_forward(self, x_ND: Tensor) -> Tensor:
        """The feed-forward branch."""
        norm = self._feed_forward_norm
        self._feed_forward.add_to(x_ND, norm(x_ND) if self._norm_first else x_ND)
        return x_ND if self._norm_first else norm(x_ND)
