"""A recurrent decoder with a memory: with attention to its positions, or without.

Legend: B sources, W rows of one source, N = B·W rows, T target time, S memory positions, M width of the memory,
E embedding width, D hidden width, F width of what is fed, R width of the readout, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from seqkit.models.attention import padding_bias
from seqkit.models.dropout import SequenceDropout
from seqkit.models.loop_sum import LoopSum
from seqkit.models.memory import Memory
from seqkit.models.recurrent import CellName, RecurrentStack, RecurrentState, reorder_state
from seqkit.models.recurrent_attention import AttentionLoop, AttentionScore, RecurrentAttention
from seqkit.models.recurrent_step import StackLoop
from seqkit.models.scheduled_sampling import with_own_tokens
from seqkit.models.shared_memory import move_rows

Feeding = Literal["none", "hidden", "context"]
Bridge = Literal["learned", "copy", "zero"]


@dataclass(frozen=True)
class AttendedMemory:
    """What the attention reads; one row a source, whatever the number of its hypotheses."""

    values_BSM: Tensor
    keys_BSK: Tensor
    bias_B1S: Tensor | None
    """Minus infinity at padding; ``None`` where there is none."""


@dataclass(frozen=True)
class RecurrentDecoderState:
    """What was read so far: one row a hypothesis, but for the memory."""

    layers: RecurrentState
    fed_NF: Tensor | None = None
    """With ``hidden`` feeding the readout of the last step; with a fixed context that context."""
    memory: AttendedMemory | None = None
    source_of_row_N: Tensor | None = None
    """Which row of the memory each hypothesis attends to."""
    attention_NS: Tensor | None = None
    """Weights of the last step over the memory."""


class RecurrentDecoder(nn.Module):
    r"""Predicts the next token from all earlier ones and a memory.

    The attention and what is fed to the first layer beside the token make the published models:

    =============  ===========  ============================================================================
    ``attention``  ``feeding``
    =============  ===========  ============================================================================
    ``none``       ``none``     The state is all that tells of the source (Sutskever et al. 2014)
    ``none``       ``context``  The memory's summary at every step and in the readout (Cho et al. 2014)
    a score        ``none``     The new state asks; nothing of the answer returns (Luong et al. 2015, section 3)
    a score        ``hidden``   Input feeding: the last readout is fed (Luong et al. 2015, section 3.3)
    a score        ``context``  The last state of the top layer asks, the context is fed (Bahdanau et al. 2015)
    =============  ===========  ============================================================================

    Where there is a context c, the output layer reads :math:`\tanh(W_c [c; h] + b)` (Luong et al. 2015, equation
    5), in place of the maxout layers of Cho et al. and Bahdanau et al.; where there is none, the top layer itself.

    Without feeding, or with a fixed context, all steps of a whole target run at once; with feeding, one after the
    other.

    Args:
        vocab_size: V.
        d_model: D.
        cell: Which recurrent unit.
        d_memory: M; ``None``: D.
        embedding_size: E; ``None``: D, or the width of ``embedding``.
        num_layers: Layers.
        attention: The score, or ``none``.
        d_attention: Width of the additive score's layer; ``None``: D.
        feeding: What the first layer reads beside the token.
        bridge: What the decoder starts from: a ``learned`` projection with tanh of the memory's summary, a
            ``copy`` of the encoder's last states, or ``zero``.
        dropout: Dropout between layers and before the output layer.
        embedding_dropout: Dropout on the embedding.
        is_variational: One dropout mask for all steps of a whole target.
        is_residual: From the second layer on, add a layer's input to its output.
        embedding: Shared with another module, if given.
        ties_embeddings: The output layer shares the embedding's matrix; the readout is E wide then, with a linear
            layer of its own if there is no context and E differs from D (Press and Wolf 2017).

    Raises:
        ValueError: Arguments that do not go together.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        cell: CellName,
        d_memory: int | None = None,
        embedding_size: int | None = None,
        num_layers: int = 1,
        attention: AttentionScore | Literal["none"] = "none",
        d_attention: int | None = None,
        feeding: Feeding = "none",
        bridge: Bridge = "learned",
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        is_variational: bool = False,
        is_residual: bool = False,
        embedding: nn.Embedding | None = None,
        ties_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if attention == "none" and feeding == "hidden":
            raise ValueError("hidden feeding returns what attention found: choose an attention, or another feeding")
        if attention == "none" and feeding == "none" and bridge == "zero":
            raise ValueError("a decoder without attention, context or bridge sees nothing of its source")
        d_memory = d_memory or d_model
        if embedding is None:
            embedding = nn.Embedding(vocab_size, embedding_size or d_model)
        elif embedding_size not in (None, embedding.embedding_dim):
            raise ValueError(
                f"embedding_size is {embedding_size}, but the given embedding has {embedding.embedding_dim}"
            )
        width = embedding.embedding_dim if ties_embeddings else d_model
        self.vocab_size = vocab_size
        self.feeding = feeding
        self.bridge = bridge
        self.embedding = embedding
        self.embedding_size = embedding.embedding_dim
        self.ties_embeddings = ties_embeddings
        d_fed = {"none": 0, "hidden": width, "context": d_memory}[feeding]
        self.stack = RecurrentStack(
            cell,
            self.embedding_size + d_fed,
            d_model,
            num_layers=num_layers,
            dropout=dropout,
            is_variational=is_variational,
            is_residual=is_residual,
        )
        self.source_attention = (
            None if attention == "none" else RecurrentAttention(attention, d_model, d_memory, d_attention=d_attention)
        )
        self.initial = (
            nn.Linear(d_memory, num_layers * self.stack.num_states * d_model) if bridge == "learned" else None
        )
        has_context = attention != "none" or feeding == "context"
        self.readout: nn.Linear | nn.Identity = nn.Identity()
        if has_context:
            self.readout = nn.Linear(d_memory + d_model, width)
        elif width != d_model:
            self.readout = nn.Linear(d_model, width)
        self.embedding_dropout = SequenceDropout(embedding_dropout, is_variational=is_variational)
        self.dropout = SequenceDropout(dropout, is_variational=is_variational)
        self.output = nn.Linear(width, vocab_size)
        self.reset_parameters()

    def reset_parameters(
        self, *, recurrent_init: Literal["orthogonal", "uniform"] = "orthogonal", forget_bias: float = 1.0
    ) -> None:
        """Initialise in place, then tie the embedding if asked.

        ===============  ====================================================
        embedding        normal, deviation 1; tied: 1/√E
        layers           as in ``RecurrentStack``
        attention        as in ``RecurrentAttention``
        bridge, readout  uniform, Glorot and Bengio 2010; bias zero
        output           uniform in ±1/√(its input width), bias zero
        ===============  ====================================================
        """
        nn.init.normal_(self.embedding.weight, std=self.embedding_size**-0.5 if self.ties_embeddings else 1.0)
        self.stack.reset_parameters(recurrent_init=recurrent_init, forget_bias=forget_bias)
        if self.source_attention is not None:
            self.source_attention.reset_parameters()
        for linear in (self.initial, self.readout):
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.output.bias)
        if self.ties_embeddings:
            self.output.weight = self.embedding.weight
        else:
            bound = self.output.in_features**-0.5
            nn.init.uniform_(self.output.weight, -bound, bound)

    def attended_hidden(
        self,
        ids_BT: Tensor,
        memory: Memory,
        *,
        memory_weights: list[Tensor] | None = None,
        feed_own_probability: float = 0.0,
        samples_own: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What the output layer reads after each of ``ids_BT``, given a memory: training, forced scoring.

        Args:
            ids_BT: Target tokens, the start token first.
            memory: A row for each of ``ids_BT``.
            memory_weights: Takes the weights over the memory, shape (B, 1, T, S), if given and there are any.
            feed_own_probability: Scheduled sampling (Bengio et al. 2015): the chance, for each token but the first
                of a row, that the model reads what it predicted there itself instead.
            samples_own: Its own token is drawn from its distribution, instead of the most probable one.
            generator: Of the chances and draws.

        Returns:
            Shape (B, T, R).
        """
        state = self.initial_state(memory, len(ids_BT))
        if feed_own_probability > 0:
            ids_BT = with_own_tokens(
                self, ids_BT, state, probability=feed_own_probability, draws=samples_own, generator=generator
            )
        hidden_BTR, _ = self.hidden(ids_BT, state, memory_weights=memory_weights)
        return hidden_BTR

    def hidden(
        self, ids_NT: Tensor, state: RecurrentDecoderState, *, memory_weights: list[Tensor] | None = None
    ) -> tuple[Tensor, RecurrentDecoderState]:
        """What the output layer reads after each of ``ids_NT``, shape (N, T, R), and the state after the last.

        Args:
            ids_NT: Target tokens.
            state: The state before the first of them.
            memory_weights: Takes the weights over the memory, shape (N, 1, T, S), if given and there are any.
        """
        x_NTE = self.embedding_dropout(self.embedding(ids_NT))
        # One step is faster in the loop as well: PyTorch's LSTM arranges its weights anew in each call.
        has_loop = ids_NT.size(1) == 1 or (self.source_attention is not None and self.feeding != "none")
        hidden_NTR, weights_NTS, state = (self._step_by_step if has_loop else self._all_at_once)(x_NTE, state)
        if weights_NTS is not None and memory_weights is not None:
            memory_weights.append(weights_NTS.unsqueeze(1))
        # Here and not in the loop: what is fed stays whole, as all that a recurrence carries on.
        return self.dropout(hidden_NTR), state

    def initial_state(self, memory: Memory | None, batch_size: int) -> RecurrentDecoderState:
        """The state before the first token, one row a source; the memory's keys are computed here.

        Raises:
            ValueError: There is no memory, or its states cannot be copied.
        """
        if memory is None:
            raise ValueError("this decoder needs a memory")
        state = RecurrentDecoderState(self._bridged(memory, batch_size))
        if self.source_attention is None:
            return replace(state, fed_NF=memory.summary_BM if self.feeding == "context" else None)
        values_BSM, mask_BS = memory.values_BSM, memory.mask_BS
        attended = AttendedMemory(
            values_BSM,
            self.source_attention.project_memory(values_BSM),
            None if bool(mask_BS.all()) else padding_bias(mask_BS)[:, 0].to(values_BSM.dtype),
        )
        fed_NF = None
        if self.feeding == "hidden":
            fed_NF = values_BSM.new_zeros(batch_size, self.output.in_features)
        source_of_row_N = torch.arange(batch_size, device=values_BSM.device)
        return replace(state, fed_NF=fed_NF, memory=attended, source_of_row_N=source_of_row_N)

    def step(self, state: RecurrentDecoderState, token_N: Tensor) -> tuple[Tensor, RecurrentDecoderState]:
        """One token a row: logits of shape (N, V) for the next, and the new state."""
        hidden_N1R, state = self.hidden(token_N.unsqueeze(1), state)
        return self.output(hidden_N1R[:, 0]), state

    def reorder(self, state: RecurrentDecoderState, index_N: Tensor) -> RecurrentDecoderState:
        """The rows ``index_N``; the memory is copied only where the sources change."""
        state = replace(
            state,
            layers=reorder_state(state.layers, index_N),
            fed_NF=None if state.fed_NF is None else state.fed_NF.index_select(0, index_N),
            attention_NS=None if state.attention_NS is None else state.attention_NS.index_select(0, index_N),
        )
        memory = state.memory
        if memory is None:
            return state
        assert state.source_of_row_N is not None
        source_of_row_N, kept_B = move_rows(state.source_of_row_N, index_N, len(memory.values_BSM))
        if kept_B is not None:
            memory = AttendedMemory(
                memory.values_BSM.index_select(0, kept_B),
                memory.keys_BSK.index_select(0, kept_B),
                None if memory.bias_B1S is None else memory.bias_B1S.index_select(0, kept_B),
            )
        return replace(state, memory=memory, source_of_row_N=source_of_row_N)

    def attention(self, state: RecurrentDecoderState) -> Tensor | None:
        """Weights of the last step over the memory, shape (N, S); ``None`` before it, and without attention."""
        return state.attention_NS

    def _bridged(self, memory: Memory, batch_size: int) -> RecurrentState:
        """The layers' state before the first token."""
        zeros = self.stack.initial_state(batch_size)
        match self.bridge:
            case "zero":
                return zeros
            case "learned":
                assert self.initial is not None
                size = (len(zeros), self.stack.num_states, self.stack.hidden_size)
                initial_BLCD = torch.tanh(self.initial(memory.summary_BM)).unflatten(1, size)
                return tuple(layer_BCD.unbind(1) for layer_BCD in initial_BLCD.unbind(1))
            case "copy":
                found = [] if memory.states is None else [[*map(_width, layer)] for layer in memory.states]
                needed = [[*map(_width, layer)] for layer in zeros]
                if memory.states is None or found != needed:
                    raise ValueError(
                        f"to copy the encoder's states, they must be as wide as the decoder's, layer by layer: "
                        f"found {found}, needed {needed}; a learned bridge takes any"
                    )
                return memory.states

    def _all_at_once(
        self, x_NTE: Tensor, state: RecurrentDecoderState
    ) -> tuple[Tensor, Tensor | None, RecurrentDecoderState]:
        """The readout (N, T, R), attention weights (N, T, S) and new state: layer by layer, each over all steps."""
        num_rows, num_steps, _ = x_NTE.shape
        context_NTM = None
        if state.fed_NF is not None:
            context_NTM = state.fed_NF.unsqueeze(1).expand(-1, num_steps, -1)
            x_NTE = torch.cat([x_NTE, context_NTM], dim=2)
        y_NTD, layers = self.stack(x_NTE, state.layers)
        weights_NTS = None
        if state.memory is not None:
            memory = state.memory
            # All steps of all rows of a source are queries of it.
            query_BQD = y_NTD.reshape(len(memory.values_BSM), -1, y_NTD.size(2))
            assert self.source_attention is not None
            context_BQM, weights_BQS = self.source_attention(
                query_BQD, memory.keys_BSK, memory.values_BSM, memory.bias_B1S
            )
            context_NTM = context_BQM.reshape(num_rows, num_steps, -1)
            weights_NTS = weights_BQS.reshape(num_rows, num_steps, -1)
        last_NS = None if weights_NTS is None else weights_NTS[:, -1]
        return self._read(y_NTD, context_NTM), weights_NTS, replace(state, layers=layers, attention_NS=last_NS)

    def _step_by_step(
        self, x_NTE: Tensor, state: RecurrentDecoderState
    ) -> tuple[Tensor, Tensor | None, RecurrentDecoderState]:
        """The same, one step after the other. All that no earlier step changes is done before the loop or after it."""
        num_rows, num_steps, _ = x_NTE.shape
        run_layers = StackLoop(self.stack, x_NTE)
        attend = read = None
        if self.source_attention is not None and state.memory is not None:
            keys_BSK, values_BSM, bias_B1S = state.memory.keys_BSK, state.memory.values_BSM, state.memory.bias_B1S
            attend = AttentionLoop(
                self.source_attention, keys_BSK, values_BSM, bias_B1S, num_steps=num_steps, num_rows=num_rows
            )
        if self.feeding == "hidden":
            read = self._readout_loop(num_steps, num_rows)
        state_asks = attend is not None and self.feeding == "context"
        layers, fed_NF = state.layers, state.fed_NF
        # Without attention, what is fed is a fixed context.
        context_NM = fed_NF if attend is None else None
        outputs: list[Tensor] = []
        contexts: list[Tensor] = []
        weights: list[Tensor] = []
        for _ in range(num_steps):
            if attend is not None and state_asks:
                context_NM, weights_NS = attend(layers[-1][0])
                fed_NF = context_NM
                weights.append(weights_NS)
            y_ND, layers = run_layers(fed_NF, layers)
            if attend is not None and not state_asks:
                context_NM, weights_NS = attend(y_ND)
                weights.append(weights_NS)
            if read is not None:
                assert context_NM is not None
                y_ND = fed_NF = torch.tanh(read(context_NM, y_ND))
            elif context_NM is not None:
                contexts.append(context_NM)
            outputs.append(y_ND)
        y_NTR = torch.stack(outputs, dim=1)
        if read is None:
            y_NTR = self._read(y_NTR, torch.stack(contexts, dim=1) if contexts else None)
        state = replace(
            state,
            layers=layers,
            fed_NF=state.fed_NF if read is None else fed_NF,
            attention_NS=weights[-1] if weights else None,
        )
        return y_NTR, torch.stack(weights, dim=1) if weights else None, state

    def _readout_loop(self, num_steps: int, num_rows: int) -> LoopSum:
        """The readout's linear layer of a context and the top layer, at each step."""
        assert isinstance(self.readout, nn.Linear)
        weight_RC, bias_R = self.readout.weight, self.readout.bias
        context_RM, hidden_RD = weight_RC.split([weight_RC.size(1) - self.stack.hidden_size, self.stack.hidden_size], 1)
        return LoopSum(bias_R.expand(num_steps, num_rows, -1), [context_RM.T, hidden_RD.T])

    def _read(self, y_NTD: Tensor, context_NTM: Tensor | None) -> Tensor:
        """The readout of whole sequences, shape (N, T, R)."""
        if context_NTM is None:
            projected: Tensor = self.readout(y_NTD)
            return projected
        return torch.tanh(self.readout(torch.cat([context_NTM, y_NTD], dim=2)))


def _width(tensor: Tensor) -> int:
    return tensor.size(1)
