"""Models with known logits, so that drawing and scoring are tested without a network or a checkpoint.

Legend: B rows, T time, V vocabulary, M memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


class MemoryModel:
    """Logits looked up by the sum, modulo V, of the last M tokens (of all of them, where there are fewer).

    With M = 1 it is a bigram model: the logits depend on the last token alone.

    Args:
        table_VV: Row s holds the logits after tokens that sum to s modulo V.
        memory: M.

    Attributes:
        read: For every call, the tokens that were read, shape (B, T).
    """

    def __init__(self, table_VV: Tensor, *, memory: int = 1) -> None:
        self.table_VV = table_VV
        self.memory = memory
        self.read: list[Tensor] = []

    def initial_state(self, source: None, batch_size: int) -> Tensor:
        """The last M - 1 tokens; zeros add nothing."""
        return torch.zeros(batch_size, self.memory - 1, dtype=torch.long)

    def __call__(self, ids_BT: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.read.append(ids_BT.clone())
        if state is None:
            state = self.initial_state(None, ids_BT.size(0))
        seen = torch.cat([state, ids_BT], dim=1)
        sum_BT = seen.unfold(1, self.memory, 1).sum(dim=-1)
        return self.table_VV[sum_BT % len(self.table_VV)], seen[:, seen.size(1) - self.memory + 1 :]

    def step(self, state: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        logits_B1V, state = self(token_B.unsqueeze(1), state)
        return logits_B1V[:, 0], state

    def reorder(self, state: Tensor, index_N: Tensor) -> Tensor:
        return state[index_N]


def random_table(vocab_size: int, seed: int) -> Tensor:
    """Logits of shape (V, V), in float64 and not normalised."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(vocab_size, vocab_size, dtype=torch.float64, generator=generator) + 3
