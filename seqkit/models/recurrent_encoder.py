"""A recurrent encoder: reads a sentence forwards, backwards or both ways.

Legend: B batch, S source time, E embedding width, M width of the memory, D width of one direction.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.dropout import SequenceDropout
from seqkit.models.memory import Memory
from seqkit.models.recurrent import CellName, RecurrentStack

LayerState = tuple[Tensor, ...]
"""The state of one layer, shape (B, D) each: (h,), or (h, c) for the LSTM."""


class RecurrentEncoder(nn.Module):
    """Recurrent layers over a source, each running forwards or both ways.

    A bidirectional layer is two layers of half the width, whose outputs stand side by side (Schuster and Paliwal
    1997; Bahdanau et al. 2015, section 3.2); so M, and what a decoder may copy, does not depend on the directions.
    Padding changes nothing: the last state of a row is the one after its last real token, and the backward layer
    begins there.

    Args:
        vocab_size: Source vocabulary.
        d_model: M, width of each layer, both directions together.
        cell: Which recurrent unit.
        embedding_size: E; ``None``: M.
        num_layers: Layers.
        is_bidirectional: Each layer reads both ways.
        reverses_source: Read each row's real tokens from last to first (Sutskever et al. 2014, section 3.3). The
            memory stays in the order of the source. Not for a bidirectional encoder.
        dropout: Dropout between layers.
        embedding_dropout: Dropout on the embedding.
        is_variational: One dropout mask for all steps.
        is_residual: From the second layer on, add a layer's input to its output.
        keeps_states: Give the last states of all layers too, for a decoder that copies them. For an LSTM this
            takes longer where the rows of a batch differ in length.

    Raises:
        ValueError: Bidirectional with an odd M, or with ``reverses_source``.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        cell: CellName,
        embedding_size: int | None = None,
        num_layers: int = 1,
        is_bidirectional: bool = False,
        reverses_source: bool = False,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        is_variational: bool = False,
        is_residual: bool = False,
        keeps_states: bool = False,
    ) -> None:
        super().__init__()
        if is_bidirectional and reverses_source:
            raise ValueError("a bidirectional encoder reads both ways: reverses_source is for one direction")
        if is_bidirectional and d_model % 2:
            raise ValueError(f"the halves of a bidirectional encoder need an even width, found {d_model}")
        embedding_size = embedding_size or d_model
        self.d_model = d_model
        self.is_residual = is_residual
        self.keeps_states = keeps_states
        # Whether each direction of a layer reads backwards.
        self.directions = (False, True) if is_bidirectional else (reverses_source,)
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                RecurrentStack(cell, d_model if layer else embedding_size, d_model // len(self.directions))
                for _ in self.directions
            )
            for layer in range(num_layers)
        )
        self.embedding_dropout = SequenceDropout(embedding_dropout, is_variational=is_variational)
        self.dropout = SequenceDropout(dropout, is_variational=is_variational)
        self.reset_parameters()

    def reset_parameters(
        self, *, recurrent_init: Literal["orthogonal", "uniform"] = "orthogonal", forget_bias: float = 1.0
    ) -> None:
        """Initialise in place: embedding normal with deviation 1, layers as in ``RecurrentStack``."""
        nn.init.normal_(self.embedding.weight)
        for layer in self.layers:
            for stack in layer:  # type: ignore[attr-defined]
                stack.reset_parameters(recurrent_init=recurrent_init, forget_bias=forget_bias)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor) -> Memory:
        """Encode a batch.

        Args:
            ids_BS: Source tokens.
            mask_BS: True at real ones, which stand before all padding; at least one in each row.

        Returns:
            The top layer's outputs, zero at padding; as summary its last state; and the last states of all layers,
            if they are kept.

        Raises:
            ValueError: A row has no real token.
        """
        length_B = mask_BS.sum(dim=1)
        # Longest first, so that at each step the rows that have not ended are the first ones.
        length_B, order_B = length_B.sort(descending=True, stable=True)
        lengths = length_B.tolist()
        if not lengths[-1]:
            raise ValueError("a source without a real token")
        x_BSM = self.embedding_dropout(self.embedding(ids_BS.index_select(0, order_B)))
        turned_BS = _turned(length_B, ids_BS.size(1))
        states: list[LayerState] = []
        for index, layer in enumerate(self.layers):
            input_BSM = self.dropout(x_BSM) if index else x_BSM
            outputs, last = [], []
            for stack, is_backward in zip(layer, self.directions, strict=True):  # type: ignore[call-overload]
                run = _run_real_tokens if self.keeps_states and stack.num_states > 1 else _run_all
                y_BSD, state = run(stack, _pick(input_BSM, turned_BS) if is_backward else input_BSM, lengths)
                outputs.append(_pick(y_BSD, turned_BS) if is_backward else y_BSD)
                last.append(state)
            x_BSM = _side_by_side(outputs)
            if self.is_residual and index:
                x_BSM = x_BSM + input_BSM
            states.append(tuple(_side_by_side(list(parts)) for parts in zip(*last, strict=True)))
        # Back to the order of the batch.
        row_B = order_B.argsort()
        kept = tuple(tuple(tensor.index_select(0, row_B) for tensor in layer) for layer in states)
        values_BSM = x_BSM.index_select(0, row_B) * mask_BS.unsqueeze(2).to(x_BSM.dtype)
        return Memory(values_BSM, mask_BS, kept[-1][0], kept if self.keeps_states else None)


def _run_all(stack: RecurrentStack, x_BSE: Tensor, lengths: list[int]) -> tuple[Tensor, LayerState]:
    """Run over padding too, which stands at the end and so changes no real token's output.

    Args:
        stack: One layer.
        x_BSE: Its inputs.
        lengths: Of the rows.

    Returns:
        The outputs, shape (B, S, D), of no meaning at padding; and the output at each row's last real token, as
        the first tensor of a state.
    """
    y_BSD, _ = stack(x_BSE, stack.initial_state(len(lengths)))
    last_B = torch.tensor(lengths, device=y_BSD.device) - 1
    return y_BSD, (y_BSD[torch.arange(len(lengths), device=y_BSD.device), last_B],)


def _run_real_tokens(stack: RecurrentStack, x_BSE: Tensor, lengths: list[int]) -> tuple[Tensor, LayerState]:
    """Run over the real tokens only, so that the layer tells its whole state after them.

    One stretch of steps a length: in each run the rows that have not ended, which are the first ones. In a batch
    with few lengths this is faster on a CPU than PyTorch's packed sequences.

    Args:
        stack: One layer.
        x_BSE: Its inputs, rows of falling length.
        lengths: Of the rows.

    Returns:
        The outputs, shape (B, S, D), zero at padding, and each row's state after its last real token.
    """
    batch_size = len(lengths)
    state = stack.initial_state(batch_size)
    outputs: list[Tensor] = []
    ended: list[LayerState] = []
    for begin, end in pairwise([0, *sorted(set(lengths))]):
        num_running = sum(length >= end for length in lengths)
        if num_running < len(state[0][0]):
            ended.append(tuple(tensor[num_running:] for tensor in state[0]))
            state = (tuple(tensor[:num_running] for tensor in state[0]),)
        y_RSD, state = stack(x_BSE[:num_running, begin:end], state)
        outputs.append(F.pad(y_RSD, (0, 0, 0, 0, 0, batch_size - num_running)))
    # The batch may be wider than its longest row.
    y_BSD = F.pad(torch.cat(outputs, dim=1), (0, 0, 0, x_BSE.size(1) - lengths[0]))
    return y_BSD, tuple(torch.cat(rows) for rows in zip(state[0], *reversed(ended), strict=True))


def _turned(length_B: Tensor, num_positions: int) -> Tensor:
    """Where to find, for each place of each row, what stands there once the real tokens are turned around.

    >>> _turned(torch.tensor([3, 1]), 3)
    tensor([[2, 1, 0],
            [0, 1, 2]])
    """
    position_S = torch.arange(num_positions, device=length_B.device)
    mirrored_BS = length_B.unsqueeze(1) - 1 - position_S
    return torch.where(mirrored_BS >= 0, mirrored_BS, position_S)


def _pick(x_BSD: Tensor, position_BS: Tensor) -> Tensor:
    """Each row's vectors at the places given."""
    first_B1 = torch.arange(len(x_BSD), device=x_BSD.device).unsqueeze(1) * x_BSD.size(1)
    return x_BSD.flatten(0, 1).index_select(0, (first_B1 + position_BS).flatten()).view_as(x_BSD)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
