"""The recurrent units equation by equation, one step at a time, in plain tensor operations.

Nothing here is fast or clever: it is what ``seqkit.models`` is compared with. A layer's weights are the four
tensors of a PyTorch layer, gates stacked along the first axis: input matrix W, recurrent matrix U, and their
biases b and c. Legend: B batch, T time, E input width, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """One layer: W (G·D, E), U (G·D, D), b and c (G·D,), with G the number of gates."""

    W: Tensor
    U: Tensor
    b: Tensor
    c: Tensor

    def gate(self, index: int) -> Weights:
        """The weights of one gate."""
        width = self.U.shape[1]
        rows = slice(index * width, (index + 1) * width)
        return Weights(*(tensor[rows] for tensor in self))


State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Weights], State]


def weighted_sum(x_BE: Tensor, h_BD: Tensor, gate: Weights) -> Tensor:
    """W x + b + U h + c, row by row."""
    return x_BE @ gate.W.T + gate.b + h_BD @ gate.U.T + gate.c


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def rnn_tanh(x_BE: Tensor, state: State, weights: Weights) -> State:
    """Elman 1990: h' = tanh(W x + b + U h + c)."""
    (h_BD,) = state
    a_BD = weighted_sum(x_BE, h_BD, weights)
    return (1 - 2 / (torch.exp(2 * a_BD) + 1),)


def rnn_relu(x_BE: Tensor, state: State, weights: Weights) -> State:
    """h' = max(0, W x + b + U h + c)."""
    (h_BD,) = state
    a_BD = weighted_sum(x_BE, h_BD, weights)
    return (a_BD * (a_BD > 0),)


def lstm(x_BE: Tensor, state: State, weights: Weights) -> State:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in the order i, f, g, o.

    c' = f ⊙ c + i ⊙ g, h' = o ⊙ tanh(c').
    """
    h_BD, c_BD = state
    i_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(0)))
    f_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(1)))
    g_BD = torch.tanh(weighted_sum(x_BE, h_BD, weights.gate(2)))
    o_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(3)))
    new_c_BD = f_BD * c_BD + i_BD * g_BD
    return (o_BD * torch.tanh(new_c_BD), new_c_BD)


def gru_reset_after(x_BE: Tensor, state: State, weights: Weights) -> State:
    """The cuDNN form; gates in the order r, z, n: n = tanh(W x + b + r ⊙ (U h + c)), h' = (1 - z) ⊙ n + z ⊙ h."""
    (h_BD,) = state
    r_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(0)))
    z_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(1)))
    n = weights.gate(2)
    n_BD = torch.tanh(x_BE @ n.W.T + n.b + r_BD * (h_BD @ n.U.T + n.c))
    return ((1 - z_BD) * n_BD + z_BD * h_BD,)


def gru_reset_before(x_BE: Tensor, state: State, weights: Weights) -> State:
    """Cho et al. 2014, eqs. 5 to 8; gates in the order r, z, n: n = tanh(W x + b + U (r ⊙ h) + c)."""
    (h_BD,) = state
    r_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(0)))
    z_BD = sigmoid(weighted_sum(x_BE, h_BD, weights.gate(1)))
    n = weights.gate(2)
    n_BD = torch.tanh(x_BE @ n.W.T + n.b + (r_BD * h_BD) @ n.U.T + n.c)
    return ((1 - z_BD) * n_BD + z_BD * h_BD,)


STEPS: dict[str, Step] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "gru": gru_reset_after,
    "gru_reset_before": gru_reset_before,
}
NUM_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_reset_before": 3}


def run_stack(
    cell: str, layers: Sequence[Weights], x_BTE: Tensor, initial: Sequence[State], *, is_residual: bool = False
) -> tuple[Tensor, tuple[State, ...]]:
    """Run layers above each other; with residual connections a layer's input is added from the second layer on.

    Returns:
        The top layer's outputs, shape (B, T, D), and each layer's last state.
    """
    states = list(initial)
    outputs = []
    for x_BE in x_BTE.unbind(1):
        y_BD = x_BE
        for index, weights in enumerate(layers):
            states[index] = STEPS[cell](y_BD, states[index], weights)
            y_BD = states[index][0] + y_BD if is_residual and index > 0 else states[index][0]
        outputs.append(y_BD)
    return torch.stack(outputs, dim=1), tuple(states)
