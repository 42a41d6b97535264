"""What steps of a decoder can have computed outside PyTorch, each in one pass.

``seqkit.kernels`` has these functions in C. Without them the same is done by several calls of PyTorch, to rounding.

Legend: N rows, M rows of a tensor with room for more, I inputs and O outputs of a matrix, B sources, W rows of each,
N = B · W, H heads, K head width, D = H · K, S positions, V vocabulary, C tokens wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class StepKernels(Protocol):
    """The functions, for fp32 on a CPU."""

    def round_rows(self, x_NI: Tensor, whole_MI: Tensor, smallest: float) -> Tensor:
        """Round each row to 8 bits, as ``Int8Linear`` has them.

        Args:
            x_NI: The rows.
            whole_MI: Takes them, in uint8.
            smallest: What a row of smaller numbers is divided by.

        Returns:
            The largest absolute value of each row, shape (N,).
        """
        ...

    def scale_rows_(self, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor) -> None:
        """Have y · largest + bias written into y."""
        ...

    def add_scaled_rows_(self, x_NO: Tensor, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor) -> None:
        """Add y · largest + bias to x."""
        ...

    def scale_relu_round_rows(
        self, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor, whole_MO: Tensor, smallest: float
    ) -> Tensor:
        """``round_rows`` of relu(y · largest + bias)."""
        ...

    def can_attend(self, q_BHWK: Tensor) -> bool:
        """Whether ``attend`` takes queries of this type and width."""
        ...

    def attend(self, q_BHWK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √K + bias) v, shape (N, D); the bias is broadcast to (B, 1, W, S)."""
        ...

    def best_tokens(
        self,
        y_NV: Tensor,
        largest_N: Tensor | None,
        bias_V: Tensor | None,
        blocked_ids: Sequence[int],
        count: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a search needs of logits.

        Args:
            y_NV: The logits; or with the next two what y · largest + bias makes logits of.
            largest_N: Of each row.
            bias_V: Of each token.
            blocked_ids: Tokens that are not wanted, though they count in the normaliser.
            count: C, at most V.

        Returns:
            The log of the sum of exponentials, shape (N,); the largest logits, best first, of equals the lower token
            first, shape (N, C); and their tokens.
        """
        ...
