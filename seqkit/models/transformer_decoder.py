"""A causal Transformer over tokens: with a memory the decoder of a translation model, without one a GPT.

Legend: B sources, W rows of one source, N = B·W rows, T time, S memory positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor, nn

from seqkit.models.attention import KeyValueCache, causal_bias, padding_bias
from seqkit.models.fixed_layers import Layout, RowLogits
from seqkit.models.memory import Memory
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_steps import SteppingState, TransformerSteps


@dataclass(frozen=True)
class TransformerState:
    """What was read so far, without a memory. ``step`` writes into its caches, so each state is stepped once."""

    caches: list[KeyValueCache]
    """A layer each; one row a sequence."""
    window_NT: Tensor | None = None
    """The tokens in the caches, where the context is limited."""

    @property
    def length(self) -> int:
        """Positions read."""
        return self.caches[0].length


class TransformerDecoder(nn.Module):
    """Predicts the next token from all earlier ones and a memory, if there is one.

    Args:
        vocab_size: V.
        stack: The layers; those of a decoder with a memory attend to it.
        embedding: Shared with another module, if given.
        ties_embeddings: The output layer shares the embedding's matrix (Press and Wolf 2017).
        context_length: Most positions that the model was made for; ``None``: any number. When stepping on beyond
            it, the later half of the context is read again and the earlier half forgotten.
    """

    def __init__(
        self,
        vocab_size: int,
        stack: TransformerStack,
        *,
        embedding: nn.Embedding | None = None,
        ties_embeddings: bool = False,
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.stack = stack
        self.context_length = context_length
        self.embedding = embedding if embedding is not None else nn.Embedding(vocab_size, stack.d_model)
        self.output = nn.Linear(stack.d_model, vocab_size)
        self.ties_embeddings = ties_embeddings
        self._fixed_steps: TransformerSteps | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise embedding and output in place, then tie them if asked, then the stack.

        =========  ===========================================================
        embedding  normal, deviation 1/√D; multiplied by √D when it is read
        output     normal, deviation 1/√D, bias zero
        =========  ===========================================================
        """
        deviation = self.stack.d_model**-0.5
        nn.init.normal_(self.embedding.weight, std=deviation)
        nn.init.normal_(self.output.weight, std=deviation)
        nn.init.zeros_(self.output.bias)
        if self.ties_embeddings:
            self.output.weight = self.embedding.weight
        self.stack.reset_parameters()

    def hidden(self, ids_BT: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState | None]:
        """What the output layer reads after each of ``ids_BT``; no state is kept if none is given.

        Returns:
            Shape (B, T, D), and the state after the last token, or ``None``.

        Raises:
            ValueError: The tokens and those before them are more than the context.
        """
        bias = None
        length = 0 if state is None else state.length
        if self.context_length is not None and length + ids_BT.size(1) > self.context_length:
            found = length + ids_BT.size(1)
            raise ValueError(f"{found} tokens, but the model looks back over {self.context_length}")
        if ids_BT.size(1) > 1:
            bias = causal_bias(ids_BT.size(1), length + ids_BT.size(1), ids_BT.device)
        x_BTD = self._embed(ids_BT)
        if state is None:
            return self.stack(x_BTD, bias=bias), None
        y_BTD = self.stack(x_BTD, bias=bias, caches=state.caches)
        window_NT = None
        if state.window_NT is not None:
            window_NT = torch.cat([state.window_NT, ids_BT], dim=1)
        return y_BTD, replace(state, window_NT=window_NT)

    def attended_hidden(
        self,
        ids_BT: Tensor,
        memory: Memory,
        *,
        self_weights: list[Tensor] | None = None,
        memory_weights: list[Tensor] | None = None,
    ) -> Tensor:
        """What the output layer reads after each of ``ids_BT``, given a memory: training, forced scoring.

        Args:
            ids_BT: Target tokens, the start token first.
            memory: A row for each of ``ids_BT``.
            self_weights: Takes each layer's self-attention weights, shape (B, H, T, T), if given.
            memory_weights: Takes each layer's weights over the memory, shape (B, H, T, S), if given.

        Returns:
            Shape (B, T, D).
        """
        hidden_BTD: Tensor = self.stack(
            self._embed(ids_BT),
            bias=causal_bias(ids_BT.size(1), ids_BT.size(1), ids_BT.device),
            memories=self.stack.project_memory(memory.values_BSM),
            memory_bias=padding_bias(memory.mask_BS),
            self_weights=self_weights,
            memory_weights=memory_weights,
        )
        return hidden_BTD

    def forward(self, ids_BT: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        """Logits for the token after each of ``ids_BT``, shape (B, T, V), and the state after the last."""
        if state is None:
            state = self._empty_state(ids_BT.size(0))
        hidden_BTD, new_state = self.hidden(ids_BT, state)
        assert new_state is not None
        return self.output(hidden_BTD), new_state

    def fix_weights(self, layout: Layout | None = None) -> None:
        """Lay the weights out for steps once, of a model that is no longer trained.

        Otherwise that is done for each batch of sources. Later changes of the weights do not count in steps.

        Args:
            layout: Of what steps with a memory take.
        """
        self._fixed_steps = self._steps(layout)

    @overload
    def initial_state(self, memory: None, batch_size: int) -> TransformerState: ...
    @overload
    def initial_state(self, memory: Memory, batch_size: int) -> SteppingState: ...
    def initial_state(self, memory: Memory | None, batch_size: int) -> TransformerState | SteppingState:
        """The state before the first token: nothing read, and the memory projected for every layer."""
        if memory is None:
            return self._empty_state(batch_size)
        return (self._fixed_steps or self._steps()).initial_state(memory)

    @overload
    def step(self, state: TransformerState, token_N: Tensor) -> tuple[Tensor, TransformerState]: ...
    @overload
    def step(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor, SteppingState]: ...
    def step(
        self, state: TransformerState | SteppingState, token_N: Tensor
    ) -> tuple[Tensor, TransformerState | SteppingState]:
        """One token a row: logits of shape (N, V) for the next, and the new state. There is no dropout with a memory.

        Where the context is full, the later half of it is read again from an empty cache, and the token after it:
        cached keys and values know what stood before them, so the earlier half cannot be taken out of them. That
        costs one pass over half a context now and then, and what is forgotten is forgotten for good.
        """
        if isinstance(state, SteppingState):
            return state.steps.step(state, token_N)
        ids_NT = token_N.unsqueeze(1)
        if state.window_NT is not None and state.length == self.context_length:
            kept_NT = state.window_NT[:, state.length - self.context_length // 2 :]
            ids_NT = torch.cat([kept_NT, ids_NT], dim=1)
            state = self._empty_state(len(token_N))
        hidden_NTD, new_state = self.hidden(ids_NT, state)
        assert new_state is not None
        return self.output(hidden_NTD[:, -1]), new_state

    def pending_step(self, state: SteppingState, token_N: Tensor) -> tuple[Tensor | RowLogits, SteppingState]:
        """``step`` with a memory, but for logits that need not be written out."""
        return state.steps.pending_step(state, token_N)

    @overload
    def reorder(self, state: TransformerState, index_N: Tensor) -> TransformerState: ...
    @overload
    def reorder(self, state: SteppingState, index_N: Tensor) -> SteppingState: ...
    def reorder(self, state: TransformerState | SteppingState, index_N: Tensor) -> TransformerState | SteppingState:
        """The rows ``index_N``; a memory is copied only where the sources change."""
        if isinstance(state, SteppingState):
            return state.steps.reorder(state, index_N)
        caches = [cache.reorder(index_N) for cache in state.caches]
        window_NT = None if state.window_NT is None else state.window_NT.index_select(0, index_N)
        return replace(state, caches=caches, window_NT=window_NT)

    def attention(self, state: TransformerState | SteppingState) -> Tensor | None:
        """Weights of the step just made over the memory, shape (N, S); ``None`` without one, or before a step."""
        return state.attention() if isinstance(state, SteppingState) else None

    def _steps(self, layout: Layout | None = None) -> TransformerSteps:
        return TransformerSteps(self.stack, self.embedding, self.output, layout)

    def _empty_state(self, batch_size: int) -> TransformerState:
        window_N0 = None
        if self.context_length is not None:
            window_N0 = torch.empty(batch_size, 0, dtype=torch.long, device=self.embedding.weight.device)
        return TransformerState(self.stack.new_caches(batch_size, self.embedding.weight.dtype), window_N0)

    def _embed(self, ids_BT: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(ids_BT) * self.stack.d_model**0.5
        return embedded
