"""Recurrent layers that PyTorch does not have, under the interface of ``nn.GRU`` with one layer.

Legend: B batch, T time, E input width, D hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GruResetBefore(nn.Module):
    r"""Gated recurrent unit with the reset gate before the recurrent product (Cho et al. 2014, eqs. 5–8).

    .. math::
        r_t &= σ(W_r x_t + b_r + U_r h_{t-1} + c_r) \\
        z_t &= σ(W_z x_t + b_z + U_z h_{t-1} + c_z) \\
        n_t &= \tanh(W_n x_t + b_n + U_n (r_t ⊙ h_{t-1}) + c_n) \\
        h_t &= (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

    cuDNN and ``nn.GRU`` compute ``r_t ⊙ (U_n h_{t-1})`` instead. Parameters have the names, shapes and gate
    order (r, z, n) of ``nn.GRU``; the input products of all steps are one matrix product.

    Args:
        input_size: E, width of the input.
        hidden_size: D, width of the state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))

    def forward(self, x_BTE: Tensor, h_1BD: Tensor) -> tuple[Tensor, Tensor]:
        """Run over all steps.

        Args:
            x_BTE: The inputs.
            h_1BD: The state before the first step, with the leading layer axis of ``nn.GRU``.

        Returns:
            All states, shape (B, T, D), and the last one, shape (1, B, D).
        """
        width = self.hidden_size
        gates_BTG = F.linear(x_BTE, self.weight_ih_l0, self.bias_ih_l0)
        weight_rz, weight_n = self.weight_hh_l0[: 2 * width], self.weight_hh_l0[2 * width :]
        bias_rz, bias_n = self.bias_hh_l0[: 2 * width], self.bias_hh_l0[2 * width :]
        h_BD = h_1BD[0].to(gates_BTG.dtype)
        states = []
        for rz_BF, n_BD in zip(
            gates_BTG[:, :, : 2 * width].unbind(1), gates_BTG[:, :, 2 * width :].unbind(1), strict=True
        ):
            r_BD, z_BD = torch.sigmoid(rz_BF + F.linear(h_BD, weight_rz, bias_rz)).chunk(2, dim=1)
            new_BD = torch.tanh(n_BD + F.linear(r_BD * h_BD, weight_n, bias_n))
            h_BD = new_BD + z_BD * (h_BD - new_BD)
            states.append(h_BD)
        return torch.stack(states, dim=1), h_BD.unsqueeze(0)
