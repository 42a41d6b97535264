"""A stack of recurrent layers of one kind: vanilla, LSTM or GRU.

Legend: B batch, T time, E input width, D hidden width, N rows kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from seqkit.models.cells import GruResetBefore
from seqkit.models.dropout import SequenceDropout

RecurrentState = tuple[tuple[Tensor, ...], ...]
"""For each layer its state tensors, each of shape (B, D): (h,) for vanilla and GRU, (h, c) for LSTM."""

CellName = Literal["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]


class RecurrentStack(nn.Module):
    """Recurrent layers, one above the other, with dropout and residual connections between them.

    Each layer is PyTorch's own fused one where it has it, so that whole sequences run fast; one step is a
    sequence of length 1 through the same weights.

    Args:
        cell: Which recurrent unit.
        input_size: E, width of the input.
        hidden_size: D, width of every layer.
        num_layers: Layers.
        dropout: Dropout between layers.
        is_variational: One dropout mask for all steps.
        is_residual: From the second layer on, add a layer's input to its output.
        learns_initial_state: Train the state before the first token, instead of zeros.
    """

    def __init__(
        self,
        cell: CellName,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        is_variational: bool = False,
        is_residual: bool = False,
        learns_initial_state: bool = False,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        self.is_residual = is_residual
        self.num_states = 2 if cell == "lstm" else 1
        self.layers = nn.ModuleList(
            _make_layer(cell, input_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)
        )
        self.dropout = SequenceDropout(dropout, is_variational=is_variational)
        self.initial = (
            nn.Parameter(torch.zeros(num_layers, self.num_states, hidden_size)) if learns_initial_state else None
        )

    def initial_state(self, batch_size: int) -> RecurrentState:
        """The state before the first token, for ``batch_size`` rows."""
        width = self.hidden_size
        if self.initial is not None:
            return tuple(
                tuple(vector_D.expand(batch_size, width) for vector_D in layer_SD) for layer_SD in self.initial
            )
        zeros_BD = next(self.parameters()).new_zeros(batch_size, width)
        return tuple((zeros_BD,) * self.num_states for _ in self.layers)

    def forward(self, x_BTE: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Run over all steps.

        Args:
            x_BTE: The inputs.
            state: The state before the first step.

        Returns:
            The top layer's outputs, shape (B, T, D), and the state after the last step.
        """
        y_BTD = x_BTE
        new_state = []
        for index, (layer, layer_state) in enumerate(zip(self.layers, state, strict=True)):
            input_BTD = self.dropout(y_BTD) if index else y_BTD
            tensors_1BD = tuple(tensor.unsqueeze(0).to(input_BTD.dtype) for tensor in layer_state)
            output_BTD, last = layer(input_BTD, tensors_1BD if self.cell == "lstm" else tensors_1BD[0])
            y_BTD = output_BTD + input_BTD if self.is_residual and index else output_BTD
            new_state.append(tuple(tensor[0] for tensor in (last if self.cell == "lstm" else (last,))))
        return y_BTD, tuple(new_state)

    def reset_parameters(self, *, recurrent_init: Literal["orthogonal", "uniform"], forget_bias: float = 1.0) -> None:
        """Initialise every layer in place.

        ============  =========================================================
        input matrix  uniform in ±1/√D
        recurrent     orthogonal, each gate by itself; or uniform in ±1/√D
        biases        zero; the LSTM's forget gate ``forget_bias``
        ============  =========================================================
        """
        bound = self.hidden_size**-0.5
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)
                elif name.startswith("weight_hh") and recurrent_init == "orthogonal":
                    for gate in parameter.data.chunk(parameter.size(0) // self.hidden_size):
                        nn.init.orthogonal_(gate)
                else:
                    nn.init.uniform_(parameter, -bound, bound)
            if self.cell == "lstm":
                # Gates stand in the order i, f, g, o; the second bias of the pair stays zero.
                bias: Tensor = layer.bias_ih_l0  # type: ignore[assignment]
                nn.init.constant_(bias.data[self.hidden_size : 2 * self.hidden_size], forget_bias)


def detach_state(state: RecurrentState) -> RecurrentState:
    """The same numbers without their history, so that back-propagation stops there."""
    return tuple(tuple(tensor.detach() for tensor in layer) for layer in state)


def reset_rows(state: RecurrentState, fresh: RecurrentState, resets_B: Tensor) -> RecurrentState:
    """The state with the rows that ``resets_B`` marks taken from ``fresh``, in the precision of ``state``."""
    return tuple(
        tuple(torch.where(resets_B.unsqueeze(1), new.to(old.dtype), old) for old, new in zip(*layers, strict=True))
        for layers in zip(state, fresh, strict=True)
    )


def reorder_state(state: RecurrentState, index_N: Tensor) -> RecurrentState:
    """The rows ``index_N`` of every state tensor, in that order."""
    return tuple(tuple(tensor.index_select(0, index_N) for tensor in layer) for layer in state)


def _make_layer(cell: CellName, input_size: int, hidden_size: int) -> nn.Module:
    match cell:
        case "lstm":
            return nn.LSTM(input_size, hidden_size, batch_first=True)
        case "gru":
            return nn.GRU(input_size, hidden_size, batch_first=True)
        case "gru_reset_before":
            return GruResetBefore(input_size, hidden_size)
        case "rnn_tanh" | "rnn_relu":
            nonlinearity: Literal["tanh", "relu"] = "tanh" if cell == "rnn_tanh" else "relu"
            return nn.RNN(input_size, hidden_size, batch_first=True, nonlinearity=nonlinearity)
