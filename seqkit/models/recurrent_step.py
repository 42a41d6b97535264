"""Recurrent layers one step at a time, for loops in which a step's input depends on the step before.

Legend: T steps, B rows, E width of the input that is known, X of the other, D hidden width, G width of all gates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.loop_sum import LoopSum
from seqkit.models.recurrent import CellName, RecurrentStack, RecurrentState


class StackLoop:
    """A recurrent stack in a loop over steps: the same numbers as the stack gives for a whole sequence.

    Args:
        stack: The layers. The first reads what is known and what is not, side by side.
        x_BTE: The part of its input that is known before the loop.
    """

    def __init__(self, stack: RecurrentStack, x_BTE: Tensor) -> None:
        batch_size, num_steps, width = x_BTE.shape
        self._is_residual = stack.is_residual
        self._cells: list[CellLoop] = []
        for layer in stack.layers:
            weight_GX, bias_G = layer.get_parameter("weight_ih_l0"), known_bias(stack.cell, layer)
            gates_TBG = bias_G.expand(num_steps, batch_size, -1)
            if not self._cells:
                gates_TBG = F.linear(x_BTE.transpose(0, 1), weight_GX[:, :width], bias_G)
            other_GX = weight_GX if self._cells else weight_GX[:, width:]
            self._cells.append(CellLoop(stack.cell, layer, gates_TBG, other_GX if other_GX.size(1) else None))
        self._masks: list[list[Tensor]] = []
        if stack.training and stack.dropout.probability:
            ones_BTD = x_BTE.new_ones(batch_size, num_steps, stack.hidden_size)
            self._masks = [list(stack.dropout(ones_BTD).unbind(1)) for _ in self._cells[1:]]
        self._step = 0

    def __call__(self, x_BX: Tensor | None, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """The top layer's output, shape (B, D), and the state after the next step.

        Args:
            x_BX: The part of the first layer's input that was not known; ``None`` where there is none.
            state: The state before.
        """
        new_state = [self._cells[0](x_BX, state[0])]
        y_BD = new_state[0][0]
        for index, cell in enumerate(self._cells[1:]):
            input_BD = y_BD * self._masks[index][self._step] if self._masks else y_BD
            new_state.append(cell(input_BD, state[index + 1]))
            h_BD = new_state[-1][0]
            y_BD = h_BD + input_BD if self._is_residual else h_BD
        self._step += 1
        return y_BD, tuple(new_state)


class CellLoop:
    """One recurrent layer in a loop over steps.

    What is known of the inputs before the loop enters as ``gates_TBG``, so that a step has two matrix products of
    B rows, or one, and little else.

    Args:
        cell: The kind of ``layer``.
        layer: A layer of a ``RecurrentStack``: parameters with the names, shapes and gate order of PyTorch's.
        gates_TBG: Input products of the part of the input that is known, with ``known_bias`` added.
        weight_GX: The columns of the input matrix for the other part; ``None``: there is none.
    """

    def __init__(self, cell: CellName, layer: nn.Module, gates_TBG: Tensor, weight_GX: Tensor | None) -> None:
        self._cell = cell
        recurrent_GD = layer.get_parameter("weight_hh_l0")
        inputs = [] if weight_GX is None else [weight_GX.T]
        match cell:
            case "gru":
                # The reset gate multiplies the recurrent product, its bias included: it stands by itself.
                bias_TBG = layer.get_parameter("bias_hh_l0").expand_as(gates_TBG)
                self._sums = [LoopSum(gates_TBG, inputs), LoopSum(bias_TBG, [recurrent_GD.T])]
            case "gru_reset_before":
                # The candidate's recurrent product waits for the reset gate.
                width = recurrent_GD.size(1)
                rights = [*inputs, recurrent_GD.T]
                self._sums = [
                    LoopSum(gates_TBG[..., gates], [right[:, gates] for right in rights])
                    for gates in (slice(2 * width), slice(2 * width, None))
                ]
            case _:
                self._sums = [LoopSum(gates_TBG, [*inputs, recurrent_GD.T])]

    def __call__(self, x_BX: Tensor | None, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state after the next step.

        Args:
            x_BX: The part of the input that was not known; ``None`` where there is none.
            state: The state before: (h,), or (h, c) for the LSTM, each of shape (B, D).
        """
        h_BD = state[0]
        xs = () if x_BX is None else (x_BX,)
        match self._cell:
            case "lstm":
                i_BD, f_BD, g_BD, o_BD = self._sums[0](*xs, h_BD).chunk(4, dim=1)
                c_BD = torch.sigmoid(f_BD) * state[1] + torch.sigmoid(i_BD) * torch.tanh(g_BD)
                return torch.sigmoid(o_BD) * torch.tanh(c_BD), c_BD
            case "gru":
                width = h_BD.size(1)
                x_BG, h_BG = self._sums[0](*xs), self._sums[1](h_BD)
                r_BD, z_BD = torch.sigmoid(x_BG[:, : 2 * width] + h_BG[:, : 2 * width]).chunk(2, dim=1)
                n_BD = torch.tanh(x_BG[:, 2 * width :] + r_BD * h_BG[:, 2 * width :])
                return (n_BD + z_BD * (h_BD - n_BD),)
            case "gru_reset_before":
                r_BD, z_BD = torch.sigmoid(self._sums[0](*xs, h_BD)).chunk(2, dim=1)
                n_BD = torch.tanh(self._sums[1](*xs, r_BD * h_BD))
                return (n_BD + z_BD * (h_BD - n_BD),)
            case "rnn_tanh":
                return (torch.tanh(self._sums[0](*xs, h_BD)),)
            case "rnn_relu":
                return (torch.relu(self._sums[0](*xs, h_BD)),)


def known_bias(cell: CellName, layer: nn.Module) -> Tensor:
    """The biases that can be added before the recurrence, shape (G,)."""
    bias_G = layer.get_parameter("bias_ih_l0")
    return bias_G if cell == "gru" else bias_G + layer.get_parameter("bias_hh_l0")
